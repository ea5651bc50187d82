"""``depo simulate``: its options, and the way from them to two tables and JSON."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from depo.errors import DONE, UserError, say
from depo.files import check_place, write_json
from depo.recipe.loading import completed_recipe, read_recipe

if TYPE_CHECKING:
    from depo.simulate.world import Lengths, PassRates

EPILOG = """\
overrides: key=value on top of the recipe, as for depo train. What counts here: batch, selection, estimator,
tracking, learner.baseline; rollout.max_new_tokens, .max_off_policy_steps, .vllm.workers, .vllm.max_num_seqs

See docs/simulate.md for what is simulated and what is not.
"""


def add_options(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "simulate",
        help="size a cluster: a recipe's loop on simulated engines",
        description="Run a recipe's loop on simulated engines and a simulated learner, to size a cluster "
        "before renting it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    recipe = add("recipe", help="YAML file or shipped recipe")
    recipe.completer = completed_recipe
    add("overrides", nargs="*", metavar="key=value", help="see below")
    add("--engines", default="1,8,64,512", metavar="E,...", help="numbers of engines (%(default)s)")
    add("--ahead", default="0,1,2,4", metavar="N,...", help="max_off_policy_steps to compare (%(default)s)")
    add("--pool", type=int, default=10_000, metavar="P", help="prompts (%(default)s)")
    add("--prompt-tokens", type=int, default=100, metavar="T", help="tokens of a prompt (%(default)s)")
    add("--steps", type=int, default=12, metavar="N", help="the first quarter is not counted (%(default)s)")
    add("--median-tokens", type=float, default=800, metavar="T", help="of a completion (%(default)s)")
    add("--p99-tokens", type=float, default=4000, metavar="T", help="99th percentile (%(default)s)")
    add("--never", type=float, default=0.25, metavar="X", help="share of prompts never solved (%(default)s)")
    add("--always", type=float, default=0.25, metavar="X", help="share always solved (%(default)s)")
    add("--learned", type=float, default=0.0, metavar="X", help="logits a step, of the others (%(default)s)")
    add("--fit", type=Path, metavar="RUN", help="take lengths and shares from the rollouts of this run")
    add(
        "--sequence-speed", type=float, default=60, metavar="R", help="tokens/s of one sequence (%(default)s)"
    )
    add("--engine-speed", type=float, default=4000, metavar="R", help="tokens/s of an engine (%(default)s)")
    add("--learner-speed", type=float, default=20_000, metavar="R", help="tokens/s trained (%(default)s)")
    add("--prefill-speed", type=float, default=100_000, metavar="R", help="tokens/s probed (%(default)s)")
    add(
        "--sync", type=float, default=2, metavar="S", help="seconds of a weight sync, each side (%(default)s)"
    )
    add("--json", type=Path, metavar="OUT", help="write everything as JSON")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Simulate what was asked for; returns the exit status. Raises UserError for bad input."""
    engines = numbers("--engines", options.engines, at_least=1)
    ahead = numbers("--ahead", options.ahead, at_least=0)
    check(options)
    recipe, _ = read_recipe(options.recipe, options.overrides)

    from depo.report.document import show
    from depo.report.provenance import package_versions, source_commit
    from depo.rng import one_thread_for_numpy
    from depo.selection import PromptPool
    from depo.simulate.engines import EngineSpeed, LearnerSpeed
    from depo.simulate.simulation import simulate, simulated
    from depo.simulate.tables import by_ahead, by_engines, heading
    from depo.simulate.world import Lengths, PassRates, World

    one_thread_for_numpy()
    lengths = Lengths(options.median_tokens, options.p99_tokens)
    rates = PassRates(options.never, options.always, options.learned)
    if options.fit is not None:
        lengths, rates = fitted(options.fit, options.learned)
    world = World(options.pool, options.prompt_tokens, lengths, rates, recipe.seed)
    learner = LearnerSpeed(options.learner_speed, options.prefill_speed, options.sync)

    def result(engines: int, ahead: int) -> dict[str, Any]:
        say(f"simulating {options.steps} steps: {engines:,} engines, {ahead} ahead")
        speed = EngineSpeed(
            engines, recipe.rollout.vllm.max_num_seqs, options.sequence_speed, options.engine_speed
        )
        pool = PromptPool(world.prompts, recipe.seed)
        with TemporaryDirectory(prefix="depo-simulate-") as directory:
            of_run = simulated(recipe, options.steps, engines, ahead)
            return simulate(of_run, pool, world, speed, learner, Path(directory))

    own = recipe.rollout.vllm.workers, recipe.rollout.max_off_policy_steps
    over_engines = [result(many, own[1]) for many in engines]
    over_ahead = [result(own[0], steps) for steps in ahead]
    print(heading(recipe, options.pool, lengths, rates))
    show(by_engines(over_engines), by_ahead(over_ahead))
    if options.json is not None:
        settings = {name: value for name, value in vars(options).items() if name not in ("json", "fit")}
        write_json(
            options.json,
            {
                "kind": "simulation",
                "settings": settings | asdict(lengths) | asdict(rates),
                "engines": over_engines,
                "ahead": over_ahead,
                "command": "depo " + shlex.join(arguments),
                "versions": package_versions() | {"commit": source_commit()},
            },
        )
        print(f"JSON: {options.json}")
    return DONE


def numbers(flag: str, text: str, at_least: int) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) >= at_least for part in parts):
        raise UserError(f"{flag} {text}: expected whole numbers of at least {at_least}, with commas between")
    return [int(part) for part in parts]


def check(options: argparse.Namespace) -> None:
    """Raise UserError for a number that makes no sense."""
    for name, least in (("pool", 1), ("prompt_tokens", 1), ("steps", 2)):
        if getattr(options, name) < least:
            raise UserError(f"{flag(name)} {getattr(options, name)}: expected at least {least}")
    for name in ("median_tokens", "sequence_speed", "engine_speed", "learner_speed", "prefill_speed"):
        if not 0 < getattr(options, name) < float("inf"):
            raise UserError(f"{flag(name)} {getattr(options, name):g}: expected a number above 0")
    for name in ("sync", "learned"):
        if not 0 <= getattr(options, name) < float("inf"):
            raise UserError(f"{flag(name)} {getattr(options, name):g}: expected a number of at least 0")
    if not options.median_tokens <= options.p99_tokens < float("inf"):
        raise UserError(
            f"--p99-tokens {options.p99_tokens:g}: expected at least --median-tokens, "
            f"{options.median_tokens:g}"
        )
    if not (options.never >= 0 and options.always >= 0 and options.never + options.always <= 1):
        raise UserError(
            f"--never {options.never:g} --always {options.always:g}: expected shares that add up to 1 at most"
        )
    if options.json is not None:
        check_place(options.json, "--json")


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def fitted(run_dir: Path, learned: float) -> tuple[Lengths, PassRates]:
    """Median and 99th percentile of a run's completions, and the shares of its uniformly drawn groups that
    were all wrong and all right. Raises UserError where there are none."""
    import numpy as np
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from depo.simulate.world import Lengths, PassRates

    files = sorted((run_dir / "rollouts").glob("step_*.parquet"))
    if not files:
        raise UserError(f"--fit {run_dir}: no rollouts/step_*.parquet in it, so there is nothing to fit")
    tokens, wrong, right, groups = [], 0, 0, 0
    for file in files:
        table = pq.read_table(file, columns=["prompt_key", "selector", "token_ids", "correct"])
        tokens.append(pc.list_value_length(table["token_ids"]).to_numpy())
        uniform = table.filter(pc.equal(table["selector"], "uniform")).select(["prompt_key", "correct"])
        rates = uniform.group_by("prompt_key").aggregate([("correct", "min"), ("correct", "max")]).drop_null()
        wrong += pc.sum(pc.invert(rates["correct_max"])).as_py() or 0
        right += pc.sum(rates["correct_min"]).as_py() or 0
        groups += len(rates)
    if not groups:
        raise UserError(f"--fit {run_dir}: no prompt was drawn uniformly: its pass rates say nothing")
    median, p99 = np.percentile(np.concatenate(tokens), (50, 99))
    return Lengths(float(median), float(p99)), PassRates(wrong / groups, right / groups, learned)
