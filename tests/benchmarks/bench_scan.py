"""Our selective scan inside a transformers Mamba, against transformers' fallback and mambapy.

All contenders run in this process, interleaved, minimum of the repeats. Memory is what one
forward+backward adds to the peak resident set of a fresh, warmed-up process. "plain" is our scan
without numba. As a script it prints a table: python tests/benchmarks/bench_scan.py
"""

import subprocess
import sys
from pathlib import Path
from unittest import mock

import torch
from transformers import MambaConfig, MambaForCausalLM

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.benchmarks.measure import added_memory, fastest  # noqa: E402
from tft_utils.architectures import mamba_scan as scan  # noqa: E402 (after the path, so that it also runs as a script)

BATCH, POS, VOCAB, THREADS = 8, 128, 512, 2


def run() -> dict:
    """{name: {ours, theirs, ratio, unit}}; the name says how the ratio is formed and its bar."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    fallback, mambapy, ours = model(), model(use_mambapy=True), model()
    handle = scan.install(ours)
    short, long = tokens(POS), tokens(8 * POS)
    train = fastest(
        {
            "ours": lambda: train_step(ours, short),
            "plain": without_numba(lambda: train_step(ours, short)),
            "mambapy": lambda: train_step(mambapy, short),
            "fallback": lambda: train_step(fallback, short),
            "ours, long": lambda: train_step(ours, long),
            "plain, long": without_numba(lambda: train_step(ours, long)),
        },
        rounds=3,
        least=0.5,
    )
    infer = fastest(
        {
            "ours": lambda: forward(ours, short),
            "plain": without_numba(lambda: forward(ours, short)),
            "fallback": lambda: forward(fallback, short),
        },
        rounds=3,
        least=0.5,
    )
    handle.remove()
    torch.set_num_threads(before)
    memory = {kind: peak_memory(kind) for kind in ("ours", "plain", "fallback")}

    rows = {}
    for kind, label in (("ours", "scan"), ("plain", "scan (plain)")):
        for name, times, theirs in (
            ("forward+backward vs fallback, theirs/ours, at least 20", train, "fallback"),
            ("forward+backward vs mambapy, theirs/ours, at least 2.5", train, "mambapy"),
            ("forward vs fallback, theirs/ours, at least 3", infer, "fallback"),
        ):
            ratio = times[theirs] / times[kind]
            rows[f"{label}: {name}"] = row(times[kind], times[theirs], ratio, "s")
        used, theirs = memory[kind], memory["fallback"]
        name = f"{label}: peak memory vs fallback, ours/theirs, at most 0.33"
        rows[name] = row(used, theirs, used / theirs, "MB")
        once, longer = train[kind], train[f"{kind}, long"]
        name = f"{label}: {8 * POS} vs {POS} tokens, ours/theirs, at most 9"
        rows[name] = row(longer, once, longer / once, "s")
    return rows


def row(ours, theirs, ratio, unit):
    return {"ours": ours, "theirs": theirs, "ratio": ratio, "unit": unit}


def model(**options):
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=VOCAB, hidden_size=128, num_hidden_layers=8, state_size=16, **options)
    return MambaForCausalLM(config).eval()


def tokens(pos):
    return torch.randint(0, VOCAB, (BATCH, pos), generator=torch.Generator().manual_seed(0))


def train_step(model, ids):
    model(ids, labels=ids, use_cache=False).loss.backward()
    model.zero_grad()


def forward(model, ids):
    with torch.no_grad():
        model(ids, use_cache=False)


def without_numba(work):
    def plain():
        with mock.patch.object(scan, "kernels", None):
            work()

    return plain


def peak_memory(kind):
    """MB that one forward+backward adds to the peak of a fresh process; Linux only."""
    command = [sys.executable, __file__, "--memory", kind]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def print_memory(kind):
    torch.set_num_threads(THREADS)
    contender = model()
    if kind != "fallback":
        scan.install(contender)
    if kind == "plain":
        scan.kernels = None
    train_step(contender, tokens(2))
    print(added_memory(lambda: train_step(contender, tokens(POS))))


if __name__ == "__main__":
    if "--memory" in sys.argv:
        print_memory(sys.argv[-1])
    else:
        for name, r in run().items():
            print(f"{name:75s} {r['ours']:9.3f} {r['theirs']:9.3f} {r['ratio']:8.3f} {r['unit']}")
