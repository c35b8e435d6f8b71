"""Wrong answers to lesson 08b: the source that replaces the stub, and the hint it must get."""

WRONG = {
    "carried_on": [
        (
            "def carried_on(x, B, C, decay, change, at):  # said, but not kept\n"
            "    h, said = torch.zeros_like(B[0]), []\n"
            "    for t in range(len(x)):\n"
            "        h = decay * h + B[t] * x[t]\n"
            "        said.append(C[t] @ (h + change if t == at else h))\n"
            "    return torch.stack(said)\n",
            r"put it into h itself",
        ),
        (
            "def carried_on(x, B, C, decay, change, at):  # no decay\n"
            "    h, said = torch.zeros_like(B[0]), []\n"
            "    for t in range(len(x)):\n"
            "        h = h + B[t] * x[t]\n"
            "        h = h + change if t == at else h\n"
            "        said.append(C[t] @ h)\n"
            "    return torch.stack(said)\n",
            r"multiply it by decay",
        ),
        (
            "def carried_on(x, B, C, decay, change, at):  # before the decay\n"
            "    h, said = torch.zeros_like(B[0]), []\n"
            "    for t in range(len(x)):\n"
            "        h = h + change if t == at else h\n"
            "        h = decay * h + B[t] * x[t]\n"
            "        said.append(C[t] @ h)\n"
            "    return torch.stack(said)\n",
            r"before it decays",
        ),
        (
            "def carried_on(x, B, C, decay, change, at):  # at every word\n"
            "    h, said = torch.zeros_like(B[0]), []\n"
            "    for t in range(len(x)):\n"
            "        h = decay * h + B[t] * x[t] + change\n"
            "        said.append(C[t] @ h)\n"
            "    return torch.stack(said)\n",
            r"the change comes once",
        ),
    ],
    "state_vectors": [
        (
            "def state_vectors(model, behaving, other):  # padding is read\n"
            '    ids, _ = reading.tokens(model, [*behaving, *other], side="left")\n'
            "    cache, _ = reading.run(model, ids[:, :-1])\n"
            "    n = len(behaving)\n"
            "    states = [model.state(cache, layer) for layer in range(model.n_layers)]\n"
            "    return [\n"
            "        {p: s[p][:n].mean(0) - s[p][n:].mean(0) for p in model.kind(i).compressed}\n"
            "        for i, s in enumerate(states)\n"
            "    ]\n",
            r"padding is read as words",
        ),
        (
            "def state_vectors(model, behaving, other):  # behind the last word\n"
            '    ids, mask = reading.tokens(model, [*behaving, *other], side="left")\n'
            "    cache, _ = reading.run(model, ids, mask)\n"
            "    n = len(behaving)\n"
            "    states = [model.state(cache, layer) for layer in range(model.n_layers)]\n"
            "    return [\n"
            "        {p: s[p][:n].mean(0) - s[p][n:].mean(0) for p in model.kind(i).compressed}\n"
            "        for i, s in enumerate(states)\n"
            "    ]\n",
            r"read all words but the last",
        ),
        (
            "def state_vectors(model, behaving, other):  # the wrong way round\n"
            '    ids, mask = reading.tokens(model, [*behaving, *other], side="left")\n'
            "    cache, _ = reading.run(model, ids[:, :-1], mask[:, :-1])\n"
            "    n = len(behaving)\n"
            "    states = [model.state(cache, layer) for layer in range(model.n_layers)]\n"
            "    return [\n"
            "        {p: s[p][n:].mean(0) - s[p][:n].mean(0) for p in model.kind(i).compressed}\n"
            "        for i, s in enumerate(states)\n"
            "    ]\n",
            r"the sign is turned",
        ),
        (
            "def state_vectors(model, behaving, other):  # all that a block carries\n"
            '    ids, mask = reading.tokens(model, [*behaving, *other], side="left")\n'
            "    cache, _ = reading.run(model, ids[:, :-1], mask[:, :-1])\n"
            "    n = len(behaving)\n"
            "    states = [model.state(cache, layer) for layer in range(model.n_layers)]\n"
            "    return [{p: x[:n].mean(0) - x[n:].mean(0) for p, x in s.items()} for s in states]\n",
            r"its dicts are empty",
        ),
        (
            "def state_vectors(model, behaving, other):  # one block\n"
            '    ids, mask = reading.tokens(model, [*behaving, *other], side="left")\n'
            "    cache, _ = reading.run(model, ids[:, :-1], mask[:, :-1])\n"
            "    state, n = model.state(cache, model.n_layers - 1), len(behaving)\n"
            "    return [{p: x[:n].mean(0) - x[n:].mean(0) for p, x in state.items()}]\n",
            r"one for each block, found 1",
        ),
    ],
    "steer_state": [
        (
            "def steer_state(model, asked, k, part, change):  # a copy\n"
            '    ids, mask = reading.tokens(model, [q.prompt for q in asked], side="left")\n'
            "    cache, _ = reading.run(model, ids[:, :-1], mask[:, :-1])\n"
            "    state = model.state(cache, k - 1)[part]\n"
            "    state = state + change\n"
            "    _, logits = reading.run(model, ids[:, -1:], mask, cache)\n"
            "    return logits.gather(1, steering.letter_tokens(model, asked)).softmax(1)[:, 0]\n",
            r"nothing was steered",
        ),
        (
            "def steer_state(model, asked, k, part, change):  # too late\n"
            '    ids, mask = reading.tokens(model, [q.prompt for q in asked], side="left")\n'
            "    cache, logits = reading.run(model, ids, mask)\n"
            "    state = model.state(cache, k - 1)[part]\n"
            "    state += change\n"
            "    return logits.gather(1, steering.letter_tokens(model, asked)).softmax(1)[:, 0]\n",
            r"nothing was steered",
        ),
        (
            "def steer_state(model, asked, k, part, change):  # another block\n"
            '    ids, mask = reading.tokens(model, [q.prompt for q in asked], side="left")\n'
            "    cache, _ = reading.run(model, ids[:, :-1], mask[:, :-1])\n"
            "    state = model.state(cache, k - 2)[part]\n"
            "    state += change\n"
            "    _, logits = reading.run(model, ids[:, -1:], mask, cache)\n"
            "    return logits.gather(1, steering.letter_tokens(model, asked)).softmax(1)[:, 0]\n",
            r"the k-th block is layer k - 1",
        ),
        (
            "def steer_state(model, asked, k, part, change):  # counted from 0\n"
            '    ids, mask = reading.tokens(model, [q.prompt for q in asked], side="left")\n'
            "    cache, _ = reading.run(model, ids[:, :-1], mask[:, :-1])\n"
            "    state = model.state(cache, k)[part]\n"
            "    state += change\n"
            "    _, logits = reading.run(model, ids[:, -1:], mask, cache)\n"
            "    return logits.gather(1, steering.letter_tokens(model, asked)).softmax(1)[:, 0]\n",
            r"stopped with|the k-th block is layer k - 1",
        ),
    ],
    "reach_of_groups": [
        (
            "def reach_of_groups(model, asked, vectors, groups, m):  # what was changed stays\n"
            "    ids, mask = reading.tokens(model, [q.prompt for q in asked])\n"
            "    letters, reach = steering.letter_tokens(model, asked), []\n"
            "    before, _ = reading.run(model, ids[:, :-1])\n"
            "    for group in groups:\n"
            "        ends = []\n"
            "        for times in (m, -m):\n"
            "            for k, part in group:\n"
            "                state = model.state(before, k - 1)[part]\n"
            "                state += times * vectors[k - 1][part]\n"
            "            _, logits = reading.run(model, ids[:, -1:], cache=copy.deepcopy(before))\n"
            "            ends.append(logits.gather(1, letters).softmax(1)[:, 0].mean())\n"
            "        reach.append(ends[0] - ends[1])\n"
            "    return torch.stack(reach)\n",
            r"take a fresh copy of the cache",
        ),
        (
            "def reach_of_groups(model, asked, vectors, groups, m):  # a copy of the copy\n"
            "    ids, mask = reading.tokens(model, [q.prompt for q in asked])\n"
            "    letters, reach = steering.letter_tokens(model, asked), []\n"
            "    before, _ = reading.run(model, ids[:, :-1])\n"
            "    for group in groups:\n"
            "        ends = []\n"
            "        for times in (m, -m):\n"
            "            cache = copy.deepcopy(before)\n"
            "            for k, part in group:\n"
            "                state = model.state(cache, k - 1)[part]\n"
            "                state = state + times * vectors[k - 1][part]\n"
            "            _, logits = reading.run(model, ids[:, -1:], cache=cache)\n"
            "            ends.append(logits.gather(1, letters).softmax(1)[:, 0].mean())\n"
            "        reach.append(ends[0] - ends[1])\n"
            "    return torch.stack(reach)\n",
            r"nothing was steered",
        ),
        (
            "def reach_of_groups(model, asked, vectors, groups, m):  # one end\n"
            "    ids, mask = reading.tokens(model, [q.prompt for q in asked])\n"
            "    letters, reach = steering.letter_tokens(model, asked), []\n"
            "    before, _ = reading.run(model, ids[:, :-1])\n"
            "    for group in groups:\n"
            "        cache = copy.deepcopy(before)\n"
            "        for k, part in group:\n"
            "            state = model.state(cache, k - 1)[part]\n"
            "            state += m * vectors[k - 1][part]\n"
            "        _, logits = reading.run(model, ids[:, -1:], cache=cache)\n"
            "        reach.append(logits.gather(1, letters).softmax(1)[:, 0].mean())\n"
            "    return torch.stack(reach)\n",
            r"that is one end",
        ),
    ],
    "put_given": [
        (
            "def put_given(given, change, end):  # at every word\n"
            "    def put(name, value, t=None):\n"
            '        return value + change if name == "carry" else given.get(name, value)\n'
            "    put.stepwise = True\n"
            "    return put\n",
            r"too late for the answer",
        ),
        (
            "def put_given(given, change, end):  # one word late\n"
            "    def put(name, value, t=None):\n"
            '        return value + change if name == "carry" and t == end else given.get(name, value)\n'
            "    put.stepwise = True\n"
            "    return put\n",
            r"word end - 1 leaves behind should get",
        ),
        (
            "def put_given(given, change, end):  # not step by step\n"
            "    def put(name, value, t=None):\n"
            '        hit = name == "carry" and t == end - 1\n'
            "        return value + change if hit else given.get(name, value)\n"
            "    return put\n",
            r"set put.stepwise = True",
        ),
        (
            "def put_given(given, change, end):  # forgets the others\n"
            "    def put(name, value, t=None):\n"
            '        return value + change if name == "carry" else given.get(name)\n'
            "    put.stepwise = True\n"
            "    return put\n",
            r"keeps its value",
        ),
    ],
    "continued": [
        (
            "def continued(model, prompts, n, change, seed):  # nothing is changed in time\n"
            "    ids, _ = reading.tokens(model, prompts)\n"
            "    draw = torch.Generator(ids.device).manual_seed(seed)\n"
            "    cache, _ = reading.run(model, ids[:, :-1])\n"
            "    change(copy.deepcopy(cache))\n"
            "    words = [ids[:, -1:]]\n"
            "    for _ in range(n):\n"
            "        cache, logits = reading.run(model, words[-1], cache=cache)\n"
            "        logits[:, model.tokenizer.all_special_ids] = -torch.inf\n"
            "        words.append(torch.multinomial(logits.softmax(-1), 1, generator=draw))\n"
            "    return model.tokenizer.batch_decode(torch.cat(words[1:], 1))\n",
            r"nothing was changed in what you go on from",
        ),
        (
            "def continued(model, prompts, n, change, seed):  # with the prompt's last word\n"
            "    ids, _ = reading.tokens(model, prompts)\n"
            "    draw = torch.Generator(ids.device).manual_seed(seed)\n"
            "    cache, _ = reading.run(model, ids[:, :-1])\n"
            "    change(cache)\n"
            "    words = [ids[:, -1:]]\n"
            "    for _ in range(n):\n"
            "        cache, logits = reading.run(model, words[-1], cache=cache)\n"
            "        logits[:, model.tokenizer.all_special_ids] = -torch.inf\n"
            "        words.append(torch.multinomial(logits.softmax(-1), 1, generator=draw))\n"
            "    return model.tokenizer.batch_decode(torch.cat(words, 1))\n",
            r"you decode the prompt's last word",
        ),
        (
            "def continued(model, prompts, n, change, seed):  # before every word\n"
            "    ids, _ = reading.tokens(model, prompts)\n"
            "    draw = torch.Generator(ids.device).manual_seed(seed)\n"
            "    cache, _ = reading.run(model, ids[:, :-1])\n"
            "    words = [ids[:, -1:]]\n"
            "    for _ in range(n):\n"
            "        change(cache)\n"
            "        cache, logits = reading.run(model, words[-1], cache=cache)\n"
            "        logits[:, model.tokenizer.all_special_ids] = -torch.inf\n"
            "        words.append(torch.multinomial(logits.softmax(-1), 1, generator=draw))\n"
            "    return model.tokenizer.batch_decode(torch.cat(words[1:], 1))\n",
            r"change should be called once, found 6",
        ),
        (
            "def continued(model, prompts, n, change, seed):  # the likeliest word\n"
            "    ids, _ = reading.tokens(model, prompts)\n"
            "    cache, _ = reading.run(model, ids[:, :-1])\n"
            "    change(cache)\n"
            "    words = [ids[:, -1:]]\n"
            "    for _ in range(n):\n"
            "        cache, logits = reading.run(model, words[-1], cache=cache)\n"
            "        words.append(logits.argmax(-1, keepdim=True))\n"
            "    return model.tokenizer.batch_decode(torch.cat(words[1:], 1))\n",
            r"not the model's own samples",
        ),
    ],
    "affordable": [
        (
            "def affordable(tried, most=1.2):  # at any price\n"
            "    return max(tried, key=lambda m: tried[m][0])\n",
            r"costs too much",
        ),
        (
            "def affordable(tried, most=1.2):  # the largest of equals\n"
            "    allowed = [m for m, (_, ratio) in sorted(tried.items()) if ratio <= most]\n"
            "    return max(reversed(allowed), key=lambda m: tried[m][0], default=0.0)\n",
            r"of equals take the smallest",
        ),
        (
            "def affordable(tried, most=1.2):  # stops where nothing is allowed\n"
            "    allowed = [m for m, (_, ratio) in sorted(tried.items()) if ratio <= most]\n"
            "    return max(allowed, key=lambda m: tried[m][0])\n",
            r"nothing is allowed",
        ),
        (
            "def affordable(tried, most=1.2):  # the share\n"
            "    return max(share for share, ratio in tried.values() if ratio <= most)\n",
            r"you return the share",
        ),
    ],
}
