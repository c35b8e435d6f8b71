"""Benchmarks: each one runs once at toy size, so that none can rot; one that fails stops no other."""

import copy
import importlib
import json
import math
import os
import sys
from functools import partial

import nbformat
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from tests.benchmarks import __main__ as runner
from tests.benchmarks import counted, measure, true_shapes

MODULES = [f"tests.benchmarks.{file.stem}" for file in sorted(runner.HERE.glob("bench_*.py"))]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux's /proc")


@pytest.fixture
def in_this_process(monkeypatch):
    """What asks for a fresh process gets this one, because a new one imports for seconds."""
    monkeypatch.setattr(measure, "fresh", lambda work, *args: work(*args))


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.usefixtures("in_this_process")
def test_a_benchmark_runs_at_toy_size(module):
    benchmark = importlib.import_module(module)
    assert benchmark.FULL == type(benchmark.TOY)() != benchmark.TOY
    rows = benchmark.run(benchmark.TOY)
    assert rows
    for name, row in rows.items():
        assert tuple(row) == runner.COLUMNS[1:], name
        assert all(math.isfinite(row[column]) for column in ("ours", "theirs", "ratio")), name
    assert runner.table(rows).count("\n") == len(rows) + 1


def test_a_row_holds_finite_numbers_alone():
    assert measure.theirs_by_ours(2, 6) == {"ours": 2.0, "theirs": 6.0, "ratio": 3.0, "unit": "s"}
    assert measure.ours_by_theirs(3, 6, "MB")["ratio"] == 0.5
    with pytest.raises(ValueError, match="expected finite numbers, found"):
        measure.row(1.0, math.nan, 1.0)


def test_memory_is_what_a_call_adds():
    """In a fresh process, as benchmarks do: what other tests leave and free says nothing here."""
    assert 60 < measure.fresh(measure.added_memory, partial(bytearray, 64 * 2**20)) < 70


def test_a_lesson_that_fails_or_takes_too_long_still_gets_its_row(tmp_path):
    """The kernel is stopped by its own processor time; cells that ran, and what went wrong, are said."""
    cells = {"parameters": "SCALE = 'tiny'", "fails": "1 / 0", "asks": "assert SCALE == 'small'"}
    cells |= {"hangs": "while True: pass", "never": "2"}
    notebook = nbformat.v4.new_notebook()
    for name, source in cells.items():
        cell = nbformat.v4.new_code_cell(source, id=name)
        cell.metadata["tags"] = [name] if name == "parameters" else []
        notebook.cells.append(cell)
    path = tmp_path / "toy.ipynb"
    nbformat.write(notebook, path)
    row = measure.fresh(partial(true_shapes.lesson, path, limit=4, SCALE="small"))
    name, size, seconds, ran, problems = row.strip("| ").split(" | ")
    assert (name, ran) == ("toy", "3/5")
    assert problems == "fails: ZeroDivisionError: division by zero; stopped in hangs"
    assert 0 < float(size) < 1
    assert 4 <= float(seconds) < 9


@pytest.mark.parametrize("name", counted.NARROW)
def test_what_a_narrow_model_counts_is_what_a_wide_one_multiplies(name):
    """Forward and backward, against PyTorch's own counter; scores within a head are not widened."""
    shapes = [copy.deepcopy(shape) for shape in (true_shapes.SHAPES[name], counted.NARROW[name])]
    for shape in shapes:
        shape.num_hidden_layers = 2
    wide, narrow = map(AutoModelForCausalLM.from_config, shapes)
    ids = torch.arange(12)[None]
    with FlopCounterMode(display=False) as truth:
        wide(ids, use_cache=False).logits.sum().backward()
    with counted.Counter() as counter:
        narrow(ids, use_cache=False).logits.sum().backward()
    assert counter.total == pytest.approx(
        truth.get_total_flops(), rel=0.003 if name == "transformer" else 0
    )


def test_factorisations_are_counted_at_the_true_width():
    def counts(work):
        with counted.Counter() as counter:
            work()
        return counter.total

    square = torch.eye(counted.WIDE).repeat(2, 1, 1)
    assert counts(lambda: torch.linalg.cholesky(square)) == pytest.approx(2 * 768**3 / 3)
    assert counts(lambda: torch.linalg.eigh(square)) == 2 * 9 * 768**3
    tall = torch.randn(5, counted.WIDE)
    assert counts(lambda: torch.linalg.svd(tall, full_matrices=False)) == 14 * 768 * 25 + 8 * 125


def test_one_that_fails_is_reported_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    """Each in its own process: one raises, one returns nothing, one is killed, the last one measures."""
    codes = {
        "raises": "raise KeyError('scan')",
        "empty": "return {}",
        "killed": "os._exit(9)",
        "measures": "return {'pid': measure.row(os.getpid(), torch.get_num_threads(), 1)}",
    }
    head = "import os, torch\nfrom tests.benchmarks import measure\nTHREADS = 2\ndef run(): "
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, code in codes.items():
        (tmp_path / f"toy_{name}.py").write_text(head + code, encoding="utf-8")
    results = tmp_path / "build" / "bench.json"
    rows, failed = runner.run({name: f"toy_{name}" for name in codes}, results)
    assert rows.keys() == {"pid"}
    assert (rows["pid"]["ours"] != os.getpid(), rows["pid"]["theirs"]) == (True, 2)
    assert failed["raises"] == "KeyError: 'scan'"
    assert failed["empty"].startswith("ValueError: expected measurements of toy_empty, found none")
    assert failed["killed"].startswith("BrokenProcessPool")
    written = json.loads(results.read_text(encoding="utf-8"))
    assert (written["results"], written["failed"]) == (rows, failed)
    assert [path.name for path in results.parent.iterdir()] == ["bench.json"]
    assert "toy_raises.py" in capsys.readouterr().err


def test_an_unknown_name_gets_one_sentence():
    with pytest.raises(SystemExit, match="expected benchmarks among attention, .*, found lense; leave"):
        runner.main(["lense"])


def test_a_failure_ends_with_an_exit_code(monkeypatch, capsys):
    row = measure.row(1, 1, 1)
    monkeypatch.setattr(runner, "run", lambda modules, results: ({"fine": row}, {"scan": "KeyError: 1"}))
    with pytest.raises(SystemExit, match="1 of 2 benchmarks failed:\n  scan: KeyError: 1"):
        runner.main(["scan", "lenses"])
    assert "fine" in capsys.readouterr().out
