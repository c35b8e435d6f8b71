"""Wrong answers to lesson 09a: the source that replaces the stub, and the hint it must get."""

WRONG = {
    "remember": [
        (
            "def remember(decay, write, read):\n"
            "    S, outputs = torch.zeros_like(write[0]), []\n"
            "    for t in range(len(write)):\n"
            "        y = read[t][:, None, :] @ S\n"
            "        S = decay[t] @ S + write[t]\n"
            "        pass\n"
            "        outputs.append(y[:, 0])\n"
            "    return torch.stack(outputs)\n",
            r"you read before you write",
        ),
        (
            "def remember(decay, write, read):\n"
            "    S, outputs = torch.zeros_like(write[0]), []\n"
            "    for t in range(len(write)):\n"
            "        S = decay[t] @ (S + write[t])\n"
            "        y = read[t][:, None, :] @ S\n"
            "        outputs.append(y[:, 0])\n"
            "    return torch.stack(outputs)\n",
            r"only S_before is multiplied",
        ),
        (
            "def remember(decay, write, read):\n"
            "    S, outputs = torch.zeros_like(write[0]), []\n"
            "    for t in range(len(write)):\n"
            "        S = write[t]\n"
            "        y = read[t][:, None, :] @ S\n"
            "        outputs.append(y[:, 0])\n"
            "    return torch.stack(outputs)\n",
            r"hand S on",
        ),
        (
            "def remember(decay, write, read):\n"
            "    S, outputs = torch.zeros_like(write[0]), []\n"
            "    for t in range(len(write)):\n"
            "        S = decay[t].mT @ S + write[t]\n"
            "        y = read[t][:, None, :] @ S\n"
            "        outputs.append(y[:, 0])\n"
            "    return torch.stack(outputs)\n",
            r"the transpose of the decay",
        ),
        (
            "def remember(decay, write, read):\n"
            "    S, outputs = torch.zeros_like(write[0]), []\n"
            "    for t in range(len(write)):\n"
            "        S = S + write[t]\n"
            "        y = read[t][:, None, :] @ S\n"
            "        outputs.append(y[:, 0])\n"
            "    return torch.stack(outputs)\n",
            r"nothing decays",
        ),
        (
            "def remember(decay, write, read):\n"
            "    S, outputs = write[0], []\n"
            "    for t in range(len(write)):\n"
            "        S = decay[t] @ S + write[t]\n"
            "        y = read[t][:, None, :] @ S\n"
            "        outputs.append(y[:, 0])\n"
            "    return torch.stack(outputs)\n",
            r"start from zeros",
        ),
        (
            "def remember(decay, write, read):\n"
            "    S, outputs = torch.zeros_like(write[0]), []\n"
            "    for t in range(len(write)):\n"
            "        S = decay[t - 1] @ S + write[t]\n"
            "        y = read[t][:, None, :] @ S\n"
            "        outputs.append(y[:, 0])\n"
            "    return torch.stack(outputs)\n",
            r"one word late",
        ),
    ],
    "looking_back": [
        (
            "def looking_back(q, k, v, a):\n"
            "    total = a.log().cumsum(0)\n"
            "    left = torch.exp(total[:, None] - total[None, :])\n"
            '    weights = torch.einsum("thk,shk->tsh", q, k) * left\n'
            '    return torch.einsum("tsh,shv->thv", weights, v)\n',
            r"you look ahead",
        ),
        (
            "def looking_back(q, k, v, a):\n"
            "    total = a.log().cumsum(0)\n"
            "    left = torch.exp(total[:, None] - total[None, :])\n"
            "    to_come = torch.ones(len(q), len(q)).triu(1).bool()\n"
            '    weights = torch.einsum("thk,shk->tsh", q, k)\n'
            "    weights = weights.masked_fill(to_come[..., None], 0)\n"
            '    return torch.einsum("tsh,shv->thv", weights, v)\n',
            r"nothing fades",
        ),
        (
            "def looking_back(q, k, v, a):\n"
            "    total = a.log().cumsum(0)\n"
            "    left = torch.exp(total[:, None] - total[None, :] + a.log()[None])\n"
            "    to_come = torch.ones(len(q), len(q)).triu(1).bool()\n"
            '    weights = torch.einsum("thk,shk->tsh", q, k) * left\n'
            "    weights = weights.masked_fill(to_come[..., None], 0)\n"
            '    return torch.einsum("tsh,shv->thv", weights, v)\n',
            r"own decay acts on what it writes",
        ),
        (
            "def looking_back(q, k, v, a):\n"
            "    total = a.log().cumsum(0)\n"
            "    left = torch.exp(total[None, :] - total[:, None])\n"
            "    to_come = torch.ones(len(q), len(q)).triu(1).bool()\n"
            '    weights = torch.einsum("thk,shk->tsh", q, k) * left\n'
            "    weights = weights.masked_fill(to_come[..., None], 0)\n"
            '    return torch.einsum("tsh,shv->thv", weights, v)\n',
            r"subtract the source's total",
        ),
        (
            "def looking_back(q, k, v, a):\n"
            "    total = a.log().cumsum(0)\n"
            "    left = torch.exp(total[:, None] - total[None, :])  # [query source head]\n"
            "    to_come = torch.ones(len(q), len(q)).triu().bool()\n"
            '    weights = torch.einsum("thk,shk->tsh", q, k) * left\n'
            "    weights = weights.masked_fill(to_come[..., None], 0)\n"
            '    return torch.einsum("tsh,shv->thv", weights, v)\n',
            r"a word reads itself, too",
        ),
        (
            "def looking_back(q, k, v, a):\n"
            "    total = a.log().cumsum(0)\n"
            "    left = torch.exp(total[:, None] - total[None, :])  # [query source head]\n"
            "    to_come = torch.ones(len(q), len(q)).tril(-1).bool()\n"
            '    weights = torch.einsum("thk,shk->tsh", q, k) * left\n'
            "    weights = weights.masked_fill(to_come[..., None], 0)\n"
            '    return torch.einsum("tsh,shv->thv", weights, v)\n',
            r"you keep the words to come",
        ),
        (
            "def looking_back(q, k, v, a):\n"
            "    total = a.log().cumsum(0)\n"
            "    left = torch.exp(total[:, None] - total[None, :])  # [query source head]\n"
            "    to_come = torch.ones(len(q), len(q)).triu(1).bool()\n"
            '    weights = torch.einsum("thk,shk->tsh", q, k) * left\n'
            "    weights = weights.masked_fill(to_come[..., None], -torch.inf).softmax(1)\n"
            '    return torch.einsum("tsh,shv->thv", weights, v)\n',
            r"there is no softmax here",
        ),
    ],
    "mamba": [
        (
            "def mamba(u, step, rate, B, C):\n"
            "    decay = torch.diag_embed(torch.exp(step[..., None] * rate))\n"
            "    write = u[..., None, None] * B[:, None, :, None]\n"
            "    read = C[:, None].expand(-1, u.shape[1], -1)\n"
            "    return remember(decay, write, read)[..., 0]\n",
            r"missing from what is written",
        ),
        (
            "def mamba(u, step, rate, B, C):\n"
            "    decay = torch.diag_embed(torch.exp(rate).expand(len(u), -1, -1))\n"
            "    write = (step * u)[..., None, None] * B[:, None, :, None]\n"
            "    read = C[:, None].expand(-1, u.shape[1], -1)\n"
            "    return remember(decay, write, read)[..., 0]\n",
            r"missing from the decay",
        ),
        (
            "def mamba(u, step, rate, B, C):\n"
            "    decay = torch.diag_embed(torch.exp(step[..., None] * rate))\n"
            "    write = (step * u)[..., None, None] * C[:, None, :, None]\n"
            "    read = B[:, None].expand(-1, u.shape[1], -1)\n"
            "    return remember(decay, write, read)[..., 0]\n",
            r"B and C are exchanged",
        ),
        (
            "def mamba(u, step, rate, B, C):\n"
            "    decay = torch.diag_embed(torch.exp(-step[..., None] * rate))\n"
            "    write = (step * u)[..., None, None] * B[:, None, :, None]\n"
            "    read = C[:, None].expand(-1, u.shape[1], -1)\n"
            "    return remember(decay, write, read)[..., 0]\n",
            r"old memories grow",
        ),
        (
            "def mamba(u, step, rate, B, C):\n"
            "    decay = torch.diag_embed(step[..., None] * rate)\n"
            "    write = (step * u)[..., None, None] * B[:, None, :, None]\n"
            "    read = C[:, None].expand(-1, u.shape[1], -1)\n"
            "    return remember(decay, write, read)[..., 0]\n",
            r"the exp is missing",
        ),
        (
            "def mamba(u, step, rate, B, C):\n"
            "    decay = torch.diag_embed(torch.exp(step[..., None] * rate))\n"
            "    write = (step * u)[..., None, None] * B[:, None, :, None]\n"
            "    read = B[:, None].expand(-1, u.shape[1], -1)\n"
            "    return remember(decay, write, read)[..., 0]\n",
            r"you read with B, too",
        ),
        (
            "def mamba(u, step, rate, B, C):\n"
            "    decay = torch.diag_embed(torch.exp(step[..., None] * rate))\n"
            "    write = step[..., None, None] * B[:, None, :, None]\n"
            "    read = C[:, None].expand(-1, u.shape[1], -1)\n"
            "    return remember(decay, write, read)[..., 0]\n",
            r"u is missing",
        ),
    ],
    "mamba2": [
        (
            "def mamba2(u, step, rate, B, C):\n"
            "    kept = torch.exp(step * rate)\n"
            "    decay = kept[..., None, None] * torch.eye(B.shape[-1])\n"
            "    write = B[..., :, None] * u[..., None, :]\n"
            "    return remember(decay, write, C)\n",
            r"missing from what is written",
        ),
        (
            "def mamba2(u, step, rate, B, C):\n"
            "    kept = torch.exp(rate).expand_as(step)\n"
            "    decay = kept[..., None, None] * torch.eye(B.shape[-1])\n"
            "    write = step[..., None, None] * B[..., :, None] * u[..., None, :]\n"
            "    return remember(decay, write, C)\n",
            r"missing from the decay",
        ),
        (
            "def mamba2(u, step, rate, B, C):\n"
            "    kept = torch.exp(step * rate)\n"
            "    decay = kept[..., None, None] * torch.eye(B.shape[-1])\n"
            "    write = step[..., None, None] * C[..., :, None] * u[..., None, :]\n"
            "    return remember(decay, write, B)\n",
            r"B and C are exchanged",
        ),
        (
            "def mamba2(u, step, rate, B, C):\n"
            "    kept = torch.exp(-step * rate)\n"
            "    decay = kept[..., None, None] * torch.eye(B.shape[-1])\n"
            "    write = step[..., None, None] * B[..., :, None] * u[..., None, :]\n"
            "    return remember(decay, write, C)\n",
            r"old memories grow",
        ),
        (
            "def mamba2(u, step, rate, B, C):\n"
            "    kept = torch.exp(-step * rate.exp())\n"
            "    decay = kept[..., None, None] * torch.eye(B.shape[-1])\n"
            "    write = step[..., None, None] * B[..., :, None] * u[..., None, :]\n"
            "    return remember(decay, write, C)\n",
            r"no exp of it alone",
        ),
        (
            "def mamba2(u, step, rate, B, C):\n"
            "    kept = torch.exp(step * rate)\n"
            "    decay = kept[..., None, None] * torch.ones(B.shape[-1], B.shape[-1])\n"
            "    write = step[..., None, None] * B[..., :, None] * u[..., None, :]\n"
            "    return remember(decay, write, C)\n",
            r"times the identity",
        ),
        (
            "def mamba2(u, step, rate, B, C):\n"
            "    kept = torch.exp(step * rate)\n"
            "    decay = kept[..., None, None] * torch.eye(B.shape[-1])\n"
            "    write = step[..., None, None] * B[..., :, None] * u[..., None, :]\n"
            "    return remember(decay, write, B)\n",
            r"you read with B, too",
        ),
    ],
    "rg_lru": [
        (
            "def rg_lru(u, r, i, L):\n"
            "    a = torch.exp(-8 * F.softplus(L) * r)\n"
            "    share = torch.sqrt(1 - a**2)\n"
            "    write = (share * i * u)[..., None, None]\n"
            "    return remember(a[..., None, None], write, torch.ones_like(u)[..., None])[..., 0]\n",
            r"the first word is written whole",
        ),
        (
            "def rg_lru(u, r, i, L):\n"
            "    a = torch.exp(-8 * F.softplus(L) * r)\n"
            "    share = torch.ones_like(a)\n"
            "    share[0] = 1\n"
            "    write = (share * i * u)[..., None, None]\n"
            "    return remember(a[..., None, None], write, torch.ones_like(u)[..., None])[..., 0]\n",
            r"must make room",
        ),
        (
            "def rg_lru(u, r, i, L):\n"
            "    a = torch.exp(-8 * F.softplus(L) * r)\n"
            "    share = 1 - a\n"
            "    share[0] = 1\n"
            "    write = (share * i * u)[..., None, None]\n"
            "    return remember(a[..., None, None], write, torch.ones_like(u)[..., None])[..., 0]\n",
            r"and yours is 1 - a",
        ),
        (
            "def rg_lru(u, r, i, L):\n"
            "    a = torch.exp(-F.softplus(L) * r)\n"
            "    share = torch.sqrt(1 - a**2)\n"
            "    share[0] = 1\n"
            "    write = (share * i * u)[..., None, None]\n"
            "    return remember(a[..., None, None], write, torch.ones_like(u)[..., None])[..., 0]\n",
            r"the 8 is missing",
        ),
        (
            "def rg_lru(u, r, i, L):\n"
            "    a = torch.exp(-8 * F.softplus(L) * r)\n"
            "    share = 1 - a**2\n"
            "    share[0] = 1\n"
            "    write = (share * i * u)[..., None, None]\n"
            "    return remember(a[..., None, None], write, torch.ones_like(u)[..., None])[..., 0]\n",
            r"the root is missing",
        ),
        (
            "def rg_lru(u, r, i, L):\n"
            "    a = torch.exp(-8 * F.softplus(L) * r)\n"
            "    share = torch.sqrt(1 - a**2)\n"
            "    share[0] = 1\n"
            "    write = (share * u)[..., None, None]\n"
            "    return remember(a[..., None, None], write, torch.ones_like(u)[..., None])[..., 0]\n",
            r"input gate i is missing",
        ),
    ],
    "mlstm": [
        (
            "def mlstm(q, k, v, i, f):\n"
            "    decay = f[..., None, None] * torch.eye(k.shape[-1])\n"
            "    counted = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)\n"
            "    write = i[..., None, None] * k[..., :, None] * counted[..., None, :]\n"
            "    y = remember(decay, write, q)\n"
            "    return y[..., :-1]\n",
            r"the normaliser is missing",
        ),
        (
            "def mlstm(q, k, v, i, f):\n"
            "    decay = f[..., None, None] * torch.eye(k.shape[-1])\n"
            "    counted = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)\n"
            "    write = i[..., None, None] * k[..., :, None] * counted[..., None, :]\n"
            "    y = remember(decay, write, q)\n"
            "    return y[..., :-1] / y[..., -1:].abs()\n",
            r"may not be smaller than 1",
        ),
        (
            "def mlstm(q, k, v, i, f):\n"
            "    decay = f[..., None, None] * torch.eye(k.shape[-1])\n"
            "    counted = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)\n"
            "    write = i[..., None, None] * k[..., :, None] * counted[..., None, :]\n"
            "    y = remember(decay, write, q)\n"
            "    return y[..., :-1] / y[..., -1:].clamp(min=1)\n",
            r"sign does not count",
        ),
        (
            "def mlstm(q, k, v, i, f):\n"
            "    decay = f[..., None, None] * torch.eye(k.shape[-1])\n"
            "    counted = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)\n"
            "    write = k[..., :, None] * counted[..., None, :]\n"
            "    y = remember(decay, write, q)\n"
            "    return y[..., :-1] / y[..., -1:].abs().clamp(min=1)\n",
            r"input gate is missing",
        ),
        (
            "def mlstm(q, k, v, i, f):\n"
            "    decay = torch.eye(k.shape[-1]).expand(*f.shape, -1, -1)\n"
            "    counted = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)\n"
            "    write = i[..., None, None] * k[..., :, None] * counted[..., None, :]\n"
            "    y = remember(decay, write, q)\n"
            "    return y[..., :-1] / y[..., -1:].abs().clamp(min=1)\n",
            r"nothing fades",
        ),
        (
            "def mlstm(q, k, v, i, f):\n"
            "    decay = f[..., None, None] * torch.eye(k.shape[-1])\n"
            "    counted = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)\n"
            "    write = i[..., None, None] * k[..., :, None] * counted[..., None, :]\n"
            "    y = remember(decay, write, q)\n"
            "    return y[..., :-1] / (y[..., -1:].abs() + 1)\n",
            r"not their sum",
        ),
    ],
    "rwkv": [
        (
            "def rwkv(k, v, w, bonus):\n"
            "    counted = torch.stack([v, torch.ones_like(v)], dim=-1)  # [pos channel 2]\n"
            "    decay = torch.exp(-w).expand_as(k)[..., None, None]\n"
            "    write = torch.exp(k)[..., None, None] * counted[..., None, :]\n"
            "    after = remember(decay, write, torch.ones_like(k)[..., None])\n"
            "    before = torch.cat([torch.zeros_like(after[:1]), after[:-1]])\n"
            "    total = after + torch.exp(k + bonus)[..., None] * counted\n"
            "    return total[..., 0] / total[..., 1]\n",
            r"the present word is in twice",
        ),
        (
            "def rwkv(k, v, w, bonus):\n"
            "    counted = torch.stack([v, torch.ones_like(v)], dim=-1)  # [pos channel 2]\n"
            "    decay = torch.exp(-w).expand_as(k)[..., None, None]\n"
            "    write = torch.exp(k)[..., None, None] * counted[..., None, :]\n"
            "    after = remember(decay, write, torch.ones_like(k)[..., None])\n"
            "    before = torch.cat([torch.zeros_like(after[:1]), after[:-1]])\n"
            "    total = before + torch.exp(k)[..., None] * counted\n"
            "    return total[..., 0] / total[..., 1]\n",
            r"the bonus is missing",
        ),
        (
            "def rwkv(k, v, w, bonus):\n"
            "    counted = torch.stack([v, torch.ones_like(v)], dim=-1)  # [pos channel 2]\n"
            "    decay = torch.exp(-w).expand_as(k)[..., None, None]\n"
            "    write = torch.exp(k)[..., None, None] * counted[..., None, :]\n"
            "    after = remember(decay, write, torch.ones_like(k)[..., None])\n"
            "    before = torch.cat([torch.zeros_like(after[:1]), after[:-1]])\n"
            "    total = before + torch.exp(k + bonus)[..., None] * counted\n"
            "    return total[..., 0]\n",
            r"an average divides",
        ),
        (
            "def rwkv(k, v, w, bonus):\n"
            "    counted = torch.stack([v, torch.ones_like(v)], dim=-1)  # [pos channel 2]\n"
            "    decay = torch.exp(w).expand_as(k)[..., None, None]\n"
            "    write = torch.exp(k)[..., None, None] * counted[..., None, :]\n"
            "    after = remember(decay, write, torch.ones_like(k)[..., None])\n"
            "    before = torch.cat([torch.zeros_like(after[:1]), after[:-1]])\n"
            "    total = before + torch.exp(k + bonus)[..., None] * counted\n"
            "    return total[..., 0] / total[..., 1]\n",
            r"old weights grow",
        ),
        (
            "def rwkv(k, v, w, bonus):\n"
            "    counted = torch.stack([v, torch.ones_like(v)], dim=-1)  # [pos channel 2]\n"
            "    decay = w.expand_as(k)[..., None, None]\n"
            "    write = torch.exp(k)[..., None, None] * counted[..., None, :]\n"
            "    after = remember(decay, write, torch.ones_like(k)[..., None])\n"
            "    before = torch.cat([torch.zeros_like(after[:1]), after[:-1]])\n"
            "    total = before + torch.exp(k + bonus)[..., None] * counted\n"
            "    return total[..., 0] / total[..., 1]\n",
            r"and yours is w",
        ),
        (
            "def rwkv(k, v, w, bonus):\n"
            "    counted = torch.stack([v, torch.ones_like(v)], dim=-1)  # [pos channel 2]\n"
            "    decay = torch.exp(-w).expand_as(k)[..., None, None]\n"
            "    write = k[..., None, None] * counted[..., None, :]\n"
            "    after = remember(decay, write, torch.ones_like(k)[..., None])\n"
            "    before = torch.cat([torch.zeros_like(after[:1]), after[:-1]])\n"
            "    total = before + torch.exp(k + bonus)[..., None] * counted\n"
            "    return total[..., 0] / total[..., 1]\n",
            r"yours weigh k",
        ),
        (
            "def rwkv(k, v, w, bonus):\n"
            "    counted = torch.stack([v, torch.ones_like(v)], dim=-1)  # [pos channel 2]\n"
            "    decay = torch.exp(-w).expand_as(k)[..., None, None]\n"
            "    write = torch.exp(k)[..., None, None] * counted[..., None, :]\n"
            "    after = remember(decay, write, torch.ones_like(k)[..., None])\n"
            "    before = torch.cat([torch.zeros_like(after[:1]), after[:-1]])\n"
            "    total = after\n"
            "    return total[..., 0] / total[..., 1]\n",
            r"this is what `remember` reads",
        ),
    ],
    "gated_delta": [
        (
            "def gated_delta(q, k, v, a, e):\n"
            "    erased = e[..., None, None] * k[..., :, None] * k[..., None, :]\n"
            "    decay = a[..., None, None] * (torch.eye(k.shape[-1]))\n"
            "    write = e[..., None, None] * k[..., :, None] * v[..., None, :]\n"
            "    return remember(decay, write, q)\n",
            r"nothing is erased",
        ),
        (
            "def gated_delta(q, k, v, a, e):\n"
            "    erased = k[..., :, None] * k[..., None, :]\n"
            "    decay = a[..., None, None] * (torch.eye(k.shape[-1]) - erased)\n"
            "    write = e[..., None, None] * k[..., :, None] * v[..., None, :]\n"
            "    return remember(decay, write, q)\n",
            r"whatever e says",
        ),
        (
            "def gated_delta(q, k, v, a, e):\n"
            "    erased = e[..., None, None] * k[..., :, None] * k[..., None, :]\n"
            "    decay = a[..., None, None] * (torch.eye(k.shape[-1]) - erased)\n"
            "    write = k[..., :, None] * v[..., None, :]\n"
            "    return remember(decay, write, q)\n",
            r"e is missing from what is written",
        ),
        (
            "def gated_delta(q, k, v, a, e):\n"
            "    erased = e[..., None, None] * k[..., :, None] * k[..., None, :]\n"
            "    decay = a[..., None, None] * torch.eye(k.shape[-1]) - erased\n"
            "    write = e[..., None, None] * k[..., :, None] * v[..., None, :]\n"
            "    return remember(decay, write, q)\n",
            r"a stands before the whole matrix",
        ),
        (
            "def gated_delta(q, k, v, a, e):\n"
            "    erased = e[..., None, None] * k[..., :, None] * k[..., None, :]\n"
            "    decay = a[..., None, None] * (torch.eye(k.shape[-1]) - erased)\n"
            "    write = e[..., None, None] * k[..., :, None] * v[..., None, :]\n"
            "    return remember(decay, write, k)\n",
            r"you read with k",
        ),
        (
            "def gated_delta(q, k, v, a, e):\n"
            "    erased = e[..., None, None] * k[..., :, None] * k[..., None, :]\n"
            "    decay = a[..., None, None] * (torch.eye(k.shape[-1]) * (1 - e[..., None, None]))\n"
            "    write = e[..., None, None] * k[..., :, None] * v[..., None, :]\n"
            "    return remember(decay, write, q)\n",
            r"the whole table fades",
        ),
        (
            "def gated_delta(q, k, v, a, e):\n"
            "    erased = e[..., None, None] * k[..., :, None] * k[..., None, :]\n"
            "    decay = a[..., None, None] * (torch.eye(k.shape[-1]) - erased)\n"
            "    write = a[..., None, None] * e[..., None, None] * k[..., :, None] * v[..., None, :]\n"
            "    return remember(decay, write, q)\n",
            r"what is written does not fade",
        ),
    ],
    "lstm": [
        (
            "def lstm(drive, U):\n"
            "    h = c = drive.new_zeros(U.shape[1])\n"
            "    outputs = []\n"
            "    for word in drive:\n"
            "        i, f, g, o = word.chunk(4)\n"
            "        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)\n"
            "        h = torch.sigmoid(o) * torch.tanh(c)\n"
            "        outputs.append(h)\n"
            "    return torch.stack(outputs)\n",
            r"your gates do not see h",
        ),
        (
            "def lstm(drive, U):\n"
            "    h = c = drive.new_zeros(U.shape[1])\n"
            "    outputs = []\n"
            "    for word in drive:\n"
            "        f, i, g, o = (word + U @ h).chunk(4)\n"
            "        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)\n"
            "        h = torch.sigmoid(o) * torch.tanh(c)\n"
            "        outputs.append(h)\n"
            "    return torch.stack(outputs)\n",
            r"in this order",
        ),
        (
            "def lstm(drive, U):\n"
            "    h = c = drive.new_zeros(U.shape[1])\n"
            "    outputs = []\n"
            "    for word in drive:\n"
            "        i, f, g, o = (word + U @ h).chunk(4)\n"
            "        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)\n"
            "        h = torch.sigmoid(o) * torch.tanh(c)\n"
            "        outputs.append(c)\n"
            "    return torch.stack(outputs)\n",
            r"the outputs are h",
        ),
        (
            "def lstm(drive, U):\n"
            "    h = c = drive.new_zeros(U.shape[1])\n"
            "    outputs = []\n"
            "    for word in drive:\n"
            "        i, f, g, o = (word + U @ c).chunk(4)\n"
            "        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)\n"
            "        h = torch.sigmoid(o) * torch.tanh(c)\n"
            "        outputs.append(h)\n"
            "    return torch.stack(outputs)\n",
            r"your gates read the cells",
        ),
        (
            "def lstm(drive, U):\n"
            "    h = c = drive.new_zeros(U.shape[1])\n"
            "    outputs = []\n"
            "    for word in drive:\n"
            "        i, f, o, g = (word + U @ h).chunk(4)\n"
            "        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)\n"
            "        h = torch.sigmoid(o) * torch.tanh(c)\n"
            "        outputs.append(h)\n"
            "    return torch.stack(outputs)\n",
            r"g comes third",
        ),
        (
            "def lstm(drive, U):\n"
            "    h = c = drive.new_zeros(U.shape[1])\n"
            "    outputs = []\n"
            "    for word in drive:\n"
            "        i, f, g, o = (word + U @ h).chunk(4)\n"
            "        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.sigmoid(g)\n"
            "        h = torch.sigmoid(o) * torch.tanh(c)\n"
            "        outputs.append(h)\n"
            "    return torch.stack(outputs)\n",
            r"not through sigmoid",
        ),
    ],
    "by_halves": [
        (
            "def by_halves(decay, write):\n"
            "    reach = 1\n"
            "    if reach < len(write):\n"
            "        write_before = F.pad(write[:-reach], (0, 0, reach, 0))\n"
            "        decay_before = F.pad(decay[:-reach], (0, 0, reach, 0), value=1.0)\n"
            "        write = write + decay * write_before\n"
            "        decay = decay * decay_before\n"
            "        reach = 2 * reach\n"
            "    return write\n",
            r"double the reach",
        ),
        ("def by_halves(decay, write):\n    return write.cumsum(0)\n", r"nothing decays"),
        (
            "def by_halves(decay, write):\n"
            "    reach = 1\n"
            "    while reach < len(write):\n"
            "        write_before = F.pad(write[:-reach], (0, 0, reach, 0))\n"
            "        decay_before = F.pad(decay[:-reach], (0, 0, reach, 0), value=1.0)\n"
            "        write = write + decay * write_before\n"
            "        reach = 2 * reach\n"
            "    return write\n",
            r"the product of both",
        ),
        (
            "def by_halves(decay, write):\n"
            "    reach = 1\n"
            "    while 2 * reach < len(write):\n"
            "        write_before = F.pad(write[:-reach], (0, 0, reach, 0))\n"
            "        decay_before = F.pad(decay[:-reach], (0, 0, reach, 0), value=1.0)\n"
            "        write = write + decay * write_before\n"
            "        decay = decay * decay_before\n"
            "        reach = 2 * reach\n"
            "    return write\n",
            r"one round is missing",
        ),
        (
            "def by_halves(decay, write):\n"
            "    reach = 1\n"
            "    while reach < len(write):\n"
            "        write_before = F.pad(write[:-reach], (0, 0, reach, 0))\n"
            "        decay_before = F.pad(decay[:-reach], (0, 0, reach, 0), value=1.0)\n"
            "        decay = decay * decay_before\n"
            "        write = write + decay * write_before\n"
            "        reach = 2 * reach\n"
            "    return write\n",
            r"renew the decay last",
        ),
    ],
    "guessed": [
        (
            "def guessed(drive, U, rounds):\n"
            "    h = drive.new_zeros(len(drive), U.shape[1])\n"
            "    for _ in range(rounds):\n"
            "        before = h\n"
            "        i, f, g, o = (drive + before @ U.T).chunk(4, -1)\n"
            "        c = by_halves(torch.sigmoid(f), torch.sigmoid(i) * torch.tanh(g))\n"
            "        h = torch.sigmoid(o) * torch.tanh(c)\n"
            "    return h\n",
            r"words read their own h",
        ),
        (
            "def guessed(drive, U, rounds):\n"
            "    h = drive.new_zeros(len(drive), U.shape[1])\n"
            "    for _ in range(rounds + 1):\n"
            "        before = F.pad(h[:-1], (0, 0, 1, 0))\n"
            "        i, f, g, o = (drive + before @ U.T).chunk(4, -1)\n"
            "        c = by_halves(torch.sigmoid(f), torch.sigmoid(i) * torch.tanh(g))\n"
            "        h = torch.sigmoid(o) * torch.tanh(c)\n"
            "    return h\n",
            r"one round too many",
        ),
        (
            "def guessed(drive, U, rounds):\n"
            "    h = drive.new_zeros(len(drive), U.shape[1])\n"
            "    for _ in range(rounds):\n"
            "        h = drive.new_zeros(len(drive), U.shape[1])\n"
            "        before = F.pad(h[:-1], (0, 0, 1, 0))\n"
            "        i, f, g, o = (drive + before @ U.T).chunk(4, -1)\n"
            "        c = by_halves(torch.sigmoid(f), torch.sigmoid(i) * torch.tanh(g))\n"
            "        h = torch.sigmoid(o) * torch.tanh(c)\n"
            "    return h\n",
            r"hand h on",
        ),
        (
            "def guessed(drive, U, rounds):\n"
            "    h = drive.new_zeros(len(drive), U.shape[1])\n"
            "    for _ in range(rounds - 1):\n"
            "        before = F.pad(h[:-1], (0, 0, 1, 0))\n"
            "        i, f, g, o = (drive + before @ U.T).chunk(4, -1)\n"
            "        c = by_halves(torch.sigmoid(f), torch.sigmoid(i) * torch.tanh(g))\n"
            "        h = torch.sigmoid(o) * torch.tanh(c)\n"
            "    return h\n",
            r"one round too few",
        ),
        (
            "def guessed(drive, U, rounds):\n"
            "    h = drive.new_zeros(len(drive), U.shape[1])\n"
            "    for _ in range(rounds):\n"
            "        before = h.roll(1, 0)\n"
            "        i, f, g, o = (drive + before @ U.T).chunk(4, -1)\n"
            "        c = by_halves(torch.sigmoid(f), torch.sigmoid(i) * torch.tanh(g))\n"
            "        h = torch.sigmoid(o) * torch.tanh(c)\n"
            "    return h\n",
            r"not that of the last word",
        ),
    ],
}
