"""Wrong answers to lesson 05: the source that replaces the stub, and the hint it must get."""

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
    "erase": [
        (
            "def erase(x, z):  # an orthogonal projection: too far\n"
            "    centred = x - x.mean(0)\n"
            "    a = centred.T @ (z - z.mean())\n"
            "    a = a / a.norm()\n"
            "    return x - (centred @ a)[:, None] * a\n",
            r"times as far as you have to",
        ),
        (
            "def erase(x, z):  # forgets the mean\n"
            "    centred = x - x.mean(0)\n"
            "    a = centred.T @ (z - z.mean()) / len(x)\n"
            "    b = torch.linalg.solve(centred.T @ centred / len(x), a)\n"
            "    return x - (x @ b / (a @ b))[:, None] * a\n",
            r"the mean of the vectors moves",
        ),
        (
            "def erase(x, z):  # along the probe's direction\n"
            "    centred = x - x.mean(0)\n"
            "    a = centred.T @ (z - z.mean()) / len(x)\n"
            "    b = torch.linalg.solve(centred.T @ centred / len(x), a)\n"
            "    b = b / b.norm()\n"
            "    return x - (centred @ b)[:, None] * b\n",
            r"z can still be read",
        ),
        (
            "def erase(x, z):  # everything\n    return x.mean(0).expand(len(x), -1)\n",
            r"you remove more than one direction",
        ),
    ],
}
