"""Published items: the contrastive questions of Rimsky et al. (2023), as Paulo et al. (2024) used them,
and the minimal pairs of BLiMP.

    folder/<behaviour>/generate_dataset.json     questions to build a vector from
    folder/<behaviour>/test_dataset_ab.json      questions to test it on

`question_sets` reads them and swallows nothing: `faults` counts what a careless reader would get wrong,
and `balanced` keeps the questions that have two options and asks each in both letter orders.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tft_utils.corpora.questions import Question
from tft_utils.files import LoadError, explain
from tft_utils.models import Source, download

FILES = {"train": "generate_dataset.json", "test": "test_dataset_ab.json"}
BEHAVIOURS = (
    "coordinate-other-ais",
    "corrigible-neutral-HHH",
    "hallucination",
    "myopic-reward",
    "refusal",
    "survival-instinct",
    "sycophancy",
)
FIELDS = {"question", "answer_matching_behavior", "answer_not_matching_behavior"}
PLAIN = "{}\n\nAnswer: (".format  # question -> prompt, for a model without a chat template
OPTION = re.compile(r"^[ \t]*\(([A-Z])\)[ \t]*", flags=re.MULTILINE)


class Entry(NamedTuple):
    """One question as it stands in the file, taken apart."""

    text: str  # before the options, with 'Choices:'
    options: tuple[str, ...]
    matching: str  # letter of the answer that shows the behaviour
    other: str


def question_sets(folder: str | Path | Source) -> dict[str, dict[str, list[Entry]]]:
    """behaviour -> split -> entries, from a local folder or a dataset repository on the hub. Each split
    may have a folder of its own, as in a clone of github.com/nrimsky/CAA.

    Errors: `LoadError` where a file or a field is missing, or a letter names no option.
    """
    if isinstance(folder, Source):
        folder = download(folder, ["*.json"], "dataset", "use a local folder")
    folder = Path(folder)
    if not folder.is_dir():
        raise LoadError(
            f"expected a folder with {', '.join(BEHAVIOURS[:2])}, ..., found none at {folder}; get "
            "the data sets of github.com/nrimsky/CAA, or name a hub repository as a models.Source"
        )
    return {
        b: {split: _read(_below(folder, b, file)) for split, file in FILES.items()} for b in BEHAVIOURS
    }


def _below(folder: Path, behaviour: str, file: str) -> Path:
    """Where a behaviour's file lies, or where it was expected."""
    return min(folder.rglob(f"{behaviour}/{file}"), default=folder / behaviour / file)


def _read(path: Path) -> list[Entry]:
    with explain(f"JSON in {path}", "restore the file from its source"):
        records = json.loads(path.read_text(encoding="utf-8"))
    return [_entry(record, f"{path}, item {i}") for i, record in enumerate(records)]


def _entry(record: dict, where: str) -> Entry:
    if not isinstance(record, dict) or set(record) != FIELDS:
        raise LoadError(f"{where}: expected the fields {', '.join(sorted(FIELDS))}; restore the file")
    before, *rest = OPTION.split(record["question"])  # a letter, its option, the next letter, ...
    letters, options = rest[::2], tuple(option.strip() for option in rest[1::2])
    answers = [record[f"answer_{side}_behavior"].strip(" ()") for side in ("matching", "not_matching")]
    if letters != [chr(65 + i) for i in range(len(letters))] or not set(answers) <= set(letters):
        raise LoadError(
            f"{where}: expected options (A), (B), ... with {' and '.join(answers)} among them, found "
            f"{', '.join(letters) or 'none'}; correct or remove the item"
        )
    return Entry(before.rstrip(), options, *answers)


class Faults(NamedTuple):
    """What is wrong with a set of questions."""

    n: int
    more_than_two: int  # with three options or more
    beyond_b: int  # whose matching letter is neither A nor B
    first: float  # share of those whose matching letter is A
    repeated: int  # whose text and options occurred before


def faults(entries: Sequence[Entry]) -> Faults:
    """Counts the known faults of a set (the survival questions have all of them)."""
    return Faults(
        len(entries),
        sum(len(entry.options) > 2 for entry in entries),
        sum(entry.matching not in "AB" for entry in entries),
        sum(entry.matching == "A" for entry in entries) / len(entries),
        len(entries) - len({(entry.text, entry.options) for entry in entries}),
    )


def balanced(entries: Sequence[Entry], template: Callable[[str], str] = PLAIN) -> list[Question]:
    """The two-option entries as questions, each with the options in both orders.

    template: the question with its options -> a prompt that ends with the parenthesis.
    """
    questions = []
    for entry in entries:
        if len(entry.options) == 2:
            matching, other = (entry.options["AB".index(x)] for x in (entry.matching, entry.other))
            asks = f"{entry.text} {matching}"
            for letters, first, second in (("AB", matching, other), ("BA", other, matching)):
                prompt = template(f"{entry.text}\n (A) {first}\n (B) {second}")
                questions.append(Question(prompt, *letters, asks))
    return questions


# ---- BLiMP (Warstadt et al. 2020, arXiv 1912.00582)


class MinimalPair(NamedTuple):
    """A grammatical sentence, an ungrammatical one, and the phenomenon they test."""

    good: str
    bad: str
    name: str


def read_blimp(path: str | Path) -> list[MinimalPair]:
    """Minimal pairs from a file of BLiMP: a JSON object a line, with sentence_good, sentence_bad, UID."""
    pairs = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            pairs.append(MinimalPair(*(str(fields[k]) for k in ("sentence_good", "sentence_bad", "UID"))))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"expected in line {number} of {path} a JSON object with sentence_good, sentence_bad and "
                f"UID, found {line[:60]!r} ({type(error).__name__}); take a .jsonl file of BLiMP"
            ) from error
    return pairs
