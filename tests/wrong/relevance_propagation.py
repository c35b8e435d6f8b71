"""Wrong answers to lesson 03: the source that replaces the stub, and the hint it must get."""

WRONG = {
    "constant_scale": [
        (
            "def constant_scale(x, eps=1e-5):  # the norm as it is\n"
            "    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)\n",
            r"the relevance of each vector sums to 0; detach the scale",
        ),
        (
            "def constant_scale(x, eps=1e-5):  # detaches everything\n"
            "    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)).detach()\n",
            r"no gradient reaches x",
        ),
        (
            "def constant_scale(x, eps=1e-5):  # the wrong factor is constant\n"
            "    return x.detach() * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)\n",
            r"does not sum to what comes out",
        ),
        (
            "def constant_scale(x, eps=1e-5):  # LayerNorm's scale\n"
            "    x = x - x.mean(-1, keepdim=True)\n"
            "    return x / x.square().mean(-1, keepdim=True).sqrt().detach()\n",
            r"you subtract the mean",
        ),
        (
            "def constant_scale(x, eps=1e-5):  # the length instead of the root mean square\n"
            "    return x / x.norm(dim=-1, keepdim=True).detach()\n",
            r"divide by the length of x",
        ),
        (
            "def constant_scale(x, eps=1e-5):  # no eps\n"
            "    return x * torch.rsqrt(x.square().mean(-1, keepdim=True)).detach()\n",
            r"you leave out `eps`",
        ),
    ],
    "identity_rule": [
        (
            "def identity_rule(x, y):  # nothing is constant\n"
            "    return x * torch.where(x == 0, 0.0, y / x)\n",
            r"GELU's own derivative; .* detach it",
        ),
        ("def identity_rule(x, y):  # the output as it was\n    return y\n", r"GELU's own derivative"),
        (
            "def identity_rule(x, y):  # divides by zero\n    return x * (y / x).detach()\n",
            r"you divide 0 by 0 and get nan",
        ),
        (
            "def identity_rule(x, y):  # the slope alone\n"
            "    return torch.where(x == 0, 0.0, y / x).detach()\n",
            r"the values must stay those of y",
        ),
        (
            "def identity_rule(x, y):  # straight through: the slope is 1\n"
            "    return x + (y - x).detach()\n",
            r"x times the slope must be y",
        ),
    ],
    "remove_most": [
        (
            "def remove_most(embeddings, relevance, k, baseline):  # the last word goes too\n"
            "    changed = embeddings.clone()\n"
            "    changed[relevance.argsort(descending=True)[:k]] = baseline\n"
            "    return changed\n",
            r"you remove the last word",
        ),
        (
            "def remove_most(embeddings, relevance, k, baseline):  # ascending\n"
            "    changed = embeddings.clone()\n"
            "    changed[relevance[:-1].argsort()[:k]] = baseline\n"
            "    return changed\n",
            r"the least relevant words first",
        ),
        (
            "def remove_most(embeddings, relevance, k, baseline):  # by size\n"
            "    changed = embeddings.clone()\n"
            "    changed[relevance[:-1].abs().argsort(descending=True)[:k]] = baseline\n"
            "    return changed\n",
            r"you go by the size of the relevance",
        ),
        (
            "def remove_most(embeddings, relevance, k, baseline):  # in place\n"
            "    embeddings[relevance[:-1].argsort(descending=True)[:k]] = baseline\n"
            "    return embeddings\n",
            r"work on a clone",
        ),
        (
            "def remove_most(embeddings, relevance, k, baseline):  # deletes, so that the rest moves\n"
            "    kept = relevance[:-1].argsort(descending=True)[k:].sort().values\n"
            "    return torch.cat([embeddings[kept], embeddings[-1:]])\n",
            r"expected the prompt of shape \(5, 3\), found \(3, 3\)",
        ),
    ],
}
