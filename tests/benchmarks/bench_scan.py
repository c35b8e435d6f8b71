"""Speed and memory of our selective scan inside a transformers Mamba, against transformers' fallback and mambapy.

Both contenders run in this process, interleaved, minimum of the repeats; memory is the growth of the peak resident set
over a warmed-up baseline in a fresh process per contender. "plain" is our scan without numba. Run as a script:

    python tests/benchmarks/bench_scan.py
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from transformers import MambaConfig, MambaForCausalLM

from tft_utils import scan

BATCH, POS, VOCAB, THREADS = 8, 128, 512, 2


def run() -> dict:
    """{name: {ours, theirs, ratio, unit}}; the name says which way the ratio goes and the bar it is held to."""
    torch.set_num_threads(THREADS)
    ids = _ids(POS)
    fallback, mambapy, ours = _model(), _model(use_mambapy=True), _model()
    scan.install(ours)
    train = {
        "ours": lambda: _train_step(ours, ids), "plain": _without_numba(lambda: _train_step(ours, ids)),
        "mambapy": lambda: _train_step(mambapy, ids), "fallback": lambda: _train_step(fallback, ids),
        "long": lambda: _train_step(ours, _ids(8 * POS)),
        "plain long": _without_numba(lambda: _train_step(ours, _ids(8 * POS))),
    }
    infer = {
        "ours": lambda: _forward(ours, ids), "plain": _without_numba(lambda: _forward(ours, ids)),
        "fallback": lambda: _forward(fallback, ids),
    }
    train, infer = _interleaved(train), _interleaved(infer)
    memory = {kind: _peak_memory(kind) for kind in ("ours", "plain", "fallback")}

    results = {}
    for kind, label in (("ours", ""), ("plain", ", plain")):
        long = "long" if kind == "ours" else "plain long"
        speed = {
            f"forward+backward vs fallback{label} (theirs/ours, at least 20)": (train[kind], train["fallback"]),
            f"forward+backward vs mambapy{label} (theirs/ours, at least 2.5)": (train[kind], train["mambapy"]),
            f"forward vs fallback{label} (theirs/ours, at least 3)": (infer[kind], infer["fallback"]),
        }
        for name, (mine, theirs) in speed.items():
            results[name] = {"ours": mine, "theirs": theirs, "ratio": theirs / mine, "unit": "s"}
        smaller = {
            f"peak memory vs fallback{label} (ours/theirs, at most 0.33)": (memory[kind], memory["fallback"], "MB"),
            f"growth, {8 * POS} vs {POS} tokens{label} (ours/theirs, at most 9)": (train[long], train[kind], "s"),
        }
        for name, (mine, theirs, unit) in smaller.items():
            results[name] = {"ours": mine, "theirs": theirs, "ratio": mine / theirs, "unit": unit}
    return results


def _model(**options):
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=VOCAB, hidden_size=128, num_hidden_layers=8, state_size=16, **options)
    return MambaForCausalLM(config).eval()


def _ids(pos):
    return torch.randint(0, VOCAB, (BATCH, pos), generator=torch.Generator().manual_seed(0))


def _train_step(model, ids):
    model(ids, labels=ids, use_cache=False).loss.backward()
    model.zero_grad()


def _forward(model, ids):
    with torch.no_grad():
        model(ids, use_cache=False)


def _without_numba(work):
    def plain():
        with mock.patch.object(scan, "numba", None):
            work()
    return plain


def _interleaved(contenders, rounds=3):
    """Seconds per contender, minimum over rounds; the quick ones repeat within a round, after one warm-up."""
    times = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            work()
            until = time.perf_counter() + 1
            while True:
                start = time.perf_counter()
                work()
                times[name].append(time.perf_counter() - start)
                if time.perf_counter() > until:
                    break
    return {name: min(values) for name, values in times.items()}


def _peak_memory(kind):
    """MB that one forward+backward adds to the peak resident set of a fresh process."""
    done = subprocess.run([sys.executable, __file__, "--memory", kind], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _measure_memory(kind):
    torch.set_num_threads(THREADS)
    model = _model()
    if kind != "fallback":
        scan.install(model)
    work = _without_numba(lambda: _train_step(model, ids)) if kind == "plain" else lambda: _train_step(model, ids)
    ids = _ids(2)
    work()
    Path("/proc/self/clear_refs").write_text("5")  # Linux: restart the peak counter
    before = _status("VmRSS")
    ids = _ids(POS)
    work()
    return (_status("VmHWM") - before) / 1024


def _status(field):
    """A memory line of /proc/self/status, in kB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


if __name__ == "__main__":
    if "--memory" in sys.argv:
        print(_measure_memory(sys.argv[-1]))
    else:
        for name, row in run().items():
            print(f"{name:75s} {row['ours']:9.3f} {row['theirs']:9.3f} {row['unit']:3s} ratio {row['ratio']:7.3f}")
