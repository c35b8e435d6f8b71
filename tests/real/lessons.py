"""Whole lessons on SmolLM2: `python -m tests.real.lessons [NOTEBOOK ...]`, after `make real`.

Each runs as committed, with SCALE = "small" and MODELS = ("smollm2",), on the CPU, in a process and a
copy of the course of its own. Printed is a row a lesson: highest resident size of its kernel, CPU time,
cells that ran of all, and what stopped. The executed lesson goes to build/real, and its claims to
build/real/claims-<lesson>.json. It takes hours; a kernel that has used LIMIT CPU seconds is stopped.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from transformers import GPTNeoXConfig, MambaConfig

from tests.benchmarks.true_shapes import lesson, write
from tests.real.conftest import BUILD, unpacked
from tft_utils.course import notebooks

LIMIT = 5400
# There is no hub. What walks through a Transformer, whatever MODELS are, walks through SmolLM2, and what
# walks through a Mamba through a random one with its tokenizer. What edits modules by the names that they
# have in a GPT-NeoX edits a random one, too.
SCALE = """
from pathlib import Path
from tft_utils import models
models.SCALES["small"] = {{"transformer": Path("{transformer}"), "mamba": Path("mamba")}}
"""
SIZES = {"vocab_size": 49152, "hidden_size": 64, "num_hidden_layers": 4}
RANDOM = {
    "mamba": MambaConfig(**SIZES),
    "gpt_neox": GPTNeoXConfig(**SIZES, num_attention_heads=4, intermediate_size=256),
}
BY_NAME = ("03",)
LESSONS = ("00", "02", "03", "04", "05", "07")


def run(path: Path) -> None:
    """Prints the row of a lesson and keeps its claims."""
    with tempfile.TemporaryDirectory() as temporary:
        course = Path(temporary)
        for part in ("tft_utils", "notebooks", "data", "tests"):
            shutil.copytree(notebooks.NOTEBOOKS.parent / part, course / part)
        (course / "notebooks" / "smollm2").symlink_to(unpacked())
        for name, config in RANDOM.items():
            write(course / "notebooks" / name, config, str(unpacked()))
        asked = [sys.executable, "-m", __spec__.name, "--one", f"notebooks/{path.name}", BUILD]
        subprocess.run(asked, cwd=course, env=os.environ | {"PYTHONPATH": temporary}, check=True)
        claims = course / "build" / "claims-small.json"
        if claims.exists():
            shutil.copy(claims, BUILD / f"claims-{path.stem}.json")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[:1] == ["--one"]:
        parameters = {"SCALE": "small", "MODELS": ("smollm2",), "DEVICE": "cpu"}
        # A copy of the course runs this; its own BUILD is thrown away with it.
        path, build = (Path(argument).resolve() for argument in arguments[1:])
        first = SCALE.format(transformer="gpt_neox" if path.name.startswith(BY_NAME) else "smollm2")
        print(lesson(path, LIMIT, first=first, kept=build / path.name, **parameters), flush=True)
    else:
        given = [Path(argument) for argument in arguments]
        for each in given or [p for p in notebooks.all_notebooks() if p.name.startswith(LESSONS)]:
            run(each)
