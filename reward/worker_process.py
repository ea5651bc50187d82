"""The parent's side of one verifier worker: start it, give it a chunk, kill it.

A worker is a fresh interpreter (`subprocess`), neither a fork nor a `multiprocessing` spawn. A fork of a
process with Ray's and torch's threads can deadlock; a spawn imports the caller's ``__main__`` again, which a
notebook or ``python -`` does not have. It runs in a session of its own, so that Ctrl-C reaches the caller
only and that killing it also kills what the reward has started.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from reward.base import Sample

START_TIMEOUT = 120.0  # seconds for imports, generous: a user's function may import torch from a network disk

_BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from reward.worker import main; del sys.path[0]; main(int(sys.argv[2]))"
)


def search_path() -> list[str]:
    """Where this package lies (for its import alone, so that no ``reward.py`` of a user hides it), then
    the caller's module search path, with the working directory by name."""
    return [str(Path(__file__).resolve().parents[1]), *(entry or os.getcwd() for entry in sys.path)]


class WorkerProcess:
    """One worker and the samples it is at. The constructor returns at once, long before it is ``ready``.

    ``pending`` holds the indices of the samples it was given and has not answered, the current one first.
    ``deadline`` (on the monotonic clock) is when the current one, or starting up, has taken too long.
    """

    def __init__(self, spec: Mapping[str, Any], timeout: float) -> None:
        self.connection, theirs = Pipe()
        self.ready = False
        self.pending: deque[int] = deque()
        self.deadline = time.monotonic() + START_TIMEOUT
        self._timeout = timeout
        descriptor = theirs.fileno()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOTSTRAP, json.dumps(search_path()), str(descriptor)],
            stdin=subprocess.DEVNULL,
            stdout=2,  # what a reward prints goes where errors go
            pass_fds=[descriptor],
            start_new_session=True,
            # The order of sets of strings, on which sympy's choices depend, is the same in every worker.
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        theirs.close()
        self._send((dict(spec), timeout))

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

    def kill(self) -> int:
        """End it and whatever it started; gives its return code, negative for the signal that ended it."""
        # Until it is waited for, its id cannot belong to anyone else. If it has ended by itself, its status
        # stays as it was. macOS says EPERM for a zombie.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.connection.close()
        return self.process.wait()

    def _send(self, message: object) -> None:
        # If it has died, the next read says so.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(message)


def cause_of_death(return_code: int) -> str:
    """A return code in words."""
    if return_code >= 0:
        return f"worker exited with status {return_code}"
    hint = " (out of memory?)" if -return_code == signal.SIGKILL else ""
    return f"worker died of {signal.Signals(-return_code).name}{hint}"
