"""Judging grammar by probability alone: surprisal by word, and minimal pairs in the format of BLiMP.

    bits = surprisal(model, ["The keys near the cabinet are old ."])     # one [pos] a text
    right = judge(model, published.read_blimp("file.jsonl"))             # [pair]

BLiMP: Warstadt et al. (2020, arXiv 1912.00582).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tft_utils.corpora import pairs as world_pairs
from tft_utils.corpora.published import MinimalPair
from tft_utils.reading import BATCH, ask, batches


@torch.no_grad()
def surprisal(model, texts: str | Sequence[str]) -> list[Tensor]:
    """-log2 p(token | the tokens before it) of every token, in bits: one [pos] a text.

    A text is read behind the end mark that separates documents. Errors: `ValueError` for a text with
    a word that the model does not have.
    """
    texts = [texts] if isinstance(texts, str) else texts
    start = model.tokenizer.eos_token_id
    rows = []
    for text in texts:
        row = model.tokenizer(text, add_special_tokens=False).input_ids
        unknown = model.tokenizer.unk_token_id
        if unknown is not None and unknown in row and model.tokenizer.unk_token not in text:
            missing = next(w for w in text.split() if model.tokenizer(w).input_ids[0] == unknown)
            raise ValueError(
                f"expected sentences in the model's words, found {missing!r} in {text!r}; take a model "
                "with a larger vocabulary"
            )
        rows.append([start, *row])
    by_text: list = [None] * len(rows)
    for part, ids in batches(rows, model.hf.device):
        logits = model.hf(input_ids=ids, use_cache=False).logits[:, :-1].float()
        bits = F.cross_entropy(logits.mT, ids[:, 1:], reduction="none").cpu() / math.log(2)
        for i, row in zip(part, bits, strict=True):
            by_text[i] = row[: len(rows[i]) - 1]
    return by_text


def judge(model, pairs: Sequence[MinimalPair]) -> Tensor:
    """Whether the grammatical sentence as a whole is the likelier one [pair] (ties are wrong)."""
    bits = surprisal(model, [text for pair in pairs for text in pair[:2]])
    good, bad = torch.tensor([each.double().sum() for each in bits]).view(-1, 2).T
    return good < bad


@torch.no_grad()
def prefers(model, pairs: Sequence[world_pairs.Pair]) -> Tensor:
    """Whether the right word is likelier than its foil at each pair's position [pair]."""
    prompts = [pair.clean.prompt(pair.position) for pair in pairs]
    answers, foils = [pair.answer for pair in pairs], [pair.foil for pair in pairs]
    asked, likelier = ask(model, prompts, answers, foils), []
    for rows in torch.arange(len(asked)).split(BATCH):
        part = asked[rows]
        logits = model.hf(input_ids=part.ids, use_cache=False).logits  # a plain pass: it may be edited
        likelier.append(part.score(logits[torch.arange(len(part)), part.last]) > 0)
    return torch.cat(likelier).cpu()
