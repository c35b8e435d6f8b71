"""Wrong answers to lesson 09b: the source that replaces the stub, and the hint it must get."""

WRONG = {
    "misread": [
        (
            "def misread(machine, keys, again):\n"
            "    told = torch.cat([keys, keys]) if again else keys\n"
            "    n, tables = keys.shape[:2]\n"
            "    values = torch.eye(len(told))[:, None].expand(-1, tables, -1)\n"
            "    nothing, on = torch.zeros_like(values[:n]), torch.ones(len(told) + n, tables)\n"
            "    read = machine(torch.cat([told, keys]), torch.cat([values, nothing]), on)\n"
            "    return (read[-n:] - values[-n:]).square().sum(-1).mean(0)\n",
            r"`on` is 0 there",
        ),
        (
            "def misread(machine, keys, again):\n"
            "    told = keys\n"
            "    n, tables = keys.shape[:2]\n"
            "    values = torch.eye(len(told))[:, None].expand(-1, tables, -1)\n"
            "    nothing, on = torch.zeros_like(values[:n]), torch.ones(len(told) + n, tables)\n"
            "    on[-n:] = 0\n"
            "    read = machine(torch.cat([told, keys]), torch.cat([values, nothing]), on)\n"
            "    return (read[-n:] - values[-n:]).square().sum(-1).mean(0)\n",
            r"told a second time",
        ),
        (
            "def misread(machine, keys, again):\n"
            "    told = torch.cat([keys, keys]) if again else keys\n"
            "    n, tables = keys.shape[:2]\n"
            "    values = torch.eye(len(told))[:, None].expand(-1, tables, -1)\n"
            "    nothing, on = torch.zeros_like(values[:n]), torch.ones(len(told) + n, tables)\n"
            "    on[-n:] = 0\n"
            "    read = machine(torch.cat([told, keys]), torch.cat([values, nothing]), on)\n"
            "    return (read[-n:] - values[:n]).square().sum(-1).mean(0)\n",
            r"the last value told",
        ),
        (
            "def misread(machine, keys, again):\n"
            "    told = torch.cat([keys, keys]) if again else keys\n"
            "    n, tables = keys.shape[:2]\n"
            "    values = torch.eye(len(told))[:, None].expand(-1, tables, -1)\n"
            "    nothing, on = torch.zeros_like(values[:n]), torch.ones(len(told) + n, tables)\n"
            "    on[-n:] = 0\n"
            "    read = machine(torch.cat([told, keys]), torch.cat([values, nothing]), on)\n"
            "    return (read[-n:] - values[-n:]).square().mean(-1).mean(0)\n",
            r"mean over keys",
        ),
        (
            "def misread(machine, keys, again):\n"
            "    told = torch.cat([keys, keys]) if again else keys\n"
            "    n, tables = keys.shape[:2]\n"
            "    values = torch.eye(len(told))[:, None].expand(-1, tables, -1)\n"
            "    nothing, on = torch.zeros_like(values[:n]), torch.ones(len(told) + n, tables)\n"
            "    on[-n:] = 0\n"
            "    read = machine(torch.cat([told, keys]), torch.cat([values, nothing]), on)\n"
            "    return (read[-n:] - values[-n:]).square().sum(-1).sum(0)\n",
            r"take the mean",
        ),
    ],
    "lay_out": [
        (
            "def lay_out(lexicon, names, colours, between, order):\n"
            "    draft = world.Draft(lexicon)\n"
            "    draft.fill(lexicon.opening)\n"
            "\n"
            "    def state(i, role):\n"
            "        draft.add(names[i])\n"
            "        draft.add(colours[i], role=role)\n"
            '        draft.add(".")\n'
            "\n"
            "    for i in range(len(names)):\n"
            '        state(i, "item")\n'
            "    for i in order:\n"
            '        state(i, "value")\n'
            '    return draft.document("recall")\n',
            r"words in between are missing",
        ),
        (
            "def lay_out(lexicon, names, colours, between, order):\n"
            "    draft = world.Draft(lexicon)\n"
            "    draft.fill(lexicon.opening)\n"
            "\n"
            "    def state(i, role):\n"
            "        draft.add(names[i])\n"
            "        draft.add(colours[i], role=role)\n"
            '        draft.add(".")\n'
            "\n"
            "    for i in range(len(names)):\n"
            '        state(i, "item")\n'
            "    for word in between:\n"
            "        draft.add(word)\n"
            "    for i in range(len(names)):\n"
            '        state(i, "value")\n'
            '    return draft.document("recall")\n',
            r"ask in the given order",
        ),
        (
            "def lay_out(lexicon, names, colours, between, order):\n"
            "    draft = world.Draft(lexicon)\n"
            "\n"
            "    def state(i, role):\n"
            "        draft.add(names[i])\n"
            "        draft.add(colours[i], role=role)\n"
            '        draft.add(".")\n'
            "\n"
            "    for i in range(len(names)):\n"
            '        state(i, "item")\n'
            "    for word in between:\n"
            "        draft.add(word)\n"
            "    for i in order:\n"
            '        state(i, "value")\n'
            '    return draft.document("recall")\n',
            r"lexicon's opening",
        ),
        (
            "def lay_out(lexicon, names, colours, between, order):\n"
            "    draft = world.Draft(lexicon)\n"
            "    draft.fill(lexicon.opening)\n"
            "\n"
            "    def state(i, role):\n"
            "        draft.add(names[i])\n"
            '        draft.add(colours[i], role="item")\n'
            '        draft.add(".")\n'
            "\n"
            "    for i in range(len(names)):\n"
            '        state(i, "item")\n'
            "    for word in between:\n"
            "        draft.add(word)\n"
            "    for i in order:\n"
            '        state(i, "value")\n'
            '    return draft.document("recall")\n',
            r"roles stand elsewhere",
        ),
    ],
    "recalled": [
        (
            "def recalled(logits, at, wanted):\n"
            "    rows = torch.arange(len(logits))[:, None]\n"
            "    guesses = logits[rows, at].argmax(-1)\n"
            "    return (guesses == wanted).float().mean(-1)\n",
            r"ask one position earlier",
        ),
        (
            "def recalled(logits, at, wanted):\n"
            "    rows = torch.arange(len(logits))[:, None]\n"
            "    guesses = logits[rows, at - 1].argmax(-1)\n"
            "    return (guesses == wanted).float().sum(-1)\n",
            r"take the mean",
        ),
    ],
    "survival": [
        (
            "def survival(decay, planted):\n"
            "    left, shares = planted, []\n"
            "    for D in decay:\n"
            "        left = D @ left\n"
            "        shares.append(left.norm(dim=(-2, -1)))\n"
            "    return torch.stack(shares)\n",
            r"these are lengths",
        ),
        (
            "def survival(decay, planted):\n"
            "    left, shares = planted, []\n"
            "    for D in decay:\n"
            "        left = D @ planted\n"
            "        shares.append(left.norm(dim=(-2, -1)) / planted.norm(dim=(-2, -1)))\n"
            "    return torch.stack(shares)\n",
            r"passes through all",
        ),
        (
            "def survival(decay, planted):\n"
            "    left, shares = planted, []\n"
            "    for D in decay:\n"
            "        shares.append(left.norm(dim=(-2, -1)) / planted.norm(dim=(-2, -1)))\n"
            "        left = D @ left\n"
            "    return torch.stack(shares)\n",
            r"before the first word",
        ),
    ],
    "told_again": [
        (
            "def told_again(ids, logits, told, asked):\n"
            "    wanted = ids.gather(1, asked)\n"
            "    old = ids.gather(1, told[:, :1])\n"
            "    first, others = asked[:, :1], asked[:, 1:]\n"
            "    says_new = recalled(logits, first, wanted[:, :1])\n"
            "    says_old = recalled(logits, first, old)\n"
            "    says_others = recalled(logits, others, wanted[:, 1:])\n"
            "    return torch.stack([says_old, says_new, says_others])\n",
            r"new and old are exchanged",
        ),
        (
            "def told_again(ids, logits, told, asked):\n"
            "    wanted = ids.gather(1, asked)\n"
            "    old = ids.gather(1, told[:, :1])\n"
            "    first, others = asked[:, :1], asked\n"
            "    says_new = recalled(logits, first, wanted[:, :1])\n"
            "    says_old = recalled(logits, first, old)\n"
            "    says_others = recalled(logits, others, wanted)\n"
            "    return torch.stack([says_new, says_old, says_others])\n",
            r"all but the first",
        ),
        (
            "def told_again(ids, logits, told, asked):\n"
            "    wanted = ids.gather(1, asked)\n"
            "    old = ids.gather(1, told[:, -1:])\n"
            "    first, others = asked[:, :1], asked[:, 1:]\n"
            "    says_new = recalled(logits, first, wanted[:, :1])\n"
            "    says_old = recalled(logits, first, old)\n"
            "    says_others = recalled(logits, others, wanted[:, 1:])\n"
            "    return torch.stack([says_new, says_old, says_others])\n",
            r"what was told first",
        ),
    ],
    "lost": [
        (
            "def lost(model, asked, layers, where):\n"
            "    clean = reading.streams(model, asked.ids)\n"
            "    corrupt = reading.streams(model, asked.corrupt)\n"
            "    puts = {}\n"
            "    for layer in layers:\n"
            '        other = patching.held(model, clean[layer], layer, "mixer")\n'
            '        puts[layer] = patching.replace(model, layer, "mixer", where, other)\n'
            "    clean, corrupt = corrupt, clean\n"
            "    first, end = min(layers), model.n_layers\n"
            "    whole = asked.score(reading.finish(model, clean[end], end, asked.last))\n"
            "    none = asked.score(reading.finish(model, corrupt[end], end, asked.last))\n"
            "    cut = asked.score(reading.finish(model, clean[first], first, asked.last, puts))\n"
            "    return whole - cut, whole - none\n",
            r"start from the clean one",
        ),
        (
            "def lost(model, asked, layers, where):\n"
            "    clean = reading.streams(model, asked.ids)\n"
            "    corrupt = reading.streams(model, asked.corrupt)\n"
            "    puts = {}\n"
            "    for layer in layers:\n"
            '        other = patching.held(model, corrupt[layer], layer, "mixer")\n'
            '        puts[layer] = patching.replace(model, layer, "mixer", asked.mask, other)\n'
            "    first, end = min(layers), model.n_layers\n"
            "    whole = asked.score(reading.finish(model, clean[end], end, asked.last))\n"
            "    none = asked.score(reading.finish(model, corrupt[end], end, asked.last))\n"
            "    cut = asked.score(reading.finish(model, clean[first], first, asked.last, puts))\n"
            "    return whole - cut, whole - none\n",
            r"only where the mask says",
        ),
        (
            "def lost(model, asked, layers, where):\n"
            "    clean = reading.streams(model, asked.ids)\n"
            "    corrupt = reading.streams(model, asked.corrupt)\n"
            "    puts = {}\n"
            "    for layer in layers:\n"
            "        puts = {}\n"
            '        other = patching.held(model, corrupt[layer], layer, "mixer")\n'
            '        puts[layer] = patching.replace(model, layer, "mixer", where, other)\n'
            "    first, end = min(layers), model.n_layers\n"
            "    whole = asked.score(reading.finish(model, clean[end], end, asked.last))\n"
            "    none = asked.score(reading.finish(model, corrupt[end], end, asked.last))\n"
            "    cut = asked.score(reading.finish(model, clean[first], first, asked.last, puts))\n"
            "    return whole - cut, whole - none\n",
            r"one block is missing",
        ),
        (
            "def lost(model, asked, layers, where):\n"
            "    clean = reading.streams(model, asked.ids)\n"
            "    corrupt = reading.streams(model, asked.corrupt)\n"
            "    puts = {}\n"
            "    for layer in layers:\n"
            '        other = patching.held(model, clean[layer], layer, "mixer")\n'
            '        puts[layer] = patching.replace(model, layer, "mixer", where, other)\n'
            "    first, end = min(layers), model.n_layers\n"
            "    whole = asked.score(reading.finish(model, clean[end], end, asked.last))\n"
            "    none = asked.score(reading.finish(model, corrupt[end], end, asked.last))\n"
            "    cut = asked.score(reading.finish(model, clean[first], first, asked.last, puts))\n"
            "    return whole - cut, whole - none\n",
            r"take the corrupt run's streams",
        ),
        (
            "def lost(model, asked, layers, where):\n"
            "    clean = reading.streams(model, asked.ids)\n"
            "    corrupt = reading.streams(model, asked.corrupt)\n"
            "    puts = {}\n"
            "    for layer in layers:\n"
            '        other = patching.held(model, corrupt[layer], layer, "mixer")\n'
            '        puts[layer] = patching.replace(model, layer, "mixer", where, other)\n'
            "    first, end = min(layers), model.n_layers\n"
            "    whole = asked.score(reading.finish(model, clean[end], end, asked.last))\n"
            "    none = asked.score(reading.finish(model, corrupt[end], end, asked.last))\n"
            "    cut = asked.score(reading.finish(model, clean[first], first, asked.last, puts))\n"
            "    return cut - none, whole - none\n",
            r"what is left",
        ),
    ],
    "read_off": [
        (
            "def read_off(cells, name):\n"
            "    words, seeds, widths = {}, 0, []\n"
            "    for cell in cells:\n"
            "        if cell.architecture != name:\n"
            "            continue\n"
            "        words[cell.word] = words.get(cell.word, 0) + 1\n"
            "        seeds = max(seeds, len(cell.effects))\n"
            "        if cell.ratio is not None:\n"
            "            widths.append(cell.ratio.high - cell.ratio.low)\n"
            '    width = torch.tensor(widths).quantile(0.5).item() if widths else float("nan")\n'
            "    return words, seeds, width\n",
            r"n/a is no verdict",
        ),
        (
            "def read_off(cells, name):\n"
            "    words, seeds, widths = {}, 0, []\n"
            "    for cell in cells:\n"
            "        if cell.word not in WORDS:\n"
            "            continue\n"
            "        words[cell.word] = words.get(cell.word, 0) + 1\n"
            "        seeds = max(seeds, len(cell.effects))\n"
            "        if cell.ratio is not None:\n"
            "            widths.append(cell.ratio.high - cell.ratio.low)\n"
            '    width = torch.tensor(widths).quantile(0.5).item() if widths else float("nan")\n'
            "    return words, seeds, width\n",
            r"of the one architecture",
        ),
        (
            "def read_off(cells, name):\n"
            "    words, seeds, widths = {}, 0, []\n"
            "    for cell in cells:\n"
            "        if cell.architecture != name or cell.word not in WORDS:\n"
            "            continue\n"
            "        words[cell.word] = words.get(cell.word, 0) + 1\n"
            "        seeds = seeds + len(cell.effects)\n"
            "        if cell.ratio is not None:\n"
            "            widths.append(cell.ratio.high - cell.ratio.low)\n"
            '    width = torch.tensor(widths).quantile(0.5).item() if widths else float("nan")\n'
            "    return words, seeds, width\n",
            r"most effects behind a verdict",
        ),
        (
            "def read_off(cells, name):\n"
            "    words, seeds, widths = {}, 0, []\n"
            "    for cell in cells:\n"
            "        if cell.architecture != name or cell.word not in WORDS:\n"
            "            continue\n"
            "        words[cell.word] = words.get(cell.word, 0) + 1\n"
            "        seeds = max(seeds, len(cell.effects))\n"
            "        if cell.ratio is not None:\n"
            "            widths.append(cell.ratio.high - cell.ratio.low)\n"
            '    width = torch.tensor(widths).max().item() if widths else float("nan")\n'
            "    return words, seeds, width\n",
            r"the middle one",
        ),
    ],
    "late_less_early": [
        (
            "def late_less_early(ids, logits, told, asked):\n"
            "    wanted, colours = ids.gather(1, asked), ids.gather(1, told)\n"
            "    turn = (wanted[:, :, None] == colours[:, None, :]).float().argmax(-1)\n"
            "    first, last = turn.argsort(1).chunk(2, 1)\n"
            "    early = recalled(logits, asked.gather(1, first), wanted.gather(1, first))\n"
            "    late = recalled(logits, asked.gather(1, last), wanted.gather(1, last))\n"
            "    return early - late\n",
            r"first told minus the last told",
        ),
        (
            "def late_less_early(ids, logits, told, asked):\n"
            "    wanted, colours = ids.gather(1, asked), ids.gather(1, told)\n"
            "    turn = (wanted[:, :, None] == colours[:, None, :]).float().argmax(-1)\n"
            "    first, last = torch.arange(asked.shape[1]).expand_as(asked).chunk(2, 1)\n"
            "    early = recalled(logits, asked.gather(1, first), wanted.gather(1, first))\n"
            "    late = recalled(logits, asked.gather(1, last), wanted.gather(1, last))\n"
            "    return late - early\n",
            r"split by when they were told",
        ),
    ],
}
