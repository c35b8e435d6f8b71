"""Wrong answers to lesson 08a: the source that replaces the stub, and the hint it must get."""

WRONG = {
    "steering_vector": [
        (
            "def steering_vector(behaving, other):  # the wrong way round\n"
            "    return other.mean(0) - behaving.mean(0)\n",
            r"the sign is turned",
        ),
        (
            "def steering_vector(behaving, other):  # normalised\n"
            "    found = behaving.mean(0) - other.mean(0)\n"
            "    return found / found.norm()\n",
            r"you scale it to length 1",
        ),
        (
            "def steering_vector(behaving, other):  # sums\n    return behaving.sum(0) - other.sum(0)\n",
            r"6 on one side and 4 on the other",
        ),
        (
            "def steering_vector(behaving, other):  # one side\n    return behaving.mean(0)\n",
            r"what both sides share must go",
        ),
        (
            "def steering_vector(behaving, other):  # over the wrong axis\n"
            "    return behaving.mean(1)[:4] - other.mean(1)\n",
            r"it is not the mean of one side",
        ),
    ],
    "last_words": [
        (
            "def last_words(model, texts):  # the first word\n"
            "    with model.trace(list(texts)):\n"
            "        depths = [model.residual(k)[:, 0] for k in range(model.n_layers + 1)]\n"
            "        streams = torch.stack(depths, 1).save()\n"
            "    return streams\n",
            r"you read the first word",
        ),
        (
            "def last_words(model, texts):  # depth first\n"
            "    with model.trace(list(texts)):\n"
            "        depths = [model.residual(k)[:, -1] for k in range(model.n_layers + 1)]\n"
            "        streams = torch.stack(depths).save()\n"
            "    return streams\n",
            r"one for each text, depth",
        ),
        (
            "def last_words(model, texts):  # one depth short\n"
            "    with model.trace(list(texts)):\n"
            "        depths = [model.residual(k)[:, -1] for k in range(model.n_layers)]\n"
            "        streams = torch.stack(depths, 1).save()\n"
            "    return streams\n",
            r"of shape \(3, 7, 128\), found \(3, 6, 128\)",
        ),
        (
            "def last_words(model, texts):  # the mean over words\n"
            "    with model.trace(list(texts)):\n"
            "        depths = [model.residual(k).mean(1) for k in range(model.n_layers + 1)]\n"
            "        streams = torch.stack(depths, 1).save()\n"
            "    return streams\n",
            r"you take the mean over words",
        ),
    ],
    "steer": [
        (
            "def steer(model, asked, k, word, change):  # among all words\n"
            "    letters = steering.letter_tokens(model, asked)\n"
            "    with model.trace([question.prompt for question in asked]):\n"
            "        stream = model.residual(k).clone()\n"
            "        stream[:, word] += change\n"
            "        model.set_residual(k, stream)\n"
            "        logits = model.logits[:, -1].save()\n"
            "    return logits.softmax(1).gather(1, letters)[:, 0]\n",
            r"among all words",
        ),
        (
            "def steer(model, asked, k, word, change):  # nothing is set\n"
            "    letters = steering.letter_tokens(model, asked)\n"
            "    with model.trace([question.prompt for question in asked]):\n"
            "        stream = model.residual(k).clone()\n"
            "        stream[:, word] += change\n"
            "        logits = model.logits[:, -1].save()\n"
            "    return logits.gather(1, letters).softmax(1)[:, 0]\n",
            r"nothing was steered",
        ),
        (
            "def steer(model, asked, k, word, change):  # every word\n"
            "    letters = steering.letter_tokens(model, asked)\n"
            "    with model.trace([question.prompt for question in asked]):\n"
            "        model.set_residual(k, model.residual(k) + change)\n"
            "        logits = model.logits[:, -1].save()\n"
            "    return logits.gather(1, letters).softmax(1)[:, 0]\n",
            r"you steer every word",
        ),
        (
            "def steer(model, asked, k, word, change):  # the last word\n"
            "    letters = steering.letter_tokens(model, asked)\n"
            "    with model.trace([question.prompt for question in asked]):\n"
            "        stream = model.residual(k).clone()\n"
            "        stream[:, -1] += change\n"
            "        model.set_residual(k, stream)\n"
            "        logits = model.logits[:, -1].save()\n"
            "    return logits.gather(1, letters).softmax(1)[:, 0]\n",
            r"you steer the last word",
        ),
        (
            "def steer(model, asked, k, word, change):  # replaced\n"
            "    letters = steering.letter_tokens(model, asked)\n"
            "    with model.trace([question.prompt for question in asked]):\n"
            "        stream = model.residual(k).clone()\n"
            "        stream[:, word] = change\n"
            "        model.set_residual(k, stream)\n"
            "        logits = model.logits[:, -1].save()\n"
            "    return logits.gather(1, letters).softmax(1)[:, 0]\n",
            r"add to what stands there",
        ),
    ],
    "swept": [
        (
            "def swept(answers, depths, multipliers):  # one end\n"
            "    reach, nonsense = torch.zeros(2, len(depths), len(multipliers))\n"
            "    for i, k in enumerate(depths):\n"
            "        for j, m in enumerate(multipliers):\n"
            "            up, odd = answers(k, m)\n"
            "            reach[i, j], nonsense[i, j] = up.mean() - 0.5, odd.mean()\n"
            "    return reach, nonsense\n",
            r"no negative multiplier",
        ),
        (
            "def swept(answers, depths, multipliers):  # the mean of both ends' nonsense\n"
            "    reach, nonsense = torch.zeros(2, len(depths), len(multipliers))\n"
            "    for i, k in enumerate(depths):\n"
            "        for j, m in enumerate(multipliers):\n"
            "            (up, odd), (down, other) = answers(k, m), answers(k, -m)\n"
            "            reach[i, j] = up.mean() - down.mean()\n"
            "            nonsense[i, j] = (odd.mean() + other.mean()) / 2\n"
            "    return reach, nonsense\n",
            r"take the larger",
        ),
        (
            "def swept(answers, depths, multipliers):  # turned\n"
            "    reach, nonsense = torch.zeros(2, len(depths), len(multipliers))\n"
            "    for i, k in enumerate(depths):\n"
            "        for j, m in enumerate(multipliers):\n"
            "            (up, odd), (down, other) = answers(k, m), answers(k, -m)\n"
            "            reach[i, j] = down.mean() - up.mean()\n"
            "            nonsense[i, j] = max(odd.mean(), other.mean())\n"
            "    return reach, nonsense\n",
            r"the sign is turned",
        ),
        (
            "def swept(answers, depths, multipliers):  # multipliers first\n"
            "    cells = [[[x.mean() for x in (*answers(k, m), *answers(k, -m))] for k in depths]\n"
            "             for m in multipliers]\n"
            "    up, odd, down, other = torch.tensor(cells).unbind(-1)\n"
            "    return up - down, torch.maximum(odd, other)\n",
            r"of shape \(3, 2\), found \(2, 3\)",
        ),
    ],
    "choose": [
        (
            "def choose(reach, nonsense, depths, multipliers, most=0.1):  # nonsense counts\n"
            "    i, j = divmod(int(reach.argmax()), len(multipliers))\n"
            "    return depths[i], multipliers[j]\n",
            r"mostly nonsense",
        ),
        (
            "def choose(reach, nonsense, depths, multipliers, most=0.1):  # the very farthest\n"
            "    allowed = torch.where(nonsense <= most, reach, -torch.inf)\n"
            "    i, j = divmod(int(allowed.argmax()), len(multipliers))\n"
            "    return depths[i], multipliers[j]\n",
            r"take the gentlest",
        ),
        (
            "def choose(reach, nonsense, depths, multipliers, most=0.1):  # nonsense is 0\n"
            "    allowed = torch.where(nonsense <= most, reach, 0.0)\n"
            "    near = (allowed >= allowed.max() - 0.005).nonzero().tolist()\n"
            "    i, j = min(near, key=lambda cell: (cell[1], cell[0]))\n"
            "    low = reach.max() < 0\n"
            "    return depths[0 if low else i], multipliers[0 if low else j]\n",
            r"nearest to 0 wins",
        ),
        (
            "def choose(reach, nonsense, depths, multipliers, most=0.1):  # multiplier first\n"
            "    return multipliers[1], depths[1]\n",
            r"the order is \(k, m\)",
        ),
    ],
    "random_like": [
        (
            "def random_like(v, n, seed):  # of length 1\n"
            "    drawn = torch.randn(n, *v.shape, generator=torch.Generator().manual_seed(seed))\n"
            "    return drawn / drawn.flatten(1).norm(dim=1).view(-1, *[1] * v.dim())\n",
            r"multiply by the length of v",
        ),
        (
            "def random_like(v, n, seed):  # all together\n"
            "    drawn = torch.randn(n, *v.shape, generator=torch.Generator().manual_seed(seed))\n"
            "    return drawn * v.norm() / drawn.norm()\n",
            r"each one should be",
        ),
        (
            "def random_like(v, n, seed):  # leans to one side\n"
            "    drawn = torch.rand(n, *v.shape, generator=torch.Generator().manual_seed(seed))\n"
            "    return drawn * (v.norm() / drawn.flatten(1).norm(dim=1)).view(-1, *[1] * v.dim())\n",
            r"lean to one side",
        ),
        (
            "def random_like(v, n, seed):  # no seed\n"
            "    drawn = torch.randn(n, *v.shape)\n"
            "    return drawn * (v.norm() / drawn.flatten(1).norm(dim=1)).view(-1, *[1] * v.dim())\n",
            r"use a torch.Generator",
        ),
    ],
    "beside": [
        (
            "def beside(reach_of, own, n, seed):  # its own vector among the others\n"
            "    drawn = torch.stack([random_like(v, n, seed + i) for i, v in enumerate(own)], 1)\n"
            "    return {\n"
            '        "its own vector": reach_of(own)[None],\n'
            '        "another\'s": torch.stack([reach_of(own.roll(i, 0)) for i in range(3)]),\n'
            '        "random": torch.stack([reach_of(v) for v in drawn]),\n'
            "    }\n",
            r"some behaviour gets its own vector",
        ),
        (
            "def beside(reach_of, own, n, seed):  # one other, three times\n"
            "    drawn = torch.stack([random_like(v, n, seed + i) for i, v in enumerate(own)], 1)\n"
            "    return {\n"
            '        "its own vector": reach_of(own)[None],\n'
            '        "another\'s": torch.stack([reach_of(own.roll(1, 0)) for _ in range(3)]),\n'
            '        "random": torch.stack([reach_of(v) for v in drawn]),\n'
            "    }\n",
            r"each other one's vector once",
        ),
        (
            "def beside(reach_of, own, n, seed):  # one random vector, repeated\n"
            "    drawn = torch.stack([random_like(v, 1, seed + i)[0] for i, v in enumerate(own)])\n"
            "    return {\n"
            '        "its own vector": reach_of(own)[None],\n'
            '        "another\'s": torch.stack([reach_of(own.roll(i, 0)) for i in (1, 2, 3)]),\n'
            '        "random": torch.stack([reach_of(drawn) for _ in range(n)]),\n'
            "    }\n",
            r"all rows are the same",
        ),
        (
            "def beside(reach_of, own, n, seed):  # behaviours first\n"
            "    drawn = torch.stack([random_like(v, n, seed + i) for i, v in enumerate(own)])\n"
            "    return {\n"
            '        "its own vector": reach_of(own)[None],\n'
            '        "another\'s": torch.stack([reach_of(own.roll(i, 0)) for i in (1, 2, 3)]),\n'
            '        "random": torch.stack([reach_of(v) for v in drawn]),\n'
            "    }\n",
            r"reach of 'random' of shape \(5, 4\), found \(4, 5\)",
        ),
    ],
    "half_dose": [
        (
            "def half_dose(reach_at, most, steps=6):  # of the multiplier\n    return most / 2\n",
            r"half of the multiplier",
        ),
        (
            "def half_dose(reach_at, most, steps=6):  # half of what a reach can be\n"
            "    low, high = 0.0, most\n"
            "    for _ in range(steps):\n"
            "        middle = (low + high) / 2\n"
            "        if reach_at(middle) < 0.5:\n"
            "            low = middle\n"
            "        else:\n"
            "            high = middle\n"
            "    return high\n",
            r"half of reach_at\(most\)",
        ),
        (
            "def half_dose(reach_at, most, steps=6):  # the wrong end\n"
            "    goal, low, high = reach_at(most) / 2, 0.0, most\n"
            "    for _ in range(steps):\n"
            "        middle = (low + high) / 2\n"
            "        if reach_at(middle) >= goal:\n"
            "            low = middle\n"
            "        else:\n"
            "            high = middle\n"
            "    return high\n",
            r"shrinks to the wrong end",
        ),
    ],
    "labellings": [
        (
            "def labellings(per_cue):  # with mirrors\n"
            "    found = []\n"
            "    for three in itertools.combinations(range(6), 3):\n"
            "        rest = [i for i in range(6) if i not in three]\n"
            "        found.append(per_cue[list(three)].mean(0) - per_cue[rest].mean(0))\n"
            "    return torch.stack(found)\n",
            r"20 ways are 10",
        ),
        (
            "def labellings(per_cue):  # sums\n"
            "    found = []\n"
            "    for three in itertools.combinations(range(6), 3):\n"
            "        if 0 in three:\n"
            "            rest = [i for i in range(6) if i not in three]\n"
            "            found.append(per_cue[list(three)].sum(0) - per_cue[rest].sum(0))\n"
            "    return torch.stack(found)\n",
            r"you take sums of three",
        ),
        (
            "def labellings(per_cue):  # the other side\n"
            "    found = []\n"
            "    for three in itertools.combinations(range(6), 3):\n"
            "        if 0 in three:\n"
            "            rest = [i for i in range(6) if i not in three]\n"
            "            found.append(per_cue[rest].mean(0) - per_cue[list(three)].mean(0))\n"
            "    return torch.stack(found)\n",
            r"the signs are turned",
        ),
        (
            "def labellings(per_cue):  # the true one only\n"
            "    return (per_cue[:3].mean(0) - per_cue[3:].mean(0)).expand(10, *per_cue.shape[1:])\n",
            r"one of the ten ways is missing",
        ),
    ],
}
