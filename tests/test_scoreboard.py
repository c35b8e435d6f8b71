"""The scoreboard: lessons run on any model, runs are kept and not repeated, rows join the seeds."""

import collections
import datetime
import importlib.metadata
import json
import math
import re
import shutil
import tomllib

import nbformat
import numpy as np
import pytest
from packaging.requirements import Requirement

from tft_utils import files, stats
from tft_utils.corpora.statements import TASKS
from tft_utils.course import claims, notebooks, scoreboard, standings, verdicts
from tft_utils.lessons import why
from tft_utils.models import PAIR
from tft_utils.stats import Estimate

PARAMETERS = 'SCALE = "tiny"\nMODELS = ("transformer", "mamba")\nSEED = 0'
CLAIMS = """
from tft_utils.course.claims import claim, unclaimed
from tft_utils.stats import Estimate

(name,) = MODELS
print("ran", file=open(LOG, "a"))
for technique, better in (("lens", "higher"), ("no score", None)):
    claim(f"toy/{technique}-{name}", Estimate(0.5, 20, 0.4, 0.6), 0.9, 0.1, technique=technique,
          architecture=name, metric="share", control=Estimate(0.1, 20, 0.0, 0.2), better=better)
unclaimed("cut", name, "share", "it has no edge")
"""
FAILS = 'raise RuntimeError("expected a past, found none")\nlate = 1'


@pytest.fixture
def lesson(tmp_path, monkeypatch):
    """A lesson whose claims would fail if asserted, with a broken cell, and a log of its runs."""
    monkeypatch.setattr(scoreboard, "RUNS", tmp_path / "build")
    monkeypatch.setattr(claims, "SCOREBOARD", tmp_path / "scoreboard.json")
    monkeypatch.setenv("TFT_CLAIMS", "show")
    cell, cells = nbformat.v4.new_code_cell, []
    for source in (PARAMETERS, f"LOG = {str(tmp_path / 'log')!r}", CLAIMS, FAILS, "after = 1 + late"):
        cells.append(cell(source))
    for one, name in zip(cells, ("parameters", "log", "says", "broken", "behind"), strict=True):
        one["id"] = name
    path = tmp_path / "99_toy.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_a_run_keeps_claims_and_failures_and_is_not_repeated(lesson, tmp_path):
    first = scoreboard.run_lesson(lesson, "mamba")
    assert [(c["technique"], c["architecture"], c["value"]) for c in first["claims"]] == [
        ("lens", "mamba", 0.5),
        ("no score", "mamba", 0.5),
    ]
    own = {"kind": "RuntimeError", "message": "expected a past, found none"}
    assert first["failed"] == [{"cell": "broken"} | own, {"cell": "behind"} | own | {"after": "broken"}]
    assert {record["cell"] for record in first["claims"]} == {"says"}
    none = {"technique": "cut", "metric": "share", "architecture": "mamba", "reason": "it has no edge"}
    assert first["none"] == [none | {"cell": "says"}]
    assert first["versions"]["torch"] == importlib.metadata.version("torch")
    kept = scoreboard.run_file(lesson, "mamba", 0, "tiny")
    assert json.loads(kept.read_text(encoding="utf-8")) == first
    assert scoreboard.run_lesson(lesson, "mamba") == first
    assert (tmp_path / "log").read_text(encoding="utf-8").count("ran") == 1
    notebook = notebooks.parse(lesson)
    notebook["cells"][1]["source"] += "\nchanged = 1"
    nbformat.write(notebook, lesson)
    scoreboard.run_lesson(lesson, "mamba")
    assert (tmp_path / "log").read_text(encoding="utf-8").count("ran") == 2


def failing(*cells: tuple[str, str, str]) -> list[dict]:
    """Cells that have run, (source, kind, message): kind '' is none that failed."""
    return [
        {
            "cell_type": "code",
            "id": f"{i}",
            "source": source,
            "outputs": [{"output_type": "error", "ename": kind, "evalue": message}] if kind else [],
        }
        for i, (source, kind, message) in enumerate(cells)
    ]


def test_a_failure_that_another_one_brought_says_what_that_one_says():
    """Half of a value, a missing name, one behind the other; what fails by itself says its own."""
    found = scoreboard.failures(
        failing(
            ("masks = read()\nmaps = look(masks)", "Unsupported", "lstm has no hidden attention"),
            ("parts = split(masks)", "", ""),
            ("deciding = {}\ndeciding['a'] = maps", "NameError", "name 'maps' is not defined"),
            ("claim(deciding['lstm'])", "KeyError", "'lstm'"),
            ("carried = run(masks)", "Unsupported", "griffin has no continuation"),
            ("claim(carried, parts)", "NameError", "name 'carried' is not defined"),
            ("claim(parts)", "ValueError", "expected two, found one"),
            ("claim(nobody)", "NameError", "name 'nobody' is not defined"),
            ("for name in deciding: claim(name)", "", ""),
            ("for name in parts: claim(name)", "", ""),
        )
    )
    assert [(one["cell"], one["message"], one.get("after")) for one in found] == [
        ("0", "lstm has no hidden attention", None),
        ("2", "lstm has no hidden attention", "0"),
        ("3", "lstm has no hidden attention", "0"),
        ("4", "griffin has no continuation", None),
        ("5", "griffin has no continuation", "4"),
        ("6", "expected two, found one", None),
        ("7", "name 'nobody' is not defined", None),
        ("8", "lstm has no hidden attention", "0"),
    ]
    assert [one["kind"] for one in found][:5] == ["Unsupported"] * 5


def test_a_run_of_another_seed_is_another_run(lesson, tmp_path):
    runs = [scoreboard.run_lesson(lesson, "transformer", seed) for seed in (0, 1, 1)]
    assert [run["seed"] for run in runs] == [0, 1, 1]
    assert (tmp_path / "log").read_text(encoding="utf-8").split() == ["ran", "ran"]
    notebook = notebooks.parse(lesson)
    known = [("transformer", 0), ("transformer", 1), ("mamba", 0), ("no_organism", 0)]
    assert len({scoreboard.digest(notebook, *draw)["organism"] for draw in known}) == len(known)


def test_an_adapter_counts_where_a_lesson_reads_one(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "ORGANISMS", tmp_path)
    (tmp_path / "quirky").mkdir()
    (tmp_path / "manifest.json").write_text('{"mamba-1": {}}', encoding="utf-8")
    lessons = {path.stem.partition("_")[2]: notebooks.parse(path) for path in notebooks.all_notebooks()}
    seen = {}
    for adapters in ("{}", '{"mamba-1": {"card.json": "1"}}'):
        (tmp_path / "quirky" / "manifest.json").write_text(adapters, encoding="utf-8")
        for name in ("latent_knowledge", "steering"):
            found = scoreboard.digest(lessons[name], "mamba", 1)["organism"]
            seen.setdefault(name, set()).add(found)
    assert {name: len(found) for name, found in seen.items()} == {"latent_knowledge": 2, "steering": 1}


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


@pytest.mark.parametrize("path", scoreboard.lessons(), ids=lambda path: path.stem)
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
    scoreboard.main(["run", "transformer", "mamba", "--seeds", "0"])
    written = json.loads((tmp_path / "scoreboard.json").read_text(encoding="utf-8"))
    assert [(r["architecture"], r["verdict"]) for r in written["rows"]] == [
        ("mamba", "at least partly"),
        ("transformer", None),
    ]
    assert "broken: RuntimeError: expected a past, found none" in capsys.readouterr().err


def test_a_run_that_is_out_of_date_is_left_out(lesson, tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "all_notebooks", lambda: [lesson])
    scoreboard.run_lesson(lesson, "transformer")
    notebook = notebooks.parse(lesson)
    notebook["cells"][1]["source"] += "\nchanged = 1"
    nbformat.write(notebook, lesson)
    scoreboard.main(["run", "mamba", "--seeds", "0"])
    rows = json.loads((tmp_path / "scoreboard.json").read_text(encoding="utf-8"))["rows"]
    assert [row["architecture"] for row in rows] == ["mamba"]


def test_the_board_keeps_its_runs_where_build_is_lost(lesson, tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "all_notebooks", lambda: [lesson])
    scoreboard.main(["run", "transformer", "--seeds", "0"])
    shutil.rmtree(tmp_path / "build")
    scoreboard.main(["run", "transformer", "mamba", "--seeds", "0"])
    assert (tmp_path / "log").read_text(encoding="utf-8").split() == ["ran", "ran"]
    rows = json.loads((tmp_path / "scoreboard.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["architecture"], row["verdict"]) for row in rows] == [
        ("mamba", "at least partly"),
        ("transformer", None),
    ]


def test_an_older_run_in_build_does_not_drive_out_the_boards(lesson, tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "all_notebooks", lambda: [lesson])
    scoreboard.main(["run", "transformer", "mamba", "--seeds", "0"])
    path = scoreboard.run_file(lesson, "transformer", 0, "tiny")
    old = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(old | {"digest": old["digest"] | {"lesson": "0"}}), encoding="utf-8")
    before = (tmp_path / "scoreboard.json").read_text(encoding="utf-8")
    scoreboard.main(["run", "mamba", "transformer", "--seeds", "0"])
    assert (tmp_path / "scoreboard.json").read_text(encoding="utf-8") == before
    assert (tmp_path / "log").read_text(encoding="utf-8").split() == ["ran", "ran"]


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


# ---- what a run depends on ---------------------------------------------------------------------------


def coded(*sources: str) -> dict:
    return {"cells": [{"cell_type": "code", "source": source} for source in sources]}


def test_a_digest_sees_code_and_neither_comments_nor_prose():
    found = scoreboard.digest(coded("x = 1  # one"), "mamba", 0)
    assert found == scoreboard.digest(coded("x  =  1  # another"), "mamba", 0)
    prose = {"cells": [*coded("x = 1")["cells"], {"cell_type": "markdown", "source": "A sentence."}]}
    assert found == scoreboard.digest(prose, "mamba", 0)
    other = scoreboard.digest(coded("x = 2"), "mamba", 0)
    assert other["lesson"] != found["lesson"]
    assert (other["organism"], other["package"]) == (found["organism"], found["package"])


def test_a_digest_sees_what_the_lesson_imports_and_nothing_else(tmp_path, monkeypatch):
    package = tmp_path / "tft_utils"
    for name in ("techniques", "course"):
        (package / name).mkdir(parents=True)
    near, far = package / "techniques" / "a.py", package / "stats.py"
    others = package / "course" / "drawn.py", package / "techniques" / "idle.py"
    near.write_text("from tft_utils import stats\n", encoding="utf-8")
    far.write_text("def f():\n    'One.'\n    return 1\n", encoding="utf-8")
    for path in others:
        path.write_text("y = 1\n", encoding="utf-8")
    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setattr(scoreboard, "PAIR", ())
    notebook = coded("from tft_utils.techniques import a\nfrom tft_utils.course import drawn")
    monkeypatch.setattr(scoreboard, "_imported", scoreboard._imported.__wrapped__)

    def package_part() -> str:
        return scoreboard.digest(notebook, "no_organism", 0)["package"]

    before = package_part()
    far.write_text("def f():\n    'Another.'\n    return 1  # one\n", encoding="utf-8")
    for path in others:
        path.write_text("y = 2\n", encoding="utf-8")
    assert package_part() == before
    far.write_text("def f():\n    return 2\n", encoding="utf-8")
    assert package_part() != before


def test_an_architecture_of_another_model_is_not_reached():
    reached = scoreboard._reached(["from tft_utils import models"], [("mamba", 0)])
    names = {path.name for path in reached}
    assert {"models.py", "mamba.py", "mamba_scan.py", "files.py"} <= names
    assert not names & {"gpt_neox.py", "rwkv.py", "scoreboard.py"}


def test_a_stale_run_is_named_with_what_to_run():
    path = scoreboard.lessons()[0]
    fresh = scoreboard.digest(notebooks.parse(path), "mamba", 0)
    run = {"lesson": path.stem, "model": "mamba", "seed": 0, "digest": fresh}
    assert scoreboard.stale({"runs": [run]}) == []
    assert scoreboard.stale({"runs": [run | {"digest": fresh | {"package": "0"}}]}) == []
    assert scoreboard.stale({"runs": [run | {"digest": fresh | {"organism": "0"}}]}) == [
        f"{path.stem} on mamba, seed 0: its organism changed since; run "
        f"`python -m tft_utils.course.scoreboard run mamba --seeds 0 --lessons {notebooks.number(path)}`"
    ]
    gone = scoreboard.stale({"runs": [run | {"lesson": "99_gone"}]})
    assert gone == ["99_gone on mamba, seed 0: there is no such lesson; run `make scoreboard`"]


def test_what_stands_on_the_board_is_not_part_of_it(lesson, monkeypatch):
    monkeypatch.setattr(notebooks, "all_notebooks", lambda: [lesson])
    notebook = notebooks.parse(lesson)
    notebook["cells"][1]["source"] += "\nfrom tft_utils.course.standings import over_seeds\nover_seeds"
    nbformat.write(notebook, lesson)
    assert scoreboard.lessons() == [lesson]  # it shows other runs beside what it measures
    notebook["cells"][1]["source"] += "\nfrom tft_utils.course import standings"
    nbformat.write(notebook, lesson)
    assert scoreboard.lessons() == []


# ---- the committed board -----------------------------------------------------------------------------

BOARD = standings.read_board()
REGISTRY = json.loads(claims.REGISTRY.read_text(encoding="utf-8"))


def same(found: float, known: float, n: int) -> bool:
    """Within 1 %, .01, or one item of a share: another machine rounds otherwise, and may tip an item."""
    return math.isclose(found, known, rel_tol=0.01, abs_tol=max(0.01, 1.01 / n))


def test_no_run_of_the_board_is_stale():
    if "runs" not in BOARD:
        pytest.skip("the board's file is older than its digests: run `make scoreboard`")
    found = scoreboard.stale(BOARD)
    assert not found, "\n".join(found)


def test_every_run_of_the_board_says_what_it_was_made_with():
    """With versions that this project allows."""
    project = tomllib.loads((files.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    allowed = {each.name: each.specifier for each in map(Requirement, project["dependencies"])}
    for run in BOARD["runs"]:
        assert run["versions"].keys() == set(scoreboard.PACKAGES), run
        for package, version in run["versions"].items():
            assert allowed[package].contains(version), (run["lesson"], run["model"], package, version)


def test_every_cell_without_a_score_has_its_own_reason():
    """What an architecture's file says that it lacks, or what the lesson says of this technique there."""
    lacking = [cell for cell in standings.cells(BOARD) if cell.word == standings.NONE]
    unsupported = {
        failure["message"]
        for run in BOARD["runs"]
        for failure in run["failed"]
        if failure["kind"] == "Unsupported"
    }
    told = {none["reason"] for run in BOARD["runs"] for none in run.get("none", ())}
    for cell in lacking:
        assert cell.reason in unsupported | told, f"{cell.name} on {cell.architecture}: {cell.reason!r}"


def spread_of(side: list[Estimate], pooled: float) -> tuple[float, float, float]:
    """Mean, spread of seeds, error by items of an architecture's effects, as plans take them."""
    mean = sum(e.value for e in side) / len(side)
    squares = sum((e.value - mean) ** 2 for e in side)
    items = sum(((e.high - e.low) / (2 * stats.Z)) ** 2 for e in side) / len(side)
    seeds = max(squares / (len(side) - 1), pooled) if len(side) > 1 else pooled
    return mean, math.sqrt(seeds), math.sqrt(items)


def test_what_would_decide_an_open_cell_decides_it():
    """In four of five draws of so many seeds and items, from what was seen."""
    rng, draws, tried = np.random.default_rng(0), 100, 0
    for cell in filter(standings.is_open, standings.cells(BOARD)):
        sides = [list(cell.effects.values()), list(cell.basis.values())]
        n = sum(map(len, sides)) - 2
        pooled = sum(len(s) * np.var([e.value for e in s]) for s in sides) / max(n, 1)
        for plan in (plan for plan in cell.plans if plan.word):
            known = [spread_of(side, pooled) for side in sides]
            size = [len(side) + more for side, more in zip(sides, (plan.seeds, plan.basis), strict=True)]
            said = []
            for _ in range(draws):
                both = []
                for (mean, seeds, items), m in zip(known, size, strict=True):
                    error = items / math.sqrt(plan.times)
                    values = rng.normal(rng.normal(mean, error), seeds, m)
                    half = stats.Z * error
                    both.append([Estimate(x, 100, x - half, x + half) for x in values])
                said.append(verdicts.verdict(*both).word)
            tried += 1
            assert said.count(plan.word) >= 0.65 * draws, f"{cell.name} on {cell.architecture}: {plan}"
    assert tried > 40


def test_the_board_has_the_numbers_that_the_lessons_claim():
    """The lessons run at every change, on seed 0 of the pair: an edit of the package that moves a number
    shows here at once."""
    rows = {(r["technique"], r["metric"], r["architecture"]): r for r in BOARD["rows"]}
    compared = 0
    for record in REGISTRY:
        row = rows.get((record["technique"], record["metric"], record["architecture"]), {"seeds": {}})
        if record["better"] and (score := row["seeds"].get("0")):
            compared += 1
            for found, known in ((score, record), (score["control"], record["control"])):
                assert same(found["value"], known["value"], known["n"]), (
                    f"{record['name']}: the lesson says {known['value']:.4g}, the board "
                    f"{found['value']:.4g}; run `make scoreboard`"
                )
    assert compared >= 40


def todays_run() -> tuple[str, str, int]:
    """A lesson on a model that the lessons' own pair has not: another one each day."""
    pair = {(name, claims.PARAMETERS["SEED"]) for name in PAIR}
    listed = {
        (row["lesson"], row["architecture"], int(seed)) for row in BOARD["rows"] for seed in row["seeds"]
    }
    slow = {(r["lesson"], r["model"], r["seed"]) for r in BOARD.get("runs", ()) if r["seconds"] > 60}
    others = [run for run in sorted(listed) if run[1:] not in pair]
    quick = [run for run in others if run not in slow] or others
    return quick[datetime.date.today().toordinal() % len(quick)]


def test_one_run_a_day_gives_the_boards_numbers_again(tmp_path, monkeypatch):
    monkeypatch.setattr(scoreboard, "RUNS", tmp_path)
    monkeypatch.setattr(claims, "SCOREBOARD", tmp_path / "no_board.json")
    monkeypatch.setenv("TFT_CLAIMS", "show")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    lesson, model, seed = todays_run()
    done = scoreboard.run_lesson(notebooks.NOTEBOOKS / f"{lesson}.ipynb", model, seed)
    scored = {
        (c["technique"], c["metric"]): c
        for c in done["claims"]
        if c["better"] and c["architecture"] == model
    }
    again = scoreboard.again({"lesson": lesson, "model": model, "seed": seed})
    rows = [r for r in BOARD["rows"] if (r["lesson"], r["architecture"]) == (lesson, model)]
    rows = [row for row in rows if str(seed) in row["seeds"]]
    assert {(row["technique"], row["metric"]) for row in rows} == scored.keys(), f"run `{again}`"
    for row in rows:
        known, found = row["seeds"][str(seed)], scored[row["technique"], row["metric"]]
        for one, other in ((found, known), (found["control"], known["control"])):
            assert same(one["value"], other["value"], other["n"]), (
                f"{row['technique']}, {row['metric']} on {model}, seed {seed}: the board says "
                f"{other['value']:.4g}, a run today {one['value']:.4g}; run `{again}`"
            )


def test_the_readme_has_the_boards_section():
    text = (files.ROOT / "README.md").read_text(encoding="utf-8")
    assert standings.readme(BOARD, REGISTRY) in text, (
        "run `python -m tft_utils.course.scoreboard readme`: the section is not of today's file"
    )


def test_the_page_shows_the_boards_tables():
    (page,) = notebooks.pages()
    outputs = [o for c in notebooks.parse(page)["cells"] for o in c.get("outputs", ())]
    shown = [output.get("data", {}).get("text/markdown", "") for output in outputs]
    cells = standings.cells(BOARD)
    for text in (
        standings.sentence(BOARD, REGISTRY),
        standings.table(cells),
        standings.open_table(cells),
        standings.old_table(cells, REGISTRY),
        standings.how_far_seeds_differ(cells),
        standings.beside_published(BOARD),
    ):
        assert text in shown, f"run `python -m tft_utils.course.notebooks execute notebooks/{page.name}`"


def test_the_command_writes_the_readmes_section(tmp_path, monkeypatch):
    page = tmp_path / "README.md"
    page.write_text(f"before\n{standings.BEGIN}\nold\n{standings.END}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(files, "ROOT", tmp_path)
    scoreboard.main(["readme"])
    text = page.read_text(encoding="utf-8")
    assert text == f"before\n{standings.readme(BOARD, REGISTRY)}\nafter\n"
    page.write_text("no markers\n", encoding="utf-8")
    with pytest.raises(ValueError, match="in the page, found none; add both lines"):
        scoreboard.main(["readme"])


def by_model_and_seed(lesson: str) -> dict[tuple[str, int], dict[str, dict]]:
    """The claims of the runs of a lesson, by their names without lesson and model."""
    return {
        (run["model"], run["seed"]): {
            record["name"].partition("/")[2].removesuffix(f"-{run['model']}"): record
            for record in run["claims"]
        }
        for run in BOARD["runs"]
        if run["lesson"].endswith(f"_{lesson}")
    }


def of_the_pair(lesson: str) -> dict[tuple[str, int], dict]:
    found = {at: claims for at, claims in by_model_and_seed(lesson).items() if at[0] in PAIR}
    assert len(found) == 6, "three trainings of each"
    return found


def test_what_the_lessons_say_of_all_trainings_holds():
    knows = of_the_pair("latent_knowledge")
    for found in knows.values():
        above = {task: found[task]["value"] - found[task]["control"]["value"] for task in TASKS}
        assert above["mood"] > 0, "06a: mood is read in all six models"
        assert max(above["addition"], above["facts"]) < 0, "06a: the mean lies below random directions"
    for (model, _), found in knows.items():
        reached = {
            told: found[f"reached-answer-fixed-name-{told}"]["value"] for told in ("first", "last")
        }
        most = (0.01, 0.01) if model == "transformer" else (0.2, 0.03)
        assert reached["first"] <= most[0], "06a: random means that reach the probes', answer fixed"
        assert reached["last"] <= most[1], "06a: likewise, name last"
    for (model, _), found in of_the_pair("knockout_and_edits").items():
        kept = found["relation"]["value"]
        assert kept < 0.05 if model == "transformer" else kept > 0.9, "07b: wrong answers of the kind"
    turned = {
        seed: found["story"]["value"]
        for (name, seed), found in of_the_pair("steering_the_state").items()
        if name == "transformer"
    }
    assert turned[1] < 0.5 < min(turned[0], turned[2]), "08b: the second turns fewer than half"
    odd = of_the_pair("anomalies")
    for found in odd.values():
        assert found["anomaly"]["value"] > found["anomaly"]["control"]["value"], "06b: bob in all six"
        assert found["alarms"]["value"] > 0.28, "06b: false alarms for three in ten of hard items or more"
    for (model, _), found in odd.items():
        over = found["anomaly"]["value"] - found["random"]["value"]
        assert over > 0 if model == "transformer" else abs(over) < 0.06, "06b: random directions"
    steered = by_model_and_seed("steering")
    assert steered["transformer", 1]["last-word"]["value"] > 0.2, "08a: its last word does move"
    assert 0.1 < steered["mamba", 1]["first-word"]["value"] < 0.3, "08a: a first word does a little"
    for seed in (1, 2):
        assert steered["mamba", seed]["announcement"]["control"]["value"] > 0.2, "08a: random vectors"
    first = {
        name: steered[f"mamba-{name}", 0]["first-word"]["value"]
        for name in ("unconvolved", "unselective")
    }
    assert 0.25 < first["unconvolved"] < 0.35 < first["unselective"], "08a: the first word, both ways"
    loose = by_model_and_seed("lenses")
    for seed in (0, 1):
        assert loose["mamba-unpenalised", seed]["logit-lens"]["high"] < 0, "04: without the penalty"
    both = by_model_and_seed("steering_the_state")["mamba", 2]["both-over-state"]
    assert both["high"] < 0, "08b: in the third Mamba the residual stream takes something away"


def test_what_lesson_10_says_of_each_part_holds():
    measures = why.measured(BOARD, standings.cards())
    rows = why.by_part(why.compared(measures, why.difference, why.holm, why.judged))
    counts = {part: collections.Counter(row.word for row in some) for part, some in rows.items()}
    assert [row.name for row in rows["tying"] if row.word in why.FAR] == ["can do: story"]
    apart = {row.name: row for row in rows["selection"] if row.word in why.FAR}
    assert {name.partition(":")[0] for name in apart} == {"can do", "contribution map", "unit ablation"}
    assert -0.5 < apart["can do: recall"].gap < -0.4, "half of recall"
    small = {row.name: row for row in rows["state size, 4"] if row.word.startswith("apart")}
    (carried,) = (row for name, row in small.items() if name.startswith("transplant"))
    assert carried.own[0] == pytest.approx(0.29, abs=0.03)
    assert min(carried.seeds) > 0.88
    (cut,) = (row for name, row in small.items() if name.startswith("knockout"))
    assert cut.own[0] < min(cut.seeds) / 2
    (large,) = (row for row in rows["state size, 64"] if row.word.startswith("apart"))
    assert round(large.gap, 2) == 0.02
    loose = {row.name.partition(":")[0]: row for row in rows["write penalty"]}
    lens, state = loose["logit lens"], loose["steering, state"]
    assert [round(x, 2) for x in lens.own] == [-0.37, -0.24]
    assert [round(x, 2) for x in (min(lens.seeds), max(lens.seeds))] == [0.07, 0.17]
    assert why.permutation_p(lens.own, lens.seeds) == why.smallest_p(2, 3) == 0.1
    assert lens.word == "apart, not after Holm"
    assert state.own[0] < 0.05 < 0.8 < min(state.own[1], *state.seeds)
    able = [standings.cards()["mamba-unpenalised"][seed]["evaluation"].values() for seed in (0, 1)]
    assert all(found["passed"] for of_one in able for found in of_one)
    for part, most in (("state size, 64", 1), ("depth", 0)):
        assert counts[part]["apart, not after Holm"] == most
        assert not counts[part].keys() & set(why.FAR)
        assert 0.4 < counts[part]["same within a quarter"] / len(rows[part]) < 0.5, "nearly half"


def test_a_state_of_any_size_steers_answers_from_one_end_to_the_other():
    steered = by_model_and_seed("steering_the_state")
    for name in ("mamba", "mamba-state4", "mamba-state64"):
        assert steered[name, 0]["state"]["value"] > 0.98


def test_what_lesson_08b_says_of_letters_in_the_state_holds():
    """Read in one order of the letters, a persona moves answers in either, and a letter the wrong way."""
    steered = by_model_and_seed("steering_the_state")
    persona = [("mamba", 0), ("mamba", 1), *((f"mamba-{x}", 0) for x in ("tied", "state4", "state64"))]
    persona += [("mamba-unpenalised", 1), ("mamba2", 0), ("rwkv", 0)]
    letter = [("mamba-unconvolved", 0), ("mamba-unpenalised", 0)]
    for key in persona + letter:
        assert steered[key]["same-order"]["low"] > 0.9, key
        reach = abs(steered[key]["state"]["value"])
        assert reach > 0.7 if key in persona else reach < 0.15, key
    assert all(steered[key]["other-order"]["low"] > 0.9 for key in persona)
    assert all(steered[key]["other-order"]["high"] < -0.9 for key in letter)
    for key in (("mamba", 2), ("lstm", 0)):
        assert -0.95 < steered[key]["other-order"]["value"] < 0, key


def test_what_lesson_09b_says_of_the_states_size_holds():
    registry = json.loads(claims.REGISTRY.read_text(encoding="utf-8"))
    of = {record["name"].partition("/")[2]: record for record in registry}
    assert of["changed-mamba-state4"]["high"] < 0.5 < of["changed-mamba-state64"]["low"]
    assert (
        of["late-mamba-state4"]["high"] < of["late-mamba"]["value"] < of["late-mamba-state64"]["low"] < 0
    )


SAID = {  # of three trainings, in the lessons' own words: technique, part of its metric, the board's word
    "02": [
        ("unit ablation", "", "at least partly"),
        ("head classes", "", "undecided"),
        ("cut a source", "", "transfers"),
        ("contribution map", "", "transfers"),
    ],
    "03": [("LRP", "area", "at least partly"), ("LRP", "on top", "at least partly")],
    "04": [("logit lens", "", "undecided"), ("tuned lens", "", "at least partly")],
    "05a": [("linear probe", "", "at least partly"), ("structural probe", "", "no basis")],
    "05b": [("minimal pairs", "", "at least partly"), ("erasure", "", "at least partly")],
    "06a": [
        ("ELK probes", "labels apart", "no basis"),
        ("ELK probes", "answer fixed", "undecided"),
        ("ELK probes", "all items", "undecided"),
    ],
    "06b": [("anomaly detection", "", "undecided")],
    "07a": [
        ("attribution patching", "fact", "no basis"),
        ("attribution patching", "indirect object", "no basis"),
    ],
    "07b": [
        ("knockout", "", "transfers"),
        ("transplant", "", "transfers"),
        ("rank-one edit", "", "transfers"),
    ],
    "08a": [
        ("steering, announcement", "", "at least partly"),
        ("steering, first word", "", "at most partly"),
    ],
    "08b": [("mood steering", "", "at least partly")],
}


@pytest.mark.parametrize("number", SAID)
def test_what_a_lesson_says_of_three_trainings_is_what_the_board_says(number):
    (path,) = (path for path in notebooks.all_notebooks() if notebooks.number(path) == number)
    told = [cell for cell in notebooks.parse(path)["cells"] if cell["cell_type"] == "markdown"]
    whole = " ".join(" ".join(cell["source"] for cell in told).split())
    limits = next(cell["source"] for cell in told if cell["id"] == "limits")
    (bullet,) = (part for part in limits.split("\n* ") if "Over three" in " ".join(part.split()))
    expected = {word for *_, word in SAID[number]}
    italic = set(re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", " ".join(bullet.split())))
    assert italic & set(verdicts.WORDS) <= expected, f"{path.stem}: its limits say another word"
    for word in expected - {"transfers"}:  # "keep their verdict"
        assert f"*{word}*" in whole, f"{path.stem} does not say {word!r}"
    rows = json.loads(claims.SCOREBOARD.read_text(encoding="utf-8"))["rows"]
    for technique, metric, word in SAID[number]:
        found = {
            row["verdict"]
            for row in rows
            if row["technique"] == technique
            and metric in row["metric"]
            and row["architecture"] == "mamba"
        }
        assert found == {word}, f"{path.stem}, {technique} {metric}: the board says {found}"
