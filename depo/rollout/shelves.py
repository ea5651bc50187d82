"""Directories of weights on memory file systems, and how a policy gets from one node to another.

The learner writes a policy to a directory on its own node, and engines there read it. For engines on other
nodes Ray's object store carries it over, chunk by chunk: few are in flight at a time, whatever the policy's
size, and nodes pass them on to each other.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import ActorUnschedulableError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from depo.files import locked, writing
from depo.rollout.calls import Calls, Died

PREFIX, LOCKED = "depo-weights-", ".lock"

SHARED_MEMORY = Path("/dev/shm")

CHUNK, IN_FLIGHT = 64 * 2**20, 2
"""Bytes that travel as one object; how many of these at a time."""

CLOSED = 15.0
"""Seconds within which directories on other nodes are removed at the end."""


class Shelf:
    """``BASE/depo-weights-NAME``, locked as long as this process lives, and empty at first. ``base`` None: a
    memory file system."""

    def __init__(self, base: Path | None, name: str) -> None:
        temporary = Path(os.environ.get("TMPDIR", "/tmp"))
        base = base or (SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else temporary)
        sweep(base)
        self.directory = base.absolute() / f"{PREFIX}{name}"
        self.lock_file = self.directory.with_suffix(LOCKED)
        self.lock = ExitStack()
        with writing(base):
            base.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # where the file system knows no locks, nothing is swept either
            self.lock.enter_context(locked(self.lock_file))
        shutil.rmtree(self.directory, ignore_errors=True)  # of an earlier process of this run

    def make(self, name: str) -> str:
        directory = self.directory / name
        with writing(directory):
            directory.mkdir(parents=True)
        return str(directory)

    def files(self, name: str) -> dict[str, int]:
        """Of one directory: names and bytes."""
        return {file.name: file.stat().st_size for file in sorted((self.directory / name).iterdir())}

    def read(self, name: str, file: str, start: int) -> np.ndarray:
        return np.fromfile(self.directory / name / file, np.uint8, CHUNK, offset=start)

    def write(self, name: str, file: str, start: int, chunk: np.ndarray) -> None:
        path = self.directory / name / file
        with writing(path), path.open("r+b" if path.exists() else "wb") as out:
            out.seek(start)
            out.write(chunk.data)

    def remove(self, name: str) -> None:
        shutil.rmtree(self.directory / name, ignore_errors=True)

    def close(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        self.lock.close()
        self.lock_file.unlink(missing_ok=True)


def sweep(base: Path) -> None:
    """Remove the weights that killed runs left: gigabytes of memory. A living run holds its lock."""
    for lock in base.glob(f"{PREFIX}*{LOCKED}"):
        with suppress(OSError), locked(lock):  # another's file, or in use
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink()


class Shelves:
    """The run's shelf on the learner's node, and a copy on each other node that has engines. ``shared``: a
    directory that all nodes see; then there is that one only."""

    def __init__(self, shared: Path | None, run: str) -> None:
        self.shared, self.run = shared, run
        self.home: Any = Shelf(shared, run)  # in this process, or an actor on the learner's node
        self.home_node: str | None = None
        self.others: dict[str, Any] = {}  # actors, by Ray's id of their node
        self.copies: dict[tuple[str, str], str] = {}  # directories, by name and node
        self.calls = Calls()
        self.lock = threading.Lock()  # a new policy may go out while a new engine is brought an older one

    def begin(self, learner_node: str, calls: Calls) -> None:
        self.home_node, self.calls = learner_node, calls
        if self.shared is None and learner_node != ray.get_runtime_context().get_node_id():
            self.home.close()
            self.home = shelf_on(learner_node, self.run)

    def make(self, name: str) -> str:
        return self.at_home("make", name)

    def files(self, name: str) -> dict[str, int]:
        """Names and bytes of what the learner wrote."""
        return self.at_home("files", name)

    def bring(self, name: str, nodes: Collection[str]) -> int:
        """To those of these nodes that lack it; returns how many have a copy. One that dies meanwhile takes
        its engines with it: whoever asks them will notice."""
        elsewhere = [node for node in nodes if self.elsewhere(node)]
        if all((name, node) in self.copies for node in elsewhere):
            return len(elsewhere)
        with self.lock:
            for _ in range(2):  # again where a shelf died and its node did not
                if lacking := [node for node in elsewhere if (name, node) not in self.copies]:
                    self.carry(name, lacking)
            return sum((name, node) in self.copies for node in elsewhere)

    def elsewhere(self, node: str) -> bool:
        """Whether a node cannot read what the learner wrote."""
        return self.shared is None and self.home_node is not None and node != self.home_node

    def carry(self, name: str, nodes: Sequence[str]) -> None:
        for node in nodes:
            if node not in self.others:
                self.others[node] = shelf_on(node, f"{self.run}-{node[:8]}")
        made = self.answers({node: self.others[node].make.remote(name) for node in nodes})
        in_flight: deque[dict[str, Any]] = deque()
        for file, size in self.files(name).items():
            for start in range(0, max(size, 1), CHUNK):
                if len(in_flight) == IN_FLIGHT:
                    self.answers(in_flight.popleft())
                chunk = self.chunk(name, file, start)
                there = {node: shelf for node, shelf in self.others.items() if node in made}
                in_flight.append(
                    {node: shelf.write.remote(name, file, start, chunk) for node, shelf in there.items()}
                )
        while in_flight:
            self.answers(in_flight.popleft())
        self.copies |= {(name, node): path for node, path in made.items() if node in self.others}

    def at_home(self, method: str, *arguments: Any) -> Any:
        if isinstance(self.home, Shelf):
            return getattr(self.home, method)(*arguments)
        asked = getattr(self.home, method).remote(*arguments)
        return self.calls.get(asked, "the learner's node", f"{method} weights")

    def chunk(self, name: str, file: str, start: int) -> Any:
        """A reference: the driver sees the chunk only where the learner's node is its own."""
        if isinstance(self.home, Shelf):
            return ray.put(self.home.read(name, file, start))
        return self.home.read.remote(name, file, start)

    def answers(self, pending: Mapping[str, Any]) -> dict[str, Any]:
        """By node, of those that are still there."""
        found = {}
        for node, reference in pending.items():
            try:
                found[node] = self.calls.get(reference, f"node {node[:8]}", "carrying weights")
            except (Died, RayActorError, ActorUnschedulableError):
                self.others.pop(node, None)
        return found

    def remove(self, name: str) -> None:
        self.at_home("remove", name)
        with self.lock:
            for node, shelf in self.others.items():
                if self.copies.pop((name, node), None) is not None:
                    shelf.remove.remote(name)

    def close(self) -> None:
        actors = list(self.others.values())
        if isinstance(self.home, Shelf):
            self.home.close()
        else:
            actors.append(self.home)
        if actors:
            closing = [shelf.close.remote() for shelf in actors]
            ray.wait(closing, num_returns=len(closing), timeout=CLOSED)
        for shelf in actors:
            ray.kill(shelf)
        self.others = {}


def shelf_on(node: str, name: str) -> Any:
    """An actor on the node with this id, and on no other."""
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=strategy)(Shelf).remote(None, name)
