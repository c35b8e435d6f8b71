"""Wrong answers to lesson 08: the source that replaces the stub, and the hint it must get."""

WRONG = {
    "steering_vector": [
        (
            "def steering_vector(behaving, other):  # the wrong way round\n"
            "    return other.mean(0) - behaving.mean(0)\n",
            r"the sign is turned",
        ),
        (
            "def steering_vector(behaving, other):  # normalised\n"
            "    found = behaving.mean(0) - other.mean(0)\n"
            "    return found / found.norm()\n",
            r"you scale it to length 1",
        ),
        (
            "def steering_vector(behaving, other):  # sums\n    return behaving.sum(0) - other.sum(0)\n",
            r"6 on one side and 4 on the other",
        ),
        (
            "def steering_vector(behaving, other):  # one side\n    return behaving.mean(0)\n",
            r"what both sides share must go",
        ),
        (
            "def steering_vector(behaving, other):  # over the wrong axis\n"
            "    return behaving.mean(1)[:4] - other.mean(1)\n",
            r"it is not the mean of one side",
        ),
    ],
    "matching_probability": [
        (
            "def matching_probability(logits, matching, other):  # among all words\n"
            "    return logits.softmax(1).gather(1, matching[:, None])[:, 0]\n",
            r"divide by the two letters' sum",
        ),
        (
            "def matching_probability(logits, matching, other):  # the other letter\n"
            "    letters = torch.stack([matching, other], 1)\n"
            "    return logits.gather(1, letters).softmax(1)[:, 1]\n",
            r"the share of the other letter",
        ),
        (
            "def matching_probability(logits, matching, other):  # one letter for all\n"
            "    return logits[:, [matching[0], other[0]]].softmax(1)[:, 0]\n",
            r"the first prompt's letters for all",
        ),
        (
            "def matching_probability(logits, matching, other):  # of logits\n"
            "    values = logits.gather(1, torch.stack([matching, other], 1))\n"
            "    return values[:, 0] / values.sum(1)\n",
            r"you divide logits",
        ),
        (
            "def matching_probability(logits, matching, other):  # both\n"
            "    return logits.gather(1, torch.stack([matching, other], 1)).softmax(1)\n",
            r"of shape \(3,\), found \(3, 2\)",
        ),
    ],
    "order_averaged": [
        (
            "def order_averaged(values, asks):  # as they come\n    return list(values)\n",
            r"one number per question, not per prompt",
        ),
        (
            "def order_averaged(values, asks):  # everything\n    return [sum(values) / len(values)]\n",
            r"one mean of everything",
        ),
        (
            "def order_averaged(values, asks):  # the first order only\n"
            "    first = {}\n"
            "    for value, question in zip(values, asks, strict=True):\n"
            "        first.setdefault(question, value)\n"
            "    return list(first.values())\n",
            r"drop the other; average both",
        ),
        (
            "def order_averaged(values, asks):  # sums\n"
            "    total = {}\n"
            "    for value, question in zip(values, asks, strict=True):\n"
            "        total[question] = total.get(question, 0) + value\n"
            "    return list(total.values())\n",
            r"divide by how many there are",
        ),
    ],
}
