"""Wrong answers to lesson 07b: the source that replaces the stub, and the hint it must get."""

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

REACH = """def reach(sources, width):
    wider = sources.clone()
    for j in range(1, width + 1):
        wider[:, j:] |= sources[:, :-j]
    return wider
"""

KNOCKOUT = """def knockout(model, batch, sources, readers, window):
    rows, right = torch.arange(len(batch)), []
    for first in range(model.n_layers - window + 1):
        layers = range(first, first + window)
        logits = attention.block(model, batch.ids, layers, sources, readers, spread=False)
        right.append(batch.right(logits[rows, batch.last]))
    return torch.stack(right).float()
"""

HANDED = """def handed_over(model, batch, n, parts):
    donor, mixed = (reading.run(model, ids[:, :n])[0] for ids in (batch.ids, batch.corrupt))
    for layer in range(model.n_layers):
        source, target = (model.state(cache, layer) for cache in (donor, mixed))
        for name in parts:
            target[name].copy_(source[name])
    past = {model.architecture.CACHE: mixed}
    logits = model.hf(input_ids=batch.corrupt[:, n:], use_cache=True, **past).logits
    return batch.score(logits[torch.arange(len(batch)), batch.last - n])
"""

DESCEND = """def descend(surprise, size, rate, stop=0.05, steps=30):
    change = torch.zeros(size, requires_grad=True)
    optimiser = torch.optim.Adam([change], lr=rate)
    for _ in range(steps):
        with torch.enable_grad():
            loss = surprise(change)
        if loss < stop:
            break
        (change.grad,) = torch.autograd.grad(loss, change)
        optimiser.step()
    return change.detach()
"""

TESTS = """def five_tests(fact, says):
    asked = {
        "efficacy": [(fact.prompt, fact.new)],
        "paraphrase": [(prompt, fact.new) for prompt in fact.paraphrases],
    }
    to_stay = {"neighbourhood": fact.neighbours, "kin": fact.kin, "other relations": fact.others}
    for test, questions in to_stay.items():
        asked[test] = [(prompt, answer) for prompt, answer in questions if answer != fact.new]
    shares = {}
    for test, questions in asked.items():
        right = [says(prompt) == answer for prompt, answer in questions]
        shares[test] = sum(right) / len(right) if right else float("nan")
    return shares
"""

TOGETHER = """def together(shares):
    means = torch.as_tensor(shares).nanmean(0)
    means = means[means.isfinite()]
    return float(len(means) / (1 / means).sum())
"""

WRONG = {
    "dual_state": [
        (SCAN.replace("(delta[t] * u[t])", "u[t]"), r"your write lacks delta"),
        (SCAN.replace("torch.exp(delta[t, :, None] * A)", "torch.exp(A)"), r"A alone"),
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
        (SCAN.replace("@ C[t]", "@ C[t - 1]"), r"must be that of the plain scan"),
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
    "knockout": [
        (KNOCKOUT.replace("sources, readers, spread", "readers, sources, spread"), r"changed places"),
        (
            KNOCKOUT.replace("torch.stack(right)", "(1 - 1 * torch.stack(right))"),
            r"1 is an answer that survives",
        ),
        (KNOCKOUT.replace("range(first, first + window)", "[first]"), r"block `window` blocks at a time"),
        (KNOCKOUT.replace(" - window + 1", ""), r"a row for each first block of a window"),
    ],
    "handed_over": [
        (HANDED.replace("target[name].copy_(source[name])", "pass"), r"nothing is handed over"),
        (HANDED.replace("in parts:", "in source:"), r"whatever `parts` says"),
        (HANDED.replace("range(model.n_layers)", "range(1)"), r"every layer hands over"),
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
    "descend": [
        (DESCEND.replace("        if loss < stop:\n            break\n", ""), r"you go on after"),
        (
            DESCEND.replace("optimiser.step()", "change.grad *= -1\n        optimiser.step()"),
            r"you climb",
        ),
        (DESCEND.replace("torch.zeros(size,", "torch.ones(size,"), r"begin at a change of 0"),
        (DESCEND.replace("        optimiser.step()\n", ""), r"the change never moves"),
        (DESCEND.replace("change.detach()", "change"), r"return `change.detach\(\)`"),
    ],
    "five_tests": [
        (TESTS.replace(" if answer != fact.new", ""), r"leave out a question"),
        (
            TESTS.replace("(prompt, fact.new) for prompt in", "(prompt, fact.old) for prompt in"),
            r"paraphrase: expected 1.00",
        ),
        (TESTS.replace('else float("nan")', "else 0.0"), r"its share is nan"),
        (TESTS.replace("return shares", "return list(shares.values())"), r"expected a dict"),
    ],
    "together": [
        (TOGETHER.replace("len(means) / (1 / means).sum()", "means.mean()"), r"this is the plain mean"),
        (TOGETHER.replace("len(means) / (1 / means).sum()", "(1 / means).mean()"), r"its inverse"),
        (TOGETHER.replace("nanmean", "mean").replace("means[means.isfinite()]", "means"), r"holds nan"),
    ],
}
