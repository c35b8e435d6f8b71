"""What is said of the board follows it: planted boards of few and of many models, with gaps."""

import json

import pytest

from tft_utils.course import plots, standings, verdicts
from tft_utils.stats import Estimate


def score(effect: float, half: float = 0.02) -> dict:
    found = {"value": effect, "n": 100, "low": effect - half, "high": effect + half}
    return found | {"control": found, "better": "higher", "effect": found}


def row(
    technique: str, model: str, *effects: float, lesson: str = "02_a", verdict=None, ratio=None
) -> dict:
    seeds = {str(seed): score(effect) for seed, effect in enumerate(effects)}
    named = {"technique": technique, "metric": "share", "architecture": model, "lesson": lesson}
    return named | {"seeds": seeds, "ratio": ratio, "verdict": verdict}


def judged(
    technique: str, model: str, effects: list[float], basis: list[float], lesson="02_a"
) -> list[dict]:
    """Rows of a technique on the Transformer and on a model, with the verdict that the rule gives."""
    own, theirs = ([Estimate(x, 100, x - 0.02, x + 0.02) for x in side] for side in (effects, basis))
    word, ratio = verdicts.verdict(own, theirs)
    ratio = ratio._asdict() if ratio else None
    return [
        row(technique, "transformer", *basis, lesson=lesson),
        row(technique, model, *effects, lesson=lesson, verdict=word, ratio=ratio),
    ]


@pytest.fixture
def board() -> dict:
    rows = [
        *judged("sure", "mamba", [0.8, 0.8, 0.8], [0.8, 0.8, 0.8]),
        *judged("wide", "mamba", [0.4, 0.8], [0.8] * 5, lesson="03_b"),
        *judged("none", "mamba", [0.3, 0.3], [0.6, -0.4], lesson="03_b"),
        row("state", "mamba", 0.9, lesson="04_c"),
        row("sure", "lstm", 0.8, verdict="transfers"),
    ]
    failure = {"cell": "x", "kind": "Unsupported", "message": "lstm has no step size: it has gates"}
    other = {"cell": "y", "kind": "KeyError", "message": "'a'"}
    claimed = [{"technique": name, "metric": "share", "cell": "x"} for name in ("wide", "none")]
    runs = [
        {"lesson": "03_b", "model": "mamba", "seed": 0, "claims": claimed, "failed": []},
        {"lesson": "03_b", "model": "lstm", "seed": 0, "claims": [], "failed": [other, failure]},
    ]
    return {"rows": rows, "runs": runs}


def test_every_technique_meets_every_architecture(board):
    cells = standings.cells(board)
    words = {(cell.technique, cell.architecture): cell.word for cell in cells}
    assert words == {
        ("sure", "mamba"): "transfers",
        ("sure", "lstm"): "transfers",
        ("wide", "mamba"): "undecided",
        ("wide", "lstm"): "n/a",
        ("none", "mamba"): "no basis",
        ("none", "lstm"): "n/a",
        ("state", "mamba"): "no pair",
        ("state", "lstm"): "not run",
    }
    reasons = {cell.reason for cell in cells if cell.word == "n/a"}
    assert reasons == {"lstm has no step size: it has gates"}
    assert standings.counts(cells, "lstm") == {"transfers": 1, "n/a": 2, "not run": 1}


def test_an_open_cell_says_why(board):
    at = {(c.technique, c.architecture): c for c in standings.cells(board)}
    assert standings.why(at["wide", "mamba"]) == "the seeds of mamba differ: 0.40, 0.80"
    assert standings.why(at["none", "mamba"]) == "the seeds of transformer differ: 0.60, -0.40"
    lent = standings.cells({"rows": judged("t", "mamba", [0.2, 1.2], [0.8, 0.8])})[0]
    assert lent.word == "no basis"  # two Transformers agree, but seeds do not
    assert standings.why(lent) == "the seeds of mamba differ: 0.20, 1.20"
    assert len(standings.open_table(list(at.values())).splitlines()) == 2 + 2
    assert at["sure", "mamba"].plans == []


@pytest.mark.parametrize(
    ("effects", "basis", "said"),
    [
        ([0.8, 0.72], [0.8, 0.8], "more → transfers"),
        ([0.6], [0.8], "1 of mamba and 1 of transformer more, to see how seeds differ"),
        ([0.5, 0.5], [-0.1, 0.0], "another technique: the Transformer's mean effect is not above zero"),
        ([0.1, 1.1], [0.8, 0.8], "nothing within 100 seeds"),
        ([0.68], [0.78, 0.82, 0.8], "of mamba"),
    ],
)
def test_what_decides_in_words(effects, basis, said):
    (cell,) = standings.cells({"rows": judged("t", "mamba", effects, basis)})
    assert said in standings.decider(cell)


def test_seeds_that_change_the_verdict_are_counted():
    """Of three seeds one differs in the first metric, none in the second: 2 of 6 comparisons."""
    rows = judged("one", "mamba", [0.8, 0.8, 0.1], [0.8, 0.8, 0.8])
    rows += judged("two", "mamba", [0.8, 0.8, 0.8], [0.8, 0.8, 0.8], lesson="03_b")
    cells = standings.cells({"rows": rows})
    assert standings.of_pairs(cells[0]) == {0: "transfers", 1: "transfers", 2: "no"}
    share = standings.changes(cells, "mamba")
    assert (share.value, share.n) == (pytest.approx(1 / 3), 6)
    assert 0 <= share.low <= share.value <= share.high <= 1
    text = standings.changes_table(cells, "mamba")
    assert text.count("| one: share | transfers | transfers | no |") == 1
    assert "two" not in text
    assert "33% [" in standings.how_far_seeds_differ(cells)


def test_without_a_second_seed_nothing_is_said_of_seeds():
    cells = standings.cells({"rows": judged("t", "mamba", [0.8], [0.8])})
    assert standings.changes(cells, "mamba") is None
    assert standings.how_far_seeds_differ(cells).startswith("No architecture has a second seed")


def test_one_pairs_words_stand_beside_those_of_all_seeds(board):
    record = {"technique": "wide", "metric": "share", "architecture": "mamba", "better": "higher"}
    registry = [record | {"verdict": "transfers"}, record | {"technique": "gone", "verdict": "no"}]
    cells = standings.cells(board)
    ((cell, word),) = standings.old_and_new(cells, registry)
    assert (cell.word, word) == ("undecided", "transfers")
    line = standings.old_table(cells, registry).splitlines()[-1]
    why = "the seeds of mamba differ: 0.40, 0.80"
    assert line == f"| wide: share | mamba | transfers | undecided | {why} |"
    assert "pair gives as well, 1 change." in standings.sentence(board, registry)


def test_the_figure_says_every_word(board):
    cells = standings.cells(board)
    figure, alt = standings.standing(cells)
    assert not plots.unfit(figure, alt)
    drawn = [text.get_text().replace("\n", " ") for text in figure.axes[0].texts]
    assert sorted(drawn) == sorted(cell.word for cell in cells)
    assert "lstm: 1 transfers, 2 n/a, 1 not run" in alt


def lightness(colour: str) -> float:
    """Relative luminance (WCAG 2.1)."""
    code = {"white": "#FFFFFF", "black": "#000000"}.get(colour, colour).lstrip("#")
    parts = [int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_each_word_has_a_look_in_which_it_can_be_read():
    assert set(standings.LOOKS) == {*verdicts.WORDS, "n/a", "not run", "no pair"} == {*standings.MEANINGS}
    for word, look in standings.LOOKS.items():
        dark, bright = sorted(map(lightness, look))
        assert (bright + 0.05) / (dark + 0.05) > 4.5, word  # the contrast that WCAG 2.1 asks for


def test_the_readme_section_follows_the_board(board):
    text = standings.readme(board, [])
    assert text.startswith(standings.BEGIN)
    assert text.endswith(standings.END)
    assert "Trained models: 1 of lstm, 3 of mamba, 5 of transformer. Lessons: 02, 03, 04." in text
    assert "| wide: share | undecided | n/a | 03 |" in text


def test_an_empty_board_is_refused(tmp_path):
    path = tmp_path / "board.json"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(
        ValueError, match="expected rows in board.json, found none; run `make scoreboard`"
    ):
        standings.read_board(path)


def test_a_table_over_seeds_has_every_recorded_number(tmp_path, monkeypatch):
    def claim(name: str, value: float, control: float | None = None) -> dict:
        return {"name": f"a/{name}", "value": value, "control": {"value": control} if control else None}

    def run(model: str, seed: int, *records: dict, lesson: str = "02_a") -> dict:
        return {"lesson": lesson, "model": model, "seed": seed, "claims": list(records)}

    runs = [
        run("mamba", 1, claim("big-mamba", 0.25, 0.5)),
        run("mamba", 0, claim("big-mamba", 0.125, 1.0), claim("small-mamba", 3.0)),
        run("transformer", 0, claim("big-transformer", 1.0)),
        run("lstm", 0),
        run("rwkv", 0, claim("big-rwkv", 9.0), lesson="03_b"),
    ]
    path = tmp_path / "board.json"
    path.write_text(json.dumps({"rows": [1], "runs": runs}), encoding="utf-8")
    monkeypatch.setattr(standings, "board_file", lambda scale: path)
    columns = {"it": ("{}", "value"), "chance": ("{}", "control")}
    assert standings.over_seeds("a", "tiny", columns, ["big", "small"]) == (
        "|  |  | it | chance |\n| --- | --- | --- | --- |\n"
        "| big | transformer | 1.00 |  |\n"
        "| big | mamba | 0.12, 0.25 [-0.61, 0.98] | 1.00, 0.50 [-2.43, 3.93] |\n"
        "| small | mamba | 3.00 |  |\n"
        "\nIn brackets: the mean over trainings, 95 % by Student's t."
    )
    # By hand: t of one degree of freedom at 97.5 % is tan(0.475 pi) = 12.706; 0.1875 -+ 12.706 x 0.0625.
    assert standings.over_seeds("a", "tiny", {"it": ("small", "value")}) == (
        "|  | it |\n| --- | --- |\n| mamba | 3.00 |\n"
    )
