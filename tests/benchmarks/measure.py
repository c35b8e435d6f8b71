"""How every benchmark measures: contenders take turns, and memory is what a call adds to the peak of a
fresh process."""

import gc
import importlib
import math
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch


def row(ours: float, theirs: float, ratio: float, unit: str = "s") -> dict:
    """One measurement. Errors: `ValueError` where a number is not finite, and so compares nothing."""
    numbers = {"ours": float(ours), "theirs": float(theirs), "ratio": float(ratio)}
    if not all(map(math.isfinite, numbers.values())):
        raise ValueError(f"expected finite numbers, found {numbers}; see what was measured")
    return numbers | {"unit": unit}


def theirs_by_ours(ours: float, theirs: float, unit: str = "s") -> dict:
    """A row whose name says theirs/ours."""
    return row(ours, theirs, theirs / ours, unit)


def ours_by_theirs(ours: float, theirs: float, unit: str = "s") -> dict:
    """A row whose name says ours/theirs."""
    return row(ours, theirs, ours / theirs, unit)


def timed(work: Callable, *args, clock: Callable[[], float] = time.perf_counter) -> tuple:
    """Seconds that a call takes by a clock, and what it returns."""
    start = clock()
    result = work(*args)
    return clock() - start, result


def fastest(contenders: dict[str, Callable], rounds: int, least: float = 0.0) -> dict[str, float]:
    """Each one's shortest time in seconds, their runs taking turns.

    In a round a contender runs once, and again until `least` seconds have passed.
    """
    times = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            until = time.perf_counter() + least
            while True:
                times[name].append(timed(work)[0])
                if time.perf_counter() >= until:
                    break
    return {name: min(seconds) for name, seconds in times.items()}


def fresh(work: Callable, *args):
    """What a function of some module returns, or raises, in a new process on as many threads as here.

    Errors: also `BrokenProcessPool` where that process is killed.
    """
    spawn, n = multiprocessing.get_context("spawn"), torch.get_num_threads()
    with ProcessPoolExecutor(1, spawn, torch.set_num_threads, (n,)) as process:
        return process.submit(work, *args).result()


def rows_of(module: str) -> dict[str, dict]:
    """The rows of the benchmark in a module, at full size, and from now on its number of threads.

    Errors: `ValueError` where there are none.
    """
    benchmark = importlib.import_module(module)
    torch.set_num_threads(benchmark.THREADS)
    rows = benchmark.run()
    if not rows:
        raise ValueError(f"expected measurements of {module}, found none; return a row from `run`")
    return rows


def added_memory(work: Callable) -> float:
    """Megabytes that a call adds to this process's peak resident set, at least a page; Linux only.

    What earlier work left to the collector goes first: freed meanwhile, it hides what the call adds.
    """
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # restarts the peak counter
    before = _status("VmRSS")
    work()
    return max(_status("VmHWM") - before, 4 / 1024)


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
