"""Wrong answers to lesson 07: the source that replaces the stub, and the hint it must get."""

SCAN = """def dual_state(u, delta, A, B, C, sources, queries):
    whole = kept = torch.zeros_like(A)
    y = []
    for t in range(len(u)):
        decay = torch.exp(delta[t, :, None] * A)
        write = (delta[t] * u[t])[:, None] * B[t]
        whole = decay * whole + write
        kept = decay * kept + (0 if t in sources else write)
        y.append((kept if t in queries else whole) @ C[t])
    return torch.stack(y)
"""

WRONG = {
    "effect": [
        (
            "def effect(patched, clean, corrupt):  # from the wrong end\n"
            "    return (clean - patched) / (clean - corrupt)\n",
            r"measure from the corrupt run",
        ),
        (
            "def effect(patched, clean, corrupt):  # not normalised\n    return patched - corrupt\n",
            r"you do not divide by the distance",
        ),
        (
            "def effect(patched, clean, corrupt):  # over the clean run\n"
            "    return (patched - corrupt) / clean\n",
            r"divide by its distance from the corrupt run's",
        ),
        (
            "def effect(patched, clean, corrupt):  # clipped\n"
            "    return ((patched - corrupt) / (clean - corrupt)).clamp(0, 1)\n",
            r"do not clip it",
        ),
        (
            "def effect(patched, clean, corrupt):  # one number for all\n"
            "    return ((patched - corrupt) / (clean - corrupt)).mean()\n",
            r"expected one effect for each prompt of shape \(3,\)",
        ),
    ],
    "dual_state": [
        (SCAN.replace("(kept if t in queries else whole)", "whole"), r"nothing is blocked: at a query"),
        (SCAN.replace("(kept if t in queries else whole)", "kept"), r"every position loses the sources"),
        (
            SCAN.replace(
                "kept = decay * kept + (0 if t in sources else write)",
                "kept = kept if t in sources else decay * kept + write",
            ),
            r"it must decay there",
        ),
        (
            SCAN.replace("in queries else", "not in queries else"),
            r"positions that are no queries must read the whole state",
        ),
        (SCAN.replace("@ C[t]", "@ C[t - 1]"), r"positions that are no queries"),
    ],
    "rank_one": [
        (
            "def rank_one(W, k, v, C):  # no covariance\n"
            "    return W + torch.outer(v - W @ k, k / (k @ k))\n",
            r"you ignore C",
        ),
        (
            "def rank_one(W, k, v, C):  # adds v to the old value\n"
            "    u = torch.linalg.solve(C, k)\n    return W + torch.outer(v, u / (u @ k))\n",
            r"you add v to what W stored",
        ),
        (
            "def rank_one(W, k, v, C):  # not scaled\n"
            "    return W + torch.outer(v - W @ k, torch.linalg.solve(C, k))\n",
            r"does not store v",
        ),
        (
            "def rank_one(W, k, v, C):  # C instead of its inverse\n"
            "    u = C @ k\n    return W + torch.outer(v - W @ k, u / (u @ k))\n",
            r"another u moves the other keys less",
        ),
        (
            "def rank_one(W, k, v, C):  # in place\n"
            "    u = torch.linalg.solve(C, k)\n    W += torch.outer(v - W @ k, u / (u @ k))\n"
            "    return W\n",
            r"you change the W you were given",
        ),
    ],
}
