"""Wrong answers to lesson 06: the source that replaces the stub, and the hint it must get."""

WRONG = {
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
            "    return (some - usual.mean(0)).square().sum(1)\n",
            r"what varies much counts little",
        ),
        (
            "def unusual(usual, some):  # depth by depth\n"
            "    return ((some - usual.mean(0)).square() / usual.var(0)).sum(1)\n",
            r"covariances between depths count too",
        ),
        (
            "def unusual(usual, some):  # centred on the new items\n"
            "    away = some - some.mean(0)\n"
            "    return (away * torch.linalg.solve(torch.cov(usual.T), away.T).T).sum(1)\n",
            r"centre on the mean of the usual items",
        ),
        (
            "def unusual(usual, some):  # multiplies\n"
            "    away = some - usual.mean(0)\n"
            "    return (away @ torch.cov(usual.T) * away).sum(1)\n",
            r"solve with it",
        ),
    ],
}
