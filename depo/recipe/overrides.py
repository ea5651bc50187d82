"""Values and overrides of a recipe as text: YAML in, ``key=value`` on top, YAML out."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from depo.errors import UserError
from depo.recipe.keys import ROOT, Key, Shape, expand, shape_at

FLOAT_TAG = "tag:yaml.org,2002:float"

# A mantissa with or without dot, then an exponent with or without sign (YAML 1.2, core schema, 10.3.2).
EXPONENT_FLOAT = re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")

FLOAT_STARTS = list("-+.0123456789")


class RecipeLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key == "<<":
                continue
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice (first in line {seen[key]})", key_node.start_mark
                )
            seen[key] = line
        return super().construct_mapping(node, deep)


class RecipeDumper(yaml.SafeDumper):
    """SafeDumper that quotes text RecipeLoader would read as a number."""


RecipeLoader.add_implicit_resolver(FLOAT_TAG, EXPONENT_FLOAT, FLOAT_STARTS)


RecipeDumper.add_implicit_resolver(FLOAT_TAG, EXPONENT_FLOAT, FLOAT_STARTS)


def parse_yaml(text: str, name: str) -> Any:
    """The value of a YAML document; ``name`` (a file, or the command line) opens the error message.

    Raises UserError with one line, ``name:line: what is wrong``, for a syntax error or a duplicate key.
    """
    try:
        return yaml.load(text, RecipeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = name if mark is None else f"{name}:{mark.line + 1}"
        problem = error.problem or error.context or "not YAML"
        raise UserError(f"{where}: not valid YAML: {' '.join(problem.split())}") from error
    except (yaml.YAMLError, ValueError) as error:
        first_line = str(error).splitlines()[0]
        raise UserError(f"{name}: not valid YAML: {first_line}") from error


def dump_yaml(value: Any) -> str:
    """Block-style YAML in the given key order, which ``parse_yaml`` reads back equal."""
    return yaml.dump(value, Dumper=RecipeDumper, sort_keys=False, allow_unicode=True, width=100)


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
