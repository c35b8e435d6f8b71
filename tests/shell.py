"""Cells in an IPython shell of this process or of a fork: a kernel would first import for seconds."""

import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output


class Ran(NamedTuple):
    """A cell that ran: what it printed, and how it ended ('' or 'ValueError: ...')."""

    cell: str
    said: str
    error: str


def executed(cells: Iterable[tuple[str, str]]) -> Iterator[Ran]:
    """Runs (id, source) one after the other in a fresh shell of this process, errors or not."""
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(history_length=0, colors="nocolor")
    try:
        for name, source in cells:
            start = time.monotonic()
            with capture_output() as captured:
                result = shell.run_cell(source, store_history=True)
            error = result.error_before_exec or result.error_in_exec
            if os.environ.get("TFT_TIMES") and (seconds := time.monotonic() - start) > 1:
                print(f"TIME {name} {seconds:.1f}")
            yield Ran(name, captured.stdout, "" if error is None else f"{type(error).__name__}: {error}")
    finally:
        shell.reset()
        InteractiveShell.clear_instance()


def _send(connection, cells: Sequence[tuple[str, str]], folder: Path) -> None:
    os.chdir(folder)
    torch.set_num_threads(1)  # the threads of the process that was forked are not here
    torch.manual_seed(0)  # wherever it was
    for ran in executed(cells):
        connection.send(ran)
        if ran.error:
            break


def in_a_fork(cells: Sequence[tuple[str, str]], folder: Path, seconds: float) -> list[Ran]:
    """Runs cells up to the first that fails, in a process of their own that starts with all that this
    one has imported. What they change, they change there. seconds: for each cell."""
    fork, ran, reason = multiprocessing.get_context("fork"), [], ""
    here, there = fork.Pipe(duplex=False)
    child = fork.Process(target=_send, args=(there, cells, folder))
    child.start()
    there.close()
    try:
        while here.poll(seconds):
            ran.append(here.recv())
        reason = f"no answer within {seconds:g} s"
    except EOFError:
        reason = "the process broke off"
    finally:
        child.kill()
        child.join()
    whole = len(ran) == len(cells) or (ran and ran[-1].error)
    return ran if whole else [*ran, Ran(cells[len(ran)][0], "", reason)]
