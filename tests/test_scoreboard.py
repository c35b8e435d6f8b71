"""The scoreboard: lessons run on any model, runs are kept and not repeated, rows join the seeds."""

import json

import nbformat
import pytest

from tft_utils import files
from tft_utils.course import claims, notebooks, scoreboard, verdicts
from tft_utils.stats import Estimate

PARAMETERS = 'SCALE = "tiny"\nMODELS = ("transformer", "mamba")\nSEED = 0'
CLAIMS = """
from tft_utils.course.claims import claim
from tft_utils.stats import Estimate

(name,) = MODELS
print("ran", file=open(LOG, "a"))
for technique, better in (("lens", "higher"), ("no score", None)):
    claim(f"toy/{technique}-{name}", Estimate(0.5, 20, 0.4, 0.6), 0.9, 0.1, technique=technique,
          architecture=name, metric="share", control=Estimate(0.1, 20, 0.0, 0.2), better=better)
"""
FAILS = 'raise RuntimeError("expected a past, found none")'


@pytest.fixture
def lesson(tmp_path, monkeypatch):
    """A lesson whose claims would fail if asserted, with a broken cell, and a log of its runs."""
    monkeypatch.setattr(scoreboard, "RUNS", tmp_path / "build")
    monkeypatch.setenv("TFT_CLAIMS", "show")
    cell, cells = nbformat.v4.new_code_cell, []
    for source in (
        PARAMETERS,
        f"LOG = {str(tmp_path / 'log')!r}",
        CLAIMS,
        FAILS,
        "after = 1 + undefined",
    ):
        cells.append(cell(source))
    cells[0]["id"], cells[3]["id"] = "parameters", "broken"
    path = tmp_path / "99_toy.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_a_run_keeps_claims_and_failures_and_is_not_repeated(lesson, tmp_path):
    first = scoreboard.run_lesson(lesson, "mamba")
    assert [(c["technique"], c["architecture"], c["value"]) for c in first["claims"]] == [
        ("lens", "mamba", 0.5),
        ("no score", "mamba", 0.5),
    ]
    assert first["failed"] == [
        {"cell": "broken", "kind": "RuntimeError", "message": "expected a past, found none"}
    ]
    kept = scoreboard.run_file(lesson, "mamba", 0, "tiny")
    assert json.loads(kept.read_text(encoding="utf-8")) == first
    assert scoreboard.run_lesson(lesson, "mamba") == first
    assert (tmp_path / "log").read_text(encoding="utf-8").count("ran") == 1
    notebook = notebooks.parse(lesson)
    notebook["cells"][1]["source"] += "  # a change"
    nbformat.write(notebook, lesson)
    scoreboard.run_lesson(lesson, "mamba")
    assert (tmp_path / "log").read_text(encoding="utf-8").count("ran") == 2


def test_a_run_of_another_seed_is_another_run(lesson, tmp_path):
    runs = [scoreboard.run_lesson(lesson, "transformer", seed) for seed in (0, 1, 1)]
    assert [run["seed"] for run in runs] == [0, 1, 1]
    assert (tmp_path / "log").read_text(encoding="utf-8").split() == ["ran", "ran"]
    notebook = notebooks.parse(lesson)
    known = [("transformer", 0), ("transformer", 1), ("mamba", 0), ("no_organism", 0)]
    assert len({scoreboard.digest(notebook, *draw) for draw in known}) == len(known)


def test_without_names_every_trained_organism_runs():
    drawn = scoreboard.draws([], None, "tiny")
    assert {("transformer", 0), ("transformer", 1), ("mamba", 0)} <= set(drawn)
    assert drawn == [(name, seed) for name, seeds in files.seeds().items() for seed in seeds]
    assert scoreboard.draws(["transformer"], [1], "tiny") == [("transformer", 1)]
    assert scoreboard.draws(["mamba"], [3], "small") == [("mamba", 0)]
    with pytest.raises(files.LoadError, match="found none of name 'mamba' and seed 77; use one of"):
        scoreboard.draws(["mamba"], [77], "tiny")
    with pytest.raises(files.LoadError, match="expected the models to run at scale='small', found none"):
        scoreboard.draws([], None, "small")


def test_a_run_that_breaks_off_is_recorded_and_done_again(lesson, tmp_path):
    notebook = notebooks.parse(lesson)
    notebook["cells"][3]["source"] = "import os; os._exit(9)"
    nbformat.write(notebook, lesson)
    for times in (1, 2):
        done = scoreboard.run_lesson(lesson, "mamba")
        assert len(done["claims"]) == 2
        assert [f["kind"] for f in done["failed"]] == ["DeadKernelError"]
        assert (tmp_path / "log").read_text(encoding="utf-8").count("ran") == times


def test_parameters_are_set_behind_their_cell(lesson):
    notebook = scoreboard.with_parameters(notebooks.parse(lesson), MODELS=("rwkv",), SEED=3)
    values: dict = {}
    for cell in notebook["cells"][:2]:
        exec(cell["source"], values)
    assert (values["SCALE"], values["MODELS"], values["SEED"]) == ("tiny", ("rwkv",), 3)
    with pytest.raises(ValueError, match="expected a cell 'parameters' that sets MODEL, found none"):
        scoreboard.with_parameters(notebooks.parse(lesson), MODEL="rwkv")


@pytest.mark.parametrize("path", notebooks.all_notebooks(), ids=lambda path: path.stem)
def test_every_lesson_is_a_function_of_its_parameters(path):
    values: dict = {}
    notebook = scoreboard.with_parameters(notebooks.parse(path), SCALE="small", MODELS=("rwkv",))
    at = next(i for i, cell in enumerate(notebook["cells"]) if cell["id"] == "parameters")
    for cell in notebook["cells"][at : at + 2]:
        exec(cell["source"], values)
    assert (values["SCALE"], values["MODELS"]) == ("small", ("rwkv",))


def made(model: str, seed: int, value: float, better: str | None = "higher") -> dict:
    """A run with one claim."""
    control = {"value": 0.1, "n": 20, "low": 0.05, "high": 0.15}
    record = {"technique": "lens", "metric": "share", "architecture": model, "better": better}
    record |= {"value": value, "n": 20, "low": value - 0.05, "high": value + 0.05, "control": control}
    return {"lesson": "04_lenses", "seed": seed, "claims": [record]}


def test_rows_join_the_seeds_and_verdicts_compare_means_over_them():
    values = {("transformer", 0): 0.9, ("transformer", 1): 0.8, ("mamba", 0): 0.5, ("mamba", 1): 0.55}
    values["lstm", 0] = 0.9
    runs = [made(model, seed, value) for (model, seed), value in values.items()]
    rows = scoreboard.board([*runs, made("mamba", 0, 0.3, None)])
    by_name = {row["architecture"]: row for row in rows}
    seeds = {"transformer": [0, 1], "mamba": [0, 1], "lstm": [0]}
    assert {name: list(row["seeds"]) for name, row in by_name.items()} == seeds
    control = Estimate(0.1, 20, 0.05, 0.15)
    effects = {
        name: [
            verdicts.effect_of(Estimate(v, 20, v - 0.05, v + 0.05), control, "higher")
            for v in (values[name, seed] for seed in of_name)
        ]
        for name, of_name in seeds.items()
    }
    word, ratio = verdicts.verdict(effects["mamba"], effects["transformer"])
    assert (by_name["mamba"]["verdict"], by_name["mamba"]["ratio"]) == (word, ratio._asdict())
    assert by_name["mamba"]["ratio"]["value"] == pytest.approx(0.425 / 0.75)
    assert (by_name["transformer"]["verdict"], by_name["transformer"]["ratio"]) == (None, None)
    assert by_name["mamba"]["seeds"][1]["effect"] == pytest.approx(effects["mamba"][1]._asdict())


def test_a_score_given_twice_is_refused():
    with pytest.raises(ValueError, match="one score of lens, share, mamba for seed 1, found two"):
        scoreboard.board([made("mamba", 1, 0.5), made("mamba", 1, 0.6)])


def test_without_the_transformer_there_is_no_verdict():
    (row,) = scoreboard.board([made("mamba", 0, 0.5)])
    assert (row["verdict"], row["ratio"]) == (None, None)


def test_the_command_runs_all_and_writes_the_board(lesson, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(notebooks, "all_notebooks", lambda: [lesson])
    monkeypatch.setattr(claims, "SCOREBOARD", tmp_path / "scoreboard.json")
    scoreboard.main(["run", "transformer", "mamba", "--seeds", "0"])
    written = json.loads((tmp_path / "scoreboard.json").read_text(encoding="utf-8"))
    assert [(r["architecture"], r["verdict"]) for r in written["rows"]] == [
        ("mamba", "at least partly"),
        ("transformer", None),
    ]
    assert "broken: RuntimeError: expected a past, found none" in capsys.readouterr().err


def test_a_run_that_is_out_of_date_is_left_out(lesson, tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "all_notebooks", lambda: [lesson])
    monkeypatch.setattr(claims, "SCOREBOARD", tmp_path / "scoreboard.json")
    scoreboard.run_lesson(lesson, "transformer")
    notebook = notebooks.parse(lesson)
    notebook["cells"][1]["source"] += "  # a change"
    nbformat.write(notebook, lesson)
    scoreboard.main(["run", "mamba", "--seeds", "0"])
    rows = json.loads((tmp_path / "scoreboard.json").read_text(encoding="utf-8"))["rows"]
    assert [row["architecture"] for row in rows] == ["mamba"]


def test_the_table_of_committed_claims_has_a_verdict_for_each_score(capsys):
    scoreboard.main(["table"])
    head, rule, *lines = capsys.readouterr().out.splitlines()
    assert head.count("|") == rule.count("|") == 9
    registry = json.loads(claims.REGISTRY.read_text(encoding="utf-8"))
    verdict_of = {r["name"]: r["verdict"] for r in registry if r["better"]}
    assert len(lines) == len(verdict_of) > 40
    said = [line.split(" | ")[-1].strip(" |") for line in lines]
    assert sorted(filter(None, said)) == sorted(filter(None, verdict_of.values()))


def test_the_table_shows_means_over_seeds():
    runs = [made("transformer", 0, 0.92), made("transformer", 1, 0.88), made("mamba", 0, 0.5)]
    lines = scoreboard.table(scoreboard.board(runs)).splitlines()
    assert lines[2] == "| lens | share | transformer | 2 | 0.9 | 0.1 |  |  |"
    assert lines[3].startswith("| lens | share | mamba | 1 | 0.5 | 0.1 | ")


def test_the_readme_counts_the_verdicts_that_a_second_seed_changes():
    rows = json.loads(claims.SCOREBOARD.read_text(encoding="utf-8"))["rows"]
    registry = json.loads(claims.REGISTRY.read_text(encoding="utf-8"))
    keys = ("technique", "metric", "architecture")
    one = {tuple(r[k] for k in keys): r["verdict"] for r in registry if r["better"]}
    both = {tuple(r[k] for k in keys): r["verdict"] for r in rows if r["verdict"]}
    assert {len(row["seeds"]) for row in rows} == {2}
    changed = [key for key, word in both.items() if word != one[key]]
    said = " ".join((files.ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"of {len(both)} verdicts, {len(changed)} change" in said
