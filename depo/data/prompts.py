"""From problems to prompts: template, chat format, token ids. What cannot be used is dropped and counted.

1. A source yields rows: text or chat messages, the gold answer, perhaps a prior pass rate. Sources are a
   registry, the entry-point group ``depo.sources``.
2. Rows without prompt or answer and duplicates go first: DAPO-Math-17k has 1.79 million rows of which about
   17,000 differ, and tokenising costs more than hashing.
3. Template and chat template are applied, all prompts are tokenised in one batch, and those too long dropped.
4. A held-out part is split off by a hash of (seed, key), whatever the order of the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from depo import rng
from depo.data.text import Message, Row, plain_text, prompt_key
from depo.errors import UserError
from depo.plugins import load
from depo.recipe.schema import Data, PluginSource, Source
from depo.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GROUP = "depo.sources"

BUILT_IN = {  # by name, not by import: generated arithmetic belongs to the quickstart, in a room above
    "file": "depo.data.sources:file_rows",
    "hub": "depo.data.sources:hub_rows",
    "reasoning_gym": "depo.data.sources:gym_rows",
    "arithmetic": "depo.toy.arithmetic:arithmetic_rows",
}

REASONS = {
    "duplicates": "duplicates",
    "conflicts": "duplicates with another answer",
    "too_long": "too long",
    "without_answer": "without answer",
    "without_prompt": "without prompt",
    "unmatched": "not matching question_pattern",
}


@dataclass(slots=True)
class DataReport:
    """Rows of one source, counted. ``read`` is the sum of all the others."""

    source: str
    read: int = 0
    kept: int = 0
    duplicates: int = 0
    """Same key and same answer as an earlier row."""
    conflicts: int = 0
    """Same key as an earlier row, other answer: the first row's answer stands."""
    too_long: int = 0
    """More than data.max_prompt_tokens."""
    without_answer: int = 0
    """Null, blank, or not valid Unicode."""
    without_prompt: int = 0
    """Null, blank, or not valid Unicode."""
    unmatched: int = 0
    """columns.question_pattern found nothing."""

    @property
    def dropped(self) -> dict[str, int]:
        """Why rows were dropped, and how many; reasons without rows are left out."""
        return {name: count for name in REASONS if (count := getattr(self, name))}

    def __str__(self) -> str:
        line = f"{self.source}: {self.kept:,} prompts of {self.read:,} rows"
        if self.dropped:
            line += f" (dropped: {self.reasons()})"
        return line

    def reasons(self) -> str:
        return ", ".join(f"{count:,} {REASONS[name]}" for name, count in self.dropped.items())


@dataclass(frozen=True, slots=True)
class Problem:
    """One row that can become a prompt."""

    key: str
    text: str
    asked: str | list[Message]
    """The text, or the chat messages it came in."""
    reference: str
    prior: float | None


@dataclass(frozen=True, slots=True)
class LoadedData:
    """Training and held-out prompts, which share no key, and what was dropped on the way."""

    train: list[Prompt]
    heldout: list[Prompt]
    report: DataReport


def load_data(data: Data, tokenizer: PreTrainedTokenizerBase, seed: int) -> LoadedData:
    """Read ``data.train`` and set ``data.heldout`` of its prompts aside.

    Both parts keep the order of the source. Raises UserError for whatever is wrong with the source, and
    when no training prompt would be left.
    """
    prompts, report = load_prompts(data.train, data, tokenizer)
    count = check_heldout(data.heldout, len(prompts))
    ranked = sorted((prompt.key for prompt in prompts), key=lambda key: rng.seed64(seed, "heldout", 0, key))
    chosen = set(ranked[:count])
    return LoadedData(
        train=[prompt for prompt in prompts if prompt.key not in chosen],
        heldout=[prompt for prompt in prompts if prompt.key in chosen],
        report=report,
    )


def check_heldout(heldout: float, prompts: int) -> int:
    """Prompts to set aside: a count, or a share when below 1 (at least one prompt then). Raises UserError
    where none would be left."""
    count = int(heldout) if heldout >= 1 or heldout == 0 else max(1, round(heldout * prompts))
    if count >= prompts:
        raise UserError(
            f"data.heldout: {count:,} of {prompts:,} prompts would be held out, which leaves none to train "
            f"on; make it smaller than {heldout:g}"
        )
    return count


def load_prompts(
    source: Source, data: Data, tokenizer: PreTrainedTokenizerBase, where: str = "data.train"
) -> tuple[list[Prompt], DataReport]:
    """All usable prompts of a source, in its order, put to the policy as ``data`` says.

    ``where`` is the recipe key of the source, for error messages. Raises UserError for a source that is
    missing, unreadable, empty or without the columns asked for, and when nothing usable is left.
    """
    report = DataReport(source=source.label)
    problems = list(unique_problems(source, report, where))
    prompts = []
    for problem, ids in zip(problems, encode(problems, data, tokenizer, where), strict=True):
        if len(ids) > data.max_prompt_tokens:
            report.too_long += 1
        else:
            prompts.append(Prompt(problem.key, problem.text, tuple(ids), problem.reference, problem.prior))
    report.kept = len(prompts)
    if not prompts:
        raise UserError(none_usable(source, report, where))
    return prompts, report


def none_usable(source: Source, report: DataReport, where: str) -> str:
    filters = getattr(source, "where", {})
    if filters and not report.read:
        sought = ", ".join(f"{name} {value!r}" for name, value in filters.items())
        return f"{where}.where: no row of {report.source} has {sought}"
    return f"{where}: none of the {report.read:,} rows of {report.source} is usable ({report.reasons()})"


def unique_problems(source: Source, report: DataReport, where: str) -> Iterator[Problem]:
    """Problems with distinct keys; every row is counted in the report, dropped ones under their reason."""
    answers: dict[str, str] = {}
    for row in rows_of(source, where):
        report.read += 1
        if row is None:
            report.unmatched += 1
            continue
        asked, reference, prior = row
        if asked is None:
            report.without_prompt += 1
        elif reference is None:
            report.without_answer += 1
        else:
            text = plain_text(asked)
            key = prompt_key(text)
            if key not in answers:
                answers[key] = reference
                yield Problem(key, text, asked, reference, prior)
            elif answers[key] == reference:
                report.duplicates += 1
            else:
                report.conflicts += 1


def rows_of(source: Source, where: str) -> Iterator[Row | None]:
    """The rows of a source, by what is registered for its type: a function of the source's block and its key.
    None stands for a row that the source's own filter drops. Raises UserError for an unknown plugin."""
    name = source.name if isinstance(source, PluginSource) else source.type
    try:
        read: Callable[[Source, str], Iterator[Row | None]] = load(GROUP, BUILT_IN, name)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    return read(source, where)


def encode(
    problems: Sequence[Problem], data: Data, tokenizer: PreTrainedTokenizerBase, where: str
) -> list[list[int]]:
    """Token ids of each problem as the policy is given it.

    ``data.template`` wraps a problem's text, or the last turn of its messages. Then the chat template with
    the opening of the assistant's turn; or, when ``data.raw``, the text with the special tokens that the
    tokenizer itself adds. In a chat, what a problem writes like a special token (``<|im_end|>``) is text:
    only the recipe and the chat template set control tokens. Raw text is the whole prompt, its control tokens
    included.
    """
    if not data.raw and not tokenizer.chat_template:
        raise UserError("data.raw: the policy's tokenizer has no chat template; set data.raw: true")
    if not problems:
        return []
    if data.raw:
        texts = [raw_text(problem, data, where) for problem in problems]
    else:
        special = special_tokens(tokenizer)
        chats = [chat(marked(problem.asked, special), data) for problem in problems]
        try:
            texts = [
                str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
                for turns in chats
            ]
        except Exception as error:
            roles = ", ".join(turn["role"] for turn in chats[0])
            kind = "" if isinstance(error, TemplateError) else f"{type(error).__name__}: "
            raise UserError(
                f"{where}: the chat template of {tokenizer.name_or_path or 'the model'} refuses the messages "
                f"({roles}): {kind}{' '.join(str(error).split())}; without a system message, or as plain "
                "text (raw: true), it may take them"
            ) from error
    # The chat template has written the special tokens already. Not verbose: prompts over the model's
    # limit are the caller's business.
    encode_all = partial(tokenizer, return_attention_mask=False, verbose=False)
    ids: list[list[int]] = encode_all(texts, add_special_tokens=data.raw)["input_ids"]
    if not data.raw:
        for index, text in enumerate(texts):
            if MARK in text:  # special tokens part a text in any case: the pieces are what they were
                ids[index] = []
                for piece in filter(None, MARKED.split(text)):
                    options = {"add_special_tokens": False, "split_special_tokens": piece[0] == MARK}
                    ids[index] += encode_all(piece.strip(MARK), **options)["input_ids"]
    return ids


MARK = "\ufdd0"
"""Stands around what only looks like a special token. Unicode keeps it out of all text ("noncharacter")."""
MARKED = re.compile(f"({MARK}[^{MARK}]*{MARK})")


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Finds every special token in a text, and MARK."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    longest_first = sorted({*added, *tokenizer.all_special_tokens, MARK}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)))


def marked(asked: str | list[Message], special: re.Pattern[str]) -> str | list[Message]:
    """A problem whose special tokens are marked as text."""
    if isinstance(asked, str):
        return special.sub(lambda found: f"{MARK}{found.group().replace(MARK, '')}{MARK}", asked)
    return [{"role": turn["role"], "content": str(marked(turn["content"], special))} for turn in asked]


def wrap(template: str, question: str) -> str:
    """The question in its template. Not str.format: mathematics is full of braces."""
    return template.replace("{question}", question)


def raw_text(problem: Problem, data: Data, where: str) -> str:
    if not isinstance(problem.asked, str) and len(problem.asked) > 1:
        raise UserError(
            f"{where}: it holds chats of several turns, which data.raw: true cannot put to the policy"
        )
    return wrap(data.template, problem.text)


def chat(asked: str | list[Message], data: Data) -> list[Message]:
    """Messages for the chat template. ``data.system`` comes first unless the row brings its own."""
    turns = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    *earlier, last = turns
    if data.system is not None and turns[0]["role"] != "system":
        earlier = [{"role": "system", "content": data.system}, *earlier]
    return [*earlier, {"role": last["role"], "content": wrap(data.template, last["content"])}]
