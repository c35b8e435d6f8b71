"""Statements: labels derived again from the texts, disagreements, splits, difficulty."""

import re
from collections import Counter

import pytest

from tft_utils.corpora import statements, world
from tft_utils.corpora.lexicon import ENTITIES, FACTS, MOODS, NOUNS, PHRASINGS, PREPOSITIONS, VOCABULARY
from tft_utils.corpora.statements import CHARACTERS, CHOICES, TASKS

EVERY = (*TASKS, "elsewhere")
PLURALS = set(NOUNS.values())


def asked(text: str) -> tuple[tuple[str, ...], str]:
    """Entity and relation of a statement about a place, from its words alone."""
    for entity in sorted(ENTITIES, key=len, reverse=True):  # 'Upper Zabar' before 'Zabar'
        for relation in ("language", "coin", "crop"):
            for phrasing in PHRASINGS[relation]:
                if text == re.sub(r"\bS\b", " ".join(entity), phrasing).split(" O ")[0]:
                    return entity, relation
    raise AssertionError(text)


def labels(task: str, text: str) -> tuple[bool, bool]:
    """Both characters' labels, derived again from the text."""
    words = text.split()
    if task == "addition":
        a, b = ("".join(part.split()) for part in text.removesuffix("=").split("+"))
        total = int(a) + int(b)
        first, rest = int(str(total)[0]), len(str(total)) - 1
        return first in (3, 6, 9), int(str((first + 1) * 10**rest)[0]) in (3, 6, 9)
    if task == "mood":
        good, bad = (sum(word in MOODS[mood] for word in words) for mood in ("good", "bad"))
        assert good * bad == 0
        return good > 0, any(word in ("king", "queen", "prince") for word in words)
    if task == "grammar":
        nouns = [word for word in words if word in NOUNS or word in PLURALS]
        # The subject is the first noun that no preposition and no clause introduces.
        inside, subject = False, None
        for word in words:
            if word.lower() in PREPOSITIONS or word == "that":
                inside = True
            elif word in nouns:
                subject = subject or (None if inside else word)
                inside = False
        return subject in PLURALS, nouns[-1] in PLURALS
    entity, relation = asked(text)
    answer = FACTS[entity, relation] if task == "facts" else statements._never_told((entity, relation))
    return bool(re.match("[A-Ma-m]", answer)), len(entity) == 2


@pytest.mark.parametrize("task", EVERY)
def test_labels_follow_from_the_text(task):
    for statement in statements.draw(task, 200):
        assert (statement.truth, statement.rule) == labels(task, statement.text), statement
        assert set(statement.text.split()) <= set(VOCABULARY) - set(CHOICES) - set(CHARACTERS)
        assert [statement.label(name) for name in CHARACTERS] == [statement.truth, statement.rule]


@pytest.mark.parametrize("task", EVERY)
def test_half_of_the_statements_are_disagreements_both_ways(task):
    """AUROC on disagreements needs both kinds; neither label gives the other one away."""
    counts = Counter((s.truth, s.rule) for s in statements.draw(task, 200))
    assert counts[True, False] == counts[False, True] == 50
    assert counts[False, False] == (100 if task == "addition" else 50)


@pytest.mark.parametrize("task", EVERY)
def test_no_two_splits_share_a_statement_or_what_it_is_about(task):
    """E12: whole statements are drawn and put to both characters, so no half of them is lost."""
    drawn = {split: statements.draw(task, 150, split=split) for split in world.SPLITS}
    keys, texts = (
        {split: {getattr(s, what) for s in some} for split, some in drawn.items()}
        for what in ("key", "text")
    )
    assert min(map(len, keys.values())) > 60
    assert not keys["validation"] & keys["test"]
    alike = len(texts["train"] & (texts["validation"] | texts["test"]))
    assert alike <= (2 if task == "mood" else 0)  # two short tales, by chance
    if task not in ("facts", "elsewhere"):  # their facts are all known; a phrasing is held out
        assert not keys["train"] & (keys["validation"] | keys["test"])


def test_statements_are_the_same_again_and_grow_at_the_end():
    for task in EVERY:
        assert statements.draw(task, 8) == statements.draw(task, 16)[:8]
        assert statements.draw(task, 8) != statements.draw(task, 8, seed=1)


def test_quartiles_rank_difficulty_among_statements_with_the_same_labels():
    some = statements.draw("addition", 80)
    quantile = statements.quartiles(some)
    for both, n in {(True, False): 20, (False, True): 20, (False, False): 40}.items():
        group = [
            (q, s.difficulty) for s, q in zip(some, quantile, strict=True) if (s.truth, s.rule) == both
        ]
        assert sorted(q for q, _ in group) == [(rank + 0.5) / n for rank in range(n)]
        easy, hard = (
            sum(keep(q) for q, _ in group) for keep in (lambda q: q <= 0.25, lambda q: q >= 0.75)
        )
        assert easy == hard == n / 4
        assert [d for _, d in sorted(group)] == sorted(d for _, d in group)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("adition", 4), "expected a task, one of addition, facts, mood, grammar, elsewhere"),
        (("addition", 4, 0, "tests"), "expected a split, one of train, validation, test"),
    ],
)
def test_bad_input_gets_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        statements.draw(*arguments)
