"""Dotted keys (``learner.loss.clip_low``): what the schema has at each, and the overrides that set them.

A *union* is a block whose ``type`` key picks one of several classes; its key path does not contain the type.
The same functions walk other files' schemas from another ``root``: evaluation suites have one of their own.
Values are YAML, in files and in overrides.
"""

from __future__ import annotations

import re
import types
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from depo.errors import UserError
from depo.recipe.schema import Block, FileSource, Plugin, Recipe, source_from_shorthand

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """What may stand at a key: one of these blocks (by type name; "" when there is only one), a list of them,
    or a map from names of the user's choice to them."""

    blocks: dict[str, type[Block]]
    is_list: bool = False
    is_map: bool = False
    default_type: str | None = None

    @property
    def is_union(self) -> bool:
        return bool(self.blocks) and "" not in self.blocks

    @property
    def is_source(self) -> bool:
        return FileSource in self.blocks.values()

    def registers(self, type_name: Any) -> bool:
        """Whether this is no type of the schema, but a name that a package has registered."""
        plugin = self.blocks.get("plugin")
        if plugin is None or not issubclass(plugin, Plugin) or not isinstance(type_name, str):
            return False
        return type_name not in self.blocks and bool(entry_points(group=plugin.group, name=type_name))

    def block(self, type_name: Any = None) -> type[Block] | None:
        """The block of that type, or the only one; None for plain values and unknown types."""
        return self.blocks.get(str(type_name) if self.is_union else "")


ROOT = Shape({"": Recipe})


def type_name(block: type[Block] | None) -> str:
    """The ``type`` that selects a block of a union; "" for other blocks."""
    field = None if block is None else block.model_fields.get("type")
    return "" if field is None else str(field.default)


def shape_of(field: FieldInfo) -> Shape:
    """The shape of one field of a block."""
    shape = _shape(field.annotation)
    default = field.default
    default_type = getattr(default, "type", None) if isinstance(default, Block) else None
    return Shape(shape.blocks, shape.is_list, shape.is_map, default_type)


def _shape(annotation: Any) -> Shape:
    """Look through Annotated, unions, ``list`` and ``dict`` for blocks."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _shape(get_args(annotation)[0])
    if origin is list:
        return Shape(_shape(get_args(annotation)[0]).blocks, is_list=True)
    if origin is dict:
        inside = _shape(get_args(annotation)[1])
        return Shape(inside.blocks, is_map=True) if inside.blocks else inside
    if origin in (Union, types.UnionType):
        blocks: dict[str, type[Block]] = {}
        for member in get_args(annotation):
            blocks |= _shape(member).blocks
        return Shape(blocks)
    if isinstance(annotation, type) and issubclass(annotation, Block):
        return Shape({type_name(annotation): annotation})
    return Shape({})


def expand(value: Any, shape: Shape = ROOT) -> Any:
    """Write shorthands out: a union block given as a bare string, and one that leaves out the default type.

    ``loss: gspo`` becomes ``loss: {type: gspo}``; a type that only an installed package knows becomes
    ``{type: plugin, name: …}``; a data source given as a string becomes a file or hub source; ``loss:
    {clip_low: 0.1}`` gets the type of the schema's default block. Returns new containers.
    """
    element = Shape(shape.blocks)
    if shape.is_list:
        return [expand(item, element) for item in value] if isinstance(value, list) else value
    if shape.is_map and isinstance(value, dict):
        return {key: expand(item, element) for key, item in value.items()}
    if shape.is_map:
        return value
    if shape.is_union and isinstance(value, str):
        value = source_from_shorthand(value) if shape.is_source else {"type": value}
    if (only := shape.blocks.get("")) is not None:
        value = only.written_out(value)
    if not isinstance(value, dict) or not shape.blocks:
        return value
    if shape.registers(value.get("type")):
        value = {**value, "type": "plugin", "name": value["type"]}
    if shape.is_union and "type" not in value and shape.default_type is not None:
        value = {"type": shape.default_type, **value}
    block = shape.block(value.get("type"))
    if block is None:
        return value
    fields = block.model_fields
    return {
        key: expand(item, shape_of(fields[key])) if key in fields else item for key, item in value.items()
    }


def shape_at(key: Key, raw: Any, root: Shape = ROOT) -> Shape:
    """What the schema wants at a key, unions resolved by the types that ``raw`` names."""
    shape, here = root, raw
    for part in key:
        if shape.is_map or shape.is_list:
            shape = Shape(shape.blocks)
        else:
            type_name = here.get("type") if isinstance(here, dict) else None
            block = shape.block(type_name or shape.default_type)
            if block is None or part not in block.model_fields:
                return Shape({})
            shape = shape_of(block.model_fields[part])
        if isinstance(here, list):
            here = here[int(part)] if part.isdigit() and int(part) < len(here) else None
        else:
            here = here.get(part) if isinstance(here, dict) else None
    return shape


def key_of_error(loc: tuple[int | str, ...], root: Shape = ROOT) -> tuple[Key, type[Block] | None]:
    """A pydantic error location as (recipe key, innermost block on the way).

    pydantic inserts the type name into the location of a union and names for the branches of a plain
    union; neither is a key that a user wrote.
    """
    key: list[str] = []
    shape, block = root, root.block()
    for part in loc:
        if isinstance(part, int) or shape.is_map:
            key.append(str(part))
            shape = Shape(shape.blocks)
        elif shape.is_union and part in shape.blocks:
            block, shape = shape.blocks[part], Shape({"": shape.blocks[part]})
        elif (inner := shape.block()) is not None:
            key.append(part)
            block = inner
            shape = shape_of(inner.model_fields[part]) if part in inner.model_fields else Shape({})
    return tuple(key), shape.block() or block


def all_keys(
    shape: Shape = ROOT, prefix: Key = (), above: tuple[type[Block], ...] = ()
) -> Iterator[tuple[Key, type[Block]]]:
    """Every key of the schema with the block that has it (several for a union); lists and maps are not
    entered."""
    for block in shape.blocks.values():
        if block in above:
            continue
        for name, field in block.model_fields.items():
            key = (*prefix, name)
            yield key, block
            inner = shape_of(field)
            if not (inner.is_list or inner.is_map):
                yield from all_keys(inner, key, (*above, block))


FLOAT_TAG = "tag:yaml.org,2002:float"

# A mantissa with or without dot, then an exponent with or without sign (YAML 1.2, core schema, 10.3.2).
EXPONENT_FLOAT = re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")


MAX_BYTES, MAX_DEPTH, MAX_VALUES = 2**20, 40, 20_000
"""Of a file or an override: the longest shipped recipe has 6 KB, 5 levels and 150 values. A few lines of
aliases to aliases can stand for gigabytes, so that an alias counts as all that it stands for."""


class RecipeLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice in one mapping, and what is too much of anything."""

    depth = values = 0

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.stands_for: dict[int, int] = {}  # node → values below it, for aliases to it

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event, before = self.peek_event(), self.values
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.refusal(f"nested deeper than {MAX_DEPTH} levels", event)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self.stands_for:
                raise self.refusal(f"*{event.anchor} stands inside of what it names", event)
            self.values += self.stands_for[id(node)]
        else:
            self.values += 1
            self.stands_for[id(node)] = self.values - before
        if self.values > MAX_VALUES:
            raise self.refusal(f"more than {MAX_VALUES:,} values, with what aliases stand for", event)
        return node

    def refusal(self, problem: str, event: Any) -> yaml.MarkedYAMLError:
        return yaml.constructor.ConstructorError(None, None, problem, event.start_mark)

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


for _text in (RecipeLoader, RecipeDumper):
    _text.add_implicit_resolver(FLOAT_TAG, EXPONENT_FLOAT, list("-+.0123456789"))


def parse_yaml(text: str, name: str) -> Any:
    """The value of a YAML document; ``name`` (a file, or the command line) opens the error message.

    Raises UserError with one line, ``name:line: what is wrong``, for a syntax error, a duplicate key, and
    whatever is larger or deeper than any recipe.
    """
    if len(text) > MAX_BYTES:
        raise UserError(f"{name}: longer than {MAX_BYTES:,} characters, which no recipe is")
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
    return yaml.dump(value, Dumper=RecipeDumper, sort_keys=False, allow_unicode=True, width=80)


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
    if len(key) > MAX_DEPTH:
        raise UserError(f"{origin}: {text[:40]!r}…: nested deeper than {MAX_DEPTH} levels")
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
