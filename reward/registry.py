"""From a spec to a reward: built-in types by a table, third-party ones by entry point.

A spec is a mapping with a ``type`` key; the other keys are the arguments of the reward's constructor. The
type ``plugin`` names an entry point of the group ``depo.rewards`` instead. Ours are registered in that group
too; the table is there so that they work from a source tree that is not installed, as on a Ray cluster.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

from depo.reward.base import Reward

ENTRY_POINT_GROUP = "depo.rewards"

# Modules are imported when first asked for: a worker process imports only what its reward needs.
BUILT_IN = {
    "math": "depo.reward.math:MathReward",
    "exact": "depo.reward.rules:ExactReward",
    "format": "depo.reward.rules:FormatReward",
    "overlong": "depo.reward.rules:OverlongReward",
    "reasoning_gym": "depo.reward.reasoning_gym:ReasoningGymReward",
    "function": "depo.reward.function:FunctionReward",
    "weighted": "depo.reward.rules:WeightedReward",
}


def build(spec: Mapping[str, Any]) -> Reward:
    """The reward that a spec describes, e.g. ``{"type": "overlong", "buffer": 4096}``.

    Cheap: what is slow to import (sympy, reasoning_gym) is imported when the reward first scores.

    Raises ``ValueError``, one line, for an unknown type or plugin, options that the reward does not take, or
    a function or package that cannot be imported.
    """
    options = {key: value for key, value in spec.items() if key != "type"}
    kind = spec.get("type")
    if kind == "plugin":
        name = str(options.get("name", ""))
        return _construct(_plugin_factory(name), f"plugin {name}", options.get("options") or {})
    if kind not in BUILT_IN:
        known = ", ".join([*BUILT_IN, "plugin"])
        raise ValueError(f"reward type {kind!r} is unknown; known types: {known}")
    return _construct(_built_in_factory(kind), kind, options)


def _built_in_factory(kind: str) -> Callable[..., Reward]:
    module, _, name = BUILT_IN[kind].partition(":")
    factory: Callable[..., Reward] = getattr(importlib.import_module(module), name)
    return factory


def _plugin_factory(name: str) -> Callable[..., Reward]:
    """What the entry point of that name loads to: a reward class or a function that returns a reward."""
    registered = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if name in registered:
        try:
            factory: Callable[..., Reward] = registered[name].load()
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"reward plugin {name!r}: its entry point {registered[name].value!r} does not load: {error}"
            ) from error
        return factory
    if name in BUILT_IN:
        return _built_in_factory(name)
    known = ", ".join(sorted({*registered, *BUILT_IN}))
    raise ValueError(
        f"reward plugin {name!r} is not registered under the entry-point group {ENTRY_POINT_GROUP}; "
        f"known: {known}"
    )


def _construct(factory: Callable[..., Reward], what: str, options: Mapping[str, Any]) -> Reward:
    """Call the factory; options that do not fit its signature are the user's error, not a TypeError."""
    if not callable(factory):
        raise ValueError(
            f"reward {what}: {factory!r} is neither a reward class nor a function that returns one"
        )
    signature = inspect.signature(factory)
    try:
        signature.bind(**options)
    except TypeError as error:
        raise ValueError(f"reward {what}: {error}; it takes {signature}") from error
    reward = factory(**options)
    if not callable(getattr(reward, "score", None)):
        raise ValueError(f"reward {what}: {type(reward).__name__} has no method score(samples)")
    return reward
