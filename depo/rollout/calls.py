"""Waiting for other processes: never silently, never for ever, and clear about one that has died."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError

from depo.errors import RunStopped

HEARTBEAT = 60.0
"""Seconds of waiting between two lines that say so."""

FIRST = 3600.0
"""Seconds for the first call of a kind: models are loaded and kernels compiled in it."""

AT_LEAST, TIMES = 600.0, 20.0
"""A later call may take so many seconds, or so many times the longest of its kind in this run."""


class Died(RunStopped):
    """A process has died: killed, or out of memory. Or it hangs, and is as good as dead."""


class Calls:
    """The remote calls of a run. ``timeout``: seconds that any of them may take; None: learned from the run's
    own times, see above. ``say`` hears what is waited for once a call takes longer than a minute and than
    three times the longest of its kind."""

    def __init__(self, timeout: float | None = None, say: Callable[[str], None] = lambda line: None) -> None:
        self.timeout, self.say = timeout, say
        self.longest: dict[str, float] = {}

    def limit(self, what: str) -> float:
        """Seconds that a call of this kind may take."""
        if self.timeout is not None:
            return self.timeout
        longest = self.longest.get(what)
        return FIRST if longest is None else max(AT_LEAST, TIMES * longest)

    def get(self, reference: Any, who: str, what: str) -> Any:
        """The answer of ``who`` to a call. Raises Died where none comes or the process is gone, and what the
        call itself raised."""
        self.wait([reference], who, what)
        try:
            return ray.get(reference)
        except RayActorError as error:
            if error.actor_init_failed:  # the error says why
                raise
            raise Died(f"{who} died during {what!r}: killed, or out of memory") from error

    def items(self, stream: Any, who: str, what: str) -> Iterator[Any]:
        """The items of a remote generator, each waited for as a call."""
        while True:
            self.wait([stream], who, what)
            try:
                reference = next(stream)
            except StopIteration:
                return
            yield self.get(reference, who, what)

    def took(self, what: str, seconds: float) -> None:
        """An answer to such a call came after so long."""
        self.longest[what] = max(seconds, self.longest.get(what, 0.0))

    def hung(self, who: str, what: str, waited: float) -> Died:
        """For one who gave no answer in time."""
        return Died(
            f"{who}: no answer to {what!r} after {waited:.0f} s; it hangs. If it only needs longer, "
            f"raise resources.call_timeout (seconds, now {self.limit(what):.0f})"
        )

    def wait(self, pending: Sequence[Any], who: str, what: str) -> Any:
        """The first of these references or streams that has something. Raises Died where none has in
        time."""
        started, limit = time.monotonic(), self.limit(what)
        say_at, waited = max(HEARTBEAT, 3 * self.longest.get(what, 0.0)), 0.0
        while True:
            timeout = max(min(limit, say_at) - waited, 0.0)
            done, _ = ray.wait(list(pending), num_returns=1, timeout=timeout)
            waited = time.monotonic() - started
            if done:
                self.took(what, waited)
                return done[0]
            if waited >= limit:
                raise self.hung(who, what, waited)
            if waited >= say_at:  # Ray may be back a moment early
                say_at = waited + HEARTBEAT
                self.say(f"waiting for {who}: {what}, {waited:.0f} s so far, {limit:.0f} allowed")
