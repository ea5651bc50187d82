r"""Where the answer of a completion stands. First match wins:

1. the last complete ``\boxed{…}``; boxes joined by nothing but "and", "or" or a comma are one answer;
2. the last ``<answer>…</answer>``;
3. the line after the last ``####`` that has an answer there and not the heading of a section;
4. what follows the last "the answer is" (``答案：``, ``Ответ:``, …);
5. the rightmost LaTeX or number; numbers joined by nothing but "and", "or" or a comma are one answer.

Only what follows the last ``</think>`` counts, and nothing that follows a ``<think>`` which is never closed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from depo.reward.normalise import BARE_NAMES, characters

MARKED_TAIL = 20_000  # characters in which tags and `####` are looked for: final answers stand at the end
TAIL = 4_000  # characters in which sentences and numbers are

# ---------------------------------------------------------------- thoughts

_NAMES = "think|thinking|thought|thoughts|reasoning|reason|reflection|scratchpad|analysis"
_THOUGHT_ENDS = re.compile(
    rf"</(?:{_NAMES})>|<\|end_of_thought\|>|◁/think▷|<\|channel\|>final<\|message\|>|\[/THINK\]",
    re.IGNORECASE,
)
_THOUGHT_BEGINS = re.compile(rf"<(?:{_NAMES})>|<\|begin_of_thought\|>|◁think▷|\[THINK\]", re.IGNORECASE)
_ESCAPED_TWICE = re.compile(r"(?<!\\)\\(?=\\(?:boxed|fbox)\b)")
_TURN_ENDS = re.compile(r"<\|(?:im_end|endoftext|eot_id|end|return)\|>|</s>|\n\s*(?:Human|User)\s*:")


def spoken(completion: str) -> str:
    """What was said after thinking and before another turn."""
    completion = _ESCAPED_TWICE.sub("", completion)
    ends = [match.end() for match in _THOUGHT_ENDS.finditer(completion)]
    text = completion[ends[-1] :] if ends else completion
    for pattern in (_THOUGHT_BEGINS, _TURN_ENDS):
        cut = pattern.search(text)
        if cut is not None and (pattern is _THOUGHT_BEGINS or text[: cut.start()].strip()):
            text = text[: cut.start()]
    return text


# ---------------------------------------------------------------- boxes and tags

# An opening box, an escaped character (so that \{ and \} do not count as braces), or a brace.
_TOKEN = re.compile(r"\\(?:boxed|fbox|framebox)\s*(?P<box>\{)|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\boxed\s+(-?[\w./]+)")
_JOINT = re.compile(
    r"[\s$]*(?:,?\s*(?:and|or|\\text\s*\{\s*(?:and|or)\s*\})|[,;])?[\s$]*(?:[a-zA-Z]\w?\s*=)?[\s$]*"
)


def boxes(text: str) -> list[tuple[int, int, int]]:
    r"""Where every complete ``\boxed{…}`` (or ``\fbox``) begins, and where its content begins and ends. A box
    that the length limit cut off is no answer. Linear in the length, whatever the braces look like."""
    opened: list[tuple[int, int] | None] = []  # None for a brace that opens no box
    found = []
    for token in _TOKEN.finditer(text):
        if token["box"]:
            opened.append((token.start(), token.end()))
        elif token[0] == "{":
            opened.append(None)
        elif token[0] == "}" and opened:
            box = opened.pop()
            if box is not None:
                found.append((*box, token.start()))
    return sorted(found)


def last_boxed(text: str) -> str | None:
    r"""The content of the last complete box; None if there is none. Of ``\boxed{\boxed{5}}`` it is ``5``."""
    found = boxes(text)
    return text[found[-1][1] : found[-1][2]] if found else None


def last_boxes(text: str) -> str | None:
    """As `last_boxed`, but with the boxes that it is listed with: "4 or 6", each in a box, is not 6."""
    found = boxes(text)
    if not found:
        bare = _BARE_BOX.findall(text)
        return bare[-1] if bare else None
    begin, start, end = found[-1]
    parts = [text[start:end].strip()]
    for before, first, last in found[-2::-1]:
        if last > begin or begin - last > 40 or not _JOINT.fullmatch(text[last + 1 : begin]):
            break
        parts.insert(0, text[first:last].strip())
        begin = before
    return ", ".join(dict.fromkeys(parts))


_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)


def last_tagged(text: str) -> str | None:
    """What stands between the last pair of ``<answer>`` tags; None if there is none."""
    found = _TAGGED.findall(text)
    return str(found[-1]) if found else None


# ---------------------------------------------------------------- lines, sentences, numbers

# A heading of Markdown looks like GSM8K's mark: "#### Step 2", "#### 3. Solve for x".
_MARKED = re.compile(r"####\s*(?P<line>[^\n]*)")
_MARKED_ANSWER = re.compile(
    r"(?!\d+[.)]\s+[A-Za-z])(?:[-−–+(\[{$\s]*[\d.\\½-¾]|\$|[A-Za-z]\s*=|\(?[A-J]\)?\s*\.?\s*$|$)"
)

_FOREIGN = (
    "答案|答え|答|回答|정답|답|คำตอบ|উত্তর|సమాధానం|జవాబు|उत्तर|الإجابة|الجواب|جواب|پاسخ|תשובה|ответ|відповідь|απάντηση"
    "|réponse|respuesta|resposta|risposta|antwort|antwoord|odpowiedź|odpověď|răspuns|válasz|svar|vastaus|cevap|yanıt|jibu"
    "|jawaban|đáp án|câu trả lời"
)
_LINKS = "是|为|為|は|은|는|คือ|হলো|হল|है|هو|هي|ist|is|are|est|es|é|è|là|ni|adalah|это|equals|=|:|—|-(?=\\s)"
_PHRASE = re.compile(
    rf"(?<![a-z])(?:answers?|final\s+(?:result|solution|value)|(?:correct|right|best)\s+(?:option|choice))(?:[^\n.:=]{{0,80}}?(?:\b(?:is|are|equals|be)\b|[:=—]|-(?=\s))"
    rf"|\s*\n|(?=\s+[-(\[$\\\d]))(?:\s*(?:that|then|:|=))*"
    rf"|(?:{_FOREIGN})(?:[^\S\n]*(?:{_LINKS}))*",
    re.IGNORECASE,
)
_REASON = re.compile(r",?\s+(?:because|since|as|which|where)\b.*", re.DOTALL)
_SENTENCE_END = re.compile(r"\n|(?<=\S)[.!?](?=\s|$)")
_MATH = re.compile(
    r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)"
    # not "$5 and $6"
    r"|(?<![\\$\w])\$((?!\s)[^$\n]*?[^$\n\s\\])\$(?!\d)|(?<![\\$])\$\s([^$\n]+?)\s\$(?!\d)",
    re.DOTALL,
)
_AND = re.compile(r"\s*(?:,?\s*(?:and|or)\b|[,;])\s*")
_NUMBER = (
    r"(?<![A-Za-z0-9_^./*+{}\\-])(?<!\d:)[-+]?(?:\\?\$|[€£¥₹₩])?(?:-?\\frac\{[^{}]*\}\{[^{}]*\}"
    r"|(?:\d{1,3}(?:[ ,]\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:\s*/\s*\d+|\s+\d+/\d+)?|\.\d+)"
    r"(?:\s*\\?%|[eE][-+]?\d+)?"
)
_NUMBERS = re.compile(rf"{_NUMBER}(?:(?:\s*(?:,?\s*\b(?:and|or)\b|[,;])\s*|\s+){_NUMBER})*")
_ONE_NUMBER = re.compile(_NUMBER)
_TIME = re.compile(r"(?<![\w.:])\d{1,2}:\d\d(?![\d:])(?:\s*[ap]\.?\s?m\b\.?)?", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\bI\s+(?:do\s+not|don['’]t|can\s?not|can['’]t|could\s+not|couldn['’]t|am\s+(?:unable|not\s+able)\s+to)\s+"
    r"(?:know|solve|work|find|determine|figure|answer|say|tell)\b(?!.*\b(?:guess|perhaps|so|therefore)\b)",
    re.IGNORECASE | re.DOTALL,
)
_WORD = re.compile(r"(?<![\\\w])[^\W\d_]{2,}")
_MARKUP = re.compile(r"</?[A-Za-z][\w-]*>|\*\*|__|[`\"]|(?<![\w\\])[*_](?=\S)|(?<=[\w.)])[*_](?!\w)")
_ASIDE = re.compile(r"\([^()\n]*[A-Za-z]{2}[^()\n]*\)")


def find_answers(completion: str) -> Iterator[str]:
    """Where an answer may stand in a completion, best first. The first that can be read is the answer."""
    text = spoken(completion)
    boxed = last_boxes(text)
    if boxed is not None:
        yield boxed
        return
    marked = tail(text, MARKED_TAIL)
    tagged = last_tagged(marked)
    if tagged is not None:
        yield tagged
        yield from in_text(tagged)
        return
    lines = [line["line"] for line in _MARKED.finditer(marked) if _MARKED_ANSWER.match(line["line"])]
    if lines:
        yield lines[-1]
        return
    yield from in_text(tail(text, TAIL))


def in_text(text: str) -> Iterator[str]:
    """Answers in plain sentences: behind the last phrase that announces one, else the rightmost."""
    text = _MARKUP.sub(" ", characters(text)).strip()
    phrases = list(_PHRASE.finditer(text))
    if phrases:
        rest = text[phrases[-1].end() :].lstrip(" \t\n:=—*#")
        math = _MATH.match(rest)
        end = _SENTENCE_END.search(rest, math.end() if math else 0)
        sentence = _REASON.sub("", rest[: end.start()] if end else rest)
        if sentence.strip():
            yield sentence
            yield from _first(sentence)
            return
    words = [word for word in _WORD.findall(text) if word not in (*BARE_NAMES, "and", "or")]
    if not words or [text.strip(" .!")] == words:
        yield text
    yield from _rightmost(text)


def _first(sentence: str) -> Iterator[str]:
    """The answer that a sentence begins with: a formula, else the first number (the last, behind a "=")."""
    groups = _formulas(sentence)
    if groups:
        yield groups[0][1]
        return
    found = [match[0] for match in _NUMBERS.finditer(_ASIDE.sub(" ", sentence))]
    if found:
        yield ", ".join(_ONE_NUMBER.findall(found[-1 if "=" in sentence else 0]))


def _rightmost(text: str) -> Iterator[str]:
    if _REFUSAL.search(text):  # a number beside it answers nothing
        return
    found = _formulas(text)
    plain = _ASIDE.sub(lambda match: " " * len(match[0]), _MATH.sub(lambda match: " " * len(match[0]), text))
    found += [(match.end(), ", ".join(_ONE_NUMBER.findall(match[0]))) for match in _NUMBERS.finditer(plain)]
    found += [(match.end(), match[0]) for match in _TIME.finditer(plain)]
    if found:
        yield max(found)[1]


def _formulas(text: str) -> list[tuple[int, str]]:
    """Where formulas end, and what they say; those that are listed are one."""
    found: list[tuple[int, str]] = []
    for match in _MATH.finditer(text):
        content = next(group for group in match.groups() if group is not None)
        if found and _AND.fullmatch(text, found[-1][0], match.start()):
            content = f"{found.pop()[1]}, {content}"
        found.append((match.end(), content))
    return found


def tail(text: str, limit: int) -> str:
    """The last ``limit`` characters, from a line's start on: cutting inside $…$ would turn it inside out.
    Where no line starts in their first half, all of them."""
    if len(text) <= limit:
        return text
    cut = text[-limit:]
    newline = cut.find("\n", 0, limit // 2)
    return cut[newline + 1 :]
