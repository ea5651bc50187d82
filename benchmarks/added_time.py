"""How long an update spends in what routing replay and telemetry add to it, read off directly.

The difference of two updates of twelve seconds is a poor witness for hundredths of a second. Here the added
code itself is timed: the hooks on the routers, and laying out and keeping records around each pass. What
autograd does later for weights that were gathered anew is not in it; that needs the difference.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from depo.learner.routing import Routing, UpdateRouting
from depo.moe.hooks import RouterHook

AROUND = ("forced", "first_look", "second_look", "keep", "results")


class AddedTime:
    """``seconds`` of processor time in the added code, calls within calls counted once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.inside = False

    def timed(self, function: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.inside:
                return function(*args, **kwargs)
            self.inside, started = True, time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.inside = False
                self.seconds += time.thread_time() - started

        return call


@contextmanager
def added_time() -> Iterator[AddedTime]:
    """Inside the block, updates add to ``seconds``."""
    added = AddedTime()
    original = RouterHook.hook
    with ExitStack() as stack:
        patches = [
            mock.patch.object(RouterHook, "hook", lambda hook, index: added.timed(original(hook, index)))
        ]
        patches += [mock.patch.object(Routing, "of_update", added.timed(Routing.of_update))]
        patches += [
            mock.patch.object(UpdateRouting, name, added.timed(getattr(UpdateRouting, name)))
            for name in AROUND
        ]
        for patch in patches:
            stack.enter_context(patch)
        yield added
