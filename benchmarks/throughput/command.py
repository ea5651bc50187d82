"""Measure depo and TRL's GRPOTrainer on the same work, paired, and the driver's share of a step.

End to end, the update alone, and what depo's driver costs. Every measurement is a process of its own:
start-up time and peak memory are what a user gets. The two sides alternate, and the order is swapped from one
repeat to the next. Meant for a machine that does nothing else. Under 10 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import made_by, write_result
from benchmarks.throughput.measurements import agreement, live_run, paired_ratio, spread, updates, whole_steps
from benchmarks.throughput.processes import SIDES, Side
from benchmarks.throughput.workload import Workload, problems
from depo.errors import DONE, UserError
from depo.files import check_place
from depo.recipe.schema import PretrainedPolicy, TinyMoePolicy
from depo.report.provenance import usable_cores

SEED = 0
HIGHER_IS_BETTER = ("samples_per_second", "learner_tokens_per_second")
AS_IT_IS = ("tokens_per_step",)
LOWER_IS_BETTER = ("peak_memory_mib", "startup_seconds", "step_seconds", "generate_seconds", "update_seconds")
LOSS_TOLERANCE = 1e-4
COSINE_TOLERANCE = 1e-4
RunSide = Callable[[Side, Workload, Path], dict[str, Any]]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, metavar="FILE.json", required=True, help="FILE.md is put beside it"
    )
    parser.add_argument(
        "--model", metavar="DIR_OR_ID", help="default: an untrained tiny qwen3_moe, as in the quickstart"
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="timed steps of an end-to-end run (default 30)"
    )
    parser.add_argument("--repeats", type=int, metavar="R", help="pairs of runs (default 5)")
    parser.add_argument("--quick", action="store_true", help="a look in under 2 minutes: 8 steps, 2 repeats")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Raises UserError for bad input, RuntimeError when a side fails or the two did not do the same work."""
    check(options)
    repeats = options.repeats or (2 if options.quick else 5)
    with tempfile.TemporaryDirectory(prefix="depo-throughput-") as scratch:
        root = Path(scratch)
        workload = make_workload(options, root)
        document = {
            "kind": "throughput",
            "provenance": made_by(arguments, [SEED]),
            "settings": workload.sizes() | {"repeats": repeats, "model": model_name(options.model)},
            **compare(workload, repeats, root),
            "driver": driver_cost(workload, options.quick, root),
        }
    for path in write_result(document, options.out):
        print(path)
    return DONE


def check(options: argparse.Namespace) -> None:
    """Raise UserError for options that make no benchmark."""
    if options.out.suffix != ".json":
        raise UserError(f"--out {options.out}: must be a file that ends in .json")
    if options.out.is_dir():
        raise UserError(f"--out {options.out}: is a directory, not a file")
    check_place(options.out, "--out")
    for name in ("steps", "repeats"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: must be at least 1")


def make_workload(options: argparse.Namespace, root: Path) -> Workload:
    """Sizes by model: the tiny one at the quickstart's, anything larger at sizes whose steps take seconds."""
    from depo.models.tokenizer import load_tokenizer

    steps = options.steps or (8 if options.quick else 30)
    updates = 2 if options.quick else 4
    if options.model is None:
        from depo.toy import tiny_moe

        model = str(root / "tiny_moe")
        tiny_moe.build(TinyMoePolicy(), Path(model), SEED)
        sizes = {"prompts": 32, "max_new_tokens": 8, "micro_rows": 256}
        sizes |= {"rows": 256, "row_prompt_tokens": 16, "longest": 96, "row_micro_rows": 64}
        threads = 1  # matrices this small gain nothing from a second thread
    else:
        model = str(Path(options.model).resolve()) if Path(options.model).is_dir() else options.model
        sizes = {"prompts": 4, "max_new_tokens": 32, "micro_rows": 16}
        sizes |= {"rows": 16, "row_prompt_tokens": 16, "longest": 128, "row_micro_rows": 8}
        threads = usable_cores()
    tokenizer = load_tokenizer(PretrainedPolicy(model=model, dtype="float32"))
    fields = {"model": model, "seed": SEED, "threads": threads, "steps": steps, "updates": updates} | sizes
    draft = Workload(**fields, pool=1000, prompt_tokens=0)
    longest = max(len(tokenizer(question)["input_ids"]) for question, _ in problems(draft))
    return Workload(**fields, pool=draft.pool, prompt_tokens=longest)


def model_name(model: str | None) -> str:
    """A directory by its last part."""
    if model is None:
        return "tiny qwen3_moe of the quickstart, untrained"
    return Path(model).resolve().name if Path(model).is_dir() else model


def compare(workload: Workload, repeats: int, root: Path) -> dict[str, Any]:
    """All comparisons, pair by pair."""
    whole = pairs("end to end", whole_steps, workload, repeats, root)
    long = pairs("end to end, long", whole_steps, workload.long(), repeats, root)
    for found in (whole, long):
        check_prompts(found)
    alone = pairs("update", updates, workload, repeats, root, keep_last=True)
    last = root / f"update-{repeats - 1}"
    agreed = agreement(last / "depo", last / "trl")
    agreed["loss_difference"] = abs(alone[-1]["depo"]["loss"] - alone[-1]["trl"]["loss"])
    if agreed["loss_difference"] > LOSS_TOLERANCE or agreed["cosine"] < 1 - COSINE_TOLERANCE:
        raise RuntimeError(f"the two sides did not do the same work on the learner's batch: {agreed}")
    return {
        "end_to_end": {"settings": workload.sizes(), "pairs": whole, "summary": summary(whole)},
        "end_to_end_long": {"settings": workload.long().sizes(), "pairs": long, "summary": summary(long)},
        "update": {"pairs": alone, "summary": summary(alone), "agreement": agreed},
    }


def pairs(
    name: str, run_side: RunSide, workload: Workload, repeats: int, root: Path, keep_last: bool = False
) -> list[dict[str, Any]]:
    """``repeats`` pairs of runs; the side that goes first changes from one to the next."""
    found = []
    for repeat in range(repeats):
        order = SIDES if repeat % 2 == 0 else SIDES[::-1]
        place = root / f"{name.replace(',', '').replace(' ', '_')}-{repeat}"
        pair: dict[str, Any] = {"first": order[0]}
        for side in order:
            pair[side] = run_side(side, workload, place / side)
        found.append(pair)
        shown = HIGHER_IS_BETTER[0] if HIGHER_IS_BETTER[0] in pair["depo"] else HIGHER_IS_BETTER[1]
        depo, trl = pair["depo"][shown], pair["trl"][shown]
        print(
            f"{name} {repeat + 1}/{repeats}: {shown.replace('_', ' ')} depo {depo:,.1f}, TRL {trl:,.1f}, "
            f"ratio {depo / trl:.2f}",
            flush=True,
        )
        if not (keep_last and repeat == repeats - 1):
            shutil.rmtree(place)
    return found


def check_prompts(found: list[dict[str, Any]]) -> None:
    """Both sides must read the same prompts as the same tokens; what was compared is then dropped."""
    for pair in found:
        depo, trl = (pair[side].pop("prompt_tokens") for side in SIDES)
        different = [prompt for prompt in depo.keys() & trl.keys() if depo[prompt] != trl[prompt]]
        if different:
            prompt = different[0]
            raise RuntimeError(f"prompt {prompt!r} is {depo[prompt]} to depo and {trl[prompt]} to TRL")


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """By figure: spread of either side, and depo's advantage (above 1 it is better) as a paired ratio."""
    figures: dict[str, Any] = {}
    for name in (*HIGHER_IS_BETTER, *LOWER_IS_BETTER, *AS_IT_IS):
        values = {side: [pair[side].get(name) for pair in found] for side in SIDES}
        if any(value is None for side in SIDES for value in values[side]):
            continue  # not measured here, or not on this system
        over, under = (values["depo"], values["trl"])
        if name in LOWER_IS_BETTER:
            over, under = under, over
        figures[name] = {side: spread(values[side]) for side in SIDES} | {
            "advantage": paired_ratio(over, under)
        }
    return figures


def driver_cost(workload: Workload, quick: bool, root: Path) -> dict[str, Any]:
    """What choosing prompts costs once the estimator is at work."""
    warm_up, steps = (10, 15) if quick else (10, 60)
    found = live_run(workload, steps, warm_up, root / "driver")
    print(
        f"driver: {found['shares']['driver']:.1%} of a step of {found['step_seconds']:.2f} s, selection and "
        f"estimator on the critical path {found['critical_path_share']:.1%}",
        flush=True,
    )
    return found
