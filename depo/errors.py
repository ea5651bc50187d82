"""Errors whose message is for the person who started the run, and how a command that failed tells why: exit
status, one line, and where the traceback went.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn


class UserError(Exception):
    """Bad input: one line that says what was wrong, where, and what would be right. Exit status 2."""


class RunFailed(Exception):
    """The input was good, but the run cannot go on (it diverged, or learns nothing): what happened, and
    what to do about it. Exit status 1."""


DONE, FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
"""Exit statuses; 130 is what a shell reports for Ctrl-C, 143 for SIGTERM."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came: ends what an interrupt ends."""


@contextmanager
def terminations() -> Iterator[list[int]]:
    """SIGTERM, with which Slurm and Kubernetes end a run, as an interrupt: all is closed as after Ctrl-C.

    Gives a list that holds the signal once it has come: a call of Ray that waits passes a handler's exception
    on as a plain KeyboardInterrupt, if at all. Where signals are not this thread's business, or SIGTERM is
    ignored, nothing changes.
    """
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        received.append(number)
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    if threading.current_thread() is not threading.main_thread() or before is signal.SIG_IGN:
        yield received
        return
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


def report_failure(error: BaseException, run_dir: Path | None, terminated: bool = False) -> int:
    """Print what happened to stderr and return the exit status. ``terminated``: SIGTERM came, and whatever
    was raised is due to it (it goes to a job's other processes too).

    A UserError or RunFailed is its message alone. Anything else is "error: Type: message"; its traceback
    goes to ``run_dir/error.log``, or to stderr with DEPO_TRACEBACK=1 or when there is no run directory yet.
    """
    if terminated or isinstance(error, Terminated):
        say(how_to_continue("terminated", run_dir))
        return TERMINATED
    if isinstance(error, KeyboardInterrupt):
        say(how_to_continue("interrupted", run_dir))
        return INTERRUPTED
    cause = unwrapped(error)
    if isinstance(cause, UserError):
        for line in str(cause).splitlines():
            say(f"error: {line}")
        return BAD_INPUT
    if isinstance(cause, RunFailed):
        say(f"error: {cause}")
        return FAILED
    trace = "".join(traceback.format_exception(error))
    message = next((line.strip() for line in str(cause).splitlines() if line.strip()), "no message")
    say(f"error: {type(cause).__name__}: {message}")
    if os.environ.get("DEPO_TRACEBACK") == "1" or run_dir is None or not run_dir.is_dir():
        say(trace.rstrip())
    else:
        log = run_dir / "error.log"
        log.write_text(trace, encoding="utf-8")
        say(f"traceback: {log} (DEPO_TRACEBACK=1 prints it)")
    return FAILED


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def unwrapped(error: BaseException) -> BaseException:
    """The exception itself where Ray hands back a wrapper around what an actor raised."""
    ray_exceptions = sys.modules.get("ray.exceptions")
    while ray_exceptions is not None and isinstance(error, ray_exceptions.RayTaskError):
        cause = error.cause
        if not isinstance(cause, BaseException) or cause is error:
            break
        error = cause
    return error


def how_to_continue(what: str, run_dir: Path | None) -> str:
    """One line on how to go on after ``what`` happened."""
    if run_dir is not None and (run_dir / "recipe.yaml").is_file():
        return f"{what}; continue with: depo train --resume --run-dir {run_dir}"
    return what
