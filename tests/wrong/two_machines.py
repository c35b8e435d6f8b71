"""Wrong answers to lesson 01: the source that replaces the stub, and the hint it must get."""

WRONG = {
    "attend": [
        (
            "def attend(q, k, v):  # forgets the scale\n"
            "    scores = q @ k.transpose(-2, -1)\n"
            "    future = torch.ones_like(scores, dtype=torch.bool).triu(1)\n"
            "    weights = scores.masked_fill(future, -math.inf).softmax(-1)\n"
            "    return weights, weights @ v\n",
            r"you do not divide them; divide by the root of d_head",
        ),
        (
            "def attend(q, k, v):  # the width, not its root\n"
            "    scores = q @ k.transpose(-2, -1) / q.shape[-1]\n"
            "    future = torch.ones_like(scores, dtype=torch.bool).triu(1)\n"
            "    weights = scores.masked_fill(future, -math.inf).softmax(-1)\n"
            "    return weights, weights @ v\n",
            r"divide them by d_head itself",
        ),
        (
            "def attend(q, k, v):  # no mask\n"
            "    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)\n"
            "    return weights, weights @ v\n",
            r"looks at words after it",
        ),
        (
            "def attend(q, k, v):  # masks the weights, so that they no longer sum to 1\n"
            "    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1).tril()\n"
            "    return weights, weights @ v\n",
            r"hide the future in the scores, before the softmax",
        ),
        (
            "def attend(q, k, v):  # softmax over the words that look\n"
            "    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])\n"
            "    future = torch.ones_like(scores, dtype=torch.bool).triu(1)\n"
            "    weights = scores.masked_fill(future, -math.inf).softmax(-2)\n"
            "    return weights, weights @ v\n",
            r"softmax over the last axis",
        ),
        (
            "def attend(q, k, v):  # the weights' transpose\n"
            "    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])\n"
            "    future = torch.ones_like(scores, dtype=torch.bool).triu(1)\n"
            "    weights = scores.masked_fill(future, -math.inf).softmax(-1)\n"
            "    return weights, weights.transpose(-2, -1) @ v\n",
            r"the weights are right, the mixed values are not",
        ),
        (
            "def attend(q, k, v):  # one head only\n"
            "    scores = q @ k.transpose(0, -1) / math.sqrt(q.shape[-1])\n"
            "    future = torch.ones_like(scores, dtype=torch.bool).triu(1)\n"
            "    weights = scores.masked_fill(future, -math.inf).softmax(-1)\n"
            "    return weights, weights @ v\n",
            r"line 2 of your function stopped with|two at once|for two heads",
        ),
    ],
    "step": [
        (
            "def step(h, u, delta, A, B, C):  # writes without the step size\n"
            "    h = torch.exp(delta[:, None] * A) * h + u[:, None] * B\n"
            "    return h, h @ C\n",
            r"missing from what you write",
        ),
        (
            "def step(h, u, delta, A, B, C):  # forgets without the step size\n"
            "    h = torch.exp(A) * h + (delta * u)[:, None] * B\n"
            "    return h, h @ C\n",
            r"missing from what you keep",
        ),
        (
            "def step(h, u, delta, A, B, C):  # the sign of the decay\n"
            "    h = torch.exp(-delta[:, None] * A) * h + (delta * u)[:, None] * B\n"
            "    return h, h @ C\n",
            r"old memories grow",
        ),
        (
            "def step(h, u, delta, A, B, C):  # no exponential\n"
            "    h = delta[:, None] * A * h + (delta * u)[:, None] * B\n"
            "    return h, h @ C\n",
            r"keep exp\(delta \* A\) times it",
        ),
        (
            "def step(h, u, delta, A, B, C):  # reads before it writes\n"
            "    y = h @ C\n"
            "    return torch.exp(delta[:, None] * A) * h + (delta * u)[:, None] * B, y\n",
            r"you read the old state",
        ),
        (
            "def step(h, u, delta, A, B, C):  # destroys the caller's state\n"
            "    h *= torch.exp(delta[:, None] * A)\n"
            "    h += (delta * u)[:, None] * B\n"
            "    return h, h @ C\n",
            r"in place",
        ),
        (
            "def step(h, u, delta, A, B, C):  # one axis short\n"
            "    h = torch.exp(delta * A) * h + delta * u * B\n"
            "    return h, h @ C\n",
            r"line 2 of your function stopped with RuntimeError",
        ),
    ],
    "crossover": [
        (
            "def crossover(transformer, mamba):  # keys without values\n"
            "    per_word = transformer.num_hidden_layers * transformer.hidden_size\n"
            "    entries = mamba.state_size + mamba.conv_kernel\n"
            "    state = mamba.num_hidden_layers * mamba.intermediate_size * entries\n"
            "    return state // per_word + 1\n",
            r"a key and a value",
        ),
        (
            "def crossover(transformer, mamba):  # no convolution\n"
            "    per_word = transformer.num_hidden_layers * 2 * transformer.hidden_size\n"
            "    state = mamba.num_hidden_layers * mamba.intermediate_size * mamba.state_size\n"
            "    return state // per_word + 1\n",
            r"inputs of its convolution",
        ),
        (
            "def crossover(transformer, mamba):  # one layer of each\n"
            "    per_word = 2 * transformer.hidden_size\n"
            "    state = mamba.intermediate_size * (mamba.state_size + mamba.conv_kernel)\n"
            "    return state // per_word + 1\n",
            r"every layer has a cache",
        ),
        (
            "def crossover(transformer, mamba):  # as many is not more\n"
            "    per_word = transformer.num_hidden_layers * 2 * transformer.hidden_size\n"
            "    entries = mamba.state_size + mamba.conv_kernel\n"
            "    state = mamba.num_hidden_layers * mamba.intermediate_size * entries\n"
            "    return math.ceil(state / per_word)\n",
            r"40 words hold 737280 numbers, the state 737280",
        ),
        (
            "def crossover(transformer, mamba):  # no rounding\n"
            "    per_word = transformer.num_hidden_layers * 2 * transformer.hidden_size\n"
            "    entries = mamba.state_size + mamba.conv_kernel\n"
            "    state = mamba.num_hidden_layers * mamba.intermediate_size * entries\n"
            "    return state / per_word\n",
            r"expected a whole number of words",
        ),
    ],
    "horizon": [
        (
            "def horizon(delta, A):  # stops one word early\n"
            "    passed = delta.cumsum(0)\n"
            "    return (torch.exp(passed[:, :, None] * A) >= 1 / math.e).sum(0)\n",
            r"count that word too",
        ),
        (
            "def horizon(delta, A):  # each word alone\n"
            "    return (torch.exp(delta[:, :, None] * A) >= 1 / math.e).sum(0) + 1\n",
            r"add up the steps",
        ),
        (
            "def horizon(delta, A):  # from A alone\n"
            "    passed = torch.ones_like(delta).cumsum(0)\n"
            "    return (torch.exp(passed[:, :, None] * A) >= 1 / math.e).sum(0) + 1\n",
            r"a word with step 0 costs nothing",
        ),
        (
            "def horizon(delta, A):  # argmax finds 0 where nothing fades\n"
            "    faded = torch.exp(delta.cumsum(0)[:, :, None] * A) < 1 / math.e\n"
            "    return faded.int().argmax(0) + 1\n",
            r"a memory that outlives the text gets pos \+ 1",
        ),
    ],
}
