"""How many rollouts does each way of choosing prompts need? Live RL on a small policy, without a GPU.

What is finished in OUT is not run again: stop it at any time and start it again. By default 30 runs of
320,000 rollouts, 4 to 16 minutes each on one core, after 5 warm starts of 3 to 8 minutes: less than three
hours on 2 cores. With ``--world chains`` as many of 12,800.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.jobs import resumable, run_jobs
from benchmarks.report import made_by, write_result
from benchmarks.selection import tune
from benchmarks.selection.arms import ARMS, POOLS, PRIMARY, WORLDS, World, arms_of
from benchmarks.selection.curve import compare, curves_of, read_run
from benchmarks.selection.plan import USUAL_PROMPTS, Cell, horizon_of, plan
from benchmarks.selection.tune import trials, tuning_cells, tuning_document
from benchmarks.selection.work import COMPOSITION, SUMMARY, clear
from depo.errors import DONE, FAILED, UserError, say
from depo.files import check_place, read_json
from depo.report.provenance import usable_cores

SEEDS, SEEDS_QUICK = (0, 1, 2, 3, 4), (0,)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="for the runs and the result")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--quick", action="store_true", help="one seed, a short horizon; sized for 10 minutes on 2 cores"
    )
    size.add_argument("--full", action="store_true", help="every arm on every pool: two days on 2 cores")
    size.add_argument(
        "--tune",
        action="store_true",
        help="learning rates and group sizes of the arms, on a family of its own",
    )
    parser.add_argument(
        "--world", choices=sorted(WORLDS), default="answers", help="how the policy answers (%(default)s)"
    )
    parser.add_argument(
        "--groups", type=numbers, metavar="2,8", help="with --tune: sizes; default: the arm's"
    )
    parser.add_argument(
        "--rates", type=factors, metavar="0.5,1", help="with --tune: times the world's rate; default: 0.5,1,2"
    )
    parser.add_argument("--arms", type=listed, metavar="A,B", help=f"default: {','.join(PRIMARY)}")
    parser.add_argument("--pools", type=listed, metavar="A,B", help="default: mixed")
    parser.add_argument("--seeds", type=numbers, metavar="0,1", help="default: 0,1,2,3,4")
    parser.add_argument(
        "--passes", type=float, metavar="N", help="horizon in passes over the pool; default: the world's"
    )
    parser.add_argument("--encoder", type=Path, metavar="DIR", help="text encoder for DEPO; default: fetched")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="runs at a time (%(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="per run; default: cores / jobs")
    parser.add_argument("--name", help="of the result's files; default: selection or selection_tuning")


def listed(text: str) -> list[str]:
    """Not empty: an unset variable of a shell must not start the default, hours of work."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise argparse.ArgumentTypeError("expected one at least, found nothing")
    return parts


def numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in listed(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers like 0,1,2, found {text!r}") from None


def factors(text: str) -> list[float]:
    try:
        found = [float(part) for part in listed(text)]
    except ValueError:
        found = [math.nan]
    if not all(math.isfinite(factor) and factor > 0 for factor in found):
        raise argparse.ArgumentTypeError(f"expected positive numbers like 0.5,1, found {text!r}")
    return found


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Run what is missing, then store and render what is there. Exit status 1 when a run failed."""
    arms, pools, seeds = wanted(options)
    world = WORLDS[options.world]
    reported, tuning = world.families
    horizon = horizon_of(world, options.passes)
    tried = trials(arms, world, options.groups, options.rates)
    if options.tune:
        family, cells = tuning, tuning_cells(tried, seeds, horizon)
    else:
        family = reported
        cells = [
            Cell(pool, seed, name, arms_of(world)[name], round(horizon * POOLS[pool].horizon))
            for pool in pools
            for seed in seeds
            for name in arms
        ]
    jobs, where = plan(options.out, family, cells, encoder_for(arms, options.encoder, options.out))
    threads = max(usable_cores() // options.jobs, 1) if options.threads is None else options.threads
    with resumable():
        failed = run_jobs(jobs, options.jobs, threads, say)

    done = [path for path in where if (path / SUMMARY).exists()]
    for path in done:
        clear(path)
    if not done:
        say("no run has ended, so there is nothing to report")
        return FAILED
    document = {"kind": "selection_tuning" if options.tune else "selection", "world": options.world}
    document["provenance"] = made_by(arguments, seeds)
    if options.tune:
        document |= tuning_document(tried, cells, where, horizon)
    else:
        document |= result(cells, where, arms, world, options.passes, horizon)
    for path in write_result(document, options.out / f"{options.name or document['kind']}.json"):
        print(path)
    return FAILED if failed else DONE


def result(
    cells: Sequence[Cell],
    where: Sequence[Path],
    arms: Sequence[str],
    world: World,
    passes: float,
    horizon: int,
) -> dict[str, Any]:
    """What is finished, pool by pool."""
    finished: dict[str, list[tuple[Cell, Path]]] = {}
    for cell, path in zip(cells, where, strict=True):
        if (path / SUMMARY).exists():
            finished.setdefault(cell.pool, []).append((cell, path))
    return {
        "about": ABOUT.format(
            passes=passes,
            horizon=horizon,
            prompts=round(USUAL_PROMPTS * world.scale),
            once=round(POOLS["single_pass"].prompts * world.scale),
            heldout=world.heldout,
            share=1 / world.checks,
            world=world.about,
        ),
        "horizon": horizon,
        "arms": {name: asdict(arms_of(world)[name]) for name in arms},
        "pools": {pool: pool_document(pool, runs, arms) for pool, runs in finished.items()},
    }


ABOUT = (
    "A small qwen3_moe, warm-started by SFT, then trained by the project's own loop: "
    "{passes:g} passes over {prompts:,} prompts at 8 rollouts each, {horizon:,} rollouts (`single_pass`: a "
    "quarter of that, over {once:,} prompts). The arms of a seed share policy, pool, held-out set "
    "({heldout:,} prompts) and the keys of all randomness. The policy's answers: {world}. Measured every "
    "{share:.0%} of the horizon, smoothed to never fall."
)


def pool_document(pool: str, finished: Sequence[tuple[Cell, Path]], arms: Sequence[str]) -> dict[str, Any]:
    horizon = finished[0][0].horizon
    seeds: dict[str, dict[str, Any]] = {}
    compositions: dict[str, Any] = {}
    for cell, path in finished:
        seeds.setdefault(str(cell.seed), {})[cell.name] = read_run(path)
        compositions[str(cell.seed)] = read_json(path.parent / COMPOSITION)
    found = {"about": POOLS[pool].about, "horizon": horizon, "compositions": compositions, "seeds": seeds}
    run_here = [name for name in arms if any(name in runs for runs in seeds.values())]
    return found | {"comparison": compare(curves_of(found), run_here, horizon)}


def wanted(options: argparse.Namespace) -> tuple[list[str], list[str], list[int]]:
    """Arms, pools and seeds asked for. Raises UserError for names that do not exist and numbers that make no
    sense."""
    if options.out.is_file():
        raise UserError(f"--out {options.out}: is a file; expected a directory")
    check_place(options.out, "--out")
    arms = names(options.arms, ARMS, "--arms") or list(ARMS if options.full else PRIMARY)
    pools = names(options.pools, POOLS, "--pools") or (list(POOLS) if options.full else ["mixed"])
    usual = SEEDS_QUICK if options.quick else tune.SEEDS if options.tune else SEEDS
    seeds = list(options.seeds or usual)
    world = WORLDS[options.world]
    if options.passes is None:
        options.passes = world.passes * (tune.PASSES_SHARE if options.tune else 1)
        options.passes = world.passes_quick if options.quick else options.passes
    for flag, value in (
        ("--passes", options.passes),
        ("--jobs", options.jobs),
        ("--threads", 1 if options.threads is None else options.threads),
    ):
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"{flag} {value:g}: expected a positive number")
    for flag, given in (("--groups", options.groups), ("--rates", options.rates)):
        if given and not options.tune:
            raise UserError(f"{flag}: arms have theirs; only --tune tries others")
    if min(options.groups or [1]) < 1:
        raise UserError(f"--groups {','.join(map(str, options.groups))}: expected positive numbers")
    shortest = 1.0 if options.tune else min(POOLS[pool].horizon for pool in pools)
    step = world.rollouts
    if horizon_of(world, options.passes) * shortest < step:
        least = step / shortest / horizon_of(world, 1)
        raise UserError(
            f"--passes {options.passes:g}: shorter than one step of {step} rollouts; "
            f"expected at least {least:g}"
        )
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {','.join(map(str, seeds))}: a seed is given twice")
    if min(seeds) < 0:
        raise UserError(f"--seeds {','.join(map(str, seeds))}: expected numbers from 0 on")
    return arms, pools, seeds


def names(chosen: Sequence[str] | None, known: Sequence[str], flag: str) -> list[str]:
    for name in chosen or ():
        if name not in known:
            raise UserError(f"{flag} {name}: unknown; expected some of {', '.join(known)}")
    return list(dict.fromkeys(chosen or ()))


def encoder_for(arms: Sequence[str], given: Path | None, out: Path) -> Path | None:
    """The directory of DEPO's text encoder; fetched into OUT when none was named."""
    if not any(ARMS[name].needs_encoder for name in arms):
        return None
    if given is not None:
        if not (given / "config.json").exists():
            raise UserError(f"--encoder {given}: no model directory (config.json is missing)")
        return given.resolve()
    directory = (out / "minilm").resolve()
    if not directory.exists():
        from depo.models.fetch import fetch

        fetch("minilm", directory)
    return directory
