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

CONTROL = """def with_control(parts, where, seed):
    train, known = parts["train"], parts[where]
    x, test = train.x["residual"], known.x["residual"]
    right = accuracy_by_depth(x, train.label, test, known.label)
    drawn = control_task([*train.cause, *known.cause], train.label, seed)
    y, t = drawn[: len(x)], drawn[len(x) :]
    return right, accuracy_by_depth(x, y, test, t)
"""

STREAM = """def stream_at_end(model, prompt):
    rows = []
    with model.trace(prompt):
        for k in range(model.n_layers + 1):
            rows.append(model.residual(k)[0, -1].cpu().save())
    return torch.stack(rows)
"""

SELECTIVITY = """def selectivity(parts, draws):
    gaps = []
    for seed in range(draws):
        right, control = with_control(parts, "known", seed)
        gaps.append(right - control)
    gaps = torch.stack(gaps)
    return gaps.mean(0), gaps.std(0)
"""

AXES = """def first_axes(x, most):
    mean = x.mean(0)
    _, _, V = torch.linalg.svd(x - mean, full_matrices=False)
    return mean, V[:most].T
"""

EDGES = """def right_edges(measured, distance):
    inside, hits = [0], 0
    while len(inside) < len(measured):
        outside = [i for i in range(len(measured)) if i not in inside]
        gaps = measured[inside][:, outside]
        i, j = divmod(int(gaps.argmin()), len(outside))
        hits += int(distance[inside[i], outside[j]] == 1)
        inside.append(outside[j])
    return hits / (len(measured) - 1)
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
    "stream_at_end": [
        (STREAM.replace("[0, -1]", "[0, 0]"), r"this is the first word"),
        (STREAM.replace("n_layers + 1", "n_layers"), r"one row for k = 0"),
        (STREAM.replace("torch.stack(rows)", "torch.stack(rows[::-1])"), r"in their order"),
        (STREAM.replace("torch.stack(rows)", "rows"), r"expected the stream as a tensor, found list"),
    ],
    "selectivity": [
        (SELECTIVITY.replace("right - control", "control - right"), r"it is the other way round"),
        (SELECTIVITY.replace('"known", seed', '"known", 0'), r"give `with_control` another seed"),
        (SELECTIVITY.replace("gaps.std(0)", "gaps.std(1)"), r"the deviation"),
        (SELECTIVITY.replace(", gaps.std(0)", ""), r"expected two tensors"),
    ],
    "first_axes": [
        (AXES.replace("V[:most].T", "V[:most]"), r"turn the rows of V"),
        (AXES.replace("V[:most]", "V[-most:]"), r"vary least"),
        (AXES.replace("svd(x - mean", "svd(x"), r"take the mean off before the SVD"),
        (AXES.replace("return mean, ", "return "), r"expected two tensors, the mean and the axes"),
    ],
    "right_edges": [
        (EDGES.replace("len(measured) - 1)", "len(measured))"), r"has n - 1 edges"),
        (
            "def right_edges(measured, distance):  # each word and its nearest\n"
            "    nearest = (measured + 99 * torch.eye(len(measured))).argmin(1).tolist()\n"
            "    edges = {tuple(sorted(edge)) for edge in enumerate(nearest)}\n"
            "    return sum(bool(distance[edge] == 1) for edge in edges) / (len(measured) - 1)\n",
            r"the edges must connect all words",
        ),
        (EDGES.replace("argmin", "argmax"), r"the nearest joins"),
        (EDGES.replace("hits / (len(measured) - 1)", "inside"), r"expected a share, found list"),
    ],
}
