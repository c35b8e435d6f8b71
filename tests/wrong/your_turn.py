"""Wrong answers to lesson 12: the source that replaces the stub, and the hint it must get."""

WRONG = {
    "late_start": [
        (
            "def late_start(model, asked):  # the scores themselves\n"
            "    credit = torch.zeros(asked.ids.shape)\n"
            "    for t in range(asked.ids.shape[1]):\n"
            "        rows = asked.last >= t\n"
            "        part = asked[rows]\n"
            "        logits = model.hf(input_ids=part.ids[:, t:]).logits\n"
            "        credit[rows, t] = part.score(logits[torch.arange(len(part)), part.last - t])\n"
            "    return credit\n",
            r"these are the scores themselves",
        ),
        (
            "def late_start(model, asked):  # the sign is turned\n"
            "    credit, later = torch.zeros(asked.ids.shape), torch.zeros(len(asked))\n"
            "    for t in reversed(range(asked.ids.shape[1])):\n"
            "        rows = asked.last >= t\n"
            "        part = asked[rows]\n"
            "        logits = model.hf(input_ids=part.ids[:, t:]).logits\n"
            "        here = part.score(logits[torch.arange(len(part)), part.last - t])\n"
            "        credit[rows, t] = later[rows] - here\n"
            "        later[rows] = here\n"
            "    return credit\n",
            r"the sign is turned",
        ),
        (
            "def late_start(model, asked):  # reads out at the end of the padding\n"
            "    credit, later = torch.zeros(asked.ids.shape), torch.zeros(len(asked))\n"
            "    for t in reversed(range(asked.ids.shape[1])):\n"
            "        here = asked.score(model.hf(input_ids=asked.ids[:, t:]).logits[:, -1])\n"
            "        credit[:, t] = here - later\n"
            "        later = here\n"
            "    return credit\n",
            r"a prompt's score is read at its own last word",
        ),
        (
            "def late_start(model, asked):\n"
            "    credit, later = torch.zeros(asked.ids.shape), torch.zeros(len(asked))\n"
            "    for t in reversed(range(asked.ids.shape[1])):\n"
            "        rows = asked.last > t\n"
            "        if not rows.any():\n"
            "            continue\n"
            "        part = asked[rows]\n"
            "        logits = model.hf(input_ids=part.ids[:, t:]).logits\n"
            "        here = part.score(logits[torch.arange(len(part)), part.last - t])\n"
            "        credit[rows, t] = here - later[rows]\n"
            "        later[rows] = here\n"
            "    return credit\n",
            r"the last word has a credit, too",
        ),
        (
            "def late_start(model, asked):\n"
            "    credit, later = torch.zeros(asked.ids.shape), torch.zeros(len(asked))\n"
            "    for t in range(asked.ids.shape[1]):\n"
            "        rows = asked.last >= t\n"
            "        part = asked[rows]\n"
            "        logits = model.hf(input_ids=part.ids[:, t:]).logits\n"
            "        here = part.score(logits[torch.arange(len(part)), part.last - t])\n"
            "        credit[rows, t] = here - later[rows]\n"
            "        later[rows] = here\n"
            "    return credit\n",
            r"you subtract the start one word earlier",
        ),
    ],
    "conclude": [
        (
            "def conclude(score, control, basis, basis_control, better):  # no control\n"
            "    return verdict([score], [basis]).word\n",
            r"subtract each model's control first",
        ),
        (
            "def conclude(score, control, basis, basis_control, better):  # exchanged\n"
            "    own = effect_of(score, control, better)\n"
            "    theirs = effect_of(basis, basis_control, better)\n"
            "    return verdict([theirs], [own]).word\n",
            r"the two models are exchanged",
        ),
        (
            "def conclude(score, control, basis, basis_control, better):  # always higher\n"
            '    own = effect_of(score, control, "higher")\n'
            '    theirs = effect_of(basis, basis_control, "higher")\n'
            "    return verdict([own], [theirs]).word\n",
            r"lower is better",
        ),
        (
            "def conclude(score, control, basis, basis_control, better):\n"
            "    own = effect_of(score, control, better)\n"
            "    theirs = effect_of(basis, control, better)\n"
            "    return verdict([own], [theirs]).word\n",
            r"the Transformer has a control of its own",
        ),
        (
            "def conclude(score, control, basis, basis_control, better):\n"
            "    own = effect_of(control, score, better)\n"
            "    theirs = effect_of(basis_control, basis, better)\n"
            "    return verdict([own], [theirs]).word\n",
            r"a score first, and then its control",
        ),
    ],
}
