"""Run one side in a process of its own and measure it from outside: start-up time and peak memory.

Peak memory is of the process and everything it started: the sum of proportional set sizes (PSS). Unlike
resident sizes, PSS counts a page that several processes share (libraries, Ray's object store) once.
It is sampled, so a shorter peak is missed on either side alike. Linux only: elsewhere there is no figure.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from benchmarks.jobs import end_with_parent

Side = Literal["depo", "trl"]
Mode = Literal["train", "update"]
SIDES: tuple[Side, Side] = ("depo", "trl")


def measure(side: Side, mode: Mode, directory: Path, threads: int) -> dict[str, Any]:
    """What the side measured about itself, ``peak_memory_mib``, and when its process was ``started``.

    Raises RuntimeError with the end of what it wrote when it fails.
    """
    log = directory / "output.log"
    with log.open("w") as output:
        started = time.time()
        process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.throughput.{side}_side", mode, str(directory)],
            env=environment(threads),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=end_with_parent,
        )
        try:
            with PeakMemory(process.pid) as peak:
                status = process.wait()
        finally:
            if process.poll() is None:  # interrupted: its own children end with it
                process.terminate()
                process.wait()
    if status != 0:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise RuntimeError(f"{side}'s {mode} process ended with status {status}: {end}")
    result = json.loads((directory / "result.json").read_text())
    return result | {"started": started, "peak_memory_mib": peak.mib}


def environment(threads: int) -> dict[str, str]:
    """Of both sides: the same threads, and nobody else's Ray cluster."""
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return inherited | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}


PERIOD = 0.25
"""Seconds between two samples: reading all of Ray's processes takes a few milliseconds."""

PROC = Path("/proc")


class PeakMemory:
    """Context that samples the tree under ``pid``; afterwards ``mib`` is its peak, None where unknown."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.mib: float | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(PERIOD):
            sizes = [size for pid in process_tree(self.pid) if (size := proportional_kib(pid)) is not None]
            if sizes:
                self.mib = max(self.mib or 0.0, sum(sizes) / 1024)


def process_tree(root: int) -> list[int]:
    """``root`` and its descendants, as far as they still run."""
    children: dict[int, list[int]] = {}
    for entry in PROC.glob("[0-9]*/stat"):
        try:
            # pid (name) state parent …; the name may hold spaces and parentheses
            parent = int(entry.read_text(errors="replace").rpartition(")")[2].split()[1])
        except OSError:
            continue  # ended meanwhile
        children.setdefault(parent, []).append(int(entry.parent.name))
    tree = [root]
    for pid in tree:
        tree += children.get(pid, [])
    return tree


def proportional_kib(pid: int) -> int | None:
    """PSS of one process in KiB; None when it has ended or the system does not tell."""
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), None)
