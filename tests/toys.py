"""Small models of any architecture, with random weights and the world's tokenizer; and tokenizers of the
families that published models use, trained on the words of English."""

import functools
import json
import re
from collections.abc import Callable, Iterable

import torch
from tokenizers import Tokenizer, decoders, processors, trainers
from tokenizers import models as kinds_of_tokenizer
from tokenizers import pre_tokenizers as pre
from transformers import PreTrainedTokenizerFast

from tft_utils import models
from tft_utils.corpora.english import FILE
from tft_utils.course import plots
from tft_utils.course.plots import Drawn
from tft_utils.organisms.evaluation import random_model


def toy(model_type: str, seed: int = 0, dtype: torch.dtype = torch.float64, **changes) -> models.Model:
    """A small model with random weights, in float64."""
    return random_model(model_type, seed, dtype, **changes)


def check_figures(make: Callable[[], Iterable[Drawn]]) -> None:
    """Every figure that `make` draws is fit for a page, with a label at every axis, and drawn again has
    the same bytes."""
    for figure, alt in make():
        assert not plots.unfit(figure, alt)
        for axis in figure.axes:
            assert not axis.axison or axis.get_xlabel() or axis.get_ylabel()
    first, second = ([plots.png(figure) for figure, _ in make()] for _ in range(2))
    assert first == second


def words_of(value) -> list[str]:
    """All words of a JSON value."""
    if isinstance(value, str):
        return re.findall(r"[^\W_]+", value)
    values = value.values() if isinstance(value, dict) else value
    return [word for each in values for word in words_of(each)]


@functools.cache
def trained(family: str) -> PreTrainedTokenizerFast:
    """A tokenizer of one family, trained on the words of English; a third of the names and facts are
    not among them, and stay several tokens."""
    data = json.loads(FILE.read_text(encoding="utf-8"))
    words = words_of(data)
    words += [f"{word}s" for word in words_of([data["nouns"], data["intransitive"], data["transitive"]])]
    words += "The is are was were True False Alice Bob A B".split()
    if family == "words":
        known = dict.fromkeys(["<unk>", *words, *".,:()?+=", *map(str, range(200))])
        core = Tokenizer(kinds_of_tokenizer.WordLevel({w: i for i, w in enumerate(known)}, "<unk>"))
        core.pre_tokenizer = pre.Whitespace()
        return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    core = Tokenizer(kinds_of_tokenizer.BPE(unk_token=None if family == "bytes" else "<unk>"))
    marks = ["<unk>", "<s>", "</s>"]
    unread = {*words_of(data["names"])[::3], *words_of(data["facts"][1:])[::3]}
    text = [f"the {word} {word}" for word in words if word not in unread] + ["The"] * 40
    if family == "bytes":
        core.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        alphabet = pre.ByteLevel.alphabet()
    else:
        core.pre_tokenizer = pre.Metaspace(prepend_scheme="always")
        core.decoder = decoders.Metaspace(prepend_scheme="always")
        alphabet = [*"▁.,:()?+=0123456789"]
    core.train_from_iterator(
        text, trainers.BpeTrainer(vocab_size=4000, special_tokens=marks, initial_alphabet=alphabet)
    )
    if family == "pieces":
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
