"""Overrides from the command line: ``key=value`` on top of a recipe file.

- ``steps=5``, ``learner.lr=1e-5``, ``data.train=FILE``, ``reward={type: exact}``: the value is YAML.
- ``learner.loss=gspo`` is short for ``learner.loss.type=gspo``, wherever a block has a ``type``.
- Choosing another type drops the other keys which the *file* gives that block: they were meant for the old
  type (DAPO's clip range is a thousand times GSPO's).
- Broader keys are applied first, whatever their order: ``learner.loss.clip_low=1e-4 learner.loss=gspo`` is
  GSPO with that clip range. Among equally broad keys the last one wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from depo.errors import UserError
from depo.recipe.schema import ROOT, Key, Shape, expand, shape_at
from depo.recipe.yaml_text import parse_yaml

COMMAND_LINE = "command line"


@dataclass(frozen=True, slots=True)
class Override:
    key: Key
    value: Any
    text: str
    """As it was typed."""
    origin: str = COMMAND_LINE
    """Where it was typed: on the command line, or in this key of a recipe."""

    @property
    def breadth(self) -> int:
        """Number of key parts; ``X.type`` is as broad as ``X``, whose other keys it decides about."""
        return len(self.key) - (self.key[-1] == "type")


def parse_override(text: str, origin: str = COMMAND_LINE) -> Override:
    """``a.b.c=value`` with a YAML value. Raises UserError for anything else."""
    dotted, equals, value = text.partition("=")
    key = tuple(dotted.strip().split("."))
    if not equals or not all(key):
        raise UserError(f"{origin}: {text!r} is not an override; write key=value, for example steps=5")
    return Override(key, parse_yaml(value, f"{origin}: {dotted}"), text, origin)


def apply_overrides(raw: dict[str, Any], overrides: Sequence[Override], root: Shape = ROOT) -> dict[str, Any]:
    """A new recipe mapping with shorthands written out and ``overrides`` on top."""
    result = expand(raw, root)
    for override in sorted(overrides, key=lambda override: override.breadth):
        result = expand(_set(result, override, root), root)
    return result


def _set(raw: dict[str, Any], override: Override, root: Shape) -> dict[str, Any]:
    shape = shape_at(override.key, raw, root)
    plain = not (shape.is_list or shape.is_map or shape.is_source)
    if isinstance(override.value, str) and shape.is_union and plain:
        override = replace(override, key=(*override.key, "type"))
    *parents, last = override.key
    here: Any = raw
    for depth, part in enumerate(parents):
        here = _child(here, part, override, depth)
    if isinstance(here, list):
        here[_index(here, last, override, len(parents))] = override.value
    elif not isinstance(here, dict):
        raise _no_block(override, len(parents))
    elif (
        last == "type" and shape_at(tuple(parents), raw, root).is_union and here.get("type") != override.value
    ):
        here.clear()
        here["type"] = override.value
    else:
        here[last] = override.value
    return raw


def _child(here: Any, part: str, override: Override, depth: int) -> Any:
    """The container under ``part``, made when it is missing or null."""
    if isinstance(here, list):
        return here[_index(here, part, override, depth)]
    if not isinstance(here, dict):
        raise _no_block(override, depth)
    if here.get(part) is None:
        here[part] = {}
    return here[part]


def _index(here: list[Any], part: str, override: Override, depth: int) -> int:
    if part.isdigit() and int(part) < len(here):
        return int(part)
    list_key = ".".join(override.key[:depth])
    raise UserError(
        f"{override.origin}: {'.'.join(override.key)}: {list_key} is a list of {len(here)}; "
        f"its entries are numbered from 0, found {part!r}"
    )


def _no_block(override: Override, depth: int) -> UserError:
    dotted, parent = ".".join(override.key), ".".join(override.key[:depth])
    return UserError(f"{override.origin}: {dotted}: {parent} is a plain value, it has no keys")
