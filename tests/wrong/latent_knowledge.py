"""Wrong answers to lesson 06: the source that replaces the stub, and the hint it must get."""

WRONG = {
    "auroc": [
        (
            "def auroc(score, y):  # ties are lost\n"
            "    return (score[y][:, None] > score[~y][None]).float().mean()\n",
            r"a tie counts half; you count it as lost",
        ),
        (
            "def auroc(score, y):  # false above true\n"
            "    gap = score[~y][:, None] - score[y][None]\n"
            "    return ((gap > 0).float() + 0.5 * (gap == 0).float()).mean()\n",
            r"how often false items score higher",
        ),
        (
            "def auroc(score, y):  # an accuracy\n    return ((score > 0) == y).float().mean()\n",
            r"compare every true item with every false one",
        ),
    ],
    "contrast_pair": [
        (
            "def contrast_pair(model, prompt):  # never puts an answer\n"
            "    with model.trace(prompt):\n"
            "        states = []\n"
            "        for k in range(model.n_layers + 1):\n"
            "            states.append(model.residual(k)[0, -1])\n"
            "        states = torch.stack(states).save()\n"
            "    return torch.stack([states, states])\n",
            r"you read the prompt's last word",
        ),
        (
            "def contrast_pair(model, prompt):  # true first\n"
            "    pair = []\n"
            "    for answer in ('true', 'false'):\n"
            "        with model.trace(prompt + ' ' + answer):\n"
            "            states = []\n"
            "            for k in range(model.n_layers + 1):\n"
            "                states.append(model.residual(k)[0, -1])\n"
            "            states = torch.stack(states).save()\n"
            "        pair.append(states)\n"
            "    return torch.stack(pair)\n",
            r"the order is `false`",
        ),
        (
            "def contrast_pair(model, prompt):  # no embedding\n"
            "    pair = []\n"
            "    for answer in ('false', 'true'):\n"
            "        with model.trace(prompt + ' ' + answer):\n"
            "            states = []\n"
            "            for k in range(1, model.n_layers + 1):\n"
            "                states.append(model.residual(k)[0, -1])\n"
            "            states = torch.stack(states).save()\n"
            "        pair.append(states)\n"
            "    return torch.stack(pair)\n",
            r"expected the pair \[2 k d_model\] of shape",
        ),
    ],
    "easy_to_hard": [
        (
            "def easy_to_hard(train, near, far):  # looks at the test\n"
            "    probes, gains = [], []\n"
            "    for k in range(train[0].shape[1]):\n"
            "        w, b = mean_difference(train[0][:, k], train[1])\n"
            "        probes.append((w, b))\n"
            "        gains.append(auroc(far[0][:, k] @ w + b, far[1]) - 0.5)\n"
            "    gains = torch.stack(gains)\n"
            "    depth = int((gains >= 0.95 * gains.max()).nonzero()[0])\n"
            "    w, b = probes[depth]\n"
            "    return depth, auroc(far[0][:, depth] @ w + b, far[1])\n",
            r"you choose the depth on `far`|you take the best depth",
        ),
        (
            "def easy_to_hard(train, near, far):  # the best depth\n"
            "    probes, gains = [], []\n"
            "    for k in range(train[0].shape[1]):\n"
            "        w, b = mean_difference(train[0][:, k], train[1])\n"
            "        probes.append((w, b))\n"
            "        gains.append(auroc(near[0][:, k] @ w + b, near[1]))\n"
            "    depth = int(torch.stack(gains).argmax())\n"
            "    w, b = probes[depth]\n"
            "    return depth, auroc(far[0][:, depth] @ w + b, far[1])\n",
            r"you take the best depth",
        ),
        (
            "def easy_to_hard(train, near, far):  # fits where it tests\n"
            "    gains = []\n"
            "    for k in range(train[0].shape[1]):\n"
            "        w, b = mean_difference(train[0][:, k], train[1])\n"
            "        gains.append(auroc(near[0][:, k] @ w + b, near[1]) - 0.5)\n"
            "    gains = torch.stack(gains)\n"
            "    depth = int((gains >= 0.95 * gains.max()).nonzero()[0])\n"
            "    w, b = mean_difference(far[0][:, depth], far[1])\n"
            "    return depth, auroc(far[0][:, depth] @ w + b, far[1])\n",
            r"you fit the probe to `far`",
        ),
    ],
    "by_chance": [
        (
            "def by_chance(x, y, far, truth, n, seed):  # not turned\n"
            "    draw = torch.Generator().manual_seed(seed)\n"
            "    w = torch.randn(n, x.shape[1], generator=draw)\n"
            "    return torch.stack([auroc(far @ each, truth) for each in w])\n",
            r"half of your directions are upside down",
        ),
        (
            "def by_chance(x, y, far, truth, n, seed):  # turned by what is tested\n"
            "    draw = torch.Generator().manual_seed(seed)\n"
            "    w = torch.randn(n, x.shape[1], generator=draw)\n"
            "    values = torch.stack([auroc(far @ each, truth) for each in w])\n"
            "    return torch.maximum(values, 1 - values)\n",
            r"you turn by the labels that are tested",
        ),
        (
            "def by_chance(x, y, far, truth, n, seed):  # one direction\n"
            "    w = torch.randn(x.shape[1], generator=torch.Generator().manual_seed(seed))\n"
            "    w = w if auroc(x @ w, y) > 0.5 else -w\n"
            "    return auroc(far @ w, truth).repeat(n)\n",
            r"draw a new direction each time",
        ),
    ],
    "answer_fixed": [
        (
            "def answer_fixed(score, truth, answer):  # all items\n    return auroc(score, truth)\n",
            r"compare only items with the same answer",
        ),
        (
            "def answer_fixed(score, truth, answer):  # one answer\n"
            "    return auroc(score[answer], truth[answer])\n",
            r"only one of the two answers counts",
        ),
        (
            "def answer_fixed(score, truth, answer):  # whatever the labels\n"
            "    values = [auroc(score[answer == a], truth[answer == a]) for a in (False, True)]\n"
            "    return torch.stack(values).mean()\n",
            r"there is no AUROC: leave it out",
        ),
    ],
    "mean_difference": [
        (
            "def mean_difference(x, y):  # no threshold\n"
            "    w = x[y].mean(0) - x[~y].mean(0)\n"
            "    return w / w.norm(), torch.tensor(0.0)\n",
            r"b is 0, so almost every score has the same sign",
        ),
        (
            "def mean_difference(x, y):  # from true to false\n"
            "    w = x[~y].mean(0) - x[y].mean(0)\n"
            "    w = w / w.norm()\n"
            "    return w, -w @ (x[~y].mean(0) + x[y].mean(0)) / 2\n",
            r"w points from true to false",
        ),
        (
            "def mean_difference(x, y):  # centred on all items\n"
            "    w = x[y].mean(0) - x[~y].mean(0)\n"
            "    w = w / w.norm()\n"
            "    return w, -w @ x.mean(0)\n",
            r"moves with the share of true ones",
        ),
        (
            "def mean_difference(x, y):  # not of length 1\n"
            "    w = x[y].mean(0) - x[~y].mean(0)\n"
            "    return w, -w @ (x[~y].mean(0) + x[y].mean(0)) / 2\n",
            r"w has length .*; divide it by its length",
        ),
        (
            "def mean_difference(x, y):  # the mean over everything\n"
            "    return x.mean(), torch.tensor(0.0)\n",
            r"expected w of shape \(4,\)",
        ),
    ],
    "ccs_loss": [
        (
            "def ccs_loss(p0, p1):  # no confidence\n    return (p0 - (1 - p1)).square().mean()\n",
            r"without confidence, 0.5 everywhere would be perfect",
        ),
        (
            "def ccs_loss(p0, p1):  # p0 and p1 should agree\n"
            "    return (p0 - p1).square().mean() + torch.minimum(p0, p1).square().mean()\n",
            r"because one of the two answers is right",
        ),
        (
            "def ccs_loss(p0, p1):  # sums\n"
            "    return ((p0 - (1 - p1)).square() + torch.minimum(p0, p1).square()).sum()\n",
            r"average over the items",
        ),
        (
            "def ccs_loss(p0, p1):  # the larger one\n"
            "    return (p0 - (1 - p1)).square().mean() + torch.maximum(p0, p1).square().mean()\n",
            r"punishes the smaller",
        ),
        (
            "def ccs_loss(p0, p1):  # one loss per item\n"
            "    return (p0 - (1 - p1)).square() + torch.minimum(p0, p1).square()\n",
            r"expected the loss, one number, of shape \(\), found \(3,\)",
        ),
    ],
    "unusual": [
        (
            "def unusual(usual, some):  # plain distance\n"
            "    away = (some - usual.mean(0)).square().sum(1)\n"
            "    return away, away\n",
            r"what varies much counts little",
        ),
        (
            "def unusual(usual, some):  # depth by depth\n"
            "    alone = ((some - usual.mean(0)).square() / usual.var(0)).sum(1)\n"
            "    return alone, alone\n",
            r"covariances between depths count too",
        ),
        (
            "def unusual(usual, some):  # centred on the new items\n"
            "    away = some - some.mean(0)\n"
            "    whole = (away * torch.linalg.solve(torch.cov(usual.T), away.T).T).sum(1)\n"
            "    return whole, whole - (away.square() / usual.var(0)).sum(1)\n",
            r"centre on the mean of the usual items",
        ),
        (
            "def unusual(usual, some):  # multiplies\n"
            "    away = some - usual.mean(0)\n"
            "    whole = (away @ torch.cov(usual.T) * away).sum(1)\n"
            "    return whole, whole\n",
            r"solve with it",
        ),
        (
            "def unusual(usual, some):  # the diagonal alone\n"
            "    away = some - usual.mean(0)\n"
            "    whole = (away * torch.linalg.solve(torch.cov(usual.T), away.T).T).sum(1)\n"
            "    return whole, (away.square() / usual.var(0)).sum(1)\n",
            r"you return the diagonal's",
        ),
    ],
}
