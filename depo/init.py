"""``depo init``: a commented recipe for a model and a table of one's own.

It holds what differs from the schema's defaults, and what somebody is likely to change. What no flag says is
asked on a terminal; elsewhere it is guessed from the table or left to the defaults.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from depo.errors import DONE, UserError, say
from depo.files import check_place, write_text
from depo.recipe.keys import RecipeDumper
from depo.recipe.loading import load_recipe
from depo.recipe.schema import FileSource, source_from_shorthand

if TYPE_CHECKING:
    from depo.data.sources import Table

LOOK = 20
"""Rows by which columns and reward are guessed."""

NUMBERS = ("id", "idx", "index", "uuid", "key")
"""Columns that number the rows: neither question nor answer."""

REWARDS = {
    "math": ("\n\nPut your final answer in \\boxed{}.", "the last boxed answer equals the gold answer"),
    "exact": ("\n\nGive the answer alone.", "the whole completion is the gold answer"),
}
"""By type: what the prompt asks for beside the question, and what counts as right."""


def add_options(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "init",
        help="write a recipe for your own data",
        description="Write a commented recipe for a model and a table of yours. Reads the table; on a "
        "terminal, asks for what is left out.",
        epilog="example: depo init mine.yaml --model Qwen/Qwen3-0.6B --data problems.csv",
    )
    add = parser.add_argument
    add("recipe", type=Path, metavar="FILE.yaml", help="the recipe to write; must not exist")
    add("--model", help="directory in Hugging Face format, or hub id")
    add("--data", help=".csv, .jsonl, .json or .parquet file, or hub id")
    add("--question", metavar="COLUMN", help="default: guessed from the file")
    add("--answer", metavar="COLUMN", help="default: guessed from the file")
    add("--reward", metavar="TYPE", help="math, exact, or ./FILE.py:FUNCTION; default: by the first answers")
    add("--gpus", type=int, metavar="N", help="of one machine; default: 0")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    path = options.recipe
    check_new(path, "FILE.yaml")
    model = options.model or answered("--model", "model, a directory or hub id")
    data = options.data or answered("--data", "data, a file or hub id")
    source, guess, rows = described(data, options.question, options.answer)
    reward = reward_block(
        options.reward or answered("--reward", "reward: math, exact or ./FILE.py:FUNCTION", guess)
    )
    gpus = answered("--gpus", "number of GPUs", "0") if options.gpus is None else options.gpus
    if not str(gpus).isdigit():
        raise UserError(f"--gpus {gpus}: must be a number, 0 or more")
    write_recipe(path, recipe_text(path, model, source, reward, int(gpus), rows))
    return DONE


def check_new(path: Path, option: str) -> None:
    """Raise UserError unless a recipe can be written there."""
    if path.suffix not in (".yaml", ".yml") or path.exists():
        raise UserError(f"{path}: name a file that ends in .yaml and is not there yet")
    check_place(path, option)


def write_recipe(path: Path, text: str) -> None:
    """Raises UserError, and leaves no file, where ``text`` is no recipe."""
    write_text(path, text)
    try:
        load_recipe(path)
    except UserError:
        path.unlink()
        raise
    print(f"{path}: written; next: depo train {path} --dry-run")


def described(
    data: str, question: str | None, answer: str | None, where: str = "--data"
) -> tuple[dict[str, Any], str, int | None]:
    """The source that ``data`` means, with its columns; the reward that its answers suggest; its rows, None
    where they are not known. ``where`` says how it was named. Raises UserError for a table that cannot be
    used."""
    source, table = source_from_shorthand(data), None
    if source["type"] == "file":
        from depo.data.sources import open_file

        table = open_file(FileSource(path=source["path"]), where)
    columns = {"prompt": question, "answer": answer}
    if table is not None:
        columns = chosen_columns(table, question, answer, where)
    if any(columns.values()):
        source["columns"] = {key: name for key, name in columns.items() if name}
    rows = None if table is None else table.length
    return source, guessed_reward(table, columns["answer"]), rows


def reward_block(reward: str) -> dict[str, Any]:
    """Of a recipe. Raises UserError for what names no reward."""
    if reward in REWARDS:
        return {"type": reward}
    if ":" not in reward:
        raise UserError(f"--reward {reward}: must be math, exact or ./FILE.py:FUNCTION")
    return {"type": "function", "path": reward}


def template_for(reward: dict[str, Any]) -> str:
    """What the policy is asked, so that the reward can read its answer."""
    return "{question}" + REWARDS.get(reward["type"], ("", ""))[0]


def answered(flag: str, what: str, default: str | None = None) -> str:
    """What somebody at a terminal types, or the default. Raises UserError where there is neither."""
    if sys.stdin.isatty():
        shown = "" if default is None else f" [{default}]"
        with suppress(EOFError):
            default = input(f"{what}{shown}: ").strip() or default
    if not default:
        raise UserError(f"{flag} is missing: {what}")
    return default


def chosen_columns(
    table: Table, question: str | None, answer: str | None, where: str
) -> dict[str, str | None]:
    """The columns asked for, or the usual names, or the longest and the shortest text; shown with the first
    row. Raises UserError where the table has no such column, or no two."""
    from depo.data.sources import ANSWER_NAMES, PROMPT_NAMES, find_column

    nested = {name for name in table.columns if any(one.startswith(f"{name}.") for one in table.columns)}
    usable = [name for name in table.columns if name not in nested and name.lower() not in NUMBERS]
    if len(usable) < 2:
        there_are = f"{table.name} has {', '.join(table.columns)}"
        raise UserError(f"{where}: {there_are}; it needs a column for the question and one for the answer")
    rows = list(islice(table.rows(usable), LOOK))
    length = {name: sum(len(str(row[i])) for row in rows) for i, name in enumerate(usable)}
    by_length = sorted(usable, key=length.__getitem__)

    def chosen(flag: str, asked: str | None, usual: Sequence[str], guess: str) -> str:
        if asked is not None:
            return find_column(table, asked, (), flag)
        return next((name for name in usual if name in usable), guess)

    longest = next(name for name in reversed(by_length) if name not in (answer, *ANSWER_NAMES))
    question = chosen("--question", question, PROMPT_NAMES, longest)
    shortest = next(name for name in by_length if name != question)
    answer = chosen("--answer", answer, ANSWER_NAMES, shortest)
    first = next(table.rows([question, answer]))
    for name, column, value in zip(("question", "answer"), (question, answer), first, strict=True):
        say(f"{name}: column {column}; in the first row: {str(value)[:60]!r}; another: --{name} COLUMN")
    return {"prompt": question, "answer": answer}


def guessed_reward(table: Table | None, answer: str | None) -> str:
    """math where the first answers hold digits, or cannot be seen; else exact."""
    if table is None or answer is None:
        return "math"
    answers = [str(value) for (value,) in islice(table.rows([answer]), LOOK)]
    return "math" if all(any(map(str.isdigit, one)) for one in answers) else "exact"


def recipe_text(
    path: Path,
    model: str,
    source: dict[str, Any],
    reward: dict[str, Any],
    gpus: int,
    rows: int | None,
    *,
    asked: Sequence[str] = (),
    batch: dict[str, Any] | None = None,
    max_new_tokens: int = 512,
    more: Sequence[str] = (),
    advice: Sequence[str] = (),
) -> str:
    """The recipe as YAML; ``rows``: of the table, None where they are not known. ``asked``: lines in place of
    the data's template; ``more``: lines at the end; ``advice``: comments at the start."""
    batch = dict(batch or {})
    if rows is not None and rows < 128:  # the table is small
        batch = {"prompts": max(1, rows // 4)} | batch
    right = "what your function says" if reward["type"] == "function" else "see docs/rewards.md"
    if reward.keys() == {"type"} and reward["type"] in REWARDS:
        right = REWARDS[reward["type"]][1]
    lines = [
        f"# Check it first: depo train {path} --dry-run",
        "# What is not here has its default; docs/recipe.md says which, and what each key means.",
        *(f"# {line}" for line in advice),
        "steps: 200 # updates, at most",
        f"policy: {flow({'type': 'pretrained', 'model': model})}",
        "data:",
        f"  train: {flow(source)}",
        "  heldout: 0.1 # this share is never trained on: accuracy on it is the result",
        *(asked or [f"  template: {quoted(template_for(reward))} # what the policy is asked"]),
        f"reward: {flow(reward)} # right: {right}",
    ]
    if batch:
        lines.append(f"batch: {flow(batch)} # a step")
    lines.append("rollout:")
    lines.append(f"  max_new_tokens: {max_new_tokens} # longer completions are cut, and count as wrong")
    if gpus:
        shared = ", gpu_memory_utilization: 0.3" if gpus == 1 else ""
        lines.append("  engine: vllm")
        lines.append(f"  vllm: {{workers: {max(1, gpus - 1)}{shared}}} # engines, a GPU each")
    if gpus == 1:
        lines.append("resources: {learner_gpus: 0} # none to itself: it shares the engine's")
    return "\n".join([*lines, *more, ""])


def quoted(value: Any) -> str:
    """As YAML, text in double quotes."""
    return json.dumps(value, ensure_ascii=False)


def flow(value: dict[str, Any]) -> str:
    """On one line, as YAML."""
    text: str = yaml.dump(
        value, Dumper=RecipeDumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6
    )
    return text.strip()
