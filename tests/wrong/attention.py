"""Wrong answers to lesson 02: the source that replaces the stub, and the hint it must get."""

WRONG = {
    "unroll": [
        (
            "def unroll(delta, A, B, C):  # a difference that counts the source's own step\n"
            "    passed = delta.cumsum(0).T\n"
            "    gap = passed[:, :, None] - (passed - delta.T)[:, None, :]\n"
            "    kept = torch.exp(gap.clamp(min=0)[..., None] * A[:, None, None])\n"
            "    written = delta.T[:, :, None] * B\n"
            '    return torch.einsum("tn,ctsn,csn->cts", C, kept, written).tril()\n',
            r"fades from s \+ 1 on",
        ),
        (
            "def unroll(delta, A, B, C):  # the product stops one word before the query\n"
            "    passed = delta.cumsum(0).T\n"
            "    gap = (passed - delta.T)[:, :, None] - passed[:, None, :]\n"
            "    kept = torch.exp(gap.clamp(min=0)[..., None] * A[:, None, None])\n"
            "    written = delta.T[:, :, None] * B\n"
            '    return torch.einsum("tn,ctsn,csn->cts", C, kept, written).tril()\n',
            r"also fades at the query itself",
        ),
        (
            "def unroll(delta, A, B, C):  # writes B, not delta B\n"
            "    passed = delta.cumsum(0).T\n"
            "    gap = passed[:, :, None] - passed[:, None, :]\n"
            "    kept = torch.exp(gap.clamp(min=0)[..., None] * A[:, None, None])\n"
            '    return torch.einsum("tn,ctsn,sn->cts", C, kept, B).tril()\n',
            r"step size is missing from what is written",
        ),
        (
            "def unroll(delta, A, B, C):  # sources after the query\n"
            "    passed = delta.cumsum(0).T\n"
            "    gap = passed[:, :, None] - passed[:, None, :]\n"
            "    kept = torch.exp(gap.clamp(min=0)[..., None] * A[:, None, None])\n"
            "    written = delta.T[:, :, None] * B\n"
            '    return torch.einsum("tn,ctsn,csn->cts", C, kept, written)\n',
            r"a word reads words after it",
        ),
        (
            "def unroll(delta, A, B, C):  # masks after the exponential\n"
            "    passed = delta.cumsum(0).T\n"
            "    gap = passed[:, :, None] - passed[:, None, :]\n"
            "    kept = torch.exp(gap[..., None] * A[:, None, None])\n"
            "    written = delta.T[:, :, None] * B\n"
            "    mask = torch.ones(len(delta), len(delta)).tril()\n"
            '    return torch.einsum("tn,ctsn,csn,ts->cts", C, kept, written, mask)\n',
            r"cut the gap off at 0 before exp",
        ),
        (
            "def unroll(delta, A, B, C):  # reads with B\n"
            "    passed = delta.cumsum(0).T\n"
            "    gap = passed[:, :, None] - passed[:, None, :]\n"
            "    kept = torch.exp(gap.clamp(min=0)[..., None] * A[:, None, None])\n"
            "    written = delta.T[:, :, None] * C\n"
            '    return torch.einsum("tn,ctsn,csn->cts", B, kept, written).tril()\n',
            r"B and C are exchanged",
        ),
    ],
    "lag_profile": [
        (
            "def lag_profile(weights, queries, lags):  # forwards\n"
            "    rows, last = torch.arange(len(queries)), weights.shape[-1] - 1\n"
            "    found = [weights[:, rows, (queries + k).clamp(max=last)].mean(1) for k in range(lags)]\n"
            "    return torch.stack(found, dim=1)\n",
            r"k words back from t is t - k",
        ),
        (
            "def lag_profile(weights, queries, lags):  # a sum\n"
            "    rows = torch.arange(len(queries))\n"
            "    found = [weights[:, rows, queries - k].sum(1) for k in range(lags)]\n"
            "    return torch.stack(found, dim=1)\n",
            r"take their mean",
        ),
        (
            "def lag_profile(weights, queries, lags):  # starts at the word before\n"
            "    rows = torch.arange(len(queries))\n"
            "    found = [weights[:, rows, queries - k - 1].mean(1) for k in range(lags)]\n"
            "    return torch.stack(found, dim=1)\n",
            r"lag 0 is the query itself",
        ),
        (
            "def lag_profile(weights, queries, lags):  # as if row i were position i\n"
            "    rows = torch.arange(len(queries))\n"
            "    found = [weights[:, rows, rows - k].mean(1) for k in range(lags)]\n"
            "    return torch.stack(found, dim=1)\n",
            r"rows start at the first query",
        ),
        (
            "def lag_profile(weights, queries, lags):  # every row with every source\n"
            "    found = [weights[:, :, queries - k].mean((1, 2)) for k in range(lags)]\n"
            "    return torch.stack(found, dim=0)\n",
            r"of shape \(2, 4\), found \(4, 2\)",
        ),
    ],
    "to_words": [
        (
            "def to_words(alpha, D, sigma, taps, gate):  # columns move forwards\n"
            "    on_c = (alpha + D[:, None, None] * torch.eye(alpha.shape[-1])) * sigma.T[:, None]\n"
            "    on_x = torch.zeros_like(on_c)\n"
            "    for j, tap in enumerate(taps):\n"
            "        n = on_c.shape[-1] - j\n"
            "        on_x[..., j:] += tap[:, None, None] * on_c[..., :n]\n"
            "    return (gate.T[:, :, None] * on_x).tril()\n",
            r"the wrong way",
        ),
        (
            "def to_words(alpha, D, sigma, taps, gate):  # what falls off returns at the end\n"
            "    on_c = (alpha + D[:, None, None] * torch.eye(alpha.shape[-1])) * sigma.T[:, None]\n"
            "    on_x = sum(tap[:, None, None] * on_c.roll(-j, -1) for j, tap in enumerate(taps))\n"
            "    return gate.T[:, :, None] * on_x\n",
            r"do not come back at the other end",
        ),
        (
            "def to_words(alpha, D, sigma, taps, gate):  # no skip\n"
            "    on_c = alpha * sigma.T[:, None]\n"
            "    on_x = torch.zeros_like(on_c)\n"
            "    for j, tap in enumerate(taps):\n"
            "        n = on_c.shape[-1] - j\n"
            "        on_x[..., :n] += tap[:, None, None] * on_c[..., j:]\n"
            "    return gate.T[:, :, None] * on_x\n",
            r"the skip is missing",
        ),
        (
            "def to_words(alpha, D, sigma, taps, gate):  # the source's gate\n"
            "    on_c = (alpha + D[:, None, None] * torch.eye(alpha.shape[-1])) * sigma.T[:, None]\n"
            "    on_x = torch.zeros_like(on_c)\n"
            "    for j, tap in enumerate(taps):\n"
            "        n = on_c.shape[-1] - j\n"
            "        on_x[..., :n] += tap[:, None, None] * on_c[..., j:]\n"
            "    return gate.T[:, None] * on_x\n",
            r"you multiplied columns",
        ),
        (
            "def to_words(alpha, D, sigma, taps, gate):  # takes u for c\n"
            "    on_u = alpha + D[:, None, None] * torch.eye(alpha.shape[-1])\n"
            "    on_x = torch.zeros_like(on_u)\n"
            "    for j, tap in enumerate(taps):\n"
            "        n = on_u.shape[-1] - j\n"
            "        on_x[..., :n] += tap[:, None, None] * on_u[..., j:]\n"
            "    return gate.T[:, :, None] * on_x\n",
            r"u is not c",
        ),
        (
            "def to_words(alpha, D, sigma, taps, gate):  # as conv1d stores its taps\n"
            "    on_c = (alpha + D[:, None, None] * torch.eye(alpha.shape[-1])) * sigma.T[:, None]\n"
            "    on_x = torch.zeros_like(on_c)\n"
            "    for j, tap in enumerate(taps.flip(0)):\n"
            "        n = on_c.shape[-1] - j\n"
            "        on_x[..., :n] += tap[:, None, None] * on_c[..., j:]\n"
            "    return gate.T[:, :, None] * on_x\n",
            r"taps\[0\] meets the word itself",
        ),
    ],
}
