"""Pieces of work in processes of their own, several at a time, each begun once what it needs is done."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from depo.errors import one_ending, say

LAST_LINES = 8
POLL_SECONDS = 0.2
HEARTBEAT = 60.0
"""Seconds between two lines that say what runs, and for how long."""
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None

PR_SET_PDEATHSIG = 1
"""Of prctl(2)."""


@dataclass(frozen=True)
class Job:
    """``arguments`` of ``python -m MODULE``; done when ``result`` exists, possible when all ``needs`` do."""

    title: str
    module: str
    arguments: tuple[str, ...]
    result: Path
    needs: tuple[Path, ...] = ()

    @property
    def done(self) -> bool:
        return self.result.exists()

    @property
    def log(self) -> Path:
        return beside(self.result.parent, ".log")


def beside(path: Path, suffix: str) -> Path:
    """``seed_0`` → ``seed_0.log``. Not ``with_suffix``, which takes the end of ``careless-0.5`` for one."""
    return path.with_name(path.name + suffix)


@dataclass
class Running:
    job: Job
    process: subprocess.Popen[bytes]
    started: float


@dataclass(frozen=True)
class Over:
    """A job that has ended, with its exit status."""

    job: Job
    status: int
    seconds: float


def run_jobs(jobs: Sequence[Job], at_once: int, threads: int, say: Callable[[str], None]) -> list[Job]:
    """Run what is not done yet, in order, ``at_once`` at a time with ``threads`` each; returns what failed.

    A job that fails is reported with the last lines of its log. Jobs that need it are not begun, and named.
    Interrupted or terminated, it ends its processes before it raises.
    """
    waiting = [job for job in jobs if not job.done]
    ended: list[Over] = []
    failed: list[Job] = []

    def over(one: Over) -> None:
        ended.append(one)
        count = f"[{len(ended)}/{len(waiting)}]"
        if one.status == 0 and one.job.done:
            say(f"{count} {one.job.title}: {one.seconds:.0f} s")
        else:
            failed.append(one.job)
            say(f"{count} {one.job.title}: FAILED, {one.job.log} ends with")
            for line in last_lines(one.job.log):
                say(f"    {line}")

    impossible = run_each(waiting, at_once, threads, lambda job: None, over)
    for job in impossible:
        say(f"{job.title}: not begun, what it needs has failed")
    return failed + impossible


def run_each(
    jobs: Sequence[Job],
    at_once: int,
    threads: int | None,
    begun: Callable[[Job], None],
    over: Callable[[Over], None],
) -> list[Job]:
    """Run all of these jobs, in order, ``at_once`` at a time; returns those that could not begin because what
    they need is not there. ``begun`` and ``over`` are called for each. ``threads`` None: as many as the
    libraries choose. Interrupted or terminated, it ends its processes before it raises."""
    waiting = list(jobs)
    running: list[Running] = []
    spoke = time.perf_counter()
    with ending_them_all(running):
        while waiting or running:
            ready = [job for job in waiting if all(path.exists() for path in job.needs)]
            for job in ready[: at_once - len(running)]:
                waiting.remove(job)
                running.append(start(job, threads))
                begun(job)
            if not running:  # what is left needs something that failed
                break
            time.sleep(POLL_SECONDS)
            now = time.perf_counter()
            if now - spoke >= HEARTBEAT:
                spoke = now
                say("... " + ", ".join(f"{one.job.title} {now - one.started:.0f} s" for one in running))
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                over(Over(one.job, one.process.returncode, time.perf_counter() - one.started))
    return waiting


@contextmanager
def ending_them_all(running: Sequence[Running]) -> Iterator[None]:
    """None of these processes outlives the block, however it is left: SIGTERM and a closed terminal too."""
    with one_ending():
        try:
            yield
        finally:
            end_all([one.process for one in running])


@contextmanager
def resumable() -> Iterator[None]:
    """Whoever stops a benchmark that keeps what is finished is told so."""
    try:
        yield
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
        raise


def start(job: Job, threads: int | None) -> Running:
    """``threads`` None: as many as the libraries choose."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS") if threads else ()
    limits = {name: str(threads) for name in names}
    with job.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", job.module, *job.arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | limits | {"TOKENIZERS_PARALLELISM": "false"},
            start_new_session=True,  # an interrupt is ours to pass on, once
            preexec_fn=end_with_parent,
        )
    return Running(job, process, time.perf_counter())


def end_with_parent() -> None:
    """In a process just started: ask the kernel for SIGTERM when its parent is gone, killed without having
    ended it. Linux only."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def end_all(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Interrupt processes with all their children, all at once, and kill what does not end by itself."""
    left = list(processes)
    for how, patience in ((signal.SIGINT, 15), (signal.SIGKILL, 15)):
        left = [process for process in left if process.poll() is None]
        for process in left:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, how)
        deadline = time.perf_counter() + patience
        for process in left:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - time.perf_counter(), 0))


def last_lines(log: Path) -> list[str]:
    """What a log ends with, empty lines left out."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line for line in lines if line.strip()][-LAST_LINES:]
