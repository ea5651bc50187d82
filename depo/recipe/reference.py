"""The reference of every recipe and suite key, written from the schema:

    python -m depo.recipe.reference > docs/recipe.md

One section a block, one row a key: type, default, and the string below the field. Needs no torch.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import yaml
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from depo.recipe.keys import type_name
from depo.recipe.schema import Block, Recipe
from depo.recipe.schema.block import AtMost
from depo.recipe.schema.evaluation import Suite

INTRODUCTION = """\
# Recipe reference

Look up any key of a recipe or of a suite: its type, its default and its meaning.

A recipe is one YAML file. Every key can also be set on the command line, with the value as in YAML:
`depo train RECIPE learner.lr=1e-5 batch.group_size=16`. Where a block has several types, the name of a type
is enough (`learner.loss=gspo`). Unknown keys are errors.

This page is generated from `depo/recipe/schema/`: `python -m depo.recipe.reference > docs/recipe.md`.
"""

ROOTS = (
    ("", "A recipe", Recipe),
    ("suite", "A suite", Suite),
)

NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "integer",
    float: "number",
    str: "text",
    Path: "path",
    NoneType: "null",
    Any: "anything",
}


@dataclass(frozen=True)
class Section:
    """A block of the schema under one heading; ``depth`` is the heading's level."""

    title: str
    model: type[Block]
    depth: int

    @property
    def anchor(self) -> str:
        return anchor(self.title)


def reference() -> str:
    """The whole page as Markdown."""
    seen: set[type[Block]] = set()
    sections = [
        section for prefix, title, root in ROOTS for section in sections_of(prefix, title, root, seen)
    ]
    anchors = {section.model: section.anchor for section in sections}
    return "\n".join([INTRODUCTION, *(rendered(section, anchors) for section in sections)])


def sections_of(prefix: str, title: str, root: type[Block], seen: set[type[Block]]) -> Iterator[Section]:
    """The root's section, then those of the blocks below it in the order of the keys. ``seen``: blocks that
    have a section already, to which this adds."""
    yield Section(title, root, 2)
    seen.add(root)

    def below(path: str, model: type[Block]) -> Iterator[Section]:
        for name, field in model.model_fields.items():
            key = f"{path}.{name}" if path else name
            for block in blocks(field.annotation):
                if block in seen:
                    continue
                seen.add(block)
                kind = type_name(block)
                yield Section(f"{key}: {kind}" if kind else key, block, 3)
                yield from below(key, block)

    yield from below(prefix, root)


def blocks(annotation: Any) -> Iterator[type[Block]]:
    """The blocks that a field's type names, through unions, lists and maps."""
    if isinstance(annotation, type) and issubclass(annotation, Block):
        yield annotation
    elif get_origin(annotation) is not Literal:
        for part in get_args(annotation):
            yield from blocks(part)


def rendered(section: Section, anchors: dict[type[Block], str]) -> str:
    """Heading, what the block is, and a row for each key."""
    about = inspect.cleandoc(section.model.__doc__ or "").replace("``", "`")
    lines = [f"{'#' * section.depth} {section.title}", *(["", about] if about else []), ""]
    fields = [(name, field) for name, field in section.model.model_fields.items() if name != "type"]
    if fields:
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        lines += [row(name, field, anchors) for name, field in fields]
    else:
        lines.append("No keys of its own.")
    return "\n".join([*lines, ""])


def row(name: str, field: FieldInfo, anchors: dict[type[Block], str]) -> str:
    cells = [
        f"`{name}`",
        type_text(field.annotation, field.metadata, anchors),
        default_text(field),
        " ".join((field.description or "").replace("``", "`").split()),
    ]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def type_text(annotation: Any, metadata: list[Any], anchors: dict[type[Block], str]) -> str:
    """A type in words, with its bounds: "integer > 0", "number in [0, 1)", "list of text"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(arguments[0], [*arguments[1:], *metadata], anchors)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        words = [type_text(part, metadata, anchors) for part in arguments]
        return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
    if origin is list:
        return f"list of {type_text(arguments[0], [], anchors)}"
    if origin is tuple:
        return "[" + ", ".join(type_text(part, [], anchors) for part in arguments) + "]"
    if origin is dict:
        return f"map: name → {type_text(arguments[1], [], anchors)}"
    if annotation in anchors:
        return f"[{type_name(annotation) or 'block'}](#{anchors[annotation]})"
    return NAMES[annotation] + (bounds(metadata) if annotation in (int, float) else "")


def bounds(metadata: list[Any]) -> str:
    """ " in [0, 1)", " > 0", or nothing."""
    low = high = None
    for one in flattened(metadata):
        if isinstance(one, annotated_types.Ge | annotated_types.Gt):
            low = one
        elif isinstance(one, annotated_types.Le | annotated_types.Lt | AtMost):
            high = one
    if low is not None and high is not None:
        opening, least = ("[", low.ge) if isinstance(low, annotated_types.Ge) else ("(", low.gt)
        closing, most = (")", high.lt) if isinstance(high, annotated_types.Lt) else ("]", high.le)
        return f" in {opening}{least:.3g}, {most:.3g}{closing}".replace("e+0", "e")
    if low is not None:
        return f" ≥ {low.ge:.3g}" if isinstance(low, annotated_types.Ge) else f" > {low.gt:.3g}"
    return ""


def flattened(metadata: list[Any]) -> Iterator[Any]:
    """Constraints, those inside a ``Field(...)`` included."""
    for one in metadata:
        yield from one.metadata if isinstance(one, FieldInfo) else [one]


def default_text(field: FieldInfo) -> str:
    """The default as YAML. Of a block: its type, what it sets, or "its own": all as in its section."""
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, Block):
        kind = type_name(type(value))
        if kind:
            return f"`{kind}`"
        value = value.model_dump(exclude_unset=True)
        if not value:
            return "its own"
    if isinstance(value, float) and not isinstance(value, bool):
        return f"`{value:.4g}`"
    text = yaml.safe_dump(
        plain(value), default_flow_style=True, allow_unicode=True, width=1000, sort_keys=False
    )
    return f"`{text.removesuffix('...' + chr(10)).strip()}`"


def plain(value: Any) -> Any:
    """Tuples as lists and paths as text, which is how YAML has them."""
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def anchor(title: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


if __name__ == "__main__":
    print(reference(), end="")
