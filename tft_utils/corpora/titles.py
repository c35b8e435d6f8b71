"""Titles of our own for character models, with asides in brackets and in quotation marks.

    old cat (the green boat) sees "my house" dogs

A title is words, and at most one aside. Whoever knows at every letter whether an aside is open, and of
which kind, knows all that can be known of its end.
"""

import itertools
import random
from typing import NamedTuple

import torch
from torch import Tensor

LONGEST = 39  # characters; with the start that is a window of 40
ASIDES = {"(": ")", '"': '"', "[": "]"}
START = "<s>"
CHARACTERS = ["", START, *" abcdefghijklmnopqrstuvwxyz.", *'()"[]']  # "": padding
NUMBER = {character: i for i, character in enumerate(CHARACTERS)}
NOUNS = """cat dog boat house tree song game road cake king letter garden window river photo story
train door lamp stone""".split()
OTHERS = """the my old new green best first why how with from for and this not good sees has made
some""".split()
# English prompts for published models: those that choose a number, and those that score it. An aside is
# one observation, however many starts it follows.
STARTS = {
    "choose": (
        "My new phone",
        "The last cat",
        "A picture of my dog",
        "This old house",
        "One more good book",
    ),
    "score": (
        "My little song",
        "The first dress",
        "A photo of a car",
        "That strange letter",
        "Our movie",
    ),
}
ENDS = {
    "choose": """from the movie|and how to use it|with the new update|in the middle of it|
not the real one|for the first time""",
    "score": """from my childhood|and why it is good|with some friends|at the end of the day|
not a bad thing|for a small city|or how to do it|it is not that bad|this is the one|my favorite one|
I love this song|no one cares|spoiler alert|serious question|if you want it|please help me out|
in the comments|more in comments|the best of all|I made it myself|from this morning|found on the web|
by a good friend|with the big one|years of waiting""",
}
SHARES = {"(": 0.35, '"': 0.35, "[": 0.15, "": 0.15}  # of titles
END = 0.35  # the chance that an aside of two words or more ends after a word


class TitlePair(NamedTuple):
    """The same title, cut in an aside, and without the aside's opening mark; of the same length."""

    clean: str
    corrupt: str
    answer: str  # the mark that closes the aside


def words(n: int, draw: random.Random) -> list[str]:
    """Any n words; half of the nouns get an s."""
    chosen = [draw.choice(NOUNS if draw.random() < 0.5 else OTHERS) for _ in range(n)]
    return [w + "s" if w in NOUNS and draw.random() < 0.5 else w for w in chosen]


def title(draw: random.Random) -> str:
    """One title of at most `LONGEST` characters."""
    while True:
        mark = draw.choices(list(SHARES), list(SHARES.values()))[0]
        front, end = words(draw.randint(1, 3), draw), words(draw.randint(0, 2), draw)
        aside = words(2, draw)
        while draw.random() > END:
            aside += words(1, draw)
        middle = [mark + " ".join(aside) + ASIDES[mark]] if mark else aside
        text = " ".join([*front, *middle, *end]) + "."
        if len(text) <= LONGEST:
            return text


def titles(n: int, seed: int) -> list[str]:
    """The first n titles of a seed."""
    draw = random.Random(seed)
    return [title(draw) for _ in range(n)]


def pairs(n: int, seed: int, mark: str = "(", length: int = 30) -> list[TitlePair]:
    """The first n pairs of a seed: titles cut at the end of a word, at least nine characters inside an
    aside. ' (' becomes 's ', so the other one is a title too, of words alone.

    Errors: `ValueError` for a mark that opens no aside.
    """
    if mark not in ASIDES:
        raise ValueError(f"expected a mark of {' '.join(ASIDES)}, found {mark!r}; use one of them")
    draw, found = random.Random(f"pairs {seed} {mark}"), []
    while len(found) < n:
        front = [*words(draw.randint(0, 2), draw), draw.choice(NOUNS)]
        aside = " ".join(words(draw.randint(2, 4), draw))
        clean = " ".join(front) + f" {mark}{aside}"
        if len(clean) == length and len(aside) > 8:
            found.append(TitlePair(clean, clean.replace(f" {mark}", "s "), ASIDES[mark]))
    return found


def english(split: str, mark: str = "(") -> list[TitlePair]:
    """Pairs of English words that fit into a published model's window: each start with each aside.

    Errors: `ValueError` for a split that is none.
    """
    if split not in STARTS:
        raise ValueError(f"expected a split of {', '.join(STARTS)}, found {split!r}; use one of them")
    found = []
    for aside, start in itertools.product(ENDS[split].replace("\n", "").split("|"), STARTS[split]):
        clean = f"{start} {mark}{aside}"
        if len(clean) <= LONGEST:
            found.append(TitlePair(clean, clean.replace(f" {mark}", "s "), ASIDES[mark]))
    return found


def encode(texts: list[str]) -> Tensor:
    """Numbers of characters [text pos]: the start, the text, then padding.

    Errors: `ValueError` for a character that titles do not have.
    """
    if strange := {c for text in texts for c in text} - NUMBER.keys():
        raise ValueError(f"expected characters of {''.join(CHARACTERS[2:])!r}, found {min(strange)!r}")
    ids = torch.zeros(len(texts), 1 + max(map(len, texts)), dtype=torch.long)
    for row, text in zip(ids, texts, strict=True):
        row[: len(text) + 1] = torch.tensor([NUMBER[START], *(NUMBER[c] for c in text)])
    return ids


def inside(text: str, mark: str = "(") -> list[bool]:
    """Of each character, whether an aside of this mark is open after it."""
    is_open, found = False, []
    for character in text:
        is_open = not is_open if character == mark else is_open and character != ASIDES[mark]
        found.append(is_open)
    return found
