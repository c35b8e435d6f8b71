"""Wrong answers to lesson 00: the source that replaces the stub, and the hint it must get."""

WRONG = {
    "last_word": [
        (
            "def last_word(model, prompt):  # forgets that L blocks make L + 1 depths\n"
            "    with model.trace(prompt):\n"
            "        stream = [model.residual(k)[0, -1] for k in range(model.n_layers)].save()\n"
            "    return torch.stack(stream)\n",
            r"6 blocks, so 7 depths",
        ),
        (
            "def last_word(model, prompt):  # the first word instead of the last\n"
            "    with model.trace(prompt):\n"
            "        stream = [model.residual(k)[0, 0] for k in range(model.n_layers + 1)].save()\n"
            "    return torch.stack(stream)\n",
            r"vectors of the first word",
        ),
        (
            "def last_word(model, prompt):  # keeps every word\n"
            "    with model.trace(prompt):\n"
            "        stream = [model.residual(k)[0] for k in range(model.n_layers + 1)].save()\n"
            "    return torch.stack(stream)\n",
            r"of shape \(7, 128\).* its last word",
        ),
        (
            "def last_word(model, prompt):  # what the mixers add, not the stream\n"
            "    with model.trace(prompt):\n"
            "        added = [model.mixer_output(i)[0, -1] for i in range(model.n_layers)].save()\n"
            "    return torch.stack([added[0], *added])\n",
            r"what each block's mixer adds",
        ),
        (
            "def last_word(model, prompt):  # one depth too many\n"
            "    with model.trace(prompt):\n"
            "        stream = [model.residual(k)[0, -1] for k in range(model.n_layers + 2)].save()\n"
            "    return torch.stack(stream)\n",
            r"expected a depth k from 0 to 6",
        ),
    ],
    "transplant": [
        (
            "def transplant(model, source, target, k, positions):  # the last word, whatever is asked\n"
            "    with model.trace(source):\n"
            "        donor = model.residual(k)[:, -1].save()\n"
            "    with model.trace(target):\n"
            "        model.residual(k)[:, -1] = donor\n"
            "        logits = model.output.logits[:, -1].save()\n"
            "    return logits\n",
            r"you replace the last word",
        ),
        (
            "def transplant(model, source, target, k, positions):  # source and target exchanged\n"
            "    with model.trace(target):\n"
            "        donor = model.residual(k)[:, positions].save()\n"
            "    with model.trace(source):\n"
            "        model.residual(k)[:, positions] = donor\n"
            "        logits = model.output.logits[:, -1].save()\n"
            "    return logits\n",
            r"the roles are exchanged",
        ),
        (
            "def transplant(model, source, target, k, positions):  # edits a copy\n"
            "    with model.trace(source):\n"
            "        donor = model.residual(k)[:, positions].save()\n"
            "    with model.trace(target):\n"
            "        stream = model.residual(k).clone()\n"
            "        stream[:, positions] = donor\n"
            "        logits = model.output.logits[:, -1].save()\n"
            "    return logits\n",
            r"your edit changes nothing",
        ),
        (
            "def transplant(model, source, target, k, positions):  # every word at once\n"
            "    with model.trace(source):\n"
            "        donor = model.residual(k).save()\n"
            "    with model.trace(target):\n"
            "        model.set_residual(k, donor)\n"
            "        logits = model.output.logits[:, -1].save()\n"
            "    return logits\n",
            r"you replace the whole stream",
        ),
        (
            "def transplant(model, source, target, k, positions):  # keeps every position\n"
            "    with model.trace(source):\n"
            "        donor = model.residual(k)[:, positions].save()\n"
            "    with model.trace(target):\n"
            "        model.residual(k)[:, positions] = donor\n"
            "        logits = model.output.logits.save()\n"
            "    return logits\n",
            r"logits \[prompt vocab\] of shape \(1, \d+\).*one row for each prompt",
        ),
        (
            "def transplant(model, source, target, k, positions):  # the first prompt alone\n"
            "    with model.trace(source):\n"
            "        donor = model.residual(k)[0, positions].save()\n"
            "    with model.trace(target):\n"
            "        model.residual(k)[:, positions] = donor\n"
            "        logits = model.output.logits[:, -1].save()\n"
            "    return logits\n",
            r"right for one prompt, wrong for a list of two",
        ),
    ],
    "both_layers": [
        (
            "def both_layers(net, x):  # the last layer first\n"
            "    with net.trace(x):\n"
            "        second = net[1].output.save()\n"
            "        first = net[0].output.save()\n"
            "    return first, second\n",
            r"OutOfOrderError: the trace runs once",
        ),
        (
            "def both_layers(net, x):  # keeps nothing\n"
            "    with net.trace(x):\n"
            "        first = net[0].output\n"
            "        second = net[1].output\n"
            "    return first, second\n",
            r"unless you call .save\(\)",
        ),
        (
            "def both_layers(net, x):  # what goes in, not what comes out\n"
            "    with net.trace(x):\n"
            "        first = net[0].input.save()\n"
            "        second = net[1].output.save()\n"
            "    return first, second\n",
            r"your first tensor is not what the first layer gives",
        ),
        (
            "def both_layers(net, x):  # the wrong way round\n"
            "    with net.trace(x):\n"
            "        first = net[0].output.save()\n"
            "        second = net[1].output.save()\n"
            "    return second, first\n",
            r"in the wrong order",
        ),
    ],
    "likeliest": [
        (
            "def likeliest(model, prompt, n):  # logits\n"
            "    with model.trace(prompt):\n"
            "        logits = model.output.logits[0, -1].save()\n"
            "    top, ids = logits.topk(n)\n"
            "    return [(model.tokenizer.decode(i), v.item()) for i, v in zip(ids, top)]\n",
            r"these are logits",
        ),
        (
            "def likeliest(model, prompt, n):  # the first position\n"
            "    with model.trace(prompt):\n"
            "        logits = model.output.logits[0, 0].save()\n"
            "    top, ids = logits.softmax(-1).topk(n)\n"
            "    return [(model.tokenizer.decode(i), v.item()) for i, v in zip(ids, top)]\n",
            r"the logits of the last position",
        ),
        (
            "def likeliest(model, prompt, n):  # softmax over the best n alone\n"
            "    with model.trace(prompt):\n"
            "        logits = model.output.logits[0, -1].save()\n"
            "    top, ids = (logits / 9).topk(n)\n"
            "    return [(model.tokenizer.decode(i), v.item()) for i, v in zip(ids, top.softmax(-1))]\n",
            r"softmax over the whole vocabulary, then the n largest",
        ),
        (
            "def likeliest(model, prompt, n):  # ids\n"
            "    with model.trace(prompt):\n"
            "        logits = model.output.logits[0, -1].save()\n"
            "    top, ids = logits.softmax(-1).topk(n)\n"
            "    return list(zip(ids.tolist(), top.tolist()))\n",
            r"expected words, found \d+",
        ),
        (
            "def likeliest(model, prompt, n):  # the unlikeliest\n"
            "    with model.trace(prompt):\n"
            "        logits = model.output.logits[0, -1].save()\n"
            "    top, ids = logits.softmax(-1).topk(n, largest=False)\n"
            "    return [(model.tokenizer.decode(i), v.item()) for i, v in zip(ids, top)]\n",
            r"you sort the other way round|says \[",
        ),
    ],
    "moved": [
        (
            "def moved(model, sources, targets, answers, k):  # whatever changed\n"
            "    before = transplant(model, targets, targets, k, [-1]).argmax(-1)\n"
            "    after = transplant(model, sources, targets, k, [-1]).argmax(-1)\n"
            "    return stats.proportion(int((before != after).sum()), len(answers))\n",
            r"you count edits that change the answer",
        ),
        (
            "def moved(model, sources, targets, answers, k):  # a bare number\n"
            "    logits = transplant(model, sources, targets, k, [-1])\n"
            "    words = [model.tokenizer.decode(row.argmax()) for row in logits]\n"
            "    return sum(w == a for w, a in zip(words, answers)) / len(answers)\n",
            r"expected an Estimate, found 0.5",
        ),
        (
            "def moved(model, sources, targets, answers, k):  # always the last block\n"
            "    logits = transplant(model, sources, targets, model.n_layers, [-1])\n"
            "    words = [model.tokenizer.decode(row.argmax()) for row in logits]\n"
            "    hits = sum(w == a for w, a in zip(words, answers))\n"
            "    return stats.proportion(hits, len(answers))\n",
            r"transplant the last word at depth k",
        ),
        (
            "def moved(model, sources, targets, answers, k):  # the wrong way round\n"
            "    logits = transplant(model, targets, sources, k, [-1])\n"
            "    words = [model.tokenizer.decode(row.argmax()) for row in logits]\n"
            "    hits = sum(w == a for w, a in zip(words, answers))\n"
            "    return stats.proportion(hits, len(answers))\n",
            r"source and target are exchanged",
        ),
    ],
    "wrong_donors": [
        (
            "def wrong_donors(sources, answers):  # the neighbour, whatever it says\n"
            "    return sources[1:] + sources[:1]\n",
            r"pair 0, where 'cotton' is counted, the donor 'prompt 1'.*look further",
        ),
        ("def wrong_donors(sources, answers):\n    return sources\n", r"the pairs' own donors"),
        (
            "def wrong_donors(sources, answers):  # one short\n"
            "    return [s for s, a in zip(sources[1:], answers) if a]\n",
            r"one prompt for each pair",
        ),
    ],
    "noisy": [
        (
            "def noisy(model, target, k, seed):  # of any length\n"
            "    with model.trace(target):\n"
            "        own = model.residual(k)[:, -1]\n"
            "        noise = torch.randn(own.shape).to(own)\n"
            "        model.residual(k)[:, -1] = noise\n"
            "        logits = model.output.logits[:, -1].save()\n"
            "    return logits\n",
            r"your noise has the lengths",
        ),
        (
            "def noisy(model, target, k, seed):  # one direction for all\n"
            "    with model.trace(target):\n"
            "        own = model.residual(k)[:, -1]\n"
            "        noise = torch.randn(own.shape[-1]).to(own).expand(own.shape)\n"
            "        noise = noise * own.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)\n"
            "        model.residual(k)[:, -1] = noise\n"
            "        logits = model.output.logits[:, -1].save()\n"
            "    return logits\n",
            r"both prompts get the same direction",
        ),
        (
            "def noisy(model, target, k, seed):  # a little of it\n"
            "    with model.trace(target):\n"
            "        own = model.residual(k)[:, -1]\n"
            "        noise = torch.randn(own.shape).to(own)\n"
            "        noise = own + 0.1 * own.abs() * noise\n"
            "        noise = noise * own.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)\n"
            "        model.residual(k)[:, -1] = noise\n"
            "        logits = model.output.logits[:, -1].save()\n"
            "    return logits\n",
            r"your noise points where the stream did",
        ),
        (
            "def noisy(model, target, k, seed):  # edits a copy\n"
            "    with model.trace(target):\n"
            "        own = model.residual(k)[:, -1]\n"
            "        noise = torch.randn(own.shape).to(own)\n"
            "        noise = noise * own.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)\n"
            "        own.clone()[:] = noise\n"
            "        logits = model.output.logits[:, -1].save()\n"
            "    return logits\n",
            r"assign to the stream itself",
        ),
        (
            "def noisy(model, target, k, seed):  # the first word too\n"
            "    with model.trace(target):\n"
            "        own = model.residual(k)[:, -1]\n"
            "        noise = torch.randn(own.shape).to(own)\n"
            "        noise = noise * own.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)\n"
            "        model.residual(k)[:, :] = noise[:, None]\n"
            "        logits = model.output.logits[:, -1].save()\n"
            "    return logits\n",
            r"the last word\'s vector alone",
        ),
        (
            "def noisy(model, target, k, seed):  # no seed\n"
            "    with model.trace(target):\n"
            "        own = model.residual(k)[:, -1]\n"
            "        noise = torch.randn_like(own)\n"
            "        noise = noise * own.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)\n"
            "        model.residual(k)[:, -1] = noise\n"
            "        logits = model.output.logits[:, -1].save()\n"
            "    return logits\n",
            r"the same seed must give the same noise",
        ),
    ],
    "arrives": [
        (
            "def arrives(shares):  # the first depth past one half, no line\n"
            "    L = len(shares) - 1\n"
            "    return next((k / L for k, s in enumerate(shares) if s >= 0.5), float('nan'))\n",
            r"half-way between k = 2 and k = 3",
        ),
        (
            "def arrives(shares):  # in blocks\n"
            "    for k in range(1, len(shares)):\n"
            "        a, b = shares[k - 1], shares[k]\n"
            "        if b >= 0.5:\n"
            "            return k - 1 + (0.5 - a) / (b - a)\n"
            "    return float('nan')\n",
            r"divide k by L",
        ),
        (
            "def arrives(shares):  # divides by the number of depths\n"
            "    for k in range(1, len(shares)):\n"
            "        a, b = shares[k - 1], shares[k]\n"
            "        if b >= 0.5:\n"
            "            return (k - 1 + (0.5 - a) / (b - a)) / len(shares)\n"
            "    return float('nan')\n",
            r"expected 0.625, found 0.5",
        ),
        (
            "def arrives(shares):  # forgets those that begin above\n"
            "    L = len(shares) - 1\n"
            "    for k in range(1, L + 1):\n"
            "        a, b = shares[k - 1], shares[k]\n"
            "        if a < 0.5 <= b:\n"
            "            return (k - 1 + (0.5 - a) / (b - a)) / L\n"
            "    return float('nan')\n",
            r"reached before any block",
        ),
    ],
    "call_it": [
        (
            "def call_it(low, high):  # the middle decides\n"
            "    middle = (low + high) / 2\n"
            "    return 'transfers' if middle > 0.75 else 'no' if middle < 0.25 else 'partly'\n",
            r"is 'at most partly', you say 'no'",
        ),
        (
            "def call_it(low, high):  # three words only\n"
            "    if low > 0.75:\n"
            "        return 'transfers'\n"
            "    return 'no' if high < 0.25 else 'undecided'\n",
            r"is 'at most partly', you say 'undecided'",
        ),
        (
            "def call_it(low, high):  # partly before it is excluded\n"
            "    if low > 0.75:\n"
            "        return 'transfers'\n"
            "    if high < 0.25:\n"
            "        return 'no'\n"
            "    return 'at least partly' if low >= 0.25 else 'at most partly'\n",
            r"you say 'at most partly'|you say 'at least partly'",
        ),
        (
            "def call_it(low, high, basis=(1, 1)):  # never asks for the basis\n"
            "    if low > 0.75:\n"
            "        return 'transfers'\n"
            "    if high < 0.25:\n"
            "        return 'no'\n"
            "    if low >= 0.25:\n"
            "        return 'partly' if high <= 0.75 else 'at least partly'\n"
            "    return 'at most partly' if high <= 0.75 else 'undecided'\n",
            r"may be 0, so there is nothing to divide by",
        ),
        (
            "def call_it(low, high, basis=(1, 1)):  # an effect of the wrong sign will do\n"
            "    if basis[0] <= 0 <= basis[1]:\n"
            "        return 'no basis'\n"
            "    if low > 0.75:\n"
            "        return 'transfers'\n"
            "    if high < 0.25:\n"
            "        return 'no'\n"
            "    if low >= 0.25:\n"
            "        return 'partly' if high <= 0.75 else 'at least partly'\n"
            "    return 'at most partly' if high <= 0.75 else 'undecided'\n",
            r"does worse than its control",
        ),
    ],
}
