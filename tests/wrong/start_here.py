"""Wrong answers to lesson 00: the source that replaces the stub, and the hint it must get."""

WRONG = {
    "last_word": [
        (
            "def last_word(model, prompt):  # forgets that L blocks make L + 1 depths\n"
            "    with model.trace(prompt):\n"
            "        stream = [model.residual(k)[0, -1] for k in range(model.n_layers)].save()\n"
            "    return torch.stack(stream)\n",
            r"6 blocks, so 7 depths",
        ),
        (
            "def last_word(model, prompt):  # the first word instead of the last\n"
            "    with model.trace(prompt):\n"
            "        stream = [model.residual(k)[0, 0] for k in range(model.n_layers + 1)].save()\n"
            "    return torch.stack(stream)\n",
            r"vectors of the first word",
        ),
        (
            "def last_word(model, prompt):  # keeps every word\n"
            "    with model.trace(prompt):\n"
            "        stream = [model.residual(k)[0] for k in range(model.n_layers + 1)].save()\n"
            "    return torch.stack(stream)\n",
            r"of shape \(7, 128\).* its last word",
        ),
        (
            "def last_word(model, prompt):  # what the mixers add, not the stream\n"
            "    with model.trace(prompt):\n"
            "        added = [model.mixer_output(i)[0, -1] for i in range(model.n_layers)].save()\n"
            "    return torch.stack([added[0], *added])\n",
            r"what each block's mixer adds",
        ),
        (
            "def last_word(model, prompt):  # one depth too many\n"
            "    with model.trace(prompt):\n"
            "        stream = [model.residual(k)[0, -1] for k in range(model.n_layers + 2)].save()\n"
            "    return torch.stack(stream)\n",
            r"expected a depth k from 0 to 6",
        ),
    ],
    "transplant_at": [
        (
            "def transplant_at(model, source, target, k, positions):  # the last word, as before\n"
            "    with model.trace(source):\n"
            "        donor = model.residual(k)[:, -1].save()\n"
            "    with model.trace(target):\n"
            "        model.residual(k)[:, -1] = donor\n"
            "        logits = model.output.logits[0, -1].save()\n"
            "    return logits\n",
            r"you replace the last word",
        ),
        (
            "def transplant_at(model, source, target, k, positions):  # source and target exchanged\n"
            "    with model.trace(target):\n"
            "        donor = model.residual(k)[:, positions].save()\n"
            "    with model.trace(source):\n"
            "        model.residual(k)[:, positions] = donor\n"
            "        logits = model.output.logits[0, -1].save()\n"
            "    return logits\n",
            r"the roles are exchanged",
        ),
        (
            "def transplant_at(model, source, target, k, positions):  # edits a copy\n"
            "    with model.trace(source):\n"
            "        donor = model.residual(k)[:, positions].save()\n"
            "    with model.trace(target):\n"
            "        stream = model.residual(k).clone()\n"
            "        stream[:, positions] = donor\n"
            "        logits = model.output.logits[0, -1].save()\n"
            "    return logits\n",
            r"your edit changes nothing",
        ),
        (
            "def transplant_at(model, source, target, k, positions):  # every word at once\n"
            "    with model.trace(source):\n"
            "        donor = model.residual(k).save()\n"
            "    with model.trace(target):\n"
            "        model.set_residual(k, donor)\n"
            "        logits = model.output.logits[0, -1].save()\n"
            "    return logits\n",
            r"you replace the whole stream",
        ),
        (
            "def transplant_at(model, source, target, k, positions):  # keeps every position\n"
            "    with model.trace(source):\n"
            "        donor = model.residual(k)[:, positions].save()\n"
            "    with model.trace(target):\n"
            "        model.residual(k)[:, positions] = donor\n"
            "        logits = model.output.logits.save()\n"
            "    return logits\n",
            r"logits \[vocab\] of shape \(\d+,\)",
        ),
    ],
}
