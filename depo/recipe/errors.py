"""What is wrong with a recipe, one line a problem: where it was written, the key, what would be right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from depo.recipe.keys import (
    COMMAND_LINE,
    ROOT,
    Key,
    Override,
    Shape,
    all_keys,
    key_of_error,
    shape_at,
    type_name,
)
from depo.recipe.schema import Block

CLOSE, SIMILAR, ELSEWHERE = 0.8, 0.6, 0.75
"""difflib ratios from which a key is surely a slip of the pen, probably one, and one of another block."""

RENAMED_KEYS: dict[Key, str] = {
    ("estimator", "features"): "selection.prefill_probe, true or false",
    ("learner", "advantage_scale"): "learner.baseline.scale",
    ("learner", "share_prompts"): "learner.packing",
    ("selection", "max_waves"): "selection.max_rounds",
    ("selection", "p_mixed"): "selection.p_informative",
}
GONE_KEYS: dict[Key, str] = {
    ("estimator", "recall"): "the belief as baseline does better without (learner.baseline)",
    ("selection", "answer_rescoring"): "the belief as baseline does better without (learner.baseline)",
    ("estimator", "history"): "estimator.type hybrid always goes by a prompt's counts",
    ("estimator", "drift"): "how fast counts are forgotten is learned",
    ("estimator", "ability_step"): "how fast counts are forgotten is learned",
}
"""What recipes of earlier versions had → why there is no such thing any more."""
RENAMED_TYPES: dict[Key, dict[str, str]] = {
    ("estimator",): {"beta": "mopps", "streak": "greso", "hmm": "dps", "encoder": "depo"},
}
"""What recipes of earlier versions call something that exists under another name."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where each key of a recipe was written: in the file ``name``, or in an override."""

    name: str
    raw: Any
    overrides: tuple[Override, ...] = ()
    root: Shape = ROOT
    """Of the schema that the file follows."""

    def of(self, key: Key) -> str:
        """The label that opens an error line about ``key``."""
        for override in self.overrides:
            if key[: len(override.key)] == override.key:
                return override.origin
            if override.key[: len(key)] == key and not self._in_file(key):
                return override.origin
        return self.name

    def of_message(self, key: Key, message: str) -> str:
        """The label for a problem between several keys: those overridden are quoted."""
        label = self.of(key) if key else self.name
        if label != self.name:
            return label
        involved = [o for o in self.overrides if self._is_involved(o.key, key, message)]
        if not involved:
            return label
        origin = involved[0].origin
        there = f"the {origin}" if origin == COMMAND_LINE else origin
        return f"{label} (with {' '.join(o.text for o in involved)} from {there})"

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
        key, block = key_of_error(details["loc"], sources.root)
        grouped.setdefault(key, []).append((details, block))
    return [_line(key, problems, sources) for key, problems in grouped.items()]


def _line(key: Key, problems: Sequence[tuple[ErrorDetails, type[Block] | None]], sources: Sources) -> str:
    first, block = problems[0]
    kind = first["type"]
    if kind == "extra_forbidden":
        return f"{sources.of(key)}: {'.'.join(key)}: {unknown_key(key, block, sources.root)}"
    if kind == "union_tag_not_found":
        known = ", ".join(shape_at(key, sources.raw, sources.root).blocks)
        return f"{sources.of(key)}: {'.'.join(key)}.type: required, but not given; one of {known}"
    if kind == "union_tag_invalid":
        now = RENAMED_TYPES.get(key, {}).get(first["ctx"]["tag"]) if sources.root == ROOT else None
        key = (*key, "type")
        if now:
            return f"{sources.of(key)}: {'.'.join(key)}: {first['ctx']['tag']} is called {now} now"
    if kind == "value_error":
        message = str(first["ctx"]["error"])
        label = sources.of_message(key, message)
        return f"{label}: {'.'.join(key)}: {message}" if key else f"{label}: {message}"
    messages = list(dict.fromkeys(_message(details) for details, _ in problems))
    found = "" if kind in ("missing", "union_tag_invalid") else f", found {_found(first, kind)}"
    return f"{sources.of(key)}: {'.'.join(key)}: {' or '.join(messages)}{found}{_meant(first)}"


def _message(details: ErrorDetails) -> str:
    """What would be right, for one pydantic error type."""
    kind, context = details["type"], details.get("ctx", {})
    match kind:
        case "missing":
            return "required, but not given"
        case "union_tag_invalid":
            allowed = context["expected_tags"].replace("'", "")
            return f'unknown type "{context["tag"]}"; one of {allowed}'
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
        case "string_too_long":
            return f"must have at most {context['max_length']} characters"
        case "string_too_short":
            return "must not be empty"
        case "too_long":
            return f"must have at most {context['max_length']} entries"
        case _:
            return details["msg"]


def _found(details: ErrorDetails, kind: str) -> str:
    value = details["input"]
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
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}… ({len(str(value))} characters)"


def _meant(details: ErrorDetails) -> str:
    """The allowed word that a wrong one resembles."""
    context, value = details.get("ctx", {}), details["input"]
    allowed = re.findall(r"'([^']+)'", str(context.get("expected") or context.get("expected_tags") or ""))
    word = value.get("type") if isinstance(value, dict) else value
    near = difflib.get_close_matches(str(word), allowed, n=1, cutoff=SIMILAR)
    return f"; did you mean {near[0]}?" if near else ""


def unknown_key(key: Key, block: type[Block] | None, root: Shape = ROOT) -> str:
    """Says that a key does not exist, and which one was probably meant: here, or in another block."""
    if root == ROOT and key in RENAMED_KEYS:
        return f"is called {RENAMED_KEYS[key]} now"
    if root == ROOT and key in GONE_KEYS:
        return f"is gone: {GONE_KEYS[key]}; leave it out"
    *parents, name = key
    here = [] if block is None else list(block.model_fields)
    owners = [type_name(owner) for known, owner in all_keys(root) if known == key]
    if owners:
        return f"unknown key for type {type_name(block)}; it belongs to type {' and '.join(owners)}"
    problem = f"unknown key for type {type_name(block)}" if type_name(block) else "unknown key"
    guesses = _guesses(parents, name, here, root)
    if guesses:
        return f"{problem}; did you mean {' or '.join(guesses[:3])}?"
    return f"{problem}; there is {', '.join(here)}" if here else problem


def _guesses(parents: list[str], name: str, here: list[str], root: Shape) -> list[str]:
    """Dotted keys that ``name`` may stand for, from the first of four searches that finds any."""
    elsewhere = sorted(
        {known for known, _ in all_keys(root) if list(known[:-1]) != parents}, key=lambda k: (len(k), k)
    )

    def in_this_block(cutoff: float) -> list[str]:
        names = difflib.get_close_matches(name, here, n=1, cutoff=cutoff)
        return [".".join([*parents, found]) for found in names]

    similar = difflib.get_close_matches(name, sorted({key[-1] for key in elsewhere}), n=1, cutoff=ELSEWHERE)
    return (
        in_this_block(CLOSE)
        or [".".join(key) for key in elsewhere if key[-1] == name]
        or in_this_block(SIMILAR)
        or [".".join(key) for key in elsewhere if key[-1] in similar]
    )
