"""Wrong answers to lesson 11: the source that replaces the stub, and the hint it must get."""

WRONG = {
    "lstm_step": [
        (
            "def lstm_step(W, U, b, x, h, c):  # sigma of the candidate\n"
            "    i, f, g, o = (W @ x + U @ h + b).chunk(4)\n"
            "    c = f.sigmoid() * c + i.sigmoid() * g.sigmoid()\n"
            "    return o.sigmoid() * c.tanh(), c\n",
            r"the candidate goes through tanh",
        ),
        (
            "def lstm_step(W, U, b, x, h, c):  # another order of the rows\n"
            "    i, f, o, g = (W @ x + U @ h + b).chunk(4)\n"
            "    c = f.sigmoid() * c + i.sigmoid() * g.tanh()\n"
            "    return o.sigmoid() * c.tanh(), c\n",
            r"the third block of rows is the candidate",
        ),
        (
            "def lstm_step(W, U, b, x, h, c):  # c first\n"
            "    i, f, g, o = (W @ x + U @ h + b).chunk(4)\n"
            "    c = f.sigmoid() * c + i.sigmoid() * g.tanh()\n"
            "    return c, o.sigmoid() * c.tanh()\n",
            r"return h, then c",
        ),
        (
            "def lstm_step(W, U, b, x, h, c):  # no tanh at the end\n"
            "    i, f, g, o = (W @ x + U @ h + b).chunk(4)\n"
            "    c = f.sigmoid() * c + i.sigmoid() * g.tanh()\n"
            "    return o.sigmoid() * c, c\n",
            r"you leave the tanh out",
        ),
    ],
    "best_number": [
        (
            "def best_number(values, is_inside):  # no spread\n"
            "    away = (values[:, is_inside].mean(1) - values[:, ~is_inside].mean(1)).abs()\n"
            "    return divmod(int(away.argmax()), values.shape[2])\n",
            r"divide by the spread",
        ),
        (
            "def best_number(values, is_inside):  # signed\n"
            "    inner, outer = values[:, is_inside], values[:, ~is_inside]\n"
            "    away = (inner.mean(1) - outer.mean(1)) / (inner.var(1) + outer.var(1)).sqrt()\n"
            "    return divmod(int(away.argmax()), values.shape[2])\n",
            r"take the distance without its sign",
        ),
        (
            "def best_number(values, is_inside):  # the other order\n"
            "    inner, outer = values[:, is_inside], values[:, ~is_inside]\n"
            "    away = (inner.mean(1) - outer.mean(1)).abs() / (inner.var(1) + outer.var(1)).sqrt()\n"
            "    return divmod(int(away.argmax()), values.shape[2])[::-1]\n",
            r"the order is \(layer, number\)",
        ),
    ],
    "patch_number": [
        (
            "def patch_number(donor, layer, number, position):  # at every position\n"
            "    def put(at, t, numbers):\n"
            "        if at == layer:\n"
            "            numbers = numbers.clone()\n"
            "            numbers[:, number] = donor[layer, :, t, number]\n"
            "        return numbers\n"
            "    return put\n",
            r"nothing should change",
        ),
        (
            "def patch_number(donor, layer, number, position):  # all numbers\n"
            "    def put(at, t, numbers):\n"
            "        return donor[layer, :, position] if (at, t) == (layer, position) else numbers\n"
            "    return put\n",
            r"replace one",
        ),
        (
            "def patch_number(donor, layer, number, position):  # in place\n"
            "    def put(at, t, numbers):\n"
            "        if (at, t) == (layer, position):\n"
            "            numbers[:, number] = donor[layer, :, position, number]\n"
            "        return numbers\n"
            "    return put\n",
            r"clone them first",
        ),
    ],
    "restored": [
        (
            "def restored(clean, corrupt, patched):  # a mean of shares\n"
            "    return stats.mean(((patched - corrupt) / (clean - corrupt)).tolist())\n",
            r"add up first",
        ),
        (
            "def restored(clean, corrupt, patched):  # what is missing\n"
            "    return stats.ratio(clean - patched, clean - corrupt)\n",
            r"what is still missing",
        ),
        (
            "def restored(clean, corrupt, patched):  # no interval\n"
            "    return (patched - corrupt).sum() / (clean - corrupt).sum()\n",
            r"expected an Estimate",
        ),
    ],
    "as_pytorch": [
        (
            "def as_pytorch(kernel, recurrent_kernel, bias):  # transposed\n"
            "    return kernel.T, recurrent_kernel.T, *bias.chunk(2)\n",
            r"you transpose the table",
        ),
        (
            "def as_pytorch(kernel, recurrent_kernel, bias):  # each block transposed\n"
            "    turned = [torch.cat([b.T for b in t.chunk(4, 1)]) for t in (kernel, recurrent_kernel)]\n"
            "    return *turned, *bias.chunk(2)\n",
            r"you transpose the table",
        ),
        (
            "def as_pytorch(kernel, recurrent_kernel, bias):  # the whole table\n"
            "    tables = (kernel, recurrent_kernel)\n"
            "    return *(t.reshape(-1, t.shape[0]) for t in tables), *bias.chunk(2)\n",
            r"you reshape the whole table",
        ),
        (
            "def as_pytorch(kernel, recurrent_kernel, bias):  # biases exchanged\n"
            "    matrices = [torch.cat([b.reshape(-1, t.shape[0]) for b in t.chunk(4, 1)])\n"
            "                for t in (kernel, recurrent_kernel)]\n"
            "    return *matrices, *bias.chunk(2)[::-1]\n",
            r"the two biases are exchanged",
        ),
    ],
    "hold_number": [
        (
            "def hold_number(layer, number, value):  # in every layer\n"
            "    def put(at, t, numbers):\n"
            "        numbers = numbers.clone()\n"
            "        numbers[:, number] = value\n"
            "        return numbers\n"
            "    return put\n",
            r"nothing should change",
        ),
        (
            "def hold_number(layer, number, value):  # at the start alone\n"
            "    def put(at, t, numbers):\n"
            "        if (at, t) == (layer, 0):\n"
            "            numbers = numbers.clone()\n"
            "            numbers[:, number] = value\n"
            "        return numbers\n"
            "    return put\n",
            r"hold it at every position",
        ),
    ],
    "others": [
        (
            "def others(number, size, n, seed):  # with the found one\n"
            "    draw = torch.Generator().manual_seed(seed)\n"
            "    order = torch.randperm(size, generator=draw).tolist()\n"
            "    return [number] + [j for j in order if j != number][: n - 1]\n",
            r"a control leaves it out",
        ),
        (
            "def others(number, size, n, seed):  # put back\n    return [(number + 1) % size] * n\n",
            r"a number comes twice",
        ),
        (
            "def others(number, size, n, seed):  # the next ones\n"
            "    return [(number + k) % size for k in range(1, n + 1)]\n",
            r"the same list for every seed",
        ),
    ],
}
