"""The contrastive questions of Rimsky et al. (2023), as Paulo et al. (2024) used them.

    folder/<behaviour>/generate_dataset.json     questions to build a vector from
    folder/<behaviour>/test_dataset_ab.json      questions to test it on

`load` reads them and swallows nothing: `faults` counts what a careless reader would get wrong, and
`balanced` keeps the questions that have two options and asks each in both letter orders.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tft_utils.corpora.questions import Question
from tft_utils.files import LoadError
from tft_utils.models import Source

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
OPTION = re.compile(r"^[ \t]*\(([A-Z])\)[ \t]*", flags=re.MULTILINE)


class Item(NamedTuple):
    """One question as it stands in the file, taken apart."""

    text: str  # before the options, with 'Choices:'
    options: tuple[str, ...]
    matching: str  # letter of the answer that shows the behaviour
    other: str


def load(folder: str | Path | Source) -> dict[str, dict[str, list[Item]]]:
    """behaviour -> split -> items, from a local folder or a dataset repository on the hub.

    Errors: `LoadError` where a file or a field is missing, or a letter names no option.
    """
    folder = _download(folder) if isinstance(folder, Source) else Path(folder)
    if not folder.is_dir():
        raise LoadError(
            f"expected a folder with {', '.join(BEHAVIOURS[:2])}, ..., found none at {folder}; get "
            "the data sets of github.com/nrimsky/CAA, or name a hub repository as a models.Source"
        )
    return {
        behaviour: {split: _read(folder / behaviour / file) for split, file in FILES.items()}
        for behaviour in BEHAVIOURS
    }


def _download(source: Source) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                source.repository,
                revision=source.revision,
                repo_type="dataset",
                allow_patterns=["*.json"],
            )
        )
    except Exception as error:
        raise LoadError(
            f"expected the data set {source.repository} at {source.revision[:12]} on the hub, found "
            f"{type(error).__name__}; connect to the network, or use a local folder"
        ) from error


def _read(path: Path) -> list[Item]:
    if not path.is_file():
        raise LoadError(f"expected {path}, found no file; restore it from its source")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LoadError(f"expected JSON in {path}, found other text; restore the file") from error
    return [_item(record, f"{path}, item {i}") for i, record in enumerate(found)]


def _item(record: dict, where: str) -> Item:
    if not isinstance(record, dict) or set(record) != FIELDS:
        raise LoadError(f"{where}: expected the fields {', '.join(sorted(FIELDS))}; restore the file")
    marks = list(OPTION.finditer(record["question"]))
    letters = [mark.group(1) for mark in marks]
    ends = [mark.start() for mark in marks[1:]] + [len(record["question"])]
    options = tuple(record["question"][mark.end() : end].strip() for mark, end in zip(marks, ends))  # noqa: B905
    answers = [record[f"answer_{side}_behavior"].strip(" ()") for side in ("matching", "not_matching")]
    if letters != [chr(65 + i) for i in range(len(letters))] or not set(answers) <= set(letters):
        raise LoadError(
            f"{where}: expected options (A), (B), ... with {' and '.join(answers)} among them, found "
            f"{', '.join(letters) or 'none'}; correct or remove the item"
        )
    return Item(record["question"][: marks[0].start()].rstrip(), options, *answers)


class Faults(NamedTuple):
    """What is wrong with a set of items."""

    n: int
    more_than_two: int  # items with three options or more
    beyond_b: int  # items whose matching letter is neither A nor B
    first: float  # share of items whose matching letter is A
    repeated: int  # items whose question occurred before


def faults(items: Sequence[Item]) -> Faults:
    """Counts the known faults of a set (the survival questions have all of them)."""
    return Faults(
        len(items),
        sum(len(item.options) > 2 for item in items),
        sum(item.matching not in "AB" for item in items),
        sum(item.matching == "A" for item in items) / len(items),
        len(items) - len({(item.text, item.options) for item in items}),
    )


def plain(question: str) -> str:
    """A prompt for a model without a chat template."""
    return f"{question}\n\nAnswer: ("


def balanced(items: Sequence[Item], template: Callable[[str], str] = plain) -> list[Question]:
    """The two-option items as questions, each with the options in both orders.

    template: the question with its options -> a prompt that ends with the parenthesis.
    """
    found = []
    for item in items:
        if len(item.options) != 2:
            continue
        matching, other = (item.options["AB".index(letter)] for letter in (item.matching, item.other))
        for letter, options in (("A", (matching, other)), ("B", (other, matching))):
            lines = "\n".join(f" ({x}) {option}" for x, option in zip("AB", options, strict=True))
            found.append(
                Question(
                    template(f"{item.text}\n{lines}"),
                    letter,
                    "BA"["AB".index(letter)],
                    f"{item.text} {matching}",
                )
            )
    return found
