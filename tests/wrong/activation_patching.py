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

ESTIMATE = """def estimated(model, batch):
    clean, corrupt = (reading.streams(model, ids) for ids in (batch.ids, batch.corrupt))
    with torch.enable_grad():
        x = [corrupt[0].clone().requires_grad_()]
        for layer in range(model.n_layers):
            x.append(model.block(layer, x[-1]))
        m = batch.score(reading.finish(model, x[-1], model.n_layers, batch.last))
        slopes = torch.autograd.grad(m.sum(), x)
    change = ((clean - corrupt) * torch.stack(slopes)).sum(-1)
    m_clean = batch.score(reading.finish(model, clean[-1], model.n_layers, batch.last))
    return change / (m_clean - m.detach())[:, None]
"""

REACH = """def reach(sources, width):
    wider = sources.clone()
    for j in range(1, width + 1):
        wider[:, j:] |= sources[:, :-j]
    return wider
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
    "estimated": [
        (ESTIMATE.replace("clean - corrupt", "corrupt - clean"), r"the sign is turned"),
        (ESTIMATE.replace(" / (m_clean - m.detach())[:, None]", ""), r"divide by how far m could move"),
        (ESTIMATE.replace("corrupt[0].clone()", "clean[0].clone()"), r"gradient of m in the corrupt run"),
        (
            ESTIMATE.replace(".sum(-1)", "").replace("[:, None]", "[:, None, None]"),
            r"expected the estimates of shape",
        ),
    ],
    "reach": [
        (REACH.replace("sources.clone()", "sources"), r"you change the mask you were given"),
        (
            REACH.replace("wider[:, j:] |= sources[:, :-j]", "wider[:, :-j] |= sources[:, j:]"),
            r"words before a source",
        ),
        (REACH.replace("width + 1", "width + 2"), r"you add \d words instead of"),
        (
            REACH.replace("sources.clone()", "torch.zeros_like(sources)"),
            r"the sources themselves are missing",
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
