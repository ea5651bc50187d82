"""Values of a table as text: the problem, the gold answer, and the key that names a problem."""

from __future__ import annotations

import ast
import hashlib
import json
import math
import numbers
import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from depo.errors import UserError

WRITTEN_CHAT = re.compile(r"""\s*\[\s*\{\s*["'](?:role|content)["']\s*:.*\}\s*\]\s*""", re.DOTALL)

Message = dict[str, str]
"""A chat message: {"role": …, "content": …}."""

Row = tuple[str | list[Message] | None, str | None, float | None]
"""What a source yields: problem, gold answer, prior pass rate; None for what the row does not have."""


def prompt_key(text: str) -> str:
    """SHA-256 (hex) of the normalised text: what names a problem everywhere in depo.

    Normalised means Unicode NFC, every run of whitespace one space, none at the ends. Case, punctuation
    and markup count: two problems that differ in them are two problems.
    """
    normalised = " ".join(unicodedata.normalize("NFC", text).split())
    return hashlib.sha256(normalised.encode()).hexdigest()


def is_encodable(text: str) -> bool:
    """False for text with lone surrogates, which UTF-8, Parquet and tokenizers all refuse."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def answer_text(value: Any) -> str | None:
    """A gold answer as text; None when there is none (null, NaN, blank, empty list) or it is not valid
    Unicode.

    Whole floats lose their ".0"; the items of a list are joined by ", " (problems with several answers).
    Raises UserError for a struct, and for lists in lists that go on for ever.
    """
    try:
        text = written_answer(value)
    except RecursionError as error:
        raise UserError("its lists are nested too deeply") from error
    return text if text is not None and is_encodable(text) else None


def written_answer(value: Any) -> str | None:
    """``answer_text``, whatever its characters: a list is only as good as the worst of its items."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        items = [text for text in map(written_answer, value) if text is not None]
        return ", ".join(items) or None
    if isinstance(value, bool | numbers.Number):
        return str(value)
    if isinstance(value, dict):
        raise UserError(f"it holds a struct with {', '.join(value)}; name one of these after a dot")
    raise UserError(f"it holds {type(value).__name__}; text, numbers or lists of them can be answers")


def problem_text(value: Any) -> str | list[Message] | None:
    """A problem as text or as chat messages; None when there is none. Raises UserError for anything else."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        chat = written_chat(value)
        if chat is None:
            return value if value.strip() and is_encodable(value) else None
        value = chat
    if isinstance(value, list):
        if not value:
            return None
        for message in value:
            if not (
                isinstance(message, dict)
                and isinstance(message.get("role"), str)
                and isinstance(message.get("content"), str)
            ):
                raise UserError("its lists must hold chat messages with a text role and a text content")
        if value[-1]["role"] != "user":
            raise UserError(f'its chats must end with a turn of "user", found "{value[-1]["role"]}"')
        messages = [{"role": message["role"], "content": message["content"]} for message in value]
        spoken = "".join(message["content"] for message in messages)
        return messages if spoken.strip() and is_encodable(spoken) else None
    raise UserError(f"it holds {type(value).__name__}; a prompt is text or a list of chat messages")


def written_chat(text: str) -> Any:
    """The chat that a text is in JSON, or as Python prints it (a data frame saved as CSV); None for any other
    text. Raises UserError for one that is cut or mangled."""
    if not WRITTEN_CHAT.fullmatch(text):
        return None
    for read in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return read(text)
    raise UserError("it looks like chat messages as text, but it is neither JSON nor a list of Python's")


def prior_rate(value: Any) -> float | None:
    """A pass rate in [0, 1]; None when missing. Raises UserError for anything else."""
    if value is None or value == "":
        return None
    try:
        rate = float(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"{value!r} is not a pass rate; it must be a number from 0 to 1") from error
    if math.isnan(rate):
        return None
    if not 0 <= rate <= 1:
        raise UserError(f"{rate:g} is not a pass rate; it must lie between 0 and 1")
    return rate


def plain_text(problem: str | list[Message]) -> str:
    """A problem's text: as it is, or the contents of its messages with a blank line between them."""
    if isinstance(problem, str):
        return problem
    return "\n\n".join(message["content"] for message in problem)


def inner_problem(problem: str | list[Message], pattern: re.Pattern[str]) -> str | None:
    """The problem inside a prompt that wraps it in instructions: group 1 of the pattern, or None."""
    found = pattern.search(plain_text(problem))
    inner = found.group(1).strip() if found else ""
    return inner or None
