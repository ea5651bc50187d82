"""``depo probe MODEL DATA``: what there is to learn, before any training.

Samples are an evaluation's: the probe is a suite of one benchmark, asked by `depo.evaluation.evaluate`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from depo.errors import DONE, UserError
from depo.files import check_place, new_directory, write_text
from depo.init import check_new, described, quoted, recipe_text, reward_block, template_for, write_recipe
from depo.recipe.errors import Sources
from depo.recipe.keys import parse_override
from depo.recipe.loading import validated
from depo.recipe.model_shape import find_config, positions
from depo.recipe.schema.evaluation import Suite
from depo.recipe.suites import ROOT, check_inputs

NAME = "probe"
"""Of the suite and its one benchmark."""

FEWEST = 4  # rollouts a prompt

EXAMPLES = """\
  depo probe Qwen/Qwen3-0.6B problems.jsonl --write mine.yaml engine=vllm
  depo probe DIR problems.csv --prompts 100 --n 8 sampling.max_new_tokens=256

key=value sets a key of the evaluation that a probe is, as for depo eval. Writes probe.json, probe.md, all
rollouts in samples/, and trace.parquet for depo replay. See docs/probe.md.
"""


def add_options(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        NAME,
        help="look at a model on your prompts before training",
        description="Ask some hundred prompts several times each: pass rates, groups that would teach "
        "nothing, cut and unreadable completions, doubtful gold answers, and a recipe.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="model directory, hub id, or run directory")
    add("data", metavar="DATA", help=".csv, .jsonl, .json or .parquet file, or hub id")
    add("overrides", nargs="*", default=[], metavar="key=value", help="see below")
    add("--question", metavar="COLUMN", help="default: guessed from the file")
    add("--answer", metavar="COLUMN", help="default: guessed from the file")
    add("--reward", metavar="TYPE", help="math, exact, or ./FILE.py:FUNCTION; default: by the first answers")
    add("--prompts", type=int, default=256, metavar="N", help="drawn at random (%(default)s)")
    add("--n", type=int, default=16, metavar="N", help="rollouts a prompt (%(default)s)")
    add("--write", type=Path, metavar="FILE.yaml", help="write the suggested recipe; must not exist")
    add("--html", type=Path, metavar="FILE", help="write what is shown as one HTML file too")
    add("--run-dir", type=Path, metavar="DIR", help="default: runs/probe-TIMESTAMP")
    add("--resume", action="store_true", help="continue what is in --run-dir")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Raises UserError for bad input."""
    from depo.data import load_saved
    from depo.evaluation.command import check_engine
    from depo.evaluation.evaluate import evaluate
    from depo.evaluation.evaluator import problems_file
    from depo.evaluation.model import find_target
    from depo.evaluation.samples import SampleStore
    from depo.probe.figures import probe_figures
    from depo.probe.replayed import TRACE, replayed, write_trace
    from depo.probe.report import blocks, probe_report
    from depo.report.document import show, write_result
    from depo.report.html import to_html

    if options.write is not None:
        check_new(options.write, "--write")
    if options.html is not None:
        check_place(options.html, "--html")
    suite, rows = suite_of(options)
    check_engine(suite)
    target = find_target(options.model)
    directory: Path = options.run_dir or new_directory(NAME)
    resume, say = options.resume, lambda line: print(line, flush=True)
    document = evaluate(target, suite, directory, resume=resume, quiet=False, arguments=arguments, say=say)
    prompts = load_saved(problems_file(directory / "problems", NAME))
    samples = SampleStore(directory / "samples").rows()
    result = probe_figures(document, suite, prompts, samples)
    write_trace(prompts, samples, suite.sampling.n, directory / TRACE)
    result["replay"] = replayed(directory / TRACE, suite.seed)
    config = find_config(target.model)
    limit = None if config is None else positions(config)
    longest = max(len(prompt.token_ids) for prompt in prompts)
    result |= suggestion(result, suite, longest, limit)
    written = write_result(result, directory / f"{NAME}.json", probe_report)
    show(*blocks(result))
    if options.html is not None:
        write_text(options.html, to_html(probe_report(result)))
        written.append(options.html)
    print(f"written: {', '.join(map(str, written))}")
    if options.write is not None:
        write_recipe(options.write, suggested_recipe(options.write, target.model, suite, rows, result))
    return DONE


def suite_of(options: argparse.Namespace) -> tuple[Suite, int | None]:
    """What is asked, and the rows of the table, None where they are not known. Raises UserError."""
    source, guess, rows = described(options.data, options.question, options.answer, "DATA")
    reward = reward_block(options.reward or guess)
    raw: dict[str, Any] = {
        "name": NAME,
        "template": template_for(reward),
        "reward": reward,
        "sampling": {"n": options.n, "temperature": 1.0, "max_new_tokens": 512},
        "extrapolate": [],
        "max_prompt_tokens": 1024,
        "benchmarks": {NAME: {"source": source, "sample": options.prompts}},
    }
    sources = Sources("depo probe", raw, tuple(map(parse_override, options.overrides)), ROOT)
    suite = validated(Suite, sources)
    if list(suite.benchmarks) != [NAME]:
        raise UserError(f"benchmarks: a probe has one, {NAME}; for several: depo eval")
    if suite.sampling.n < FEWEST:
        raise UserError(f"--n {suite.sampling.n}: pass rates need at least {FEWEST} rollouts a prompt")
    check_inputs(suite, sources)
    return suite, rows


# ---------------------------------------------------------------- the recipe

HALF, MOST_TEACH, NONE_TEACH, MANY = 0.5, 0.2, 0.98, 0.1


def suggestion(result: dict[str, Any], suite: Suite, longest: int, limit: int | None) -> dict[str, Any]:
    """``recipe``: the keys that the probe has something to say about; ``advice``: why, and what else.
    ``longest``: tokens of the longest prompt, ``limit``: positions of the model, None where not known."""
    tokens = suite.sampling.max_new_tokens
    room = math.inf if limit is None else limit - longest
    shares = {one["group_size"]: one["share"][0] for one in result["zero_variance"]}
    size = next((one for one, share in shares.items() if share is not None and share <= HALF), max(shares))
    share, cut, unread = shares[size] or 0.0, result["truncated"][0] or 0.0, result["unparseable"][0] or 0.0
    recipe: dict[str, Any] = {"group_size": size, "max_new_tokens": tokens}
    advice = [f"batch.group_size {size}: of groups of {size}, {share:.0%} teach nothing"]
    if share < MOST_TEACH:
        recipe["selection"] = "uniform"
        advice.append("selection uniform: most prompts teach as they are, choosing would save little")
    if share > NONE_TEACH:
        advice.append("take easier problems or a better start: selection needs some informative groups")
    if cut > MANY:
        more = recipe["max_new_tokens"] = int(min(2 * tokens, room))
        advice.append(f"rollout.max_new_tokens {more:,}: {cut:.0%} of the completions were cut at {tokens:,}")
    elif unread > MANY:  # of those that were cut, no more is to be expected
        advice.append(f"data.template: {unread:.0%} of the completions hold no answer; say how to give it")
    recipe["max_prompt_tokens"] = suite.max_prompt_tokens
    if limit is not None:
        recipe["max_prompt_tokens"] = min(suite.max_prompt_tokens, limit - recipe["max_new_tokens"])
    if result["suspects"]:
        advice.append("gold answers: look at the doubtful ones before training on them")
    return {"recipe": recipe, "advice": advice}


def suggested_recipe(path: Path, model: str, suite: Suite, rows: int | None, result: dict[str, Any]) -> str:
    """What was asked, with what the probe suggests."""
    found, source = result["recipe"], suite.benchmarks[NAME].source
    asked: dict[str, Any] = {"template": suite.template, "system": suite.system, "raw": suite.raw or None}
    asked["max_prompt_tokens"] = found["max_prompt_tokens"]
    return recipe_text(
        path,
        model,
        {"type": source.type} | source.model_dump(mode="json", exclude_defaults=True),
        {"type": suite.reward.type} | suite.reward.model_dump(mode="json", exclude_defaults=True),
        suite.vllm.workers * suite.vllm.tensor_parallel if suite.engine == "vllm" else 0,
        rows,
        asked=[f"  {key}: {quoted(value)}" for key, value in asked.items() if value is not None],
        batch={"group_size": found["group_size"]},
        max_new_tokens=found["max_new_tokens"],
        more=["selection: uniform"] if "selection" in found else [],
        advice=result["advice"],
    )
