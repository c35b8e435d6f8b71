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
    "logit_lens": [
        (
            "def logit_lens(model, text):  # no norm\n"
            "    with model.trace(text):\n"
            "        states = []\n"
            "        for k in range(model.n_layers + 1):\n"
            "            states.append(model.residual(k)[0])\n"
            "        states = torch.stack(states).save()\n"
            "    return model.module('unembedding')(states).log_softmax(-1)\n",
            r"you leave out the final norm",
        ),
        (
            "def logit_lens(model, text):  # the last word only\n"
            "    with model.trace(text):\n"
            "        states = []\n"
            "        for k in range(model.n_layers + 1):\n"
            "            states.append(model.residual(k)[0, -1])\n"
            "        states = torch.stack(states).save()\n"
            "    return model.to_logits(states).log_softmax(-1)\n",
            r"you read the last word alone",
        ),
        (
            "def logit_lens(model, text):  # logits\n"
            "    with model.trace(text):\n"
            "        states = []\n"
            "        for k in range(model.n_layers + 1):\n"
            "            states.append(model.residual(k)[0])\n"
            "        states = torch.stack(states).save()\n"
            "    return model.to_logits(states)\n",
            r"these are logits",
        ),
        (
            "def logit_lens(model, text):  # no embedding\n"
            "    with model.trace(text):\n"
            "        states = []\n"
            "        for k in range(1, model.n_layers + 1):\n"
            "            states.append(model.residual(k)[0])\n"
            "        states = torch.stack(states).save()\n"
            "    return model.to_logits(states).log_softmax(-1)\n",
            r"expected log-probabilities \[k pos vocab\] of shape .*the embedding first",
        ),
    ],
    "divergence": [
        (
            "def divergence(log_p, log_q):  # weighed by the lens\n"
            "    return (log_q.exp() * (log_p - log_q)).sum(-1).mean(-1)\n",
            r"you weigh with the lens's q",
        ),
        (
            "def divergence(log_p, log_q):  # the other way round\n"
            "    return (log_q.exp() * (log_q - log_p)).sum(-1).mean(-1)\n",
            r"this is KL\(q \|\| p\)",
        ),
        (
            "def divergence(log_p, log_q):  # averages over the vocabulary\n"
            "    return (log_p.exp() * (log_p - log_q)).mean((1, 2))\n",
            r"sum over the vocabulary first",
        ),
        (
            "def divergence(log_p, log_q):  # no entropy\n"
            "    return -(log_p.exp() * log_q).sum(-1).mean(-1)\n",
            r"this is the cross-entropy",
        ),
    ],
    "train": [
        (
            "def train(model, source, steps, rate=0.01):  # the same words in every step\n"
            "    start = lenses.logit_lens(model)\n"
            "    A, b = start.A.requires_grad_(), start.b.requires_grad_()\n"
            "    optimiser = torch.optim.Adam([A, b], lr=rate)\n"
            "    for step in range(steps):\n"
            "        with torch.enable_grad():\n"
            "            kl = lenses.divergence(model, lenses.Lens(A, b), source(0))\n"
            "            optimiser.zero_grad()\n"
            "            kl.sum().backward()\n"
            "        optimiser.step()\n"
            "    return lenses.Lens(A.detach(), b.detach())\n",
            r"every step learns from the same words",
        ),
        (
            "def train(model, source, steps, rate=0.01):  # gradients add up\n"
            "    start = lenses.logit_lens(model)\n"
            "    A, b = start.A.requires_grad_(), start.b.requires_grad_()\n"
            "    optimiser = torch.optim.Adam([A, b], lr=rate)\n"
            "    for step in range(steps):\n"
            "        with torch.enable_grad():\n"
            "            kl = lenses.divergence(model, lenses.Lens(A, b), source(step))\n"
            "            kl.sum().backward()\n"
            "        optimiser.step()\n"
            "    return lenses.Lens(A.detach(), b.detach())\n",
            r"gradients add up",
        ),
        (
            "def train(model, source, steps, rate=0.01):  # gradients of the mean add up\n"
            "    start = lenses.logit_lens(model)\n"
            "    A, b = start.A.requires_grad_(), start.b.requires_grad_()\n"
            "    optimiser = torch.optim.Adam([A, b], lr=rate)\n"
            "    for step in range(steps):\n"
            "        with torch.enable_grad():\n"
            "            kl = lenses.divergence(model, lenses.Lens(A, b), source(step))\n"
            "            kl.mean().backward()\n"
            "        optimiser.step()\n"
            "    return lenses.Lens(A.detach(), b.detach())\n",
            r"gradients add up",
        ),
        (
            "def train(model, source, steps, rate=0.01):  # never steps\n"
            "    start = lenses.logit_lens(model)\n"
            "    A, b = start.A.requires_grad_(), start.b.requires_grad_()\n"
            "    for step in range(steps):\n"
            "        with torch.enable_grad():\n"
            "            lenses.divergence(model, lenses.Lens(A, b), source(step)).sum().backward()\n"
            "    return lenses.Lens(A.detach(), b.detach())\n",
            r"A is still zero",
        ),
        (
            "def train(model, source, steps, rate=0.01):  # up the gradient\n"
            "    start = lenses.logit_lens(model)\n"
            "    A, b = start.A.requires_grad_(), start.b.requires_grad_()\n"
            "    optimiser = torch.optim.Adam([A, b], lr=rate, maximize=True)\n"
            "    for step in range(steps):\n"
            "        with torch.enable_grad():\n"
            "            kl = lenses.divergence(model, lenses.Lens(A, b), source(step))\n"
            "            optimiser.zero_grad()\n"
            "            kl.sum().backward()\n"
            "        optimiser.step()\n"
            "    return lenses.Lens(A.detach(), b.detach())\n",
            r"the divergence does not fall",
        ),
        (
            "def train(model, source, steps, rate=0.01):  # only the matrices\n"
            "    start = lenses.logit_lens(model)\n"
            "    A = start.A.requires_grad_()\n"
            "    optimiser = torch.optim.Adam([A], lr=rate)\n"
            "    for step in range(steps):\n"
            "        with torch.enable_grad():\n"
            "            kl = lenses.divergence(model, lenses.Lens(A, start.b), source(step))\n"
            "            optimiser.zero_grad()\n"
            "            kl.sum().backward()\n"
            "        optimiser.step()\n"
            "    return lenses.Lens(A.detach(), start.b)\n",
            r"b is still zero",
        ),
    ],
    "costs": [
        (
            "def costs(model, lens, ids):  # the word that was read\n"
            "    read = torch.ones_like(ids[None]).bool()\n"
            "    log_q = model.to_logits(lens.translate(lenses.residuals(model, ids[None], read)))\n"
            "    log_q = log_q.log_softmax(-1)\n"
            "    cost = -log_q.gather(-1, ids.expand(len(log_q), -1)[..., None]).sum((1, 2))\n"
            "    return cost, -(log_q.exp() * log_q).sum((1, 2))\n",
            r"you score the word that was read",
        ),
        (
            "def costs(model, lens, ids):  # no translator\n"
            "    read = torch.ones_like(ids[None]).bool()\n"
            "    states = lenses.residuals(model, ids[None], read)[:, :-1]\n"
            "    log_q = model.to_logits(states).log_softmax(-1)\n"
            "    cost = -log_q.gather(-1, ids[1:].expand(len(log_q), -1)[..., None]).sum((1, 2))\n"
            "    return cost, -(log_q.exp() * log_q).sum((1, 2))\n",
            r"you leave out the translators",
        ),
        (
            "def costs(model, lens, ids):  # a mean\n"
            "    read = torch.ones_like(ids[None]).bool()\n"
            "    states = lens.translate(lenses.residuals(model, ids[None], read)[:, :-1])\n"
            "    log_q = model.to_logits(states).log_softmax(-1)\n"
            "    cost = -log_q.gather(-1, ids[1:].expand(len(log_q), -1)[..., None]).mean((1, 2))\n"
            "    return cost, -(log_q.exp() * log_q).sum(-1).mean(1)\n",
            r"you average over words",
        ),
        (
            "def costs(model, lens, ids):  # the last word's entropy too\n"
            "    read = torch.ones_like(ids[None]).bool()\n"
            "    states = lens.translate(lenses.residuals(model, ids[None], read))\n"
            "    log_q = model.to_logits(states).log_softmax(-1)\n"
            "    following = ids[1:].expand(len(log_q), -1)[..., None]\n"
            "    cost = -log_q[:, :-1].gather(-1, following).sum((1, 2))\n"
            "    return cost, -(log_q.exp() * log_q).sum((1, 2))\n",
            r"its entropy does not count",
        ),
    ],
    "shuffled": [
        (
            "def shuffled(source):  # all depths move together\n"
            "    def pick(step):\n"
            "        states = source(step)\n"
            "        return states[:, torch.randperm(states.shape[1])]\n"
            "    return pick\n",
            r"you move all depths together",
        ),
        ("def shuffled(source):  # nothing\n    return source\n", r"nothing is shuffled"),
        (
            "def shuffled(source):  # with replacement\n"
            "    def pick(step):\n"
            "        states = source(step)\n"
            "        order = torch.randint(states.shape[1], (states.shape[1],))\n"
            "        return torch.cat([states[:-1], states[-1:, order]])\n"
            "    return pick\n",
            r"must occur once",
        ),
        (
            "def shuffled(source):  # numbers within a state\n"
            "    def pick(step):\n"
            "        states = source(step)\n"
            "        order = torch.randperm(states.shape[1])\n"
            "        return torch.cat([states[:1, order], states[1:]])\n"
            "    return pick\n",
            r"only the last depth may change",
        ),
    ],
    "cost_of_average": [
        (
            "def cost_of_average(model, source, texts):  # the mean of logarithms\n"
            "    last = torch.cat([source(step)[-1] for step in range(20)])\n"
            "    probs = model.to_logits(last).log_softmax(-1)\n"
            "    average = probs.mean(0)\n"
            "    cost = -average[texts.ids[:, 1:]]\n"
            "    return (cost * texts.counted[:, :-1]).sum(1)\n",
            r"average the chances",
        ),
        (
            "def cost_of_average(model, source, texts):  # padding counts\n"
            "    last = torch.cat([source(step)[-1] for step in range(20)])\n"
            "    probs = model.to_logits(last).log_softmax(-1)\n"
            "    average = probs.exp().mean(0).log()\n"
            "    cost = -average[texts.ids[:, 1:]]\n"
            "    return cost.sum(1)\n",
            r"padding counts in yours",
        ),
        (
            "def cost_of_average(model, source, texts):  # one step\n"
            "    last = torch.cat([source(0)[-1]])\n"
            "    probs = model.to_logits(last).log_softmax(-1)\n"
            "    average = probs.exp().mean(0).log()\n"
            "    cost = -average[texts.ids[:, 1:]]\n"
            "    return (cost * texts.counted[:, :-1]).sum(1)\n",
            r"take 20",
        ),
        (
            "def cost_of_average(model, source, texts):  # the word that was read\n"
            "    last = torch.cat([source(step)[-1] for step in range(20)])\n"
            "    probs = model.to_logits(last).log_softmax(-1)\n"
            "    average = probs.exp().mean(0).log()\n"
            "    cost = -average[texts.ids[:, :-1]]\n"
            "    return (cost * texts.counted[:, :-1]).sum(1)\n",
            r"what follows position i",
        ),
        (
            "def cost_of_average(model, source, texts):  # a mean\n"
            "    last = torch.cat([source(step)[-1] for step in range(20)])\n"
            "    probs = model.to_logits(last).log_softmax(-1)\n"
            "    average = probs.exp().mean(0).log()\n"
            "    cost = -average[texts.ids[:, 1:]]\n"
            "    return (cost * texts.counted[:, :-1]).sum(1) / texts.n_words\n",
            r"add them up",
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
    "layer_transfer": [
        (
            "def layer_transfer(cost, A, b, states):  # nothing subtracted\n"
            "    return torch.tensor([[float(cost(r + r @ m.T + c)) for r in states]\n"
            "                         for m, c in zip(A, b)])\n",
            r"subtract what depth j pays",
        ),
        (
            "def layer_transfer(cost, A, b, states):  # by rows\n"
            "    table = torch.tensor([[float(cost(r + r @ m.T + c)) for r in states]\n"
            "                          for m, c in zip(A, b)])\n"
            "    return table - table.diagonal()[:, None]\n",
            r"column j loses its own diagonal entry",
        ),
        (
            "def layer_transfer(cost, A, b, states):  # turned\n"
            "    table = torch.tensor([[float(cost(r + r @ m.T + c)) for r in states]\n"
            "                          for m, c in zip(A, b)])\n"
            "    return (table - table.diagonal()).T\n",
            r"rows are translators and columns depths",
        ),
        (
            "def layer_transfer(cost, A, b, states):  # no residual\n"
            "    table = torch.tensor([[float(cost(r @ m.T + c)) for r in states]\n"
            "                          for m, c in zip(A, b)])\n"
            "    return table - table.diagonal()\n",
            r"the translator adds to r",
        ),
    ],
}
