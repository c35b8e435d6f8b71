"""Every committed notebook: canonical, fresh, accessible, within its budget. Nothing is run."""

import re
from pathlib import Path

import nbformat
import pytest

from tft_utils import notebooks

PATHS = sorted(notebooks.NOTEBOOKS.glob("*.ipynb"))
TAGS = {"setup", "parameters", "exercise", "check", "solution", "claim", "optional"}
EACH = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


@EACH
def test_committed_notebook_is_canonical_and_fresh(path: Path):
    assert not notebooks.problems(path)


@EACH
def test_schema_ids_and_tags(path: Path):
    notebook = notebooks.read(path)
    nbformat.validate(notebook)
    assert notebook["nbformat_minor"] == 5
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", cell["id"]), f"{path.name}: {cell['id']}"
        assert set(cell["metadata"].get("tags", ())) <= TAGS, f"{path.name}, cell {cell['id']}"


@EACH
def test_outputs_are_complete_small_and_described(path: Path):
    assert path.stat().st_size <= 400_000, f"{path.name} is over 400 kB: shrink its figures"
    count = 0
    for cell in notebooks.read(path)["cells"]:
        if cell["cell_type"] != "code":
            continue
        where = f"{path.name}, cell {cell['id']}"
        count += 1
        assert cell["execution_count"] == count, f"{where} was not run in order: `make notebooks`"
        for output in cell["outputs"]:
            assert output["output_type"] != "error", where
            assert output.get("name") != "stderr", f"{where}: {output['text'][:200]}"
            assert "text/html" not in output.get("data", {}), f"{where} shows HTML"
            if "image/png" in output.get("data", {}):
                alt = output["metadata"].get("image/png", {}).get("alt", "")
                assert alt.endswith("."), f"{where} shows an image without alt text: use plots.show"


@EACH
def test_length(path: Path):
    cells = notebooks.read(path)["cells"]
    words = sum(len(c["source"].split()) for c in cells if c["cell_type"] == "markdown")
    assert len(cells) <= 60, f"{path.name} has {len(cells)} cells, at most 60"
    assert words <= 3500, f"{path.name} has {words} words, at most 3,500"
    for cell in cells:
        if cell["cell_type"] == "code":
            lines = cell["source"].count("\n") + 1
            assert lines <= 25, f"{path.name}, cell {cell['id']} has {lines} lines, at most 25"


def test_a_changed_cell_reads_as_stale_and_a_foreign_save_as_not_canonical(tmp_path):
    path = tmp_path / PATHS[0].name
    text = PATHS[0].read_text()
    path.write_text(text.replace("SEED = 0", "SEED = 1", 1))
    assert any("older than its code" in problem for problem in notebooks.problems(path))
    path.write_text(text.replace('\n "cells"', '\n  "cells"', 1))
    assert any("not canonical" in problem for problem in notebooks.problems(path))


def test_execute_runs_in_order_and_writes_canonical_output(tmp_path):
    cell = nbformat.v4.new_code_cell("1 + 1", id="sum")
    path = tmp_path / "tiny.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    notebooks.execute(path)
    assert not notebooks.problems(path)
    output = notebooks.read(path)["cells"][0]["outputs"][0]
    assert output["data"]["text/plain"] == "2"


def test_a_failing_cell_leaves_the_file_as_it_was(tmp_path):
    cell = nbformat.v4.new_code_cell("assert False, 'no'", id="fails")
    path = tmp_path / "tiny.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    before = path.read_bytes()
    with pytest.raises(Exception, match="no"):
        notebooks.execute(path)
    assert path.read_bytes() == before
