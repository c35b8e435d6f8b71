"""Wrong answers to lesson 02: the source that replaces the stub, and the hint it must get."""

WRONG = {
    "entry_attention": [
        (
            "def entry_attention(delta, rate, written, read):  # the source's own step fades it\n"
            "    weights = torch.zeros(len(delta), len(delta))\n"
            "    for t in range(len(delta)):\n"
            "        for s in range(t + 1):\n"
            "            kept = math.exp(rate * delta[s : t + 1].sum())\n"
            "            weights[t, s] = read[t] * kept * delta[s] * written[s]\n"
            "    return weights\n",
            r"fades from s \+ 1 on",
        ),
        (
            "def entry_attention(delta, rate, written, read):  # stops one word too early\n"
            "    weights = torch.zeros(len(delta), len(delta))\n"
            "    for t in range(len(delta)):\n"
            "        for s in range(t + 1):\n"
            "            kept = math.exp(rate * delta[s + 1 : t].sum())\n"
            "            weights[t, s] = read[t] * kept * delta[s] * written[s]\n"
            "    return weights\n",
            r"also fades at the query itself",
        ),
        (
            "def entry_attention(delta, rate, written, read):  # writes B, not delta B\n"
            "    weights = torch.zeros(len(delta), len(delta))\n"
            "    for t in range(len(delta)):\n"
            "        for s in range(t + 1):\n"
            "            kept = math.exp(rate * delta[s + 1 : t + 1].sum())\n"
            "            weights[t, s] = read[t] * kept * written[s]\n"
            "    return weights\n",
            r"step size is missing",
        ),
        (
            "def entry_attention(delta, rate, written, read):  # a word does not read itself\n"
            "    weights = torch.zeros(len(delta), len(delta))\n"
            "    for t in range(len(delta)):\n"
            "        for s in range(t):\n"
            "            kept = math.exp(rate * delta[s + 1 : t + 1].sum())\n"
            "            weights[t, s] = read[t] * kept * delta[s] * written[s]\n"
            "    return weights\n",
            r"a word also reads itself",
        ),
    ],
    "follows": [
        (
            "def follows(profiles, periods, floor=0.25):  # a peak that stays follows the match\n"
            "    heights, peaks = profiles.max(-1)\n"
            "    if heights.min() < floor:\n"
            '        return "spread", None\n'
            '    kind = "match" if peaks[0] == peaks[1] else "fixed"\n'
            "    return kind, int(peaks[0])\n",
            r"stays at its lag in both texts",
        ),
        (
            "def follows(profiles, periods, floor=0.25):  # any peak that moves\n"
            "    heights, peaks = profiles.max(-1)\n"
            "    if heights.min() < floor:\n"
            '        return "spread", None\n'
            "    if peaks[0] == peaks[1]:\n"
            '        return "fixed", int(peaks[0])\n'
            '    return "match", periods[0] - int(peaks[0])\n',
            r"moved by 2 and the period by 4",
        ),
        (
            "def follows(profiles, periods, floor=0.25):  # one text is enough\n"
            "    heights, peaks = profiles.max(-1)\n"
            "    if heights.max() < floor:\n"
            '        return "spread", None\n'
            "    if peaks[0] == peaks[1]:\n"
            '        return "fixed", int(peaks[0])\n'
            "    if peaks[1] - peaks[0] == periods[1] - periods[0]:\n"
            '        return "match", periods[0] - int(peaks[0])\n'
            '    return "spread", None\n',
            r"the lower one of the two peaks",
        ),
        (
            "def follows(profiles, periods, floor=0.25):  # words back, also for a match\n"
            "    heights, peaks = profiles.max(-1)\n"
            "    if heights.min() < floor:\n"
            '        return "spread", None\n'
            "    if peaks[0] == peaks[1]:\n"
            '        return "fixed", int(peaks[0])\n'
            "    if peaks[1] - peaks[0] == periods[1] - periods[0]:\n"
            '        return "match", int(peaks[0])\n'
            '    return "spread", None\n',
            r"counts from the earlier copy",
        ),
    ],
    "resampled": [
        (
            "def resampled(model, ids, units, donors):  # assigns into a copy\n"
            "    with model.trace(ids):\n"
            "        for layer in sorted(units):\n"
            "            said = model.unit_outputs(layer).clone()\n"
            "            said = said.unflatten(-1, (model.units(layer), -1))\n"
            "            said[..., units[layer], :] = said[..., units[layer], :].flatten(0, 1)[donors]\n"
            "        logits = model.logits.save()\n"
            "    return logits\n",
            r"your edit changes nothing",
        ),
        (
            "def resampled(model, ids, units, donors):  # removes size as well as content\n"
            "    with model.trace(ids):\n"
            "        for layer in sorted(units):\n"
            "            said = model.unit_outputs(layer).unflatten(-1, (model.units(layer), -1))\n"
            "            said[..., units[layer], :] = 0\n"
            "        logits = model.logits.save()\n"
            "    return logits\n",
            r"you set the units to 0",
        ),
        (
            "def resampled(model, ids, units, donors):  # all units of the block\n"
            "    with model.trace(ids):\n"
            "        for layer in sorted(units):\n"
            "            said = model.unit_outputs(layer)\n"
            "            said[:] = said.flatten(0, 1)[donors]\n"
            "        logits = model.logits.save()\n"
            "    return logits\n",
            r"you resample whole blocks",
        ),
        (
            "def resampled(model, ids, units, donors):  # donors of the same text\n"
            "    with model.trace(ids):\n"
            "        for layer in sorted(units):\n"
            "            said = model.unit_outputs(layer).unflatten(-1, (model.units(layer), -1))\n"
            "            for unit in units[layer]:\n"
            "                at = (donors % ids.shape[1])[..., None].expand(-1, -1, said.shape[-1])\n"
            "                said[..., unit, :] = said[..., unit, :].gather(1, at)\n"
            "        logits = model.logits.save()\n"
            "    return logits\n",
            r"each word takes from its own text",
        ),
    ],
    "rollout": [
        (
            "def rollout(maps):  # first block on the left\n"
            "    reached = torch.eye(len(maps[0]))\n"
            "    for weights in maps:\n"
            "        reached = reached @ (0.5 * weights + 0.5 * torch.eye(len(weights)))\n"
            "    return reached\n",
            r"the order is reversed",
        ),
        (
            "def rollout(maps):  # no residual stream\n"
            "    reached = torch.eye(len(maps[0]))\n"
            "    for weights in maps:\n"
            "        reached = weights @ reached\n"
            "    return reached\n",
            r"you leave out the residual stream",
        ),
        (
            "def rollout(maps):  # a mean\n"
            "    eye = torch.eye(len(maps[0]))\n"
            "    return sum((weights + eye) / 2 for weights in maps) / len(maps)\n",
            r"you average the maps",
        ),
    ],
    "contribution": [
        (
            "def contribution(mixing, query):  # lengths first\n"
            '    weights = mixing.weights("operator", torch.tensor([query]))[0, :, 0]\n'
            '    values = mixing.values("operator")[0]\n'
            '    vectors = torch.einsum("us,usw,uwd->usd", weights, values, mixing.projection)\n'
            "    return vectors.norm(dim=-1).sum(0)\n",
            r"you add up lengths",
        ),
        (
            "def contribution(mixing, query):  # weights alone\n"
            '    return mixing.weights("operator", torch.tensor([query]))[0, :, 0].sum(0)\n',
            r"multiply each by the value",
        ),
        (
            "def contribution(mixing, query):  # a sum is no length\n"
            '    weights = mixing.weights("operator", torch.tensor([query]))[0, :, 0]\n'
            '    values = mixing.values("operator")[0]\n'
            '    return torch.einsum("us,usw,uwd->sd", weights, values, mixing.projection).sum(-1)\n',
            r"take its length",
        ),
    ],
    "cut": [
        (
            "def cut(model, ids, layer, source, query):  # the row is not made whole again\n"
            "    (mixing,) = attention.mixings(model, ids, [layer])\n"
            "    level = mixing.levels[0]\n"
            "    weights = mixing.weights(level, torch.tensor([query]))[0, :, 0, source]\n"
            "    values = mixing.values(level)[0]\n"
            "    change = torch.zeros(1, *values.shape)\n"
            "    change[0, :, query] = -weights[:, None] * values[:, source]\n"
            "    with model.trace(ids):\n"
            "        model.mixer_output(layer)[:] += mixing.read_out(change)\n"
            "        logits = model.logits.save()\n"
            "    return logits\n",
            r"must sum to 1 again",
        ),
        (
            "def cut(model, ids, layer, source, query):  # names another tensor\n"
            "    with model.trace(ids):\n"
            "        written = model.mixer_output(layer) * 0\n"
            "        logits = model.logits.save()\n"
            "    return logits\n",
            r"your edit changes nothing",
        ),
        (
            "def cut(model, ids, layer, source, query):  # the wrong way round\n"
            "    (mixing,) = attention.mixings(model, ids, [layer])\n"
            "    level = mixing.levels[0]\n"
            "    weights = mixing.weights(level, torch.tensor([query]))[0, :, 0, source]\n"
            "    values = mixing.values(level)[0]\n"
            "    change = torch.zeros(1, *values.shape)\n"
            "    change[0, :, query] = weights[:, None] * values[:, source]\n"
            "    with model.trace(ids):\n"
            "        model.mixer_output(layer)[:] += mixing.read_out(change)\n"
            "        logits = model.logits.save()\n"
            "    return logits\n",
            r"you add what should go",
        ),
    ],
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
