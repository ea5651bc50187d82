r"""Finding the last ``\boxed{…}`` or ``<answer>…</answer>`` of a completion, in one pass over its text."""

from __future__ import annotations

import re

# An opening box, an escaped character (so that \{ and \} do not count as braces), or a brace.
_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*(?P<box>\{)|\\.|[{}]", re.DOTALL)


def last_boxed(text: str) -> str | None:
    r"""The content of the last complete ``\boxed{…}`` (or ``\fbox``); None if there is none.

    "Last" is by opening position, so of ``\boxed{\boxed{5}}`` it is ``5``. A box that the length limit cut
    off is no answer. Linear in the length of the text, whatever its braces look like.
    """
    opened: list[int | None] = []  # start of the content for a box, None for any other brace
    last_start, last_end = -1, -1
    for token in _TOKEN.finditer(text):
        if token["box"]:
            opened.append(token.end())
        elif token[0] == "{":
            opened.append(None)
        elif token[0] == "}" and opened:
            start = opened.pop()
            if start is not None and start > last_start:
                last_start, last_end = start, token.start()
    return text[last_start:last_end] if last_start >= 0 else None


_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)


def last_tagged(text: str) -> str | None:
    """What stands between the last pair of ``<answer>`` tags; None if there is none."""
    found = _TAGGED.findall(text)
    return str(found[-1]) if found else None
