"""Wrong answers to lesson 11: the source that replaces the stub, and the hint it must get."""

LAYER = """def lstm_layer(W, U, b, x):
    h = c = torch.zeros(U.shape[1])
    shown, kept = [], []
    for one in x:
        h, c = lstm_step(W, U, b, one, h, c)
        shown.append(h)
        kept.append(c)
    return torch.stack(shown), torch.stack(kept)
"""

PLACE = """def by_place(model, clean, corrupt, mark, layer, number):
    high, low = says(model, clean, mark), says(model, corrupt, mark)
    donor = numbers(model, clean)
    found = {}
    for at in range(clean.shape[1]):
        put = patch_number(donor, layer, number, at)
        found[at] = restored(high, low, says(model, corrupt, mark, put))
    return found
"""

ASIDE = """def by_aside(gains, gaps, asides):
    sums = {aside: [0.0, 0.0] for aside in asides}
    for aside, gain, gap in zip(asides, gains, gaps, strict=True):
        sums[aside][0] += float(gain)
        sums[aside][1] += float(gap)
    of_asides = torch.tensor(list(sums.values()))
    return stats.ratio(of_asides[:, 0], of_asides[:, 1])
"""

WRONG = {
    "lstm_layer": [
        (
            LAYER.replace("one, h, c)", "one, torch.zeros_like(h), torch.zeros_like(c))"),
            r"each step starts from nothing",
        ),
        (LAYER.replace("one, h, c)", "one, torch.zeros_like(h), c)"), r"you hand on c and not h"),
        (
            LAYER.replace(
                "torch.stack(shown), torch.stack(kept)", "torch.stack(kept), torch.stack(shown)"
            ),
            r"in the wrong order: h, then c",
        ),
        (LAYER.replace("torch.stack(shown), torch.stack(kept)", "h, c"), r"expected h or c \[pos cell\]"),
    ],
    "by_place": [
        (
            PLACE.replace("says(model, corrupt, mark, put)", "says(model, clean, mark, put)")
            .replace("numbers(model, clean)", "numbers(model, corrupt)")
            .replace("restored(high, low", "restored(low, high"),
            r"it is the other way round",
        ),
        (PLACE.replace("number, at)", "number, 0)"), r"every position gives the same"),
        (PLACE.replace("donor, layer,", "donor, 0,"), r"another layer"),
        (PLACE.replace("range(clean.shape[1])", "range(len(clean))"), r"a dict with the positions 0 to"),
        (PLACE.replace("mark, put))", "mark, put)).value"), r"expected an Estimate at each position"),
    ],
    "by_aside": [
        (
            "def by_aside(gains, gaps, asides):\n    return stats.ratio(gains, gaps)\n",
            r"prompts as observations",
        ),
        (
            ASIDE.replace(
                "stats.ratio(of_asides[:, 0], of_asides[:, 1])",
                "stats.mean((of_asides[:, 0] / of_asides[:, 1]).tolist())",
            ),
            r"you average the asides' shares",
        ),
        (
            ASIDE.replace(
                "stats.ratio(of_asides[:, 0], of_asides[:, 1])",
                "(of_asides[:, 0].sum() / of_asides[:, 1].sum()).item()",
            ),
            r"expected an Estimate",
        ),
        (ASIDE.replace("+= float(gap)", "= float(gap)"), r"expected .* from 3 asides"),
    ],
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
