"""One verifier worker: the parent's side, which starts it, gives it chunks and kills it, and the child's.

A worker is a fresh interpreter (`subprocess`), neither a fork nor a `multiprocessing` spawn. A fork of a
process with Ray's and torch's threads can deadlock; a spawn imports the caller's ``__main__`` again, which a
notebook or ``python -`` does not have. It runs in a session of its own, so that Ctrl-C reaches the caller
only and that killing it also kills what the reward has started. On Linux that includes what has left the
session: it is known by a mark in its environment.

Protocol, over one socket: the parent sends (spec, timeout, MiB of memory or None); the worker answers
(``None``, the reward's version) when it is ready, or (what is wrong with the spec, ""). Then, for each list
of samples, it sends one Score a sample, each as soon as it is known, so that the parent sees which sample a
worker got stuck at.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from depo.reward.base import OUT_OF_MEMORY, Sample, score_one
from depo.reward.registry import build

MEMORY_STATUS = 112  # with which a worker ends that has reached its limit of memory
LAST_BREATH = 2.0  # seconds in which a worker that has closed its socket may finish ending by itself
START_TIMEOUT = 120.0  # seconds for imports, generous: a user's function may import torch from a network disk

_BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from depo.reward.worker import main; del sys.path[0]; main(int(sys.argv[2]))"
)


def search_path() -> list[str]:
    """Where depo lies (for its import alone, so that no ``depo.py`` of a user hides it), then the caller's
    module search path, with the working directory by name."""
    return [str(Path(__file__).absolute().parents[2]), *(entry or os.getcwd() for entry in sys.path)]


class WorkerProcess:
    """One worker and the samples it is at. The constructor returns at once, long before it is ``ready``.

    ``pending`` holds the indices of the samples it was given and has not answered, the current one first.
    ``deadline`` (on the monotonic clock) is when the current one, or starting up, has taken too long.
    """

    def __init__(self, spec: Mapping[str, Any], timeout: float, memory_mb: int | None) -> None:
        self.connection, theirs = Pipe()
        self.ready = False
        self.pending: deque[int] = deque()
        self.deadline = time.monotonic() + START_TIMEOUT
        self._timeout = timeout
        self._mark = f"DEPO_VERIFIER={uuid.uuid4()}"
        name, _, value = self._mark.partition("=")
        descriptor = theirs.fileno()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOTSTRAP, json.dumps(search_path()), str(descriptor)],
            stdin=subprocess.DEVNULL,
            stdout=2,  # what a reward prints goes where errors go
            pass_fds=[descriptor],
            start_new_session=True,
            # The order of sets of strings, on which sympy's choices depend, is the same in every worker.
            env={**os.environ, "PYTHONHASHSEED": "0", name: value},
        )
        theirs.close()
        self._send((dict(spec), timeout, memory_mb))

    @property
    def waited_for(self) -> bool:
        """Whether it owes an answer: starting, or scoring."""
        return not self.ready or bool(self.pending)

    def idle_and_alive(self) -> bool:
        """Ready for work. An idle worker has nothing to say, so anything to read is the end of the stream."""
        return self.ready and not self.pending and not self.connection.poll(0)

    def assign(self, indices: Sequence[int], samples: Sequence[Sample]) -> None:
        """Give it samples; ``indices`` are theirs in the whole call."""
        self.pending.extend(indices)
        self.restart_clock()
        self._send(list(samples))

    def restart_clock(self) -> None:
        """A new sample begins."""
        self.deadline = time.monotonic() + self._timeout

    def kill(self, ending: bool = False) -> int:
        """End it and whatever it started; gives its return code, negative for the signal that ended it.
        ``ending``: it has closed its socket, so that it ends by itself and its return code says why."""
        until = time.monotonic() + (LAST_BREATH if ending else 0.0)
        while time.monotonic() < until:
            if os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
            time.sleep(0.005)
        # Until it is waited for, its id cannot belong to anyone else. If it has ended by itself, its status
        # stays as it was. macOS says EPERM for a zombie.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.connection.close()
        return_code = self.process.wait()
        while strays := self._strays():  # one may have started another meanwhile
            for stray in strays:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(stray, signal.SIGKILL)
            time.sleep(0.005)
        return return_code

    def _strays(self) -> list[int]:
        """Processes that the reward started, in whatever session they are."""
        found = []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # ended meanwhile, or somebody else's; empty for a zombie
                if self._mark.encode() in environment.read_bytes().split(b"\0"):
                    found.append(int(environment.parent.name))
        return found

    def _send(self, message: object) -> None:
        # If it has died, the next read says so.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(message)


def cause_of_death(return_code: int) -> str:
    """A return code in words."""
    if return_code == MEMORY_STATUS:
        return OUT_OF_MEMORY
    if return_code >= 0:
        return f"worker exited with status {return_code}"
    hint = " (out of memory?)" if -return_code == signal.SIGKILL else ""
    return f"worker died of {signal.Signals(-return_code).name}{hint}"


# ---------------------------------------------------------------- the child

GRACE = 1.0  # seconds after the timeout until a worker that nobody killed ends itself


def main(descriptor: int) -> None:
    """Serve the pool at the other end of this socket until it closes it or dies."""
    os.set_inheritable(descriptor, False)  # a process that a reward starts must not keep the socket open
    connection = Connection(descriptor)
    # When the parent is gone or done, nothing is left to do.
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _serve(connection)


def _serve(connection: Connection) -> None:
    spec, timeout, memory_mb = connection.recv()
    try:
        reward = build(spec)
    except ValueError as error:
        connection.send((str(error), ""))
        return
    prepare = getattr(reward, "prepare", None)
    if prepare is not None:
        prepare()
    if memory_mb is not None:
        # What a process may write to, not what it maps: libraries reserve address space that they never use.
        with contextlib.suppress(ValueError, OSError):  # a stricter limit stands already
            resource.setrlimit(resource.RLIMIT_DATA, (memory_mb * 2**20, memory_mb * 2**20))
    connection.send((None, getattr(reward, "version", "")))
    # An alarm without a handler ends the process, by the kernel, even inside an endless C call. The parent is
    # quicker, unless it was killed: then a stuck worker, which cannot notice the closed pipe, ends here.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    while True:
        samples: list[Sample] = connection.recv()
        for sample in samples:
            signal.setitimer(signal.ITIMER_REAL, timeout + GRACE)
            score = score_one(reward, sample)
            signal.setitimer(signal.ITIMER_REAL, 0)
            if score.detail == OUT_OF_MEMORY:
                os._exit(MEMORY_STATUS)  # what a reward has kept goes with the process
            connection.send(score)
