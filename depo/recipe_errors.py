"""What is wrong with a recipe, one line a problem: where it was written, the key, what would be right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from depo.config import Block
from depo.recipe_overrides import COMMAND_LINE, Override
from depo.recipe_schema import Key, all_keys, key_of_error

CLOSE, SIMILAR, ELSEWHERE = 0.8, 0.6, 0.75
"""difflib ratios from which a key is surely a slip of the pen, probably one, and one of another block."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where each key of a recipe was written: in the file ``name``, or on the command line."""

    name: str
    raw: Any
    overrides: tuple[Override, ...] = ()

    def of(self, key: Key) -> str:
        """The label that opens an error line about ``key``."""
        for override in self.overrides:
            if key[: len(override.key)] == override.key:
                return COMMAND_LINE
            if override.key[: len(key)] == key and not self._in_file(key):
                return COMMAND_LINE
        return self.name

    def of_message(self, key: Key, message: str) -> str:
        """The label for a problem between several keys: those overridden are quoted."""
        label = self.of(key) if key else self.name
        if label == COMMAND_LINE:
            return label
        involved = [o.text for o in self.overrides if self._is_involved(o.key, key, message)]
        return f"{label} (with {' '.join(involved)} from the {COMMAND_LINE})" if involved else label

    def _is_involved(self, overridden: Key, key: Key, message: str) -> bool:
        dotted = ".".join(overridden[:-1] if overridden[-1] == "type" else overridden)
        if re.search(rf"(?<![\w.]){re.escape(dotted)}(?!\w)", message):
            return True
        inside = bool(key) and overridden[: len(key)] == key and len(overridden) > len(key)
        return inside and re.search(rf"(?<!\w){re.escape(overridden[len(key)])}(?!\w)", message) is not None

    def _in_file(self, key: Key) -> bool:
        here = self.raw
        for part in key:
            if isinstance(here, list) and part.isdigit() and int(part) < len(here):
                here = here[int(part)]
            elif isinstance(here, dict) and part in here:
                here = here[part]
            else:
                return False
        return True


def error_lines(error: ValidationError, sources: Sources) -> list[str]:
    """One line per offending key: ``FILE: key: what is wrong and what would be right``."""
    grouped: dict[Key, list[tuple[ErrorDetails, type[Block] | None]]] = {}
    for details in error.errors():
        key, block = key_of_error(details["loc"])
        grouped.setdefault(key, []).append((details, block))
    return [_line(key, problems, sources) for key, problems in grouped.items()]


def _line(key: Key, problems: Sequence[tuple[ErrorDetails, type[Block] | None]], sources: Sources) -> str:
    first, block = problems[0]
    kind = first["type"]
    if kind == "extra_forbidden":
        return f"{sources.of(key)}: {'.'.join(key)}: {unknown_key(key, block)}"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        key = (*key, "type")
    if kind == "value_error":
        message = str(first["ctx"]["error"])
        label = sources.of_message(key, message)
        return f"{label}: {'.'.join(key)}: {message}" if key else f"{label}: {message}"
    messages = list(dict.fromkeys(_message(details) for details, _ in problems))
    found = "" if kind in ("missing", "union_tag_not_found") else f", found {_found(first, kind)}"
    return f"{sources.of(key)}: {'.'.join(key)}: {' or '.join(messages)}{found}{_meant(first)}"


def _message(details: ErrorDetails) -> str:
    """What would be right, for one pydantic error type."""
    kind, context = details["type"], details.get("ctx", {})
    match kind:
        case "missing":
            return "required, but not given"
        case "union_tag_invalid" | "union_tag_not_found":
            allowed = context.get("expected_tags") or "a type of this block"
            return ("required, but not given; one of " if kind.endswith("found") else "must be one of ") + str(
                allowed
            ).replace("'", "")
        case "literal_error":
            return "must be " + str(context["expected"]).replace("'", "")
        case "greater_than_equal":
            return f"must be at least {context['ge']:g}"
        case "greater_than":
            return f"must be greater than {context['gt']:g}"
        case "less_than_equal":
            return f"must be at most {context['le']:g}"
        case "less_than":
            return f"must be less than {context['lt']:g}"
        case "int_type" | "int_parsing" | "int_from_float":
            return "must be a whole number"
        case "float_type" | "float_parsing" | "finite_number":
            return "must be a number"
        case "bool_type" | "bool_parsing":
            return "must be true or false"
        case "string_type" | "path_type":
            return "must be text"
        case "string_pattern_mismatch":
            return f"must match {context['pattern']}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return "must be a block of keys"
        case "list_type" | "tuple_type":
            return "must be a list"
        case "too_short":
            return f"must have at least {context['min_length']} entries"
        case "too_long":
            return f"must have at most {context['max_length']} entries"
        case _:
            return details["msg"]


def _found(details: ErrorDetails, kind: str) -> str:
    value = details["input"]
    if kind == "union_tag_invalid" and isinstance(value, dict):
        value = value.get("type")
    if kind in ("too_short", "too_long"):
        return str(len(value))
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a block of keys"
    if isinstance(value, list):
        return "a list"
    return repr(value)


def _meant(details: ErrorDetails) -> str:
    """The allowed word that a wrong one resembles."""
    context, value = details.get("ctx", {}), details["input"]
    allowed = re.findall(r"'([^']+)'", str(context.get("expected") or context.get("expected_tags") or ""))
    word = value.get("type") if isinstance(value, dict) else value
    near = difflib.get_close_matches(str(word), allowed, n=1, cutoff=SIMILAR)
    return f"; did you mean {near[0]}?" if near else ""


def unknown_key(key: Key, block: type[Block] | None) -> str:
    """Says that a key does not exist, and which one was probably meant: here, or in another block."""
    *parents, name = key
    here = [] if block is None else list(block.model_fields)
    type_field = None if block is None else block.model_fields.get("type")
    kind = "unknown key" if type_field is None else f"unknown key for type {type_field.default}"

    def siblings(names: Iterable[str]) -> list[str]:
        return [".".join([*parents, found]) for found in names]

    elsewhere = sorted({k for k in all_keys() if list(k[:-1]) != parents}, key=lambda k: (len(k), k))
    same_name = [".".join(k) for k in elsewhere if k[-1] == name]
    similar_names = difflib.get_close_matches(name, {k[-1] for k in elsewhere}, n=1, cutoff=ELSEWHERE)
    guesses = (
        siblings(difflib.get_close_matches(name, here, n=1, cutoff=CLOSE))
        or same_name
        or siblings(difflib.get_close_matches(name, here, n=1, cutoff=SIMILAR))
        or [".".join(k) for k in elsewhere if k[-1] in similar_names]
    )
    if not parents and not same_name:
        guesses = siblings(difflib.get_close_matches(name, here, n=1, cutoff=SIMILAR)) or guesses
    if key in set(all_keys()):
        return f"{kind}; {_belongs(key)}"
    if guesses:
        return f"{kind}; did you mean {' or '.join(guesses[:3])}?"
    return f"{kind}; there is {', '.join(here)}" if here else kind
