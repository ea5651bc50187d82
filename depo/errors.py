"""Errors whose message is for the person who started the run, and how a command that failed tells why: exit
status, one line, and where the traceback went.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import textwrap
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


class UserError(Exception):
    """Bad input: one line that says what was wrong, where, and what would be right. Exit status 2."""


class RunFailed(Exception):
    """The input was good, but the run cannot go on (it diverged, or learns nothing): what happened, and
    what to do about it. Exit status 1."""


class RunStopped(RunFailed):
    """Something outside ended the run, such as a full disk or a process that died: it can be resumed."""


DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses; 128 + its number is what a shell reports for a signal: 130 for Ctrl-C."""


ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C; what Slurm and Kubernetes send; a terminal that closes."""


@contextmanager
def one_ending(for_good: bool = False) -> Iterator[list[int]]:
    """The first signal that asks for an end is an interrupt; while everything is closed, further ones are
    told so and change nothing.

    Gives a list that holds the signal once it has come: a call of Ray that waits passes a handler's exception
    on as a plain KeyboardInterrupt, if at all. ``for_good``: the process ends with the block, so that after
    the first signal the others are ignored to the very end. A signal that is ignored already (``nohup``)
    stays so. Where signals are not this thread's business, nothing changes.
    """
    received: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        if received:
            say("already ending: closing Ray and the workers takes a few seconds")
            return
        received.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in ENDING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if for_good and received else handler)


def report_failure(error: BaseException, run_dir: Path | None, ended_by: Sequence[int] = ()) -> int:
    """Print what happened to stderr and return the exit status. ``ended_by``: the signal that came, if one
    did; whatever was raised is due to it (it goes to a job's other processes too).

    A UserError or RunFailed is its message alone. Anything else is "error: Type: message"; its traceback
    goes to ``run_dir/error.log``, or to stderr with DEPO_TRACEBACK=1 or where it cannot be written. The last
    line of a run that can be resumed says how.
    """
    if ended_by and ended_by[0] != signal.SIGINT:
        say(how_to_continue("terminated", run_dir))
        return 128 + ended_by[0]
    if ended_by or isinstance(error, KeyboardInterrupt):
        say(how_to_continue("interrupted", run_dir))
        return INTERRUPTED
    cause = unwrapped(error)
    if isinstance(cause, UserError):
        for line in str(cause).splitlines():
            say(f"error: {line}")
        return BAD_INPUT
    if isinstance(cause, RunFailed):
        say(f"error: {cause}")
    else:
        trace = "".join(traceback.format_exception(error))
        message = next((line.strip() for line in str(cause).splitlines() if line.strip()), "no message")
        say(f"error: {type(cause).__name__}: {message}")
        say(traceback_place(trace, run_dir))
    if (isinstance(cause, RunStopped) or not isinstance(cause, RunFailed)) and can_continue(run_dir):
        say(how_to_continue("what the run has saved is safe", run_dir))
    return FAILED


def traceback_place(trace: str, run_dir: Path | None) -> str:
    """The traceback itself, or where it was written."""
    if os.environ.get("DEPO_TRACEBACK") == "1" or run_dir is None or not run_dir.is_dir():
        return trace.rstrip()
    log = run_dir / "error.log"
    try:
        log.write_text(trace, encoding="utf-8")
    except OSError as error:
        return f"{trace.rstrip()}\n{log}: cannot be written ({error.strerror})"
    return f"traceback: {log} (DEPO_TRACEBACK=1 prints it)"


WIDTH = 100
"""Columns that a line for people takes at most."""

COMMAND = re.compile(
    r"\b(?:depo (?:train|eval|route|replay|verify|upcycle|fetch)|hf download|pip install) [^;(),]*[^;(),\s]"
    r'|python -c "[^"]*"'
)
"""What is there to be copied, and so stays on one line."""


def say(text: str) -> None:
    print(fitted(text), file=sys.stderr, flush=True)


def fitted(text: str) -> str:
    """Each line of a text in at most WIDTH columns, the rest of it indented below. Words are never cut."""
    lines: list[str] = []
    for line in text.splitlines():
        if len(line) <= WIDTH:
            lines.append(line)
            continue
        indent = line[: len(line) - len(line.lstrip())] + "    "
        whole = COMMAND.sub(lambda found: found[0].replace(" ", "\0"), line)
        lines += textwrap.wrap(
            whole, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
    return "\n".join(lines).replace("\0", " ")


def unwrapped(error: BaseException) -> BaseException:
    """The exception itself where Ray hands back a wrapper around what an actor raised."""
    ray_exceptions = sys.modules.get("ray.exceptions")
    while ray_exceptions is not None and isinstance(error, ray_exceptions.RayTaskError):
        cause = error.cause
        if not isinstance(cause, BaseException) or cause is error:
            break
        error = cause
    return error


def can_continue(run_dir: Path | None) -> bool:
    return run_dir is not None and (run_dir / "recipe.yaml").is_file()


def how_to_continue(what: str, run_dir: Path | None) -> str:
    """One line on how to go on after ``what`` happened, and from which step."""
    if run_dir is None or not can_continue(run_dir):
        return what
    newest = max((path.name[5:] for path in (run_dir / "checkpoints").glob("step_*")), default="")
    place = f" from step {int(newest) + 1}" if newest.isdigit() else ""
    return f"{what}; continue{place} with: depo train --resume --run-dir {run_dir}"
