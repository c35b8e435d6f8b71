"""What a lesson at SCALE="small" costs: `python -m tests.benchmarks.true_shapes [NOTEBOOK ...]`.

A hub on loopback serves random weights in the shapes of Pythia-160m and Mamba-130m, and the lesson runs
as committed, on the CPU, in a process of its own, one after another. What it finds means nothing; what it
costs does not hang on what weights say, but for items that a lesson keeps because the models know them.

A row for docs/hosts.md a lesson: highest resident size of its kernel, CPU seconds, cells that ran of all
code cells, and what stopped. A kernel that has used LIMIT CPU seconds is stopped; other work on the
machine does not count. TFT_TOKENIZER: a folder with Pythia's tokenizer; without it, that of the tests.

With --count first: narrow models of the true depth instead, and in place of memory and seconds what the
lesson would multiply at the true shapes, in TFLOP (`counted`).
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import torch
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXConfig, MambaConfig

from tests.benchmarks import counted
from tft_utils import models
from tft_utils.course import notebooks

sys.path.insert(0, str(Path(__file__).parent.parent))  # as pytest does, for those two
import hub  # noqa: E402
import toys  # noqa: E402

LIMIT = 5400  # CPU seconds a lesson: an hour and a half
STOP = "\nimport resource\nresource.setrlimit(resource.RLIMIT_CPU, ({0}, {0}))"
COUNT = "\nfrom tests.benchmarks import counted\ncounter = counted.start()"
SHAPES = {
    "transformer": GPTNeoXConfig(
        vocab_size=50304,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
    ),
    "mamba": MambaConfig(vocab_size=50280, hidden_size=768, num_hidden_layers=24),
}


def write(folder: Path, config, given: str | None = None) -> Path:
    """Random weights of these shapes, and a tokenizer: of the folder given, or that of the tests."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(given) if given else toys.trained("bytes")
    tokenizer.save_pretrained(folder)
    return folder


def lesson(
    path: Path,
    limit: int = LIMIT,
    count: bool = False,
    first: str = "",
    kept: Path | None = None,
    **parameters: object,
) -> str:
    """The row of a lesson. To be asked once a process, with the hub in its environment.

    first: lines to run before it. kept: where the executed lesson goes.
    """
    notebook = notebooks.parse(path)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for cell in code:
        if "parameters" in cell["metadata"].get("tags", []):
            cell["source"] += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
            cell["source"] += first + (COUNT if count else STOP.format(limit))
    if count:
        notebook["cells"].append(nbformat.v4.new_code_cell("print(counter.total)", id="counted"))
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        allow_errors=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    dead = False
    try:
        client.execute()
    except DeadKernelError:
        dead = True
    if kept:
        nbformat.write(notebook, kept)
    errors = [
        f"{cell['id']}: {output['ename']}: {output['evalue'].partition(chr(10))[0][:120]}"
        for cell in code
        for output in cell.get("outputs", ())
        if output["output_type"] == "error"
    ]
    left = [c["id"] for c in code if "shell.execute_reply" not in c["metadata"].get("execution", {})]
    if dead:
        errors.append(f"stopped in {left[0]}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, size = used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e9
    done = f"{len(code) - len(left)}/{len(code)}"
    if count:
        total = float(notebook["cells"][-1]["outputs"][0]["text"])
        return f"| {path.stem} | {total / 1e12:.1f} | {done} | {'; '.join(errors)} |"
    return f"| {path.stem} | {size:.1f} | {seconds:.0f} | {done} | {'; '.join(errors)} |"


def run(paths: list[Path], count: bool = False) -> None:
    """Prints the rows; what a lesson writes goes into a copy of the course that is thrown away."""
    with tempfile.TemporaryDirectory() as temporary:
        root, source = Path(temporary), notebooks.NOTEBOOKS.parent
        for part in ("tft_utils", "notebooks", "data", "tests"):
            shutil.copytree(source / part, root / "course" / part)
        given = os.environ.get("TFT_TOKENIZER")
        folders = {
            models.SCALES["small"][name].repository: write(root / name, config, given)
            for name, config in (counted.NARROW if count else SHAPES).items()
        }
        with hub.serving(folders) as server:
            there = {
                "HF_ENDPOINT": server.endpoint,
                "HF_HUB_CACHE": str(root / "cache"),
                "HF_HUB_DISABLE_XET": "1",
                "PYTHONPATH": str(root / "course"),
            }
            for path in paths:
                how = "--one-counted" if count else "--one"
                asked = [sys.executable, "-m", __spec__.name, how, f"notebooks/{path.name}"]
                subprocess.run(asked, cwd=root / "course", env=os.environ | there, check=True)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[:1] in (["--one"], ["--one-counted"]):
        how = {"count": arguments[0] == "--one-counted", "SCALE": "small", "DEVICE": "cpu"}
        print(lesson(Path(arguments[1]).resolve(), **how), flush=True)
    else:
        count = arguments[:1] == ["--count"]
        run([Path(argument) for argument in arguments[count:]] or notebooks.all_notebooks(), count)
