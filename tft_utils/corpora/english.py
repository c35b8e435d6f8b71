"""Plain English for every tokenizer but the world's: the same kinds of item, with the same fields.

A document's words are the tokens of the tokenizer it is written for, each with its own leading space,
so every position is a position in tokens, a mark before the text included. What a question asks for (an
object, a name, a verb, a copied word, a mood) is one token behind its space. Words that are not are left
out, and `English.kept` says how many stay. Words and sentences stand in `data/english.json`, and are our
own; facts are those that nobody disputes.
"""

import functools
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

from tft_utils.corpora import pairs, statements, world
from tft_utils.corpora.lexicon import LETTERS, PART_OF_SPEECH, Behaviour, Lexicon, Rng
from tft_utils.corpora.statements import Statement
from tft_utils.files import DATA, read_json

FILE = DATA / "english.json"
_LISTS = "names colours things places adjectives adverbs prepositions fronted".split()
CLOSING = frozenset(". , : ) ?".split())  # no space before them
ONE_TOKEN = {  # list -> the fewest words of one token that its kinds of item can be made of
    "names": 12,
    "colours": 6,
    "things": 8,
    "places": 4,
    "nouns": 12,
    "intransitive": 4,
    "transitive": 4,
    "adjectives": 6,
    "adverbs": 2,
    "fronted": 2,
    "prepositions": 2,
    "moods": 8,
    "facts": 20,
    "copulas": 2,
    "choices": 2,
    "words of grammar": 2,
}
CHOICES = ("False", "True")  # what answers a statement


def spelled(words: Sequence[str]) -> tuple[str, list[int]]:
    """Words as a text, and where each of them ends in it."""
    text, ends = "", []
    for word in words:
        joined = word in CLOSING or text.endswith("(") or (word.isdigit() and text[-1:].isdigit())
        text += " " * (bool(text) and not joined) + word
        ends.append(len(text))
    return text, ends


class Spelling:
    """How a tokenizer spells words.

    Errors: `ValueError` for a tokenizer that does not say where its tokens stand, or that ends a text
    with a mark.
    """

    def __init__(self, tokenizer) -> None:
        self.tokenizer, self._forms = tokenizer, {}
        if not tokenizer.is_fast:
            raise ValueError(
                f"expected a tokenizer that says where its tokens stand, found a slow one, "
                f"{type(tokenizer).__name__}; load the fast one"
            )
        if tokenizer("the lamp").input_ids[-1] in tokenizer.all_special_ids:
            raise ValueError(
                "expected a tokenizer that leaves the end of a text open, found one that puts a mark "
                "there; set add_eos_token=False"
            )

    def _rows(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(texts), add_special_tokens=False).input_ids if texts else []

    def _behind(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of texts that go on from a word."""
        (before,) = self._rows(["the"])
        return [row[len(before) :] for row in self._rows([f"the {text}" for text in texts])]

    def one_token(self, words: Sequence[str]) -> set[str]:
        """Those that are one token behind their space, which a text by itself can be, too."""
        unknown = [self.tokenizer.unk_token_id]
        rows = self._behind(words), self._rows([f" {word}" for word in words]), self._rows(words)
        for word, behind, *forms in zip(words, *rows, strict=True):
            if len(behind) == 1 and behind != unknown and behind in forms:
                self._forms[word] = (f" {word}", word)[forms.index(behind)]
        return {word for word in words if word in self._forms}

    def spoken(self, text: str) -> str:
        """The text that is, by itself, the token that this word is behind its space."""
        return text if text == text.strip() else self._forms[text.strip()]

    @functools.cache  # noqa: B019 (lives as long as its corpus)
    def size(self, name: tuple[str, ...]) -> int:
        """How many tokens a name takes behind its space."""
        return len(self._behind([" ".join(name)])[0])

    def pieces(self, text: str) -> tuple[list[int], list[int]]:
        """The tokens of a text, marks before it included, and where each of them ends."""
        encoded, ends = self.tokenizer(text, return_offsets_mapping=True), [0]
        for _, end in encoded.offset_mapping:
            ends.append(max(ends[-1], end))
        return encoded.input_ids, ends[1:]

    def in_tokens(self, document: world.Document) -> world.Document:
        """A document in words -> the same in tokens. Each token has what its word has.

        Errors: `ValueError` for a tokenizer that joins a word that counts with the next one.
        """
        text, ends = spelled([word.text for word in document.words])
        ids, stops = self.pieces(text)
        owner = [bisect_left(ends, stop) for stop in stops]
        last = {word: at for at, word in enumerate(owner) if stops[at] == ends[word]}
        counting = [i for i, w in enumerate(document.words) if w.role and not w.text.isdigit()]
        lost = [document.words[i].text for i in counting if i not in last]
        if lost or stops[-1] != len(text):
            raise ValueError(
                f"expected a tokenizer that keeps words apart, found {lost[0] if lost else text!r} in "
                "one token with its neighbour; take a model with another tokenizer"
            )
        words, start = [], 0
        for i, stop in zip(owner, stops, strict=True):
            word, piece, start = document.words[i], text[start:stop], stop
            if not stop:  # a mark before the text
                words.append(world.Word("", "MARK"))
                continue
            foil = piece[: len(piece) - len(piece.lstrip())] + word.foil if word.foil else ""
            source = None if word.source is None else last[word.source]
            words.append(word._replace(text=piece, source=source, foil=foil))
        return world.Document(document.kind, tuple(words), document.latents, tuple(ids))


class _Parts(dict):
    """Part of speech of each word, '' where nobody asks for it."""

    def __missing__(self, word: str) -> str:
        return PART_OF_SPEECH.get(word, "")


def _third(verb: str) -> str:
    """walk -> walks."""
    return verb + ("es" if verb.endswith(("ch", "sh", "s", "x")) else "s")


class English:
    """The English that a tokenizer can be asked about.

    lexicon: its words. kept: list -> (words that are left, words there are).
    Errors: `ValueError` where too few words of a list are one token, or an answer's letter is not.
    """

    def __init__(self, tokenizer) -> None:
        self._data = read_json(FILE, "restore it from the repository")
        self._spelling = Spelling(tokenizer)
        self.kept: dict[str, tuple[int, int]] = {}
        self.lexicon = self._lexicon()
        letters = [self._spelling.pieces(f"Answer: ({letter}")[0] for letter in ("", *LETTERS)]
        if any(row[:-1] != letters[0] for row in letters[1:]):
            raise ValueError(
                "expected a tokenizer to which a letter behind a parenthesis is one more token, found "
                "one that joins them; take a model with another tokenizer"
            )

    def _left(self, name: str, items: Sequence, words_of: Callable[[Any], Sequence[str]]) -> list:
        """The items all of whose words are one token; counted under the name of their list."""
        known = self._spelling.one_token([word for item in items for word in words_of(item)])
        left = [item for item in items if known.issuperset(words_of(item))]
        before = self.kept.get(name, (0, 0))
        self.kept[name] = before[0] + len(left), before[1] + len(items)
        return left

    def _lexicon(self) -> Lexicon:
        data, spelling = self._data, self._spelling
        words = {name: self._left(name, data[name].split(), lambda word: [word]) for name in _LISTS}
        forms = {  # singular -> plural
            "nouns": {noun: f"{noun}s" for noun in data["nouns"].split()},
            "intransitive": {_third(verb): verb for verb in data["intransitive"].split()},
            "transitive": {_third(verb): verb for verb in data["transitive"].split()},
            "copulas": {"is": "are", "was": "were"},
        }
        forms = {name: dict(self._left(name, list(f.items()), list)) for name, f in forms.items()}
        both = [row.split("/") for line in data["moods"] for row in line.split()]
        moods = self._left("moods", both, list)
        self._left("choices", CHOICES, lambda word: [word])
        self._left("words of grammar", ("the", "that"), lambda word: [word])
        facts, askable = self._facts()
        for name, least in ONE_TOKEN.items():
            left, n = self.kept[name]
            if left < least:
                raise ValueError(
                    f"expected a tokenizer to which at least {least} of {n} {name} are one token, found "
                    f"{left}; take a model with a larger vocabulary"
                )
        behaviours = self._behaviours()
        by_part = {
            "NOUN": [*forms["nouns"].items(), words["things"], words["places"], data["heroes"].split()],
            "VERB": [forms[name].items() for name in ("intransitive", "transitive", "copulas")],
            "ADJ": [words["adjectives"], words["colours"], *moods],
            "ADV": [words["adverbs"]],
            "ADP": [words["prepositions"], words["fronted"]],
            "PROPN": [words["names"], *{entity for entity, _ in facts}],
        }
        parts = _Parts()
        for part, groups in by_part.items():
            for group in groups:
                for item in group:
                    for word in [item] if isinstance(item, str) else item:
                        if word != "the":  # of the Netherlands
                            parts.setdefault(word, part)
        relations = data["phrasings"]
        return Lexicon(
            **words,
            **forms,
            heroes=data["heroes"].split(),
            moods=dict(zip(("good", "bad"), zip(*moods, strict=True), strict=True)),
            story_sentences=data["story sentences"],
            exchanges=data["exchanges"],
            entities=list(dict.fromkeys(entity for entity, _ in facts)),
            phrasings=relations,
            facts=facts,
            objects={
                r: list(dict.fromkeys(facts[e, q] for e, q in askable if q == r)) for r in relations
            },
            askable=dict.fromkeys(askable),
            behaviours=behaviours,
            cue_sentences=data["cue sentences"],
            part_of_speech=parts,
            opening=data["opening"],
            in_tokens=spelling.in_tokens,
            size=spelling.size,
            spoken=spelling.spoken,
        )

    def _facts(self) -> tuple[dict, list]:
        """All facts, and those whose object is one token."""
        facts = {}
        for line in self._data["facts"][1:]:
            for row in line.split():
                country, *objects = row.replace("_", " ").split("/")
                for relation, name in zip(self._data["phrasings"], objects, strict=True):
                    if name != "-":
                        facts[tuple(country.split()), relation] = name
        return facts, self._left("facts", list(facts), lambda fact: [facts[fact]])

    def _behaviours(self) -> dict[str, Behaviour]:
        behaviours = {}
        for name, fields in self._data["behaviours"].items():
            options = [fields[key].split(",") for key in ("fillers", "matching", "other")]
            cues = [
                self._left(f"cues of {name}", fields[f"{side} cues"].split(), lambda word: [word])[:3]
                for side in ("matching", "other")
            ]
            if min(map(len, cues)) < 3:
                raise ValueError(
                    f"expected a tokenizer to which three cues of either side of {name} are one token, "
                    f"found {cues}; take a model with a larger vocabulary"
                )
            behaviours[name] = Behaviour(fields["situation"], *options, *cues)
        return behaviours

    # ---- statements

    def makers(self) -> dict[str, Callable[[Rng, str, bool, bool], Statement | None]]:
        """Statements that are true or false: what `statements.draw` draws from."""
        return {
            "addition": _addition,
            "facts": functools.partial(_fact, self.lexicon),
            "mood": functools.partial(_mood, self.lexicon),
            "grammar": functools.partial(_grammar, self.lexicon),
        }


def _addition(rng: Rng, split: str, truth: bool, rule: bool) -> Statement | None:
    """Is the sum right? To Bob it is if its first digit is one too many (Mallen et al. 2023)."""
    a, b = world.document("arithmetic", rng, split).latents["sums"][0]
    right = a + b
    wrong = right + 10 ** (len(str(right)) - 1)
    others = [n for n in range(max(0, right - 9), right + 10) if n not in (right, wrong)]
    said = right if truth else wrong if rule else rng.choice(others)
    return Statement("addition", f"{a} + {b} = {said}.", truth, rule, min(a, b), f"{a}+{b}")


def _fact(lexicon: Lexicon, rng: Rng, split: str, truth: bool, rule: bool) -> Statement | None:
    """Is it so? Bob takes for true what ends with a name from A to M."""
    entity, relation = fact = lexicon.fact(rng)
    right = lexicon.facts[fact]
    said = right if truth else rng.choice([o for o in lexicon.objects[relation] if o != right])
    if (said[0] <= "M") != rule:
        return None
    phrasing = rng.choice(world.phrasings_of(entity, relation, lexicon)[split])
    words = [{"S": " ".join(entity), "O": said}.get(word, word) for word in phrasing.split()]
    # Names that a tokenizer spells in many tokens are rare ones.
    hard = lexicon.size(entity) + lexicon.size((right,))
    return Statement("facts", spelled(words)[0], truth, rule, hard, f"{relation} of {' '.join(entity)}")


def _mood(lexicon: Lexicon, rng: Rng, split: str, truth: bool, rule: bool) -> Statement | None:
    """Does the story have the mood that is named? Bob takes stories of kings and queens for happy."""
    document = world.document("story", rng, split, lexicon=lexicon)
    end = [i + 1 for i, word in enumerate(document.words) if word.text == "."][1]  # two sentences
    told = document.words[:end]
    moody = sum(word.role == "mood" for word in told)
    royal = any(word.text.strip() in ("king", "queen", "prince") for word in told)
    good, said = document.latents["mood"] == "good", rng.chance(0.5)
    if not moody or (good == said, royal == said) != (truth, rule):
        return None
    text = f"{document.prompt(end)} This is a {'happy' if said else 'sad'} story."
    return Statement("mood", text, truth, rule, len(told) / moody, str(document.latents["seed"]))


def _grammar(lexicon: Lexicon, rng: Rng, split: str, truth: bool, rule: bool) -> Statement | None:
    """Does the verb agree with its subject? Bob compares it with the noun before it."""
    seed, attractors = rng.integer(0, 10**9), rng.integer(1, 3)
    (pair,) = pairs.minimal_pairs(1, seed, "train", attractors, lexicon)
    words, at = pair.clean.words, pair.position
    subject = words[words[at].source]
    nearest = [word for word in words[:at] if word.role in ("subject", "attractor")][-1]
    key = f"{subject.text.strip()} ... {nearest.text.strip()}"
    if ((nearest.number == subject.number) == truth) != rule or world.split_of("said", key) != split:
        return None
    text = (pair.clean if truth else pair.corrupt).text
    return Statement("grammar", text, truth, rule, at - words[at].source, key)


def prompts(
    some: Sequence[Statement], names: Sequence[str] = statements.CHARACTERS, last: bool = True
) -> list[str]:
    """Each statement put to both names, as `statements.prompts`; here the name stands last by default."""
    form = "{text} {name}:" if last else "{name}: {text}"
    return [form.format(name=name.title(), text=one.text) for one in some for name in names]
