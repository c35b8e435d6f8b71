"""Wrong answers to lesson 04: the source that replaces the stub, and the hint it must get."""

WRONG = {
    "translate": [
        (
            "def translate(r, A, b):  # no residual: starts by mapping everything to 0\n"
            "    return r @ A.T + b\n",
            r"with A and b zero the states must come out as they are",
        ),
        (
            "def translate(r, A, b):  # the transposed map\n    return r + r @ A + b\n",
            r"states are rows here",
        ),
        ("def translate(r, A, b):  # no bias\n    return r + r @ A.T\n", r"you leave out b"),
        (
            "def translate(r, A, b):  # the first position only\n    return r[0] + A @ r[0] + b\n",
            r"expected states of shape \(5, 3\)",
        ),
        (
            "def translate(r, A, b):  # the bias is mapped too\n    return r + (r + b) @ A.T + b\n",
            r"not r \+ A r \+ b at every position",
        ),
    ],
    "bits_per_byte": [
        (
            "def bits_per_byte(nats, text):  # nats per byte\n"
            "    return float(nats.sum()) / (len(text.encode()) - len(text.split()[0]))\n",
            r"you leave nats as they are",
        ),
        (
            "def bits_per_byte(nats, text):  # the wrong way round\n"
            "    n = len(text.encode()) - len(text.split()[0])\n"
            "    return float(nats.sum()) * math.log(2) / n\n",
            r"you multiply by log 2",
        ),
        (
            "def bits_per_byte(nats, text):  # the whole text\n"
            "    return float(nats.sum()) / math.log(2) / len(text.encode())\n",
            r"the first word too",
        ),
        (
            "def bits_per_byte(nats, text):  # no spaces\n"
            "    n = sum(len(word.encode()) for word in text.split()[1:])\n"
            "    return float(nats.sum()) / math.log(2) / n\n",
            r"you leave out the spaces",
        ),
        (
            "def bits_per_byte(nats, text):  # characters\n"
            "    return float(nats.sum()) / math.log(2) / (len(text) - len(text.split()[0]))\n",
            r"you count characters",
        ),
        (
            "def bits_per_byte(nats, text):  # per word\n    return float(nats.mean()) / math.log(2)\n",
            r"you divide by words",
        ),
    ],
    "settled": [
        (
            "def settled(right):  # the first time\n"
            "    return right.index(True) if True in right else None\n",
            r"the first time it is right; it must also stay so",
        ),
        (
            "def settled(right):  # never None\n"
            "    depth = len(right)\n"
            "    while depth and right[depth - 1]:\n"
            "        depth -= 1\n"
            "    return depth\n",
            r"return None, not 3",
        ),
        (
            "def settled(right):  # one too early\n"
            "    wrong = [k for k, each in enumerate(right) if not each]\n"
            "    return None if not right[-1] else wrong[-1] if wrong else 0\n",
            r"expected 2, found 1",
        ),
    ],
}
