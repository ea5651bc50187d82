"""The learner's processes: a Ray actor for each rank, in one placement group; asked together, answered by the
first.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayTaskError

from depo.rollout.calls import Calls
from depo.rollout.places import Places

LEARNER = "the learner"

NOTICED = 15.0
"""Seconds within which Ray notices that a process has died, at most; usually one or two."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that all ranks have got; ``pending``: reference of each answer → who gives it."""

    group: ActorGroup
    pending: dict[Any, str]
    what: str

    def __call__(self) -> list[Any]:
        """The answers, see ``ActorGroup.answers``."""
        return self.group.answers(self.pending, self.what)


class ActorGroup:
    """Actors of one class, ``actor(recipe, rank)`` each. Raises NoPlace where the cluster has no room for
    them."""

    def __init__(self, actor: type, recipe: Any, gpus: int, calls: Calls) -> None:
        self.calls = calls
        self.asking = threading.Lock()
        ranks = range(recipe.learner.ranks)
        bundle = {"CPU": 1.0} | ({"GPU": float(gpus)} if gpus else {})
        self.places: Places | None = Places([bundle] * len(ranks))
        remedy = "add nodes" if len(ranks) == 1 else "add nodes, or set learner.ranks lower"
        self.places.wait(LEARNER, remedy)
        self.actors = {
            f"rank {rank} of {LEARNER}" if len(ranks) > 1 else LEARNER: ray.remote(actor)
            .options(**self.places.options(rank))
            .remote(recipe, rank)
            for rank in ranks
        }

    def ask(self, method: str, *arguments: Any, what: str | None = None) -> Asked:
        """Call a method on all ranks; call what comes back to wait for the answers, the first rank's first.
        ``what`` names it where it is waited for."""
        if len(self.actors) > 1:
            arguments = tuple(map(ray.put, arguments))  # sent once a machine
        with self.asking:  # every rank gets the calls of all threads in the same order
            pending = {getattr(actor, method).remote(*arguments): name for name, actor in self.actors.items()}
        return Asked(self, pending, what or method)

    def answers(self, pending: dict[Any, str], what: str) -> list[Any]:
        """Of each rank. Raises RunStopped for one that has died or hangs, else what the first to fail did."""
        found: dict[str, Any] = {}
        waiting = dict(pending)
        while waiting:
            reference = self.calls.wait(list(waiting), LEARNER, what)
            name = waiting.pop(reference)
            try:
                found[name] = self.calls.get(reference, name, what)
            except RayTaskError:
                # When one dies, what the others exchange fails, perhaps before Ray knows why.
                for other in self.ended_soon(list(waiting)):
                    with suppress(RayTaskError):
                        self.calls.get(other, waiting[other], what)
                raise
        return [found[name] for name in self.actors]

    def ended_soon(self, references: list[Any]) -> list[Any]:
        return ray.wait(references, num_returns=len(references), timeout=NOTICED)[0] if references else []

    def items(self, method: str, shares: Sequence[Any], *arguments: Any) -> Iterator[Any]:
        """What the generators of all ranks yield, as it comes; each gets its own of ``shares``."""
        streams = {
            getattr(actor, method).options(num_returns="streaming").remote(share, *arguments): name
            for (name, actor), share in zip(self.actors.items(), shares, strict=True)
        }
        while streams:
            stream = self.calls.wait(list(streams), LEARNER, method)
            try:
                reference = next(stream)
            except StopIteration:
                del streams[stream]
                continue
            yield self.calls.get(reference, streams[stream], method)

    def close(self) -> None:
        """End the processes and give their places back."""
        for actor in self.actors.values():
            ray.kill(actor)
        self.actors = {}
        if self.places is not None:
            self.places.give_back()
