"""The text that a model can read: one interface to the world and to English, so that no lesson asks
which scale runs.

    corpus = corpus_of(models)                     # of one model, or of several with one tokenizer
    corpus.fact_pairs(36, seed=SEED)               # as `pairs.fact_pairs`, in this model's words

The world is for the organisms' tokenizer, and English for every other. Each method is the function of
the same name in `pairs`, `questions`, `world` or `statements`, bound to the corpus' lexicon.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial, update_wrapper
from pathlib import Path

from tft_utils.corpora import english, pairs, questions, statements, tasks, world
from tft_utils.corpora.lexicon import VOCABULARY, WORLD, Rng
from tft_utils.files import LoadError, explain

PASSAGE = 1200  # characters of a passage of a text file, about
HUB = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?")  # a data set there, and its configuration
ROWS = 20  # of a data set that are read for each passage that is asked for
UNTOLD = "elsewhere"
BOUND = {
    world: ("documents",),
    pairs: (
        "minimal_pairs",
        "fact_pairs",
        "indirect_object_pairs",
        "mood_pairs",
        "persona_questions",
        "cued_pairs",
        "fact_edits",
        "probe_documents",
    ),
    questions: ("induction_items", "cases", "questions", "cued", "announced"),
    tasks: ("numbers_before_verbs", "other_words"),
}


class Corpus:
    """The items of one lexicon. The functions in BOUND are its methods.

    name: 'world' or 'English'. kept: of English, list of words -> (how many are left, of how many).
    """

    kinds, cases_of, parts = world.KINDS, questions.KINDS, pairs.PARTS
    heads, answered = staticmethod(pairs.heads), staticmethod(questions.answered)
    characters = statements.CHARACTERS

    def __init__(self, tokenizer) -> None:
        self.tokenizer, self.kept = tokenizer, {}
        if is_world(tokenizer):
            self.name, self.lexicon, self._makers = "world", WORLD, statements.MAKERS
            self.choices, self._prompts = statements.CHOICES, statements.prompts
        else:
            own = english.English(tokenizer)
            self.name, self.lexicon, self._makers = "English", own.lexicon, own.makers()
            self.kept, self._prompts = own.kept, english.prompts
            self.choices = tuple(own.lexicon.spoken(f" {word}") for word in english.CHOICES)
        self.statement_tasks = tuple(task for task in self._makers if task != UNTOLD)
        # Statements that no model was told the truth of.
        self.untold_tasks = tuple(task for task in self._makers if task == UNTOLD)
        self.tasks = tasks.tasks_of(self.lexicon)
        for module, names in BOUND.items():
            for name in names:
                function = getattr(module, name)
                setattr(self, name, update_wrapper(partial(function, lexicon=self.lexicon), function))

    def __repr__(self) -> str:
        left = [f"{left} of {n} {name}" for name, (left, n) in self.kept.items()]
        return f"{self.name}: {', '.join(left)}" if left else f"the {self.name}"

    @property
    def behaviours(self) -> tuple[str, ...]:
        return tuple(self.lexicon.behaviours)

    @property
    def copy_words(self) -> list[str]:
        """Words of one token to copy, each as it is by itself."""
        return [self.lexicon.spoken(self._spaced(word)) for word in self.lexicon.copy_words]

    def _spaced(self, word: str) -> str:
        return word if self.lexicon is WORLD else f" {word}"

    @property
    def announcement(self) -> tuple[int, str]:
        """A sentence that announces nothing, to stand before a question: the position of its word
        'machine', which is its last token's, and the sentence."""
        if self.lexicon is WORLD:
            return 3, "This is a machine . "
        return len(self.words("This is a machine")) - 1, "This is a machine. "

    def words(self, text: str) -> list[str]:
        """A text as the model reads it, token by token: what stands at each position."""
        if self.lexicon is WORLD:
            return text.split()
        _, ends = english.Spelling(self.tokenizer).pieces(text)
        return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def statement_prompts(
        self,
        some: Sequence[statements.Statement],
        names: Sequence[str] = statements.CHARACTERS,
        last: bool | None = None,
    ) -> list[str]:
        """Each statement put to both names, as `statements.prompts`. last: the name stands behind the
        statement, or (False) before it; None: where this corpus has it, which is behind in English."""
        return self._prompts(some, names, *([] if last is None else [last]))

    def statements(self, task: str, n: int, seed: int = 0, split: str = "test") -> list:
        """As `statements.draw`."""
        return statements.draw(task, n, seed, split, self._makers)

    def texts(
        self, n: int, seed: int = 0, split: str = "test", source: str | Path | None = None
    ) -> list[str]:
        """n plain texts of each kind of document; or as many passages of `source`: see `passages`."""
        if source is None:
            of_kinds = [self.documents(kind, n, seed, split) for kind in self.kinds]
            return [document.text for documents in of_kinds for document in documents]
        return passages(source, n * len(self.kinds), seed, split)


def is_world(tokenizer) -> bool:
    """Whether a tokenizer is the organisms' own."""
    return tokenizer.get_vocab() == {word: i for i, word in enumerate(VOCABULARY)}


def corpus_of(models) -> Corpus:
    """The corpus of a model, or of models (a mapping or a sequence) that share one tokenizer.

    Errors: `ValueError` where they do not: positions in one would not be positions in the other.
    """
    if isinstance(models, Mapping):
        models = models.values()
    first, *others = (m.tokenizer for m in ([models] if hasattr(models, "tokenizer") else models))
    probe = english.FILE.read_text(encoding="utf-8").splitlines()
    for other in others:
        alike = is_world(first) == is_world(other)
        if not alike or not is_world(first) and first(probe).input_ids != other(probe).input_ids:
            raise ValueError(
                f"expected models with one tokenizer, found {first.name_or_path!r} and "
                f"{other.name_or_path!r}, which read the same text in different tokens; "
                "compare models that share theirs"
            )
    return _corpus_of_tokenizer(first)


@lru_cache(maxsize=8)  # techniques ask again and again; a tokenizer is itself alone
def _corpus_of_tokenizer(tokenizer) -> Corpus:
    return Corpus(tokenizer)


def passages(source: str | Path, n: int, seed: int = 0, split: str = "test") -> list[str]:
    """n passages of a text file, of the files *.txt and *.md below a folder, or of a data set on the hub
    ('owner/name', or 'owner/name:configuration'), each at most PASSAGE characters of whole lines. A
    passage belongs to one split, by its text.

    Errors: `LoadError` where there is no such text, `ValueError` where it is too short.
    """
    world.check_split(split)
    there = HUB.fullmatch(str(source))
    of_hub = there and not Path(source).exists()
    text = _rows(*there.groups(), ROWS * n) if of_hub else _files(Path(source))
    pieces = [
        piece for one in text for piece in _pieces(one) if world.split_of("passage", piece) == split
    ]
    if len(pieces) < n:
        raise ValueError(
            f"expected at least {n} passages of {split} in {source}, found {len(pieces)}; give more text"
        )
    return Rng("passages", seed, split).sample(pieces, n)


def _files(source: Path) -> list[str]:
    with explain(f"a text file in UTF-8, or a folder of them, at {source}", "check the path"):
        files = (
            [source] if source.is_file() else sorted(source.rglob("*.txt")) + sorted(source.rglob("*.md"))
        )
        return [file.read_text(encoding="utf-8") for file in files or [source]]


def _rows(name: str, configuration: str | None, n: int) -> list[str]:
    """The first n texts of a data set, without the rest of it."""
    try:
        from datasets import load_dataset  # the extra `hub`; no lesson needs it
    except ImportError as error:
        raise LoadError(
            f"expected a file or folder {name}, or the package datasets to read that from the hub, found "
            "neither; check the path, or run `pip install datasets`"
        ) from error
    what = f"a data set {name} on the hub with a column 'text' in its split 'train'"
    with explain(what, "check its name and the network, or give a file"):
        rows = load_dataset(name, configuration, split="train", streaming=True)
        return [str(row["text"]) for row in rows.take(n)]


def _pieces(text: str) -> list[str]:
    """Whole lines together, as long as a passage may be; a longer line is cut."""
    pieces = [""]
    for line in text.splitlines(keepends=True):
        for start in range(0, len(line), PASSAGE):
            part = line[start : start + PASSAGE]
            pieces = pieces if len(pieces[-1] + part) <= PASSAGE else [*pieces, ""]
            pieces[-1] += part
    return list(dict.fromkeys(piece.strip() for piece in pieces if len(piece.split()) > 1))
