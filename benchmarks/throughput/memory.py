"""Peak memory of a process and everything it started: the sum of proportional set sizes (PSS).

Unlike resident sizes, PSS counts a page that several processes share (libraries, Ray's object store) once.
It is sampled, so a shorter peak is missed on either side alike. Linux only: elsewhere there is no figure.
"""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

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
