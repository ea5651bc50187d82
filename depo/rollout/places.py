"""Places for actors in the Ray cluster. For those that find none in a minute, one line says what is missing:
Ray itself would let them wait for ever."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from depo.errors import UserError

PLACED, ANSWER = 60.0, 1.0
"""Seconds within which Ray has to find a place; in which it can say whether it has."""

Bundle = Mapping[str, float]
"""What one actor needs: CPU, GPU."""


class NoPlace(UserError):
    """The cluster has no room for an actor."""


class Places:
    """Room for an actor each of ``bundles``, all or none of it; asked for at once, waited for in ``wait``."""

    def __init__(self, bundles: Sequence[Bundle]) -> None:
        self.bundles = [dict(bundle) for bundle in bundles]
        self.since, self.found = time.monotonic(), False
        self.group: PlacementGroup = placement_group(self.bundles, strategy="PACK")

    def options(self, index: int = 0) -> dict[str, Any]:
        """Of an actor that takes the place of this bundle."""
        bundle = self.bundles[index]
        strategy = PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=index)
        return {
            "num_cpus": bundle.get("CPU", 0),
            "num_gpus": bundle.get("GPU", 0),
            "scheduling_strategy": strategy,
        }

    @property
    def due(self) -> bool:
        """Whether ``wait`` has an answer at once."""
        return self.found or time.monotonic() - self.since >= PLACED

    def wait(self, who: str, remedy: str) -> None:
        """Raises NoPlace when Ray has had ``PLACED`` seconds; the places are given back then."""
        left = self.since + PLACED - time.monotonic()
        self.found = self.found or self.group.wait(max(left, ANSWER))
        if not self.found:
            line = missing(self.bundles)
            self.give_back()
            raise NoPlace(f"{who}: no place in the Ray cluster after {PLACED:g} s: {line}; {remedy}")

    def give_back(self) -> None:
        remove_placement_group(self.group)


def missing(bundles: Sequence[Bundle]) -> str:
    """Which bundles find no place, and what the cluster has."""
    many = f"{len(bundles)} places of " if len(bundles) > 1 else ""
    needed = " and ".join(f"{amount:g} {what}" for what, amount in bundles[0].items())
    free = ray.available_resources()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes.sort(key=lambda node: [-node.get(what, 0) for what in bundles[0]])
    has = ", ".join(
        f"{free.get(what, 0):g} of {sum(node.get(what, 0) for node in nodes):g} {what}s free (by node: "
        f"{' + '.join(f'{node.get(what, 0):g}' for node in nodes)})"
        for what in bundles[0]
    )
    return f"needs {many}{needed}, and it has {has}"
