"""How every benchmark measures: contenders take turns, and memory is what a call adds to the peak."""

import time
from collections.abc import Callable
from pathlib import Path


def fastest(contenders: dict[str, Callable], rounds: int, least: float = 0.0) -> dict[str, float]:
    """Each one's shortest time in seconds, their runs taking turns.

    In a round a contender runs once, and again until `least` seconds have passed.
    """
    times = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            until = time.perf_counter() + least
            while True:
                start = time.perf_counter()
                work()
                times[name].append(time.perf_counter() - start)
                if time.perf_counter() >= until:
                    break
    return {name: min(found) for name, found in times.items()}


def added_memory(work: Callable) -> float:
    """Megabytes that a call adds to this process's peak resident set; Linux only."""
    Path("/proc/self/clear_refs").write_text("5")  # restarts the peak counter
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
