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
    "faithful": [
        (
            "def faithful(odds, truth, rule):  # two halves\n"
            "    right = (odds > 0).view(2, -1).T == torch.stack((truth, rule), 1)\n"
            "    return right.float().mean(0), right[truth != rule].float().mean(0)\n",
            r"come in turn",
        ),
        (
            "def faithful(odds, truth, rule):  # the truth for both\n"
            "    right = (odds > 0).view(-1, 2) == truth[:, None]\n"
            "    return right.float().mean(0), right[truth != rule].float().mean(0)\n",
            r"bob is asked to follow his rule",
        ),
        (
            "def faithful(odds, truth, rule):  # all, twice\n"
            "    right = (odds > 0).view(-1, 2) == torch.stack((truth, rule), 1)\n"
            "    return right.float().mean(0), right.float().mean(0)\n",
            r"only statements whose two labels differ",
        ),
    ],
    "ccs": [
        (
            "def ccs(x, seed, steps):  # no confidence\n"
            "    w = torch.randn(x.shape[-1], generator=torch.Generator().manual_seed(seed))\n"
            "    w, b = (w / w.norm()).requires_grad_(), torch.zeros(1, requires_grad=True)\n"
            "    optimiser = torch.optim.Adam([w, b], lr=0.01)\n"
            "    for _ in range(steps):\n"
            "        with torch.enable_grad():\n"
            "            p0, p1 = torch.sigmoid(x @ w + b).unbind(1)\n"
            "            loss = (p0 - (1 - p1)).square().mean()\n"
            "            optimiser.zero_grad()\n"
            "            loss.backward()\n"
            "        optimiser.step()\n"
            "    return w.detach(), loss.item()\n",
            r"without confidence, 0.5 everywhere would be perfect",
        ),
        (
            "def ccs(x, seed, steps):  # p0 and p1 should agree\n"
            "    w = torch.randn(x.shape[-1], generator=torch.Generator().manual_seed(seed))\n"
            "    w, b = (w / w.norm()).requires_grad_(), torch.zeros(1, requires_grad=True)\n"
            "    optimiser = torch.optim.Adam([w, b], lr=0.01)\n"
            "    for _ in range(steps):\n"
            "        with torch.enable_grad():\n"
            "            p0, p1 = torch.sigmoid(x @ w + b).unbind(1)\n"
            "            loss = (p0 - p1).square().mean() + torch.minimum(p0, p1).square().mean()\n"
            "            optimiser.zero_grad()\n"
            "            loss.backward()\n"
            "        optimiser.step()\n"
            "    return w.detach(), loss.item()\n",
            r"one of the two answers is right",
        ),
        (
            "def ccs(x, seed, steps):  # never steps\n"
            "    w = torch.randn(x.shape[-1], generator=torch.Generator().manual_seed(seed))\n"
            "    w, b = w / w.norm(), torch.zeros(1)\n"
            "    p0, p1 = torch.sigmoid(x @ w + b).unbind(1)\n"
            "    loss = (p0 - (1 - p1)).square().mean() + torch.minimum(p0, p1).square().mean()\n"
            "    return w, loss.item()\n",
            r"w does not go down",
        ),
        (
            "def ccs(x, seed, steps):  # sums\n"
            "    w = torch.randn(x.shape[-1], generator=torch.Generator().manual_seed(seed))\n"
            "    w, b = (w / w.norm()).requires_grad_(), torch.zeros(1, requires_grad=True)\n"
            "    optimiser = torch.optim.Adam([w, b], lr=0.01)\n"
            "    for _ in range(steps):\n"
            "        with torch.enable_grad():\n"
            "            p0, p1 = torch.sigmoid(x @ w + b).unbind(1)\n"
            "            loss = ((p0 - (1 - p1)).square() + torch.minimum(p0, p1).square()).sum()\n"
            "            optimiser.zero_grad()\n"
            "            loss.backward()\n"
            "        optimiser.step()\n"
            "    return w.detach(), loss.item()\n",
            r"average over the items",
        ),
    ],
}
