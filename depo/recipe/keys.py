"""The recipe schema as data: which keys exist where, and which types a union block can have.

Overrides and error messages need to walk ``depo.recipe.schema`` by dotted key (``learner.loss.clip_low``). A
*union* is a block whose ``type`` key picks one of several classes; its key path does not contain the type.
The same functions walk other files' schemas from another ``root``: evaluation suites have one of their own.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from depo.recipe.schema import Block, FileSource, Recipe, source_from_shorthand

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

    def block(self, type_name: Any = None) -> type[Block] | None:
        """The block of that type, or the only one; None for plain values and unknown types."""
        return self.blocks.get(str(type_name) if self.is_union else "")


ROOT = Shape({"": Recipe})


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
        tag = annotation.model_fields.get("type")
        return Shape({str(tag.default) if tag else "": annotation})
    return Shape({})


def expand(value: Any, shape: Shape = ROOT) -> Any:
    """Write shorthands out: a union block given as a bare string, and one that leaves out the default type.

    ``loss: gspo`` becomes ``loss: {type: gspo}``; a data source given as a string becomes a file or hub
    source; ``loss: {clip_low: 0.1}`` gets the type of the schema's default block. Returns new containers.
    """
    if shape.is_list:
        element = Shape(shape.blocks)
        return [expand(item, element) for item in value] if isinstance(value, list) else value
    if shape.is_map:
        element = Shape(shape.blocks)
        return (
            {key: expand(item, element) for key, item in value.items()} if isinstance(value, dict) else value
        )
    if shape.is_union and isinstance(value, str):
        value = source_from_shorthand(value) if shape.is_source else {"type": value}
    if not isinstance(value, dict) or not shape.blocks:
        return value
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
        if shape.is_map:
            shape = Shape(shape.blocks)
            here = here.get(part) if isinstance(here, dict) else None
            continue
        if shape.is_list:
            shape = Shape(shape.blocks)
            inside = isinstance(here, list) and part.isdigit() and int(part) < len(here)
            here = here[int(part)] if inside else None
            continue
        type_name = here.get("type") if isinstance(here, dict) else None
        block = shape.block(type_name or shape.default_type)
        if block is None or part not in block.model_fields:
            return Shape({})
        shape = shape_of(block.model_fields[part])
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
