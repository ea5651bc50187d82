"""Difficulty estimators: text and counts in, beliefs about pass rates out. A library of its own.

``build`` makes one of a recipe's ``estimator`` block. An estimator is registered as an entry point of the
group ``depo.estimators``: a name and a callable that takes the block's options as keywords. This package
registers its own in the same way; the table below serves source trees that were never installed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from depo.estimators.base import Estimator

GROUP = "depo.estimators"

BUILT_IN = {
    "uniform": "depo.estimators.baselines:UniformEstimator",
    "mopps": "depo.estimators.mopps:MoppsEstimator",
    "spo": "depo.estimators.spo:SpoEstimator",
    "hybrid": "depo.estimators.hybrid:HybridEstimator",
    "greso": "depo.estimators.greso:GresoEstimator",
    "dps": "depo.estimators.dps:DpsEstimator",
    "oracle": "depo.estimators.baselines:OracleEstimator",
    "depo": "depo.estimators.depo:DepoEstimator",
}


def build(spec: Mapping[str, Any]) -> Estimator:
    """The estimator that ``spec`` names.

    ``spec`` is ``{"type": NAME, **options}``, or ``{"type": "plugin", "name": NAME, "options": {…}}`` for
    one that the recipe schema does not know. Raises ValueError when the name is unknown or ambiguous, when
    its code cannot be loaded, and when it does not take the options.
    """
    options = {key: value for key, value in spec.items() if key != "type"}
    name = str(spec["type"])
    if name == "plugin":
        name, options = str(options["name"]), dict(options.get("options", {}))
    factory = _registered(name)
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        raise ValueError(f"estimator {name!r} does not take these options: {error}") from error
    return factory(**options)


def _registered(name: str) -> Callable[..., Estimator]:
    values = {entry.value for entry in entry_points(group=GROUP, name=name)}
    values |= {BUILT_IN[name]} if name in BUILT_IN else set()
    if not values:
        known = ", ".join(sorted({*BUILT_IN, *(entry.name for entry in entry_points(group=GROUP))}))
        raise ValueError(f"no estimator is called {name!r}; known: {known}")
    if len(values) > 1:
        raise ValueError(f"estimator {name!r} is registered more than once: {', '.join(sorted(values))}")
    (value,) = values
    try:
        factory: Callable[..., Estimator] = EntryPoint(name, value, GROUP).load()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"estimator {name!r}: {value} cannot be loaded: {error}") from error
    return factory
