"""Wrong answers to lesson 06b: the source that replaces the stub, and the hint it must get."""

WRONG = {
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
    "against": [
        (
            "def against(near, far):  # ties are lost\n"
            "    return (far[:, None] > near[None]).float().mean()\n",
            r"a tie counts half; you count it as lost",
        ),
        (
            "def against(near, far):  # turned round\n"
            "    gap = near[:, None] - far[None]\n"
            "    return ((gap > 0).float() + 0.5 * (gap == 0).float()).mean()\n",
            r"how often `near` is the greater one",
        ),
        (
            "def against(near, far):  # against the mean\n"
            "    return (far > near.mean()).float().mean()\n",
            r"not with their mean",
        ),
    ],
    "caught": [
        (
            "def caught(honest, some, alarms):  # the wrong end\n"
            "    return (some > honest.quantile(alarms)).float().mean()\n",
            r"take the quantile 1 - alarms",
        ),
        (
            "def caught(honest, some, alarms):  # those below\n"
            "    return (some <= honest.quantile(1 - alarms)).float().mean()\n",
            r"the share above it is caught",
        ),
        (
            "def caught(honest, some, alarms):  # a line of its own\n"
            "    return (some > some.quantile(1 - alarms)).float().mean()\n",
            r"the line comes from `honest`",
        ),
        (
            "def caught(honest, some, alarms):  # a count\n"
            "    return (some > honest.quantile(1 - alarms)).float().sum()\n",
            r"this is a count",
        ),
    ],
    "logistic": [
        (
            "def logistic(x, y, decay, steps):  # b is not given back\n"
            "    X = torch.cat((x - x.mean(0), torch.ones(len(x), 1)), 1).double()\n"
            "    pull = torch.full((X.shape[1],), 2 * decay).double()\n"
            "    pull[-1] = 0\n"
            "    w = torch.zeros(X.shape[1]).double()\n"
            "    for _ in range(steps):\n"
            "        p = torch.sigmoid(X @ w)\n"
            "        gradient = X.T @ (p - y.double()) / len(X) + pull * w\n"
            "        bend = X.T @ (X * (p * (1 - p))[:, None]) / len(X) + pull.diag()\n"
            "        w = w - torch.linalg.solve(bend, gradient)\n"
            "    return w[:-1].float(), w[-1].float()\n",
            r"b must give that back",
        ),
        (
            "def logistic(x, y, decay, steps):  # half the decay\n"
            "    X = torch.cat((x - x.mean(0), torch.ones(len(x), 1)), 1).double()\n"
            "    pull = torch.full((X.shape[1],), decay).double()\n"
            "    pull[-1] = 0\n"
            "    w = torch.zeros(X.shape[1]).double()\n"
            "    for _ in range(steps):\n"
            "        p = torch.sigmoid(X @ w)\n"
            "        gradient = X.T @ (p - y.double()) / len(X) + pull * w\n"
            "        bend = X.T @ (X * (p * (1 - p))[:, None]) / len(X) + pull.diag()\n"
            "        w = w - torch.linalg.solve(bend, gradient)\n"
            "    w, b = w[:-1].float(), w[-1].float()\n"
            "    return w, b - w @ x.mean(0)\n",
            r"has the gradient 2 decay w",
        ),
        (
            "def logistic(x, y, decay, steps):  # goes down the gradient, and does not arrive\n"
            "    X = torch.cat((x - x.mean(0), torch.ones(len(x), 1)), 1)\n"
            "    pull = torch.full((X.shape[1],), 2 * decay)\n"
            "    pull[-1] = 0\n"
            "    w = torch.zeros(X.shape[1])\n"
            "    for _ in range(steps):\n"
            "        p = torch.sigmoid(X @ w)\n"
            "        w = w - 0.8 * (X.T @ (p - y.float()) / len(X) + pull * w)\n"
            "    return w[:-1], w[-1] - w[:-1] @ x.mean(0)\n",
            r"do not arrive",
        ),
        (
            "def logistic(x, y, decay, steps):  # b is held back, too\n"
            "    X = torch.cat((x, torch.ones(len(x), 1)), 1).double()\n"
            "    w = torch.zeros(X.shape[1]).double()\n"
            "    for _ in range(steps):\n"
            "        p = torch.sigmoid(X @ w)\n"
            "        gradient = X.T @ (p - y.double()) / len(X) + 2 * decay * w\n"
            "        bend = X.T @ (X * (p * (1 - p))[:, None]) / len(X)\n"
            "        bend = bend + 2 * decay * torch.eye(len(w)).double()\n"
            "        w = w - torch.linalg.solve(bend, gradient)\n"
            "    return w[:-1].float(), w[-1].float()\n",
            r"is b held back, too",
        ),
    ],
    "profile": [
        (
            "def profile(model, prompt, probes):  # depth 0 comes first\n"
            "    with model.trace(prompt):\n"
            "        states = []\n"
            "        for k in range(len(probes)):\n"
            "            states.append(model.residual(k)[0, -1])\n"
            "        states = torch.stack(states).save()\n"
            "    return torch.stack([s @ w + b for s, (w, b) in zip(states, probes)])\n",
            r"the first probe belongs to depth 1",
        ),
        (
            "def profile(model, prompt, probes):  # the first word\n"
            "    with model.trace(prompt):\n"
            "        states = []\n"
            "        for k in range(1, len(probes) + 1):\n"
            "            states.append(model.residual(k)[0, 0])\n"
            "        states = torch.stack(states).save()\n"
            "    return torch.stack([s @ w + b for s, (w, b) in zip(states, probes)])\n",
            r"you read the first word",
        ),
        (
            "def profile(model, prompt, probes):  # no bias\n"
            "    with model.trace(prompt):\n"
            "        states = []\n"
            "        for k in range(1, len(probes) + 1):\n"
            "            states.append(model.residual(k)[0, -1])\n"
            "        states = torch.stack(states).save()\n"
            "    return torch.stack([s @ w for s, (w, b) in zip(states, probes)])\n",
            r"add each probe's b",
        ),
    ],
    "surprise": [
        (
            "def surprise(usual, some):  # each depth alone\n"
            "    return (some - usual.mean(0)).square() / usual.var(0)\n",
            r"this is each depth alone",
        ),
        (
            "def surprise(usual, some):  # not squared\n"
            "    L = torch.linalg.cholesky(torch.cov(usual.T))\n"
            "    away = some - usual.mean(0)\n"
            "    return torch.linalg.solve_triangular(L, away.T, upper=False).T\n",
            r"square it",
        ),
        (
            "def surprise(usual, some):  # the shares of the inverse\n"
            "    away = some - usual.mean(0)\n"
            "    return away * torch.linalg.solve(torch.cov(usual.T), away.T).T\n",
            r"one may be negative",
        ),
        (
            "def surprise(usual, some):  # items and depths turned round\n"
            "    L = torch.linalg.cholesky(torch.cov(usual.T))\n"
            "    away = some - usual.mean(0)\n"
            "    return torch.linalg.solve_triangular(L, away.T, upper=False).square()\n",
            r"expected what each depth adds \[item depth\] of shape \(6, 3\)",
        ),
    ],
    "beyond": [
        (
            "def beyond(alice, bob, other, about, n, seed):  # items, not things\n"
            "    draw, values = torch.Generator().manual_seed(seed), []\n"
            "    for _ in range(n):\n"
            "        items = torch.randint(len(alice), (len(alice),), generator=draw)\n"
            "        usual = alice[items]\n"
            "        values.append(against(usual, bob[items]) - against(usual, other[items]))\n"
            "    return torch.stack(values)\n",
            r"scatter too little",
        ),
        (
            "def beyond(alice, bob, other, about, n, seed):  # never drawn\n"
            "    return (against(alice, bob) - against(alice, other)).repeat(n)\n",
            r"draw anew each time",
        ),
        (
            "def beyond(alice, bob, other, about, n, seed):  # turned round\n"
            "    draw, values = torch.Generator().manual_seed(seed), []\n"
            "    groups = [(about == thing).nonzero()[:, 0] for thing in about.unique()]\n"
            "    for _ in range(n):\n"
            "        chosen = torch.randint(len(groups), (len(groups),), generator=draw)\n"
            "        items = torch.cat([groups[i] for i in chosen])\n"
            "        usual = alice[items]\n"
            "        values.append(against(usual, other[items]) - against(usual, bob[items]))\n"
            "    return torch.stack(values)\n",
            r"not the other way round",
        ),
        (
            "def beyond(alice, bob, other, about, n, seed):  # a draw for each name\n"
            "    draw, values = torch.Generator().manual_seed(seed), []\n"
            "    groups = [(about == thing).nonzero()[:, 0] for thing in about.unique()]\n"
            "    def again():\n"
            "        chosen = torch.randint(len(groups), (len(groups),), generator=draw)\n"
            "        return torch.cat([groups[i] for i in chosen])\n"
            "    for _ in range(n):\n"
            "        a = against(alice[again()], bob[again()])\n"
            "        values.append(a - against(alice[again()], other[again()]))\n"
            "    return torch.stack(values)\n",
            r"scatter too much",
        ),
    ],
    "lie_or_name": [
        (
            "def lie_or_name(distance, honest, name):  # all names together\n"
            "    return against(distance[honest], distance[~honest])\n",
            r"compare within each name",
        ),
        (
            "def lie_or_name(distance, honest, name):  # true above false\n"
            "    values = []\n"
            "    for one in name.unique():\n"
            "        true, false = distance[(name == one) & honest], distance[(name == one) & ~honest]\n"
            "        if len(true) and len(false):\n"
            "            values.append(against(false, true))\n"
            "    return torch.stack(values).mean()\n",
            r"how often the true answer is more unusual",
        ),
        (
            "def lie_or_name(distance, honest, name):  # also where nothing is to be compared\n"
            "    values = []\n"
            "    for one in name.unique():\n"
            "        true, false = distance[(name == one) & honest], distance[(name == one) & ~honest]\n"
            "        values.append(against(true, false))\n"
            "    return torch.stack(values).mean()\n",
            r"leave it out",
        ),
    ],
    "by_chance": [
        (
            "def by_chance(usual, alice, other, n, seed):  # one detector\n"
            "    w = torch.randn(usual.shape[1:], generator=torch.Generator().manual_seed(seed))\n"
            "    read = [(x * w).sum(-1) for x in (usual, alice, other)]\n"
            "    near, far = (unusual(read[0], some)[0] for some in read[1:])\n"
            "    return against(near, far).repeat(n)\n",
            r"draw new directions for each detector",
        ),
        (
            "def by_chance(usual, alice, other, n, seed):  # turned round\n"
            "    draw, values = torch.Generator().manual_seed(seed), []\n"
            "    for _ in range(n):\n"
            "        w = torch.randn(usual.shape[1:], generator=draw)\n"
            "        read = [(x * w).sum(-1) for x in (usual, alice, other)]\n"
            "        near, far = (unusual(read[0], some)[0] for some in read[1:])\n"
            "        values.append(against(far, near))\n"
            "    return torch.stack(values)\n",
            r"how often alice is the more unusual one",
        ),
        (
            "def by_chance(usual, alice, other, n, seed):  # against the usual items\n"
            "    draw, values = torch.Generator().manual_seed(seed), []\n"
            "    for _ in range(n):\n"
            "        w = torch.randn(usual.shape[1:], generator=draw)\n"
            "        read = [(x * w).sum(-1) for x in (usual, other)]\n"
            "        near, far = (unusual(read[0], some)[0] for some in read)\n"
            "        values.append(against(near, far))\n"
            "    return torch.stack(values)\n",
            r"compared with alice, not with usual",
        ),
        (
            "def by_chance(usual, alice, other, n, seed):  # each turned to its better side\n"
            "    draw, values = torch.Generator().manual_seed(seed), []\n"
            "    for _ in range(n):\n"
            "        w = torch.randn(usual.shape[1:], generator=draw)\n"
            "        read = [(x * w).sum(-1) for x in (usual, alice, other)]\n"
            "        near, far = (unusual(read[0], some)[0] for some in read[1:])\n"
            "        values.append(max(against(near, far), against(far, near)))\n"
            "    return torch.stack(values)\n",
            r"no detector may be turned round",
        ),
    ],
}
