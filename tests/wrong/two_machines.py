"""Wrong answers to lesson 01a: the source that replaces the stub, and the hint it must get."""

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
    "plain_rnn": [
        (
            "def plain_rnn(x, W, U):  # no tanh\n"
            "    h, states = torch.zeros(len(W)), []\n"
            "    for x_t in x:\n"
            "        h = W @ h + U @ x_t\n"
            "        states.append(h)\n"
            "    return torch.stack(states)\n",
            r"after the first word the state is tanh",
        ),
        (
            "def plain_rnn(x, W, U):  # forgets to hand the state on\n"
            "    h = torch.zeros(len(W))\n"
            "    return torch.stack([torch.tanh(W @ h + U @ x_t) for x_t in x])\n",
            r"knows one word alone",
        ),
        (
            "def plain_rnn(x, W, U):  # columns\n"
            "    h, states = torch.zeros(len(W)), []\n"
            "    for x_t in x:\n"
            "        h = torch.tanh(h @ W + U @ x_t)\n"
            "        states.append(h)\n"
            "    return torch.stack(states)\n",
            r"you use the columns of W",
        ),
        (
            "def plain_rnn(x, W, U):  # the last state alone\n"
            "    h = torch.zeros(len(W))\n"
            "    for x_t in x:\n"
            "        h = torch.tanh(W @ h + U @ x_t)\n"
            "    return h\n",
            r"one for each word",
        ),
    ],
    "leaky": [
        ("def leaky(u, a):\n    return u.cumsum(0)\n", r"sum of all words"),
        (
            "def leaky(u, a):  # everything fades\n"
            "    h, states = torch.zeros_like(a), []\n"
            "    for u_t in u:\n"
            "        h = a * (h + u_t)\n"
            "        states.append(h)\n"
            "    return torch.stack(states)\n",
            r"you let the new word fade as well",
        ),
        (
            "def leaky(u, a):  # a moving average\n"
            "    h, states = torch.zeros_like(a), []\n"
            "    for u_t in u:\n"
            "        h = a * h + (1 - a) * u_t\n"
            "        states.append(h)\n"
            "    return torch.stack(states)\n",
            r"written whole",
        ),
    ],
    "selective": [
        (
            "def selective(u, delta, A):  # writes without the step size\n"
            "    h, states = torch.zeros_like(A), []\n"
            "    for u_t, d in zip(u, delta):\n"
            "        h = torch.exp(d * A) * h + u_t\n"
            "        states.append(h)\n"
            "    return torch.stack(states)\n",
            r"missing from what you write",
        ),
        (
            "def selective(u, delta, A):  # forgets without the step size\n"
            "    h, states = torch.zeros_like(A), []\n"
            "    for u_t, d in zip(u, delta):\n"
            "        h = torch.exp(A) * h + d * u_t\n"
            "        states.append(h)\n"
            "    return torch.stack(states)\n",
            r"missing from what you keep",
        ),
        (
            "def selective(u, delta, A):  # the sign of the decay\n"
            "    h, states = torch.zeros_like(A), []\n"
            "    for u_t, d in zip(u, delta):\n"
            "        h = torch.exp(-d * A) * h + d * u_t\n"
            "        states.append(h)\n"
            "    return torch.stack(states)\n",
            r"old memories grow",
        ),
    ],
    "scan": [
        (
            "def scan(u, delta, A, B, C):  # writes without the step size\n"
            "    h, outputs = torch.zeros_like(A), []\n"
            "    for t in range(len(u)):\n"
            "        h = torch.exp(delta[t][:, None] * A) * h + u[t][:, None] * B[t]\n"
            "        outputs.append(h @ C[t])\n"
            "    return torch.stack(outputs)\n",
            r"missing from what you write",
        ),
        (
            "def scan(u, delta, A, B, C):  # no exponential\n"
            "    h, outputs = torch.zeros_like(A), []\n"
            "    for t in range(len(u)):\n"
            "        h = delta[t][:, None] * A * h + (delta[t] * u[t])[:, None] * B[t]\n"
            "        outputs.append(h @ C[t])\n"
            "    return torch.stack(outputs)\n",
            r"keep exp\(delta A\) times it",
        ),
        (
            "def scan(u, delta, A, B, C):  # reads before it writes\n"
            "    h, outputs = torch.zeros_like(A), []\n"
            "    for t in range(len(u)):\n"
            "        outputs.append(h @ C[t])\n"
            "        h = torch.exp(delta[t][:, None] * A) * h + (delta[t] * u[t])[:, None] * B[t]\n"
            "    return torch.stack(outputs)\n",
            r"you read the old state",
        ),
        (
            "def scan(u, delta, A, B, C):  # B and C exchanged\n"
            "    h, outputs = torch.zeros_like(A), []\n"
            "    for t in range(len(u)):\n"
            "        h = torch.exp(delta[t][:, None] * A) * h + (delta[t] * u[t])[:, None] * C[t]\n"
            "        outputs.append(h @ B[t])\n"
            "    return torch.stack(outputs)\n",
            r"B and C are exchanged",
        ),
        (
            "def scan(u, delta, A, B, C):  # one axis short\n"
            "    h, outputs = torch.zeros_like(A), []\n"
            "    for t in range(len(u)):\n"
            "        h = torch.exp(delta[t] * A) * h + delta[t] * u[t] * B[t]\n"
            "        outputs.append(h @ C[t])\n"
            "    return torch.stack(outputs)\n",
            r"line 4 of your function stopped with RuntimeError",
        ),
    ],
    "rotate": [
        (
            "def rotate(x, n, base=10_000.0):  # all numbers\n"
            "    n = x.shape[-1]\n"
            "    angles = torch.arange(x.shape[-2])[:, None] / base ** (torch.arange(0, n, 2) / n)\n"
            "    a, b = x.chunk(2, dim=-1)\n"
            "    cos, sin = angles.cos(), angles.sin()\n"
            "    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)\n",
            r"only the first n, the others stay",
        ),
        (
            "def rotate(x, n, base=10_000.0):  # neighbours\n"
            "    angles = torch.arange(x.shape[-2])[:, None] / base ** (torch.arange(0, n, 2) / n)\n"
            "    cos, sin, out = angles.cos(), angles.sin(), x.clone()\n"
            "    a, b = x[..., 0:n:2], x[..., 1:n:2]\n"
            "    out[..., 0:n:2], out[..., 1:n:2] = a * cos - b * sin, b * cos + a * sin\n"
            "    return out\n",
            r"you pair neighbours",
        ),
        (
            "def rotate(x, n, base=10_000.0):  # backwards\n"
            "    angles = torch.arange(x.shape[-2])[:, None] / base ** (torch.arange(0, n, 2) / n)\n"
            "    cos, sin = angles.cos(), angles.sin()\n"
            "    a, b, rest = x[..., : n // 2], x[..., n // 2 : n], x[..., n:]\n"
            "    return torch.cat([a * cos + b * sin, b * cos - a * sin, rest], dim=-1)\n",
            r"you turn the other way",
        ),
        (
            "def rotate(x, n, base=10_000.0):  # forgets the base it is given\n"
            "    angles = torch.arange(x.shape[-2])[:, None] / 10_000.0 ** (torch.arange(0, n, 2) / n)\n"
            "    cos, sin = angles.cos(), angles.sin()\n"
            "    a, b, rest = x[..., : n // 2], x[..., n // 2 : n], x[..., n:]\n"
            "    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)\n",
            r"use `base`",
        ),
    ],
    "attention_by_hand": [
        (
            "def attention_by_hand(layer, x):  # no rotation\n"
            "    qkv = F.linear(x, layer.query_key_value.weight, layer.query_key_value.bias)\n"
            "    qkv = qkv.unflatten(-1, (-1, 3 * layer.head_size)).transpose(0, 1)\n"
            "    q, k, v = qkv.chunk(3, dim=-1)\n"
            "    weights, mixed = attend(q, k, v)\n"
            "    return layer.dense(mixed.transpose(0, 1).flatten(1)), weights\n",
            r"the rotation is missing",
        ),
        (
            "def attention_by_hand(layer, x):  # all queries first\n"
            "    q, k, v = layer.query_key_value(x).chunk(3, dim=-1)\n"
            "    q, k, v = (y.unflatten(-1, (-1, layer.head_size)).transpose(0, 1) for y in (q, k, v))\n"
            "    q, k = rotate(q, layer.rotary_ndims), rotate(k, layer.rotary_ndims)\n"
            "    weights, mixed = attend(q, k, v)\n"
            "    return layer.dense(mixed.transpose(0, 1).flatten(1)), weights\n",
            r"head by head, not all queries first",
        ),
        (
            "def attention_by_hand(layer, x):  # no biases\n"
            "    qkv = F.linear(x, layer.query_key_value.weight)\n"
            "    qkv = qkv.unflatten(-1, (-1, 3 * layer.head_size)).transpose(0, 1)\n"
            "    q, k, v = qkv.chunk(3, dim=-1)\n"
            "    q, k = rotate(q, layer.rotary_ndims), rotate(k, layer.rotary_ndims)\n"
            "    weights, mixed = attend(q, k, v)\n"
            "    return layer.dense(mixed.transpose(0, 1).flatten(1)), weights\n",
            r"the bias of the query_key_value map",
        ),
        (
            "def attention_by_hand(layer, x):  # heads not side by side\n"
            "    qkv = layer.query_key_value(x)\n"
            "    qkv = qkv.unflatten(-1, (-1, 3 * layer.head_size)).transpose(0, 1)\n"
            "    q, k, v = qkv.chunk(3, dim=-1)\n"
            "    q, k = rotate(q, layer.rotary_ndims), rotate(k, layer.rotary_ndims)\n"
            "    weights, mixed = attend(q, k, v)\n"
            "    return layer.dense(mixed.reshape(len(x), -1)), weights\n",
            r"put the heads side by side",
        ),
        (
            "def attention_by_hand(layer, x):\n"
            "    qkv = layer.query_key_value(x)\n"
            "    qkv = qkv.unflatten(-1, (-1, layer.head_size, 3)).transpose(0, 1)\n"
            "    q, k, v = qkv.unbind(-1)\n"
            "    q, k = rotate(q, layer.rotary_ndims), rotate(k, layer.rotary_ndims)\n"
            "    weights, mixed = attend(q, k, v)\n"
            "    return layer.dense(mixed.transpose(0, 1).flatten(1)), weights\n",
            r"number by number",
        ),
        (
            "def attention_by_hand(layer, x):\n"
            "    qkv = layer.query_key_value(x)\n"
            "    qkv = qkv.unflatten(-1, (-1, 3 * layer.head_size)).transpose(0, 1)\n"
            "    q, k, v = rotate(qkv, layer.rotary_ndims).chunk(3, dim=-1)\n"
            "    weights, mixed = attend(q, k, v)\n"
            "    return layer.dense(mixed.transpose(0, 1).flatten(1)), weights\n",
            r"the queries alone",
        ),
        (
            "def attention_by_hand(layer, x):\n"
            "    qkv = layer.query_key_value(x)\n"
            "    qkv = qkv.unflatten(-1, (-1, 3 * layer.head_size)).transpose(0, 1)\n"
            "    q, k, v = qkv.chunk(3, dim=-1)\n"
            "    q = rotate(q, layer.rotary_ndims)\n"
            "    weights, mixed = attend(q, k, v)\n"
            "    return layer.dense(mixed.transpose(0, 1).flatten(1)), weights\n",
            r"the queries alone",
        ),
        (
            "def attention_by_hand(layer, x):\n"
            "    qkv = layer.query_key_value(x)\n"
            "    qkv = qkv.unflatten(-1, (-1, 3 * layer.head_size)).transpose(0, 1)\n"
            "    q, k, v = (rotate(y, layer.rotary_ndims) for y in qkv.chunk(3, dim=-1))\n"
            "    weights, mixed = attend(q, k, v)\n"
            "    return layer.dense(mixed.transpose(0, 1).flatten(1)), weights\n",
            r"only q and k turn",
        ),
        (
            "def attention_by_hand(layer, x):\n"
            "    qkv = layer.query_key_value(x)\n"
            "    qkv = qkv.unflatten(-1, (-1, 3 * layer.head_size)).transpose(0, 1)\n"
            "    q, k, v = qkv.chunk(3, dim=-1)\n"
            "    q, k = rotate(q, layer.head_size), rotate(k, layer.head_size)\n"
            "    weights, mixed = attend(q, k, v)\n"
            "    return layer.dense(mixed.transpose(0, 1).flatten(1)), weights\n",
            r"you turn every number",
        ),
    ],
    "convolve": [
        (
            "def convolve(signal, kernel, bias):  # no bias\n"
            "    taps = kernel.shape[1]\n"
            "    windows = F.pad(signal, (0, 0, taps - 1, 0)).unfold(0, taps, 1)\n"
            "    return (windows * kernel).sum(-1)\n",
            r"the bias is missing",
        ),
        (
            "def convolve(signal, kernel, bias):  # the first number for the word itself\n"
            "    taps = kernel.shape[1]\n"
            "    padded = F.pad(signal, (0, 0, taps - 1, 0))\n"
            "    parts = [padded[taps - 1 - k :][: len(signal)] * kernel[:, k] for k in range(taps)]\n"
            "    return sum(parts) + bias\n",
            r"the wrong way round",
        ),
        (
            "def convolve(signal, kernel, bias):  # zeros behind\n"
            "    taps = kernel.shape[1]\n"
            "    windows = F.pad(signal, (0, 0, 0, taps - 1)).unfold(0, taps, 1)\n"
            "    return (windows * kernel).sum(-1) + bias\n",
            r"your windows look ahead",
        ),
    ],
    "mixer_by_hand": [
        (
            "def mixer_by_hand(layer, x):\n"
            "    signal, z = layer.in_proj(x).chunk(2, dim=-1)\n"
            "    u = F.silu(layer.conv1d(signal.T[None])[0, :, : len(x)].T)\n"
            "    sizes = [layer.time_step_rank, layer.ssm_state_size, layer.ssm_state_size]\n"
            "    low, B, C = layer.x_proj(u).split(sizes, dim=-1)\n"
            "    y = scan(u, F.softplus(layer.dt_proj(low)), -layer.A_log.exp(), B, C)\n"
            "    return layer.out_proj(y * F.silu(z))\n",
            r"what goes around the state is missing",
        ),
        (
            "def mixer_by_hand(layer, x):\n"
            "    z, signal = layer.in_proj(x).chunk(2, dim=-1)\n"
            "    u = F.silu(layer.conv1d(signal.T[None])[0, :, : len(x)].T)\n"
            "    sizes = [layer.time_step_rank, layer.ssm_state_size, layer.ssm_state_size]\n"
            "    low, B, C = layer.x_proj(u).split(sizes, dim=-1)\n"
            "    y = scan(u, F.softplus(layer.dt_proj(low)), -layer.A_log.exp(), B, C)\n"
            "    return layer.out_proj((y + layer.D * u) * F.silu(z))\n",
            r"the second the gate",
        ),
        (
            "def mixer_by_hand(layer, x):\n"
            "    signal, z = layer.in_proj(x).chunk(2, dim=-1)\n"
            "    u = F.silu(layer.conv1d(signal.T[None])[0, :, : len(x)].T)\n"
            "    sizes = [layer.time_step_rank, layer.ssm_state_size, layer.ssm_state_size]\n"
            "    low, C, B = layer.x_proj(u).split(sizes, dim=-1)\n"
            "    y = scan(u, F.softplus(layer.dt_proj(low)), -layer.A_log.exp(), B, C)\n"
            "    return layer.out_proj((y + layer.D * u) * F.silu(z))\n",
            r"B and C are exchanged",
        ),
        (
            "def mixer_by_hand(layer, x):\n"
            "    signal, z = layer.in_proj(x).chunk(2, dim=-1)\n"
            "    u = F.silu(signal + layer.conv1d.bias)\n"
            "    sizes = [layer.time_step_rank, layer.ssm_state_size, layer.ssm_state_size]\n"
            "    low, B, C = layer.x_proj(u).split(sizes, dim=-1)\n"
            "    y = scan(u, F.softplus(layer.dt_proj(low)), -layer.A_log.exp(), B, C)\n"
            "    return layer.out_proj((y + layer.D * u) * F.silu(z))\n",
            r"your output differs at the words|the convolution is missing",
        ),
        (
            "def mixer_by_hand(layer, x):\n"
            "    signal, z = layer.in_proj(x).chunk(2, dim=-1)\n"
            "    u = F.silu(layer.conv1d(signal.T[None])[0, :, : len(x)].T)\n"
            "    sizes = [layer.time_step_rank, layer.ssm_state_size, layer.ssm_state_size]\n"
            "    low, B, C = layer.x_proj(u).split(sizes, dim=-1)\n"
            "    y = scan(u, F.softplus(F.linear(low, layer.dt_proj.weight)), -layer.A_log.exp(), B, C)\n"
            "    return layer.out_proj((y + layer.D * u) * F.silu(z))\n",
            r"the bias of dt_proj",
        ),
        (
            "def mixer_by_hand(layer, x):\n"
            "    signal, z = layer.in_proj(x).chunk(2, dim=-1)\n"
            "    u = F.silu(layer.conv1d(signal.T[None])[0, :, : len(x)].T)\n"
            "    sizes = [layer.time_step_rank, layer.ssm_state_size, layer.ssm_state_size]\n"
            "    low, B, C = layer.x_proj(u).split(sizes, dim=-1)\n"
            "    y = scan(u, F.softplus(layer.dt_proj(low)), -layer.A_log.abs(), B, C)\n"
            "    return layer.out_proj((y + layer.D * u) * F.silu(z))\n",
            r"log\(-A\)",
        ),
        (
            "def mixer_by_hand(layer, x):\n"
            "    signal, z = layer.in_proj(x).chunk(2, dim=-1)\n"
            "    u = F.silu(layer.conv1d(signal.T[None])[0, :, -len(x) :].T)\n"
            "    sizes = [layer.time_step_rank, layer.ssm_state_size, layer.ssm_state_size]\n"
            "    low, B, C = layer.x_proj(u).split(sizes, dim=-1)\n"
            "    y = scan(u, F.softplus(layer.dt_proj(low)), -layer.A_log.exp(), B, C)\n"
            "    return layer.out_proj((y + layer.D * u) * F.silu(z))\n",
            r"your windows look ahead",
        ),
        (
            "def mixer_by_hand(layer, x):\n"
            "    signal, z = layer.in_proj(x).chunk(2, dim=-1)\n"
            "    u = F.silu(layer.conv1d(signal.T[None])[0, :, : len(x)].T)\n"
            "    sizes = [layer.time_step_rank, layer.ssm_state_size, layer.ssm_state_size]\n"
            "    low, B, C = layer.x_proj(u).split(sizes, dim=-1)\n"
            "    y = scan(u, F.softplus(layer.dt_proj(low)), -layer.A_log.exp(), B, C)\n"
            "    return layer.out_proj((y + layer.D * u) * z.sigmoid())\n",
            r"the sigmoid alone",
        ),
        (
            "def mixer_by_hand(layer, x):\n"
            "    signal, z = layer.in_proj(x).chunk(2, dim=-1)\n"
            "    u = layer.conv1d(signal.T[None])[0, :, : len(x)].T\n"
            "    sizes = [layer.time_step_rank, layer.ssm_state_size, layer.ssm_state_size]\n"
            "    low, B, C = layer.x_proj(u).split(sizes, dim=-1)\n"
            "    y = scan(u, F.softplus(layer.dt_proj(low)), -layer.A_log.exp(), B, C)\n"
            "    return layer.out_proj((y + layer.D * u) * F.silu(z))\n",
            r"SiLU is missing behind the convolution",
        ),
        (
            "def mixer_by_hand(layer, x):\n"
            "    signal, z = layer.in_proj(x).chunk(2, dim=-1)\n"
            "    u = F.silu(layer.conv1d(signal.T[None])[0, :, : len(x)].T)\n"
            "    sizes = [layer.time_step_rank, layer.ssm_state_size, layer.ssm_state_size]\n"
            "    low, B, C = layer.x_proj(u).split(sizes, dim=-1)\n"
            "    y = scan(u, layer.dt_proj(low), -layer.A_log.exp(), B, C)\n"
            "    return layer.out_proj((y + layer.D * u) * F.silu(z))\n",
            r"its softplus is missing",
        ),
        (
            "def mixer_by_hand(layer, x):\n"
            "    signal, z = layer.in_proj(x).chunk(2, dim=-1)\n"
            "    u = F.silu(layer.conv1d(signal.T[None])[0, :, : len(x)].T)\n"
            "    sizes = [layer.time_step_rank, layer.ssm_state_size, layer.ssm_state_size]\n"
            "    low, B, C = layer.x_proj(u).split(sizes, dim=-1)\n"
            "    y = scan(u, F.softplus(layer.dt_proj(low)), -layer.A_log.exp(), B, C)\n"
            "    return layer.out_proj((y + layer.D * u) * z)\n",
            r"and not z itself",
        ),
        (
            "def mixer_by_hand(layer, x):\n"
            "    signal, z = layer.in_proj(x).chunk(2, dim=-1)\n"
            "    u = F.silu(layer.conv1d(signal.T[None])[0, :, : len(x)].T)\n"
            "    sizes = [layer.time_step_rank, layer.ssm_state_size, layer.ssm_state_size]\n"
            "    low, B, C = layer.x_proj(u).split(sizes, dim=-1)\n"
            "    y = scan(u, F.softplus(layer.dt_proj(low)), -layer.A_log.exp(), B, C)\n"
            "    return layer.out_proj(y * F.silu(z) + layer.D * u)\n",
            r"D u is gated, too",
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
}
