"""Wrong answers to lesson 05: the source that replaces the stub, and the hint it must get."""

PROBE = """def two_class_probe(x, y):
    m0, m1 = x[y == 0].mean(0), x[y == 1].mean(0)
    within = torch.where(y[:, None] == 1, x - m1, x - m0)
    S = within.T @ within / len(x)
    w = torch.linalg.solve(S, m1 - m0)
    odds = (y == 1).sum() / (y == 0).sum()
    return w, odds.log() - w @ (m0 + m1) / 2
"""

BY_DEPTH = """def accuracy_by_depth(x, y, test, t):
    shares = []
    for k in range(x.shape[1]):
        scale = x[:, k].std()
        w, b = two_class_probe(x[:, k] / scale, y)
        says = (test[:, k] / scale) @ w + b > 0
        shares.append((says == t).double().mean())
    return torch.stack(shares)
"""

CONTROL = """def with_control(parts, seed):
    train, known = parts["train"], parts["known"]
    x, test = train.x["residual"], known.x["residual"]
    right = accuracy_by_depth(x, train.label, test, known.label)
    drawn = control_task([*train.cause, *known.cause], train.label, seed)
    y, t = drawn[: len(x)], drawn[len(x) :]
    return right, accuracy_by_depth(x, y, test, t)
"""

ERASE = """def erase(x, z):
    mean = x.mean(0)
    centred = x - mean
    a = centred.T @ (z - z.mean()) / len(x)
    b = torch.linalg.solve(centred.T @ centred / len(x), a)
    return mean, a, b / (a @ b)
"""

SCORES = """def scores_without(model, batch, k, mean, a, b):
    with model.trace(batch.ids):
        x = model.residual(k)
        part = ((x - mean) @ b)[..., None] * a
        model.set_residual(k, x - part)
        logits = model.logits.save()
    rows = torch.arange(len(batch))
    return batch.score(logits[rows, batch.last])
"""

ANOTHER = """def another_direction(x, b, seed):
    centred = x - x.mean(0)
    draw = torch.Generator().manual_seed(seed)
    weights = torch.randn(len(x), generator=draw).to(x)
    u = centred.T @ weights
    u = u - (u @ b) / (b @ b) * b
    return u / u.norm()
"""

WRONG = {
    "control_task": [
        (
            "def control_task(causes, labels, seed):  # one draw an item\n"
            "    draw = torch.Generator().manual_seed(seed)\n"
            "    return labels[torch.randint(len(labels), (len(causes),), generator=draw)]\n",
            r"the same cause has different labels",
        ),
        (
            "def control_task(causes, labels, seed):  # a fair coin whatever the labels are\n"
            "    draw = torch.Generator().manual_seed(seed)\n"
            "    coin = {cause: torch.randint(2, (), generator=draw) for cause in sorted(set(causes))}\n"
            "    return torch.stack([coin[cause] for cause in causes])\n",
            r"draw from `labels` itself",
        ),
        (
            "def control_task(causes, labels, seed):  # ignores the seed\n"
            "    at = [int(cause.strip('word')) * 7 % len(labels) for cause in causes]\n"
            "    return labels[torch.tensor(at)]\n",
            r"another seed gives the same labels",
        ),
        (
            "def control_task(causes, labels, seed):  # the majority\n"
            "    return labels.mode().values.expand(len(causes))\n",
            r"every cause has the most frequent label",
        ),
        (
            "def control_task(causes, labels, seed):  # a list\n    return [0] * len(causes)\n",
            r"expected the labels as a tensor, found list",
        ),
    ],
    "tree_distance": [
        (
            "def tree_distance(heads):  # words, not edges\n"
            "    at = torch.arange(float(len(heads)))\n"
            "    return (at[:, None] - at).abs()\n",
            r"count edges of the tree",
        ),
        (
            "def tree_distance(heads):  # neighbours only\n"
            "    distance = torch.full((len(heads), len(heads)), torch.inf).fill_diagonal_(0)\n"
            "    for i, head in enumerate(heads):\n"
            "        if head is not None:\n"
            "            distance[i, head] = distance[head, i] = 1\n"
            "    return distance\n",
            r"some of your distances are infinite",
        ),
        (
            "def tree_distance(heads):  # to the head and back only\n"
            "    return 1.0 - torch.eye(len(heads))\n",
            r"there are two edges, you count 1",
        ),
        (
            "def tree_distance(heads):  # by the difference in depth\n"
            "    def depth(i):\n"
            "        return 0 if heads[i] is None else 1 + depth(heads[i])\n"
            "    deep = torch.tensor([float(depth(i)) for i in range(len(heads))])\n"
            "    return (deep[:, None] - deep).abs()\n",
            r"go up from both words to where their ways meet",
        ),
    ],
    "two_class_probe": [
        (
            "def two_class_probe(x, y):  # the means alone\n"
            "    m0, m1 = x[y == 0].mean(0), x[y == 1].mean(0)\n"
            "    w = m1 - m0\n"
            "    return w, torch.log((y == 1).sum() / (y == 0).sum()) - w @ (m0 + m1) / 2\n",
            r"difference of the means alone",
        ),
        (
            PROBE.replace("torch.linalg.solve(S, m1 - m0)", "torch.linalg.solve(S, m0 - m1)").replace(
                "odds.log()", "-odds.log()"
            ),
            r"says class 0 where it should say class 1",
        ),
        (PROBE.replace("odds.log() - w", "-w"), r"leaves out how frequent the classes are"),
        (PROBE.replace(" - w @ (m0 + m1) / 2", ""), r"b is missing half-way"),
        (
            PROBE.replace("torch.where(y[:, None] == 1, x - m1, x - m0)", "x - x.mean(0)"),
            r"subtract each item's own class mean",
        ),
        (PROBE.replace("return w, ", "return "), r"expected two tensors, w and b"),
    ],
    "accuracy_by_depth": [
        (
            BY_DEPTH.replace("test[:, k] / scale", "x[:, k] / scale").replace("says == t", "says == y"),
            r"score `test` and its labels",
        ),
        (
            BY_DEPTH.replace(
                "two_class_probe(x[:, k] / scale, y)", "two_class_probe(test[:, k] / scale, t)"
            ),
            r"fit it to x and y alone",
        ),
        (BY_DEPTH.replace("[:, k]", "[:, -1]"), r"every depth has the same share"),
        (BY_DEPTH.replace("says == t", "says != t"), r"count what is right"),
        (
            BY_DEPTH.replace("torch.stack(shares)", "shares"),
            r"expected the shares as a tensor, found list",
        ),
    ],
    "with_control": [
        (
            CONTROL.replace(
                "accuracy_by_depth(x, y, test, t)", "accuracy_by_depth(x, y, test, known.label)"
            ),
            r"test on drawn labels, too",
        ),
        (
            CONTROL.replace(
                "y, t = drawn[: len(x)], drawn[len(x) :]",
                "y, t = drawn[: len(x)], control_task(known.cause, train.label, seed + 1)",
            ),
            r"drawn once for `train` and `known` together",
        ),
        (
            CONTROL.replace("y, t = drawn[: len(x)], drawn[len(x) :]", "y, t = train.label, known.label"),
            r"the control is as right as the probe",
        ),
        (
            CONTROL.replace("return right, accuracy", "return accuracy"),
            r"expected two tensors, accuracy and the control's",
        ),
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
    "scores_without": [
        (SCORES.replace("        model.set_residual(k, x - part)\n", ""), r"nothing changed"),
        (SCORES.replace("(x - mean) @ b", "x @ b"), r"subtract the mean before"),
        (
            SCORES.replace("(x - mean) @ b)[..., None] * a", "(x - mean) @ a)[..., None] * b"),
            r"exchanged",
        ),
        (
            SCORES.replace("logits[rows, batch.last]", "logits[rows, -1]"),
            r"read the logits at `batch.last`",
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
}
