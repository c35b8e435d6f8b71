"""Wrong answers to lesson 03: the source that replaces the stub, and the hint it must get."""

WRONG = {
    "constant_scale": [
        (
            "def constant_scale(x, eps=1e-5):  # the norm as it is\n"
            "    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)\n",
            r"the relevance of each vector sums to 0; detach the scale",
        ),
        (
            "def constant_scale(x, eps=1e-5):  # detaches everything\n"
            "    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)).detach()\n",
            r"no gradient reaches x",
        ),
        (
            "def constant_scale(x, eps=1e-5):  # the wrong factor is constant\n"
            "    return x.detach() * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)\n",
            r"does not sum to what comes out",
        ),
        (
            "def constant_scale(x, eps=1e-5):  # LayerNorm's scale\n"
            "    x = x - x.mean(-1, keepdim=True)\n"
            "    return x / x.square().mean(-1, keepdim=True).sqrt().detach()\n",
            r"you subtract the mean",
        ),
        (
            "def constant_scale(x, eps=1e-5):  # the length instead of the root mean square\n"
            "    return x / x.norm(dim=-1, keepdim=True).detach()\n",
            r"divide by the length of x",
        ),
        (
            "def constant_scale(x, eps=1e-5):  # no eps\n"
            "    return x * torch.rsqrt(x.square().mean(-1, keepdim=True)).detach()\n",
            r"you leave out `eps`",
        ),
    ],
    "identity_rule": [
        (
            "def identity_rule(x, y):  # nothing is constant\n"
            "    return x * torch.where(x == 0, 0.0, y / x)\n",
            r"GELU's own derivative; .* detach it",
        ),
        ("def identity_rule(x, y):  # the output as it was\n    return y\n", r"GELU's own derivative"),
        (
            "def identity_rule(x, y):  # divides by zero\n    return x * (y / x).detach()\n",
            r"you divide 0 by 0 and get nan",
        ),
        (
            "def identity_rule(x, y):  # the slope alone\n"
            "    return torch.where(x == 0, 0.0, y / x).detach()\n",
            r"the values must stay those of y",
        ),
        (
            "def identity_rule(x, y):  # straight through: the slope is 1\n"
            "    return x + (y - x).detach()\n",
            r"x times the slope must be y",
        ),
    ],
    "keep_shares": [
        (
            "def keep_shares(qkv, shares, heads):  # the numbers shrink\n"
            "    parts = qkv.unflatten(-1, (heads, 3, -1))\n"
            "    return (parts * torch.tensor(shares)[:, None]).flatten(-3)\n",
            r"the numbers must stay",
        ),
        (
            "def keep_shares(qkv, shares, heads):  # thirds of the whole, not of each head\n"
            "    parts = qkv.unflatten(-1, (3, -1))\n"
            "    share = torch.tensor(shares)[:, None]\n"
            "    return (parts * share + (parts * (1 - share)).detach()).flatten(-2)\n",
            r"head after head",
        ),
        (
            "def keep_shares(qkv, shares, heads):  # detaches the share\n"
            "    parts = qkv.unflatten(-1, (heads, 3, -1))\n"
            "    share = torch.tensor(shares)[:, None]\n"
            "    return ((parts * share).detach() + parts * (1 - share)).flatten(-3)\n",
            r"for what is detached",
        ),
    ],
    "explain_by_edits": [
        (
            "def explain_by_edits(model, case):  # no rule at all\n"
            "    with torch.enable_grad(), model.trace(case.prompt):\n"
            "        words = model.residual(0)\n"
            "        f = contrast(model, case)\n"
            "        with f.backward():\n"
            "            gradient = words.grad.save()\n"
            "        found = (words * gradient).sum(-1)[0].detach().save()\n"
            "    return found\n",
            r"gradient x input",
        ),
        (
            "def explain_by_edits(model, case):  # no rule for the activation\n"
            "    with torch.enable_grad(), model.trace(case.prompt):\n"
            "        words = model.residual(0)\n"
            "        for block in model.blocks:\n"
            "            edit_norm(block.input_layernorm)\n"
            "            qkv, heads = block.attention.query_key_value, model.config.num_attention_heads\n"
            "            qkv.output = keep_shares(qkv.output, (1 / 4, 1 / 4, 1 / 2), heads)\n"
            "            edit_norm(block.post_attention_layernorm)\n"
            "        edit_norm(model.final_norm)\n"
            "        f = contrast(model, case)\n"
            "        with f.backward():\n"
            "            gradient = words.grad.save()\n"
            "        found = (words * gradient).sum(-1)[0].detach().save()\n"
            "    return found\n",
            r"rule 'activation' is missing",
        ),
        (
            "def explain_by_edits(model, case):  # the pattern is a constant\n"
            "    with torch.enable_grad(), model.trace(case.prompt):\n"
            "        words = model.residual(0)\n"
            "        for block in model.blocks:\n"
            "            edit_norm(block.input_layernorm)\n"
            "            qkv, heads = block.attention.query_key_value, model.config.num_attention_heads\n"
            "            qkv.output = keep_shares(qkv.output, (0, 0, 1), heads)\n"
            "            edit_norm(block.post_attention_layernorm)\n"
            "            act = block.mlp.act\n"
            "            act.output = identity_rule(act.input, act.output)\n"
            "        edit_norm(model.final_norm)\n"
            "        f = contrast(model, case)\n"
            "        with f.backward():\n"
            "            gradient = words.grad.save()\n"
            "        found = (words * gradient).sum(-1)[0].detach().save()\n"
            "    return found\n",
            r"this is CP-LRP",
        ),
        (
            "def explain_by_edits(model, case):  # the final norm as it was\n"
            "    with torch.enable_grad(), model.trace(case.prompt):\n"
            "        words = model.residual(0)\n"
            "        for block in model.blocks:\n"
            "            edit_norm(block.input_layernorm)\n"
            "            qkv, heads = block.attention.query_key_value, model.config.num_attention_heads\n"
            "            qkv.output = keep_shares(qkv.output, (1 / 4, 1 / 4, 1 / 2), heads)\n"
            "            edit_norm(block.post_attention_layernorm)\n"
            "            act = block.mlp.act\n"
            "            act.output = identity_rule(act.input, act.output)\n"
            "        f = contrast(model, case)\n"
            "        with f.backward():\n"
            "            gradient = words.grad.save()\n"
            "        found = (words * gradient).sum(-1)[0].detach().save()\n"
            "    return found\n",
            r"the final norm still has its own slope",
        ),
        (
            "def explain_by_edits(model, case):  # half, half, half\n"
            "    with torch.enable_grad(), model.trace(case.prompt):\n"
            "        words = model.residual(0)\n"
            "        for block in model.blocks:\n"
            "            edit_norm(block.input_layernorm)\n"
            "            qkv, heads = block.attention.query_key_value, model.config.num_attention_heads\n"
            "            qkv.output = keep_shares(qkv.output, (1 / 2, 1 / 2, 1 / 2), heads)\n"
            "            edit_norm(block.post_attention_layernorm)\n"
            "            act = block.mlp.act\n"
            "            act.output = identity_rule(act.input, act.output)\n"
            "        edit_norm(model.final_norm)\n"
            "        f = contrast(model, case)\n"
            "        with f.backward():\n"
            "            gradient = words.grad.save()\n"
            "        found = (words * gradient).sum(-1)[0].detach().save()\n"
            "    return found\n",
            r"q and k keep a quarter each",
        ),
        (
            "def explain_by_edits(model, case):  # the gradient\n"
            "    with torch.enable_grad(), model.trace(case.prompt):\n"
            "        words = model.residual(0)\n"
            "        for block in model.blocks:\n"
            "            edit_norm(block.input_layernorm)\n"
            "            qkv, heads = block.attention.query_key_value, model.config.num_attention_heads\n"
            "            qkv.output = keep_shares(qkv.output, (1 / 4, 1 / 4, 1 / 2), heads)\n"
            "            edit_norm(block.post_attention_layernorm)\n"
            "            act = block.mlp.act\n"
            "            act.output = identity_rule(act.input, act.output)\n"
            "        edit_norm(model.final_norm)\n"
            "        f = contrast(model, case)\n"
            "        with f.backward():\n"
            "            gradient = words.grad.save()\n"
            "        found = gradient.sum(-1)[0].detach().save()\n"
            "    return found\n",
            r"this is the gradient alone",
        ),
        (
            "def explain_by_edits(model, case):  # the answer's logit\n"
            "    with torch.enable_grad(), model.trace(case.prompt):\n"
            "        words = model.residual(0)\n"
            "        for block in model.blocks:\n"
            "            edit_norm(block.input_layernorm)\n"
            "            qkv, heads = block.attention.query_key_value, model.config.num_attention_heads\n"
            "            qkv.output = keep_shares(qkv.output, (1 / 4, 1 / 4, 1 / 2), heads)\n"
            "            edit_norm(block.post_attention_layernorm)\n"
            "            act = block.mlp.act\n"
            "            act.output = identity_rule(act.input, act.output)\n"
            "        edit_norm(model.final_norm)\n"
            "        f = model.logits[0, -1, reading.token_ids(model, [case.answer])[0]]\n"
            "        with f.backward():\n"
            "            gradient = words.grad.save()\n"
            "        found = (words * gradient).sum(-1)[0].detach().save()\n"
            "    return found\n",
            r"the answer's logit alone",
        ),
    ],
    "books": [
        (
            "def books(f, words, biases, patterns=()):  # gradients alone\n"
            "    own, *slopes = torch.autograd.grad(f, [words, *biases, *patterns], allow_unused=True)\n"
            "    return own.sum(-1), sum(s.sum().item() for s in slopes if s is not None), 0.0\n",
            r"multiply each by its vector",
        ),
        (
            "def books(f, words, biases, patterns=()):  # slopes of biases alone\n"
            "    own, *slopes = torch.autograd.grad(f, [words, *biases, *patterns], allow_unused=True)\n"
            "    owed = sum(s.sum().item() for s in slopes[: len(biases)] if s is not None)\n"
            "    return (words * own).sum(-1).detach(), owed, 0.0\n",
            r"multiply its slope by the bias",
        ),
        (
            "def books(f, words, biases, patterns=()):  # one bias\n"
            "    own, of_bias = torch.autograd.grad(f, [words, biases[0]])\n"
            "    return (words * own).sum(-1).detach(), (biases[0] * of_bias).sum().item(), 0.0\n",
            r"only the first bias",
        ),
        (
            "def books(f, words, biases, patterns=()):  # no leak\n"
            "    own, *slopes = torch.autograd.grad(f, [words, *biases, *patterns], allow_unused=True)\n"
            "    owed = sum((b * s).sum().item() for b, s in zip(biases, slopes) if s is not None)\n"
            "    return (words * own).sum(-1).detach(), owed\n",
            r"expected three things",
        ),
        (
            "def books(f, words, biases, patterns=()):  # the whole slope counts\n"
            "    own, *slopes = torch.autograd.grad(f, [words, *biases, *patterns], allow_unused=True)\n"
            "    owed = sum((b * s).sum().item() for b, s in zip(biases, slopes) if s is not None)\n"
            "    shares, leak = (words * own).sum(-1).detach(), 0.0\n"
            "    for A, slope in zip(patterns, slopes[len(biases):]):\n"
            "        dx = A * (slope - (A * slope).sum(-1, keepdim=True))\n"
            "        leak += (A * slope - torch.xlogy(dx, A)).sum().item()\n"
            "    return shares, owed, leak\n",
            r"only half of the slope counts",
        ),
        (
            "def books(f, words, biases, patterns=()):  # the logarithm of 0\n"
            "    own, *slopes = torch.autograd.grad(f, [words, *biases, *patterns], allow_unused=True)\n"
            "    owed = sum((b * s).sum().item() for b, s in zip(biases, slopes) if s is not None)\n"
            "    shares, leak = (words * own).sum(-1).detach(), 0.0\n"
            "    for A, slope in zip(patterns, slopes[len(biases):]):\n"
            "        g = slope / 2\n"
            "        dx = A * (g - (A * g).sum(-1, keepdim=True))\n"
            "        leak += (A * g - dx * A.log()).sum().item()\n"
            "    return shares, owed, leak\n",
            r"torch.xlogy",
        ),
        (
            "def books(f, words, biases, patterns=()):  # all that the weights hand on\n"
            "    own, *slopes = torch.autograd.grad(f, [words, *biases, *patterns], allow_unused=True)\n"
            "    owed = sum((b * s).sum().item() for b, s in zip(biases, slopes) if s is not None)\n"
            "    shares, leak = (words * own).sum(-1).detach(), 0.0\n"
            "    for A, slope in zip(patterns, slopes[len(biases):]):\n"
            "        leak += (A * slope / 2).sum().item()\n"
            "    return shares, owed, leak\n",
            r"take off what the scores receive",
        ),
        (
            "def books(f, words, biases, patterns=()):  # the derivative without its sum\n"
            "    own, *slopes = torch.autograd.grad(f, [words, *biases, *patterns], allow_unused=True)\n"
            "    owed = sum((b * s).sum().item() for b, s in zip(biases, slopes) if s is not None)\n"
            "    shares, leak = (words * own).sum(-1).detach(), 0.0\n"
            "    for A, slope in zip(patterns, slopes[len(biases):]):\n"
            "        g = slope / 2\n"
            "        leak += (A * g - torch.xlogy(A * g, A)).sum().item()\n"
            "    return shares, owed, leak\n",
            r"lacks the sum over its row",
        ),
        (
            "def books(f, words, biases, patterns=()):  # the last pattern alone\n"
            "    own, *slopes = torch.autograd.grad(f, [words, *biases, *patterns], allow_unused=True)\n"
            "    owed = sum((b * s).sum().item() for b, s in zip(biases, slopes) if s is not None)\n"
            "    shares, leak = (words * own).sum(-1).detach(), 0.0\n"
            "    for A, slope in zip(patterns, slopes[len(biases):]):\n"
            "        g = slope / 2\n"
            "        dx = A * (g - (A * g).sum(-1, keepdim=True))\n"
            "        leak = (A * g - torch.xlogy(dx, A)).sum().item()\n"
            "    return shares, owed, leak\n",
            r"only one pattern",
        ),
    ],
    "detach_six": [
        (
            "def detach_six(block, mixer):  # the gate is a constant\n"
            "    hold(block.norm.source.torch_rsqrt_0)\n"
            "    _ = mixer.source\n"
            '    act = scan.tap(mixer, "silu")\n'
            "    act.output = identity_rule(act.input, act.output)\n"
            '    for part in ("discrete_A", "discrete_B", "read", "gate"):\n'
            "        hold(scan.tap(mixer, part))\n",
            r"this is gate-detach",
        ),
        (
            "def detach_six(block, mixer):  # the scan keeps its whole gradient\n"
            "    hold(block.norm.source.torch_rsqrt_0)\n"
            "    _ = mixer.source\n"
            "    z = mixer.in_proj.output.mT.chunk(2, dim=1)[1]\n"
            '    act = scan.tap(mixer, "silu")\n'
            "    act.output = identity_rule(act.input, act.output)\n"
            '    gate, gated = scan.tap(mixer, "gate"), scan.tap(mixer, "gated")\n'
            "    gate.output = identity_rule(z, gate.output)\n"
            "    gated.output = (gated.output + gated.output.detach()) / 2\n",
            r"rule 'scan' is missing",
        ),
        (
            "def detach_six(block, mixer):  # the product is not halved\n"
            "    hold(block.norm.source.torch_rsqrt_0)\n"
            "    _ = mixer.source\n"
            "    z = mixer.in_proj.output.mT.chunk(2, dim=1)[1]\n"
            '    act = scan.tap(mixer, "silu")\n'
            "    act.output = identity_rule(act.input, act.output)\n"
            '    for part in ("discrete_A", "discrete_B", "read"):\n'
            "        hold(scan.tap(mixer, part))\n"
            '    gate = scan.tap(mixer, "gate")\n'
            "    gate.output = identity_rule(z, gate.output)\n",
            r"rule 'gate' is missing",
        ),
        (
            "def detach_six(block, mixer):  # C passes on a gradient\n"
            "    hold(block.norm.source.torch_rsqrt_0)\n"
            "    _ = mixer.source\n"
            "    z = mixer.in_proj.output.mT.chunk(2, dim=1)[1]\n"
            '    act = scan.tap(mixer, "silu")\n'
            "    act.output = identity_rule(act.input, act.output)\n"
            '    for part in ("discrete_A", "discrete_B"):\n'
            "        hold(scan.tap(mixer, part))\n"
            '    gate, gated = scan.tap(mixer, "gate"), scan.tap(mixer, "gated")\n'
            "    gate.output = identity_rule(z, gate.output)\n"
            "    gated.output = (gated.output + gated.output.detach()) / 2\n",
            r"'read', which is C",
        ),
        (
            "def detach_six(block, mixer):  # the gate's SiLU as it was\n"
            "    hold(block.norm.source.torch_rsqrt_0)\n"
            "    _ = mixer.source\n"
            "    z = mixer.in_proj.output.mT.chunk(2, dim=1)[1]\n"
            '    act = scan.tap(mixer, "silu")\n'
            "    act.output = identity_rule(act.input, act.output)\n"
            '    for part in ("discrete_A", "discrete_B", "read"):\n'
            "        hold(scan.tap(mixer, part))\n"
            '    gate, gated = scan.tap(mixer, "gate"), scan.tap(mixer, "gated")\n'
            "    gated.output = (gated.output + gated.output.detach()) / 2\n",
            r"the gate's SiLU, 'gate'",
        ),
    ],
    "leave_one_out": [
        (
            "def leave_one_out(embeddings, score, baseline):  # words stay out\n"
            "    changed, without = embeddings.clone(), []\n"
            "    for at in range(len(embeddings)):\n"
            "        changed[at] = baseline\n"
            "        without.append(changed.clone())\n"
            "    return score(embeddings[None]) - score(torch.stack(without))\n",
            r"stay out",
        ),
        (
            "def leave_one_out(embeddings, score, baseline):  # the wrong sign\n"
            "    without = embeddings.repeat(len(embeddings), 1, 1)\n"
            "    for at in range(len(embeddings)):\n"
            "        without[at, at] = baseline\n"
            "    return score(without) - score(embeddings[None])\n",
            r"the sign is turned",
        ),
        (
            "def leave_one_out(embeddings, score, baseline):  # one prompt at a time, without its axis\n"
            "    without = []\n"
            "    for at in range(len(embeddings)):\n"
            "        changed = embeddings.clone()\n"
            "        changed[at] = baseline\n"
            "        without.append(score(changed))\n"
            "    return score(embeddings) - torch.stack(without)\n",
            r"score reads \[variant pos d_model\]",
        ),
    ],
    "removal_curves": [
        (
            "def removal_curves(embeddings, relevance, score, baseline):  # the last word goes too\n"
            "    curves = []\n"
            "    for sign in (1, -1):\n"
            "        rows = [embeddings]\n"
            "        for at in (sign * relevance).argsort(descending=True):\n"
            "            rows.append(rows[-1].clone())\n"
            "            rows[-1][at] = baseline\n"
            "        curves.append(score(torch.stack(rows)))\n"
            "    most, least = curves\n"
            "    return most, least, (least - most).mean()\n",
            r"you remove the last word",
        ),
        (
            "def removal_curves(embeddings, relevance, score, baseline):  # least relevant first\n"
            "    curves = []\n"
            "    for sign in (-1, 1):\n"
            "        rows = [embeddings]\n"
            "        for at in (sign * relevance[:-1]).argsort(descending=True):\n"
            "            rows.append(rows[-1].clone())\n"
            "            rows[-1][at] = baseline\n"
            "        curves.append(score(torch.stack(rows)))\n"
            "    most, least = curves\n"
            "    return most, least, (least - most).mean()\n",
            r"the curves are exchanged",
        ),
        (
            "def removal_curves(embeddings, relevance, score, baseline):  # one order twice\n"
            "    curves = []\n"
            "    for sign in (1, 1):\n"
            "        rows = [embeddings]\n"
            "        for at in (sign * relevance[:-1]).argsort(descending=True):\n"
            "            rows.append(rows[-1].clone())\n"
            "            rows[-1][at] = baseline\n"
            "        curves.append(score(torch.stack(rows)))\n"
            "    most, least = curves\n"
            "    return most, least, (least - most).mean()\n",
            r"both curves remove the most relevant",
        ),
        (
            "def removal_curves(embeddings, relevance, score, baseline):  # by size\n"
            "    curves = []\n"
            "    for sign in (1, -1):\n"
            "        rows = [embeddings]\n"
            "        for at in (sign * relevance[:-1].abs()).argsort(descending=True):\n"
            "            rows.append(rows[-1].clone())\n"
            "            rows[-1][at] = baseline\n"
            "        curves.append(score(torch.stack(rows)))\n"
            "    most, least = curves\n"
            "    return most, least, (least - most).mean()\n",
            r"you go by the size of the relevance",
        ),
        (
            "def removal_curves(embeddings, relevance, score, baseline):  # every word comes back\n"
            "    curves = []\n"
            "    for sign in (1, -1):\n"
            "        rows = [embeddings]\n"
            "        for at in (sign * relevance[:-1]).argsort(descending=True):\n"
            "            rows.append(embeddings.clone())\n"
            "            rows[-1][at] = baseline\n"
            "        curves.append(score(torch.stack(rows)))\n"
            "    most, least = curves\n"
            "    return most, least, (least - most).mean()\n",
            r"words that are removed stay removed",
        ),
        (
            "def removal_curves(embeddings, relevance, score, baseline):  # in place\n"
            "    curves = []\n"
            "    for sign in (1, -1):\n"
            "        rows = [embeddings]\n"
            "        for at in (sign * relevance[:-1]).argsort(descending=True):\n"
            "            rows.append(rows[-1])\n"
            "            rows[-1][at] = baseline\n"
            "        curves.append(score(torch.stack(rows)))\n"
            "    most, least = curves\n"
            "    return most, least, (least - most).mean()\n",
            r"work on a clone",
        ),
        (
            "def removal_curves(embeddings, relevance, score, baseline):  # the gap turned round\n"
            "    curves = []\n"
            "    for sign in (1, -1):\n"
            "        rows = [embeddings]\n"
            "        for at in (sign * relevance[:-1]).argsort(descending=True):\n"
            "            rows.append(rows[-1].clone())\n"
            "            rows[-1][at] = baseline\n"
            "        curves.append(score(torch.stack(rows)))\n"
            "    most, least = curves\n"
            "    return most, least, (most - least).mean()\n",
            r"the gap is turned",
        ),
    ],
}
