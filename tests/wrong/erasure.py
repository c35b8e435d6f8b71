"""Wrong answers to lesson 05b: the source that replaces the stub, and the hint it must get."""

ERASE = """def erase(x, z):
    mean = x.mean(0)
    centred = x - mean
    a = centred.T @ (z - z.mean()) / len(x)
    b = torch.linalg.solve(centred.T @ centred / len(x), a)
    return mean, a, b / (a @ b)
"""

PROJECTION = """def projection(x, z):
    mean = x.mean(0)
    a = (x - mean).T @ (z - z.mean())
    a = a / a.norm()
    return mean, a, a
"""

BITS = """def word_bits(model, ids):
    with model.trace(ids):
        logits = model.logits.save()
    p = logits[:, :-1].float().softmax(-1)
    chosen = p.gather(-1, ids[:, 1:, None])[..., 0]
    return -chosen.log2()
"""

UPWARDS = """def erase_upwards(model, ids, at, z, depths, find):
    erasers = {}
    with model.trace(ids):
        for k in depths:
            x = model.residual(k)
            found = find(x[at].cpu().double(), z)
            erasers[k] = [part.to(x) for part in found]
            model.set_residual(k, take(x, *erasers[k]))
    return erasers
"""

SCORES = """def scores_without(model, batch, erasers):
    with model.trace(batch.ids):
        for k in sorted(erasers):
            model.set_residual(k, take(model.residual(k), *erasers[k]))
        logits = model.logits.save()
    rows = torch.arange(len(batch))
    return batch.score(logits[rows, batch.last])
"""

VECTORS = """def vectors_without(model, ids, at, erasers):
    vectors = []
    with model.trace(ids):
        for k in range(model.n_layers + 1):
            x = model.residual(k)
            if k in erasers:
                x = take(x, *erasers[k])
                model.set_residual(k, x)
            vectors.append(x[at].cpu().save())
    return torch.stack(vectors, dim=1)
"""

ANOTHER = """def another_direction(x, b, seed):
    centred = x - x.mean(0)
    draw = torch.Generator().manual_seed(seed)
    weights = torch.randn(len(x), generator=draw).to(x)
    u = centred.T @ weights
    u = u - (u @ b) / (b @ b) * b
    return u / u.norm()
"""

MATCHED = """def matched_control(x, z, far, seed):
    mean, _, b = erase(x, z)
    u = another_direction(x, b, seed)
    read = ((x - mean) @ b)[z != 0].square().mean()
    return mean, (far / read).sqrt() * u, b
"""

TAKE = "def take(x, mean, a, b):\n    return {}\n"

PLACE = (
    "def place_among(value, others):\n"
    "    as_low = sum(other <= value for other in others)\n"
    "    return as_low / len(others), (as_low + 1) / (len(others) + 1)\n"
)

WRONG = {
    "take": [
        (TAKE.format("((x - mean) @ b)[..., None] * a"), r"you return the part"),
        (TAKE.format("x - (x @ b)[..., None] * a"), r"subtract the mean before"),
        (TAKE.format("x - ((x - mean) @ a)[..., None] * b"), r"a and b are exchanged"),
        (TAKE.format("x.sub_(((x - mean) @ b)[..., None] * a)"), r"return new ones"),
    ],
    "projection": [
        (PROJECTION.replace("    a = a / a.norm()\n", ""), r"divide it by its length"),
        (
            PROJECTION.replace("(x - mean).T @ (z - z.mean())", "x[0] - mean"),
            r"a is not along the covariance",
        ),
        (PROJECTION.replace("return mean,", "return 0 * mean,"), r"not the mean of x"),
        (PROJECTION.replace("a, a\n", "a\n"), r"expected three vectors"),
    ],
    "erase": [
        (
            "def erase(x, z):  # an orthogonal projection: too far\n"
            "    a = (x - x.mean(0)).T @ (z - z.mean())\n"
            "    a = a / a.norm()\n"
            "    return x.mean(0), a, a\n",
            r"times as far as you have to",
        ),
        (ERASE.replace("return mean,", "return 0 * mean,"), r"the mean of the vectors moves"),
        (ERASE.replace("b / (a @ b)", "b"), r"divide b by its product with a"),
        (ERASE.replace("a, b / (a @ b)", "b / b.norm(), b / b.norm()"), r"a has to be the covariance"),
        (
            "def erase(x, z):  # the vectors themselves\n    return x - x.mean(0)\n",
            r"expected three vectors, mean, a and b",
        ),
    ],
    "word_bits": [
        (BITS.replace("log2", "log"), r"bits take log2"),
        (BITS.replace("return -", "return "), r"surprisal is not negative"),
        (BITS.replace("logits[:, :-1]", "logits[:, 1:]"), r"predicted by the logits \*before\* it"),
        (
            BITS.replace("[:, :-1]", "").replace("ids[:, 1:, None]", "ids[..., None]"),
            r"no word predicts the first",
        ),
    ],
    "erase_upwards": [
        (
            UPWARDS.replace("            model.set_residual(k, take(x, *erasers[k]))\n", ""),
            r"fitted to the clean stream",
        ),
        (UPWARDS.replace("find(x", "erase(x"), r"use `find`, whichever"),
        (
            UPWARDS.replace("return erasers", "return list(erasers.values())"),
            r"expected a dict with the keys",
        ),
        (UPWARDS.replace("take(x, *erasers[k]))", "x * 0.5)"), r"take the part from every word of x"),
    ],
    "scores_without": [
        (
            SCORES.replace("model.set_residual(k, take(model.residual(k), *erasers[k]))", "pass"),
            r"nothing changed",
        ),
        (SCORES.replace("sorted(erasers)", "[min(erasers)]"), r"not at the first alone"),
        (
            SCORES.replace("logits[rows, batch.last]", "logits[rows, -1]"),
            r"read the logits at `batch.last`",
        ),
    ],
    "vectors_without": [
        (
            VECTORS.replace("                model.set_residual(k, x)\n", ""),
            r"not the vectors at the marked",
        ),
        (VECTORS.replace("if k in erasers", "if False"), r"nothing changed"),
        (VECTORS.replace(", dim=1", ""), r"stack the depths as dim 1"),
        (
            VECTORS.replace("x[at].cpu().save()", "kept.cpu().save()").replace(
                "            if k in", "            kept = x[at].clone()\n            if k in"
            ),
            r"keep what it leaves",
        ),
    ],
    "another_direction": [
        (
            "def another_direction(x, b, seed):  # any direction\n"
            "    u = torch.randn(len(b), generator=torch.Generator().manual_seed(seed)).to(x)\n"
            "    u = u - (u @ b) / (b @ b) * b\n"
            "    return u / u.norm()\n",
            r"do not care how the vectors vary",
        ),
        (ANOTHER.replace("    u = u - (u @ b) / (b @ b) * b\n", ""), r"b still reads your direction"),
        (ANOTHER.replace("return u / u.norm()", "return u"), r"has the length"),
        (
            ANOTHER.replace("manual_seed(seed)", "manual_seed(0)"),
            r"another seed gives the same direction",
        ),
        (
            ANOTHER.replace("centred.T @ weights", "centred.T @ torch.randn(len(x)).to(x)"),
            r"the same seed gives another direction",
        ),
    ],
    "matched_control": [
        (MATCHED.replace("[z != 0]", ""), r"match it over those whose z is not 0"),
        (MATCHED.replace("(far / read).sqrt()", "far / read"), r"the square root of what is missing"),
        (MATCHED.replace("(far / read).sqrt() * u", "u"), r"the square root of what is missing"),
        (MATCHED.replace("b, seed)", "b, 0)"), r"a must depend on `seed`"),
        (
            MATCHED.replace(
                "another_direction(x, b, seed)",
                "torch.randn(len(b), generator=torch.Generator().manual_seed(seed)).double()\n"
                "    u = u - (u @ b) / (b @ b) * b\n"
                "    u = u / u.norm()",
            ),
            r"do not care how the vectors vary",
        ),
        (
            MATCHED.replace("mean, _, b", "mean, u, b").replace(
                "    u = another_direction(x, b, seed)\n", ""
            ),
            r"number is lost",
        ),
    ],
    "place_among": [
        (
            PLACE.replace("other <= value", "other < value"),
            r"the share as low or lower is 0.25, found 0.0",
        ),
        (PLACE.replace("other <= value", "other >= value"), r"the share as low or lower"),
        (
            PLACE.replace("(as_low + 1) / (len(others) + 1)", "as_low / len(others)"),
            r"count the value itself in",
        ),
        (PLACE.replace(", (as_low + 1) / (len(others) + 1)", ""), r"expected two numbers"),
    ],
}
