"""What third parties register: entry points of installed packages, beside the built-in ones of a table.

A registry is an entry-point group (such as ``depo.losses``) and a table of built-in names. These are declared
as entry points too; the table serves source trees that were never installed, as on a Ray cluster.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any


def load(group: str, built_in: Mapping[str, str], name: str) -> Any:
    """The object registered as ``name`` in ``group``, imported only now.

    ``built_in`` maps names to "module:attribute". Raises ValueError, one line, when the name is unknown (the
    known ones are listed), when it stands for two different objects, and when its code cannot be imported.
    """
    values = {entry.value for entry in entry_points(group=group, name=name)}
    values |= {built_in[name]} if name in built_in else set()
    if not values:
        known = ", ".join(sorted({*built_in, *(entry.name for entry in entry_points(group=group))}))
        raise ValueError(f"no entry point {name!r} in the group {group}; known: {known}")
    if len(values) > 1:
        raise ValueError(f"{name!r} is registered more than once in {group}: {', '.join(sorted(values))}")
    (value,) = values
    try:
        return EntryPoint(name, value, group).load()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name!r} of {group}: {value} cannot be loaded: {error}") from error


def build(group: str, built_in: Mapping[str, str], spec: Mapping[str, Any]) -> Any:
    """What a recipe's block asks for: the registered callable, called with the block's options as keywords.

    ``spec`` is ``{"type": NAME, **options}``, or ``{"type": "plugin", "name": NAME, "options": {…}}`` for
    what the recipe schema does not know. Raises ValueError as ``load`` does, and for options that it does not
    take.
    """
    name, options = spec["type"], {key: value for key, value in spec.items() if key != "type"}
    if name == "plugin":
        name, options = options["name"], dict(options["options"])
    factory = load(group, built_in, name)
    try:
        inspect.signature(factory).bind(**options)
    except TypeError as error:
        raise ValueError(f"{name!r} of {group} does not take these options: {error}") from error
    return factory(**options)
