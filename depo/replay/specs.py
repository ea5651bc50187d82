"""What the command line names: estimators and selectors with their options, ``NAME:key=value,key=value``.

Values are read as in YAML: ``mopps:discount=0.9``, ``mine:sizes=[1,2]``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

import estimators
from depo.errors import UserError
from depo.recipe import schema
from depo.recipe.keys import parse_yaml
from estimators.base import Estimator

KEY = re.compile(r"(^|,)\s*([A-Za-z_]\w*)=")


@dataclass(frozen=True, slots=True)
class Spec:
    """``label`` is how it was written, and its name in tables and files."""

    label: str
    name: str
    options: Mapping[str, Any]


def parse_spec(text: str, flag: str) -> Spec:
    """Raises UserError when the options are not ``key=value,key=value``."""
    name, colon, rest = text.partition(":")
    if not name or (colon and not KEY.match(rest)):
        raise UserError(f"{flag} {text}: expected NAME or NAME:key=value,key=value")
    options = parse_yaml("{" + KEY.sub(r"\1 \2: ", rest) + "}", f"{flag} {text}") if colon else {}
    return Spec(text, name, options)


def parse_where(texts: list[str]) -> dict[str, str]:
    """Column → value out of ``column=value,column=value``. Raises UserError otherwise."""
    pairs = [pair.partition("=") for text in texts for pair in text.split(",")]
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise UserError(f"--where {name}{equals}{value}: expected COLUMN=VALUE")
    return {name: value for name, _, value in pairs}


def build_estimator(spec: Spec) -> Estimator:
    """A fresh estimator. Raises UserError for an unknown name, or options that it does not take."""
    try:
        return estimators.build({"type": spec.name, **spec.options})
    except (ValueError, TypeError) as error:
        raise UserError(f"--estimator {spec.label}: {' '.join(str(error).split())}") from error


def selection_block(spec: Spec, prompts: int, audit: float) -> schema.Selection:
    """The recipe's ``selection`` block for a replay over ``prompts`` prompts: one round a step, all prompts
    as candidates, no warm-up, whatever the options say on top. Raises UserError for a selector or an option
    that recipes do not know."""
    blocks = {block.model_fields["type"].default: block for block in get_args(get_args(schema.Selection)[0])}
    if spec.name not in blocks:
        raise UserError(
            f"--selector {spec.label}: no selector is called {spec.name!r}; known: {', '.join(blocks)}"
        )
    settings = {"audit": audit, "min_window": 0, "candidates": prompts}
    known = {name: value for name, value in settings.items() if name in blocks[spec.name].model_fields}
    try:
        return TypeAdapter(schema.Selection).validate_python({"type": spec.name, **known, **spec.options})
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(str(part) for part in first["loc"][1:2])  # then which of several types
        raise UserError(f"--selector {spec.label}: {where}: {first['msg']}") from error
