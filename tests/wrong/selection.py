"""Wrong answers to lesson 01b: the source that replaces the stub, and the hint it must get."""

WRONG = {
    "in_state": [
        (
            "def in_state(u, delta, A, B):  # a word's own step fades it as well\n"
            "    later = delta.flip(0).cumsum(0).flip(0)\n"
            "    return torch.exp(later[:, :, None] * A) * (delta * u)[:, :, None] * B[:, None]\n",
            r"own step does not fade",
        ),
        (
            "def in_state(u, delta, A, B):  # the steps before\n"
            "    passed = delta.cumsum(0)\n"
            "    return torch.exp(passed[:, :, None] * A) * (delta * u)[:, :, None] * B[:, None]\n",
            r"steps after it",
        ),
        (
            "def in_state(u, delta, A, B):  # writes without the step size\n"
            "    later = delta.flip(0).cumsum(0).flip(0) - delta\n"
            "    return torch.exp(later[:, :, None] * A) * u[:, :, None] * B[:, None]\n",
            r"missing from what a word writes",
        ),
        (
            "def in_state(u, delta, A, B):  # nothing fades\n"
            "    return (delta * u)[:, :, None] * B[:, None]\n",
            r"nothing fades",
        ),
        (
            "def in_state(u, delta, A, B):  # the state itself\n"
            "    later = delta.flip(0).cumsum(0).flip(0) - delta\n"
            "    left = torch.exp(later[:, :, None] * A)\n"
            "    return (left * (delta * u)[:, :, None] * B[:, None]).sum(0)\n",
            r"do not sum over words yet",
        ),
    ],
    "missing": [
        (
            "def missing(parts):  # parts[-0:] are all parts\n"
            "    state = parts.sum(0)\n"
            "    rest = [state - parts[-k:].sum(0) for k in range(len(parts) + 1)]\n"
            "    return torch.stack([r.norm() for r in rest]) / state.norm()\n",
            r"no words explain nothing",
        ),
        (
            "def missing(parts):  # from the first word on\n"
            "    state = parts.sum(0)\n"
            "    rest = [state - parts[:k].sum(0) for k in range(len(parts) + 1)]\n"
            "    return torch.stack([r.norm() for r in rest]) / state.norm()\n",
            r"you start with the first words",
        ),
        (
            "def missing(parts):  # as if parts never cancelled\n"
            "    state, n = parts.sum(0), len(parts)\n"
            "    told = torch.stack([parts[n - k :].sum(0).norm() for k in range(n + 1)])\n"
            "    return 1 - told / state.norm()\n",
            r"vectors can cancel",
        ),
        (
            "def missing(parts):  # no share\n"
            "    state, n = parts.sum(0), len(parts)\n"
            "    return torch.stack([(state - parts[n - k :].sum(0)).norm() for k in range(n + 1)])\n",
            r"divide by the length of the state",
        ),
    ],
    "horizon": [
        (
            "def horizon(delta, A):  # stops one word early\n"
            "    passed = delta.cumsum(0)\n"
            "    return (torch.exp(passed[:, :, None] * A) >= 1 / math.e).sum(0)\n",
            r"count that word too",
        ),
        (
            "def horizon(delta, A):  # each word alone\n"
            "    return (torch.exp(delta[:, :, None] * A) >= 1 / math.e).sum(0) + 1\n",
            r"add up the steps",
        ),
        (
            "def horizon(delta, A):  # from A alone\n"
            "    passed = torch.ones_like(delta).cumsum(0)\n"
            "    return (torch.exp(passed[:, :, None] * A) >= 1 / math.e).sum(0) + 1\n",
            r"a word with step 0 costs nothing",
        ),
        (
            "def horizon(delta, A):  # argmax finds 0 where nothing fades\n"
            "    faded = torch.exp(delta.cumsum(0)[:, :, None] * A) < 1 / math.e\n"
            "    return faded.int().argmax(0) + 1\n",
            r"a memory that outlives the text gets pos \+ 1",
        ),
    ],
    "pool": [
        (
            "def pool(model, name, texts):  # texts apart\n"
            "    with model.trace(texts):\n"
            "        mixers = [model.mixer(i) for i in range(model.n_layers)]\n"
            "        found = [getattr(mixer, name).output for mixer in mixers].save()\n"
            "    return found\n",
            r"the words of all texts in one row",
        ),
        (
            "def pool(model, name, texts):  # the last block alone\n"
            "    with model.trace(texts):\n"
            "        found = getattr(model.mixer(model.n_layers - 1), name).output.flatten(0, 1).save()\n"
            "    return found\n",
            r"a tensor for each of \d+ blocks",
        ),
        (
            "def pool(model, name, texts):  # the first block, again and again\n"
            "    with model.trace(texts):\n"
            "        first = getattr(model.mixer(0), name).output.flatten(0, 1).save()\n"
            "    return [first] * model.n_layers\n",
            r"block 1 of transformer: this is not",
        ),
    ],
    "replaced": [
        (
            "def replaced(model, name, texts, part, values):  # edits a copy\n"
            "    with model.trace(texts):\n"
            "        for i in range(model.n_layers):\n"
            "            found = getattr(model.mixer(i), name).output.clone()\n"
            "            found[..., part] = values[i][..., part]\n"
            "        guesses = model.logits.argmax(-1).save()\n"
            "    return guesses\n",
            r"nothing was replaced",
        ),
        (
            "def replaced(model, name, texts, part, values):  # everything\n"
            "    with model.trace(texts):\n"
            "        for i in range(model.n_layers):\n"
            "            getattr(model.mixer(i), name).output[:] = values[i]\n"
            "        guesses = model.logits.argmax(-1).save()\n"
            "    return guesses\n",
            r"you replace all numbers",
        ),
        (
            "def replaced(model, name, texts, part, values):  # one block\n"
            "    with model.trace(texts):\n"
            "        i = model.n_layers - 1\n"
            "        getattr(model.mixer(i), name).output[..., part] = values[i][..., part]\n"
            "        guesses = model.logits.argmax(-1).save()\n"
            "    return guesses\n",
            r"in the last block alone",
        ),
        (
            "def replaced(model, name, texts, part, values):  # the last word's guess alone\n"
            "    with model.trace(texts):\n"
            "        for i in range(model.n_layers):\n"
            "            getattr(model.mixer(i), name).output[..., part] = values[i][..., part]\n"
            "        guesses = model.logits[:, -1].argmax(-1).save()\n"
            "    return guesses\n",
            r"ids \[text pos\]",
        ),
    ],
    "share_right": [
        (
            "def share_right(tokenizer, documents, guesses):  # a word too late\n"
            "    shares = []\n"
            "    for document, row in zip(documents, guesses, strict=True):\n"
            "        ids = tokenizer(document.text).input_ids\n"
            "        said = row[-len(ids) :].tolist()\n"
            "        at = [i for i, word in enumerate(document.words) if word.determined]\n"
            "        shares.append(sum(said[i] == ids[i] for i in at) / len(at))\n"
            "    return shares\n",
            r"word i was guessed at i - 1",
        ),
        (
            "def share_right(tokenizer, documents, guesses):  # as if padded on the right\n"
            "    shares = []\n"
            "    for document, row in zip(documents, guesses, strict=True):\n"
            "        ids, said = tokenizer(document.text).input_ids, row.tolist()\n"
            "        at = [i for i, word in enumerate(document.words) if word.determined]\n"
            "        shares.append(sum(said[i - 1] == ids[i] for i in at) / len(at))\n"
            "    return shares\n",
            r"padded on the left",
        ),
        (
            "def share_right(tokenizer, documents, guesses):  # every word\n"
            "    shares = []\n"
            "    for document, row in zip(documents, guesses, strict=True):\n"
            "        ids = tokenizer(document.text).input_ids\n"
            "        said = row[-len(ids) :].tolist()\n"
            "        at = range(1, len(ids))\n"
            "        shares.append(sum(said[i - 1] == ids[i] for i in at) / len(at))\n"
            "    return shares\n",
            r"only those that are `determined`",
        ),
        (
            "def share_right(tokenizer, documents, guesses):  # one share for all\n    return 1.0\n",
            r"a share for each of 3 documents",
        ),
    ],
    "select": [
        (
            "def select(layer, u):  # no softplus\n"
            "    sizes = [layer.time_step_rank, layer.ssm_state_size, layer.ssm_state_size]\n"
            "    low, B, C = F.linear(u, layer.x_proj.weight).split(sizes, dim=-1)\n"
            "    return F.linear(low, layer.dt_proj.weight, layer.dt_proj.bias), B, C\n",
            r"softplus is missing",
        ),
        (
            "def select(layer, u):  # no bias\n"
            "    sizes = [layer.time_step_rank, layer.ssm_state_size, layer.ssm_state_size]\n"
            "    low, B, C = F.linear(u, layer.x_proj.weight).split(sizes, dim=-1)\n"
            "    return F.softplus(F.linear(low, layer.dt_proj.weight)), B, C\n",
            r"the bias of dt_proj is missing",
        ),
        (
            "def select(layer, u):  # C before B\n"
            "    sizes = [layer.time_step_rank, layer.ssm_state_size, layer.ssm_state_size]\n"
            "    low, C, B = F.linear(u, layer.x_proj.weight).split(sizes, dim=-1)\n"
            "    return F.softplus(F.linear(low, layer.dt_proj.weight, layer.dt_proj.bias)), B, C\n",
            r"B and C are exchanged",
        ),
        (
            "def select(layer, u):  # the part that dt_proj reads\n"
            "    sizes = [layer.time_step_rank, layer.ssm_state_size, layer.ssm_state_size]\n"
            "    return tuple(F.linear(u, layer.x_proj.weight).split(sizes, dim=-1))\n",
            r"expected step sizes of shape",
        ),
    ],
    "contrast": [
        (
            "def contrast(sums, counts, content):  # the wrong way round\n"
            "    c, f = content.float(), (~content).float()\n"
            "    values = sums @ f / (counts @ f) - sums @ c / (counts @ c)\n"
            "    return values[:, values[0].isfinite()]\n",
            r"the other way round",
        ),
        (
            "def contrast(sums, counts, content):  # keeps what is nan\n"
            "    c, f = content.float(), (~content).float()\n"
            "    return sums @ c / (counts @ c) - sums @ f / (counts @ f)\n",
            r"leave it out",
        ),
        (
            "def contrast(sums, counts, content):  # per word of the vocabulary\n"
            "    c, f = content.float(), (~content).float()\n"
            "    values = sums @ c / c.sum() - sums @ f / f.sum()\n"
            "    return values[:, (counts @ f > 0) & (counts @ c > 0)]\n",
            r"how often the words come",
        ),
    ],
    "foreign": [
        (
            "def foreign(found, texts, words, seed):  # other words in each block\n"
            "    draws = torch.Generator().manual_seed(seed)\n"
            "    n = len(found[0])\n"
            "    return [block[torch.randint(n, (texts, words), generator=draws)] for block in found]\n",
            r"draw once, before you go through them",
        ),
        (
            "def foreign(found, texts, words, seed):  # the same words in each text\n"
            "    draws = torch.Generator().manual_seed(seed)\n"
            "    order = torch.randint(len(found[0]), (words,), generator=draws)\n"
            "    return [block[order].expand(texts, -1, -1) for block in found]\n",
            r"many places get the same word",
        ),
        (
            "def foreign(found, texts, words, seed):  # each number from another word\n"
            "    draws = torch.Generator().manual_seed(seed)\n"
            "    size = (texts, words, found[0].shape[-1])\n"
            "    order = torch.randint(len(found[0]), size, generator=draws)\n"
            "    return [block[order, torch.arange(size[-1])] for block in found]\n",
            r"numbers of several words",
        ),
        (
            "def foreign(found, texts, words, seed):  # no seed\n"
            "    order = torch.randint(len(found[0]), (texts, words))\n"
            "    return [block[order] for block in found]\n",
            r"a second call draws other words",
        ),
    ],
    "shuffled": [
        (
            "def shuffled(measure, labels, times, seed):  # true labels\n"
            "    draws = torch.Generator().manual_seed(seed)\n"
            "    means, stars = [], []\n"
            "    for _ in range(times):\n"
            "        order = torch.randperm(len(labels), generator=draws)\n"
            "        effects = measure(labels)\n"
            "        mean = effects.mean(-1)\n"
            "        half = 1.96 * effects.std(-1) / math.sqrt(effects.shape[-1])\n"
            "        means.append(mean)\n"
            "        stars.append((mean.abs() > half).float().mean())\n"
            "    return torch.stack(means), torch.stack(stars)\n",
            r"with the true labels",
        ),
        (
            "def shuffled(measure, labels, times, seed):  # draws new labels\n"
            "    draws = torch.Generator().manual_seed(seed)\n"
            "    means, stars = [], []\n"
            "    for _ in range(times):\n"
            "        order = torch.rand(len(labels), generator=draws) < 0.5\n"
            "        effects = measure(order)\n"
            "        mean = effects.mean(-1)\n"
            "        half = 1.96 * effects.std(-1) / math.sqrt(effects.shape[-1])\n"
            "        means.append(mean)\n"
            "        stars.append((mean.abs() > half).float().mean())\n"
            "    return torch.stack(means), torch.stack(stars)\n",
            r"do not draw new ones",
        ),
        (
            "def shuffled(measure, labels, times, seed):  # one shuffle\n"
            "    draws = torch.Generator().manual_seed(seed)\n"
            "    means, stars = [], []\n"
            "    for _ in range(times):\n"
            "        order = torch.randperm(len(labels), generator=draws.manual_seed(seed))\n"
            "        effects = measure(labels[order])\n"
            "        mean = effects.mean(-1)\n"
            "        half = 1.96 * effects.std(-1) / math.sqrt(effects.shape[-1])\n"
            "        means.append(mean)\n"
            "        stars.append((mean.abs() > half).float().mean())\n"
            "    return torch.stack(means), torch.stack(stars)\n",
            r"every shuffle is the same",
        ),
        (
            "def shuffled(measure, labels, times, seed):  # the spread\n"
            "    draws = torch.Generator().manual_seed(seed)\n"
            "    means, stars = [], []\n"
            "    for _ in range(times):\n"
            "        order = torch.randperm(len(labels), generator=draws)\n"
            "        effects = measure(labels[order])\n"
            "        mean = effects.mean(-1)\n"
            "        half = 1.96 * effects.std(-1)\n"
            "        means.append(mean)\n"
            "        stars.append((mean.abs() > half).float().mean())\n"
            "    return torch.stack(means), torch.stack(stars)\n",
            r"the standard error is that",
        ),
        (
            "def shuffled(measure, labels, times, seed):  # one side\n"
            "    draws = torch.Generator().manual_seed(seed)\n"
            "    means, stars = [], []\n"
            "    for _ in range(times):\n"
            "        order = torch.randperm(len(labels), generator=draws)\n"
            "        effects = measure(labels[order])\n"
            "        mean = effects.mean(-1)\n"
            "        half = 1.96 * effects.std(-1) / math.sqrt(effects.shape[-1])\n"
            "        means.append(mean)\n"
            "        stars.append((mean > half).float().mean())\n"
            "    return torch.stack(means), torch.stack(stars)\n",
            r"below 0 can earn a star",
        ),
    ],
}
