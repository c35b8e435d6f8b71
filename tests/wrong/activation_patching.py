"""Wrong answers to lesson 07a: the source that replaces the stub, and the hint it must get."""

PATCH = """def patch_one(model, batch, k, at):
    rows = torch.arange(len(batch))
    with model.trace(batch.ids):
        kept = model.residual(k)[rows, at].save()
        clean = model.logits[rows, batch.last].save()
    with model.trace(batch.corrupt):
        corrupt = model.logits[rows, batch.last].save()
    with model.trace(batch.corrupt):
        model.residual(k)[rows, at] = kept
        patched = model.logits[rows, batch.last].save()
    return effect(*(batch.score(logits) for logits in (patched, clean, corrupt)))
"""

GRID = """def grid_of_one(model, one):
    clean, corrupt = (reading.streams(model, ids) for ids in (one.ids, one.corrupt))
    ends = (reading.finish(model, x[-1], model.n_layers, one.last) for x in (clean, corrupt))
    m_clean, m_corrupt = (one.score(logits) for logits in ends)
    n, rows = one.ids.shape[1], []
    word = torch.arange(n)
    for k in range(model.n_layers + 1):
        x = corrupt[k].repeat(n, 1, 1)
        x[word, word] = clean[k][0]
        patched = one.score(reading.finish(model, x, k, one.last.repeat(n)))
        rows.append(effect(patched, m_clean, m_corrupt))
    return torch.stack(rows)
"""

NEEDED = """def needed(model, batch, layer):
    rows = torch.arange(len(batch))
    with model.trace(batch.corrupt):
        other = model.mixer_output(layer)[rows, batch.last].save()
        corrupt = model.logits[rows, batch.last].save()
    with model.trace(batch.ids):
        clean = model.logits[rows, batch.last].save()
    with model.trace(batch.ids):
        model.mixer_output(layer)[rows, batch.last] = other
        patched = model.logits[rows, batch.last].save()
    return effect(*(batch.score(logits) for logits in (patched, corrupt, clean)))
"""

ROLES = """def by_role(effects, roles):
    maps = []
    for i, positions in enumerate(roles):
        rows = [effects[:, i, list(at)].sum(-1) for at in positions.values()]
        maps.append(torch.stack(rows))
    return torch.stack(maps).mean(0)
"""

MOVE = """def depth_of_move(at_last):
    held = (at_last > 0.5).long()
    stretch = held.flip(0).cumprod(0).sum(0)
    return (len(held) - stretch) / (len(held) - 1)
"""

ORDER = """def in_order(exact, estimate, apart=0.1):
    larger = exact[:, None] - exact > apart
    right = estimate[:, None] > estimate
    return right[larger].float().mean()
"""

SLOPES = """def slopes(model, batch, x):
    x = [x.clone().requires_grad_()]
    with torch.enable_grad():
        for layer in range(model.n_layers):
            x.append(model.block(layer, x[-1]))
        m = batch.score(reading.finish(model, x[-1], model.n_layers, batch.last))
        return torch.stack(torch.autograd.grad(m.sum(), x))
"""

ESTIMATE = """def estimated(model, batch, shares=(0,)):
    clean, corrupt = (reading.streams(model, ids) for ids in (batch.ids, batch.corrupt))
    starts = [torch.lerp(corrupt[0], clean[0], share) for share in shares]
    slope = sum(slopes(model, batch, x) for x in starts) / len(starts)
    change = ((clean - corrupt) * slope).sum(-1)
    ends = (reading.finish(model, x[-1], model.n_layers, batch.last) for x in (clean, corrupt))
    m_clean, m_corrupt = (batch.score(logits) for logits in ends)
    return change / (m_clean - m_corrupt)[:, None]
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
            r"divide by the clean run's distance",
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
    "patch_one": [
        (PATCH.replace("        model.residual(k)[rows, at] = kept\n", ""), r"nothing was patched"),
        (
            PATCH.replace("[rows, at] = kept", "[:] = full").replace(
                "kept = model.residual(k)[rows, at].save()", "full = model.residual(k).save()"
            ),
            r"you hand over the whole stream",
        ),
        (
            PATCH.replace("batch.ids", "swap")
            .replace("batch.corrupt", "batch.ids")
            .replace("swap", "batch.corrupt")
            .replace("(patched, clean, corrupt)", "(patched, corrupt, clean)"),
            r"you patch the clean run",
        ),
        (
            PATCH.replace(
                "effect(*(batch.score(logits) for logits in (patched, clean, corrupt)))",
                "batch.score(patched)",
            ),
            r"put it through `effect`",
        ),
        (PATCH.replace("batch.last", "-1"), r"read the logits at `batch.last`"),
    ],
    "grid_of_one": [
        (
            GRID.replace("x[word, word] = clean[k][0]", "x[:] = clean[k][0]"),
            r"you patch the whole prompt",
        ),
        (
            GRID.replace("x = corrupt[k]", "x = clean[k]").replace("= clean[k][0]", "= corrupt[k][0]"),
            r"start from the corrupt streams",
        ),
        (
            GRID.replace("range(model.n_layers + 1)", "[0] * (model.n_layers + 1)"),
            r"all depths have the same",
        ),
        (
            GRID.replace("range(model.n_layers + 1)", "range(model.n_layers)"),
            r"a row for each of \d+ depths",
        ),
    ],
    "by_role": [
        (ROLES.replace(".sum(-1)", ".mean(-1).nan_to_num()"), r"you take the mean over a role's words"),
        (ROLES.replace(".mean(0)", ".sum(0)"), r"you add up the prompts"),
        (ROLES.replace("positions.values()", "roles[0].values()"), r"you use one's for all"),
        (ROLES.replace("torch.stack(maps).mean(0)", "maps[0]"), r"this is one prompt alone"),
    ],
    "depth_of_move": [
        (MOVE.replace(".flip(0).cumprod(0).sum(0)", ".cummax(0).values.sum(0)"), r"it \*stays\*"),
        (MOVE.replace(" / (len(held) - 1)", ""), r"divide by the number of blocks"),
        (MOVE.replace(" / (len(held) - 1)", " / len(held)"), r"one less than the number of depths"),
        (MOVE.replace("> 0.5", ">= 0.5"), r"exactly half is not more"),
    ],
    "needed": [
        (
            NEEDED.replace("batch.ids", "swap")
            .replace("batch.corrupt", "batch.ids")
            .replace("swap", "batch.corrupt"),
            r"here it is the other way round",
        ),
        (
            NEEDED.replace("(patched, corrupt, clean)", "(patched, clean, corrupt)"),
            r"0 should be no loss",
        ),
        (
            NEEDED.replace("        model.mixer_output(layer)[rows, batch.last] = other\n", ""),
            r"nothing was patched",
        ),
        (NEEDED.replace("[rows, batch.last] = other", "[rows, 0] = other"), r"patch at `batch.last`"),
    ],
    "in_order": [
        (
            ORDER.replace("estimate[:, None] > estimate", "estimate[:, None] <= estimate"),
            r"the wrong order",
        ),
        (ORDER.replace("> apart", "> 0"), r"leave them out"),
        (ORDER.replace("None] > estimate", "None] >= estimate"), r"two equal estimates"),
        (
            ORDER.replace("right[larger].float().mean()", "(right & larger).sum() / (5 * 4)"),
            r"the share of all pairs",
        ),
        (ORDER.replace("> apart", "> 0.1"), r"more than `apart` apart"),
    ],
    "slopes": [
        (SLOPES.replace("x = [x.clone()", "x = [x"), r"you change the x you were given"),
        (SLOPES.replace("m.sum(), x)", "m.sum(), x[:1])"), r"give `torch.autograd.grad` all of them"),
        (SLOPES.replace("m.sum()", "m.mean()"), r"you divide by the number of prompts"),
        (SLOPES.replace("[x.clone()", "[model.embed(batch.corrupt).clone()"), r"begin with the x"),
        (SLOPES.replace("m.sum()", "-m.sum()"), r"the sign is turned"),
    ],
    "estimated": [
        (
            ESTIMATE.replace("(clean - corrupt) * slope", "(corrupt - clean) * slope"),
            r"the sign is turned",
        ),
        (ESTIMATE.replace(" / (m_clean - m_corrupt)[:, None]", ""), r"divide by how far m could move"),
        (
            ESTIMATE.replace("torch.lerp(corrupt[0], clean[0]", "torch.lerp(clean[0], corrupt[0]"),
            r"not \(",
        ),
        (ESTIMATE.replace("clean[0], share)", "clean[0], 0)"), r"whatever `shares` says"),
        (ESTIMATE.replace(" / len(starts)", ""), r"take their mean"),
        (
            ESTIMATE.replace(".sum(-1)", "").replace("[:, None]", "[:, None, None]"),
            r"expected the estimates of shape",
        ),
    ],
}
