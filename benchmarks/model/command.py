"""Train a real language model once for each arm and seed, with the same number of rollouts, and compare.

One run directory each, under --runs: finished ones are not repeated, an interrupted one continues from its
checkpoint. Checkpoints of a finished run are removed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.jobs import resumable
from benchmarks.model.arms import ARMS, DEFAULT_ARMS, FORMS, TASKS, arm_blocks, needs_encoder
from benchmarks.model.figures import comparisons, run_figures
from benchmarks.model.runs import Ended, Place, Setting, arm_recipe, check_same_recipe, run_arms
from benchmarks.report import made_by, write_result
from depo.errors import DONE, FAILED, UserError
from depo.files import check_place
from depo.recipe.budget import budget_text
from depo.recipe.checks import check_inputs, model_problems
from depo.recipe.model_shape import is_path
from depo.recipe.schema import PretrainedPolicy, Recipe


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, metavar="FILE", required=True, help="result, FILE.json")
    parser.add_argument(
        "--model", metavar="DIR_OR_ID", required=True, help="chat model, e.g. of `depo fetch smollm2 DIR`"
    )
    parser.add_argument("--task", choices=tuple(TASKS), default="sums", help="default: %(default)s")
    parser.add_argument(
        "--arm",
        action="append",
        choices=ARMS,
        help=f"repeatable; default: {', '.join(DEFAULT_ARMS)}, with --encoder depo as well",
    )
    parser.add_argument("--encoder", metavar="DIR_OR_ID", help="text encoder of the arm depo")
    parser.add_argument("--seeds", default="0", metavar="0,1", help="default: %(default)s")
    parser.add_argument(
        "--form",
        choices=tuple(FORMS),
        help="size of the benchmark; default: gpu where there is a CUDA device",
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="the horizon: rollouts of N steps without refill"
    )
    parser.add_argument(
        "--engine", choices=("transformers", "vllm"), help="default: vllm with --form gpu, if installed"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="runs at a time, which share cores and GPU; their times mean less then (%(default)s)",
    )
    parser.add_argument(
        "--runs", type=Path, metavar="DIR", help="run directories; default: runs/ and the result's name"
    )
    parser.add_argument("--dry-run", action="store_true", help="check and show what would be run, no more")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Run what is not finished yet and write the result whenever one has ended. 1 when an arm failed.

    Raises UserError for bad input, before anything is run.
    """
    setting, arms, seeds = setting_of(options), arms_of(options), seeds_of(options.seeds)
    root: Path = options.runs or Path("runs") / options.out.stem
    planned = [(Place(root, seed, arm), arm_recipe(setting, arm, seed)) for seed in seeds for arm in arms]
    check(setting, planned)
    if options.dry_run:
        show(setting, planned)
        return DONE
    document: dict[str, Any] = {
        "kind": "model",
        "provenance": made_by(arguments, seeds),
        "setting": described(setting),
        "arms": {arm: without_directory(arm_blocks(arm, setting.form, setting.encoder)) for arm in arms},
        "runs": [],
    }
    found: dict[Place, dict[str, Any]] = {}

    def begun(place: Place) -> None:
        print(f"{place.title}: {place.log}", flush=True)

    def over(place: Place, ended: Ended) -> None:
        found[place] = outcome(place, ended, setting.horizon)
        document["runs"] = [found[place] for place, _ in planned if place in found]
        document["comparisons"] = comparisons(document["runs"])
        write_result(document, options.out)
        if not ended.ran:
            print(f"{place.title}: finished before", flush=True)
        elif ended.last_lines:
            print(f"{place.title}: exit status {ended.status}, its log ends with", flush=True)
        for line in ended.last_lines:
            print(f"  {line}", flush=True)

    with resumable():
        run_arms(planned, setting.jobs, begun, over)
    print(options.out, options.out.with_suffix(".md"), sep="\n")
    return DONE if all(one["status"] == "done" for one in document["runs"]) else FAILED


def outcome(place: Place, ended: Ended, horizon: int) -> dict[str, Any]:
    """One entry of the result's ``runs``."""
    who = {"seed": place.seed, "arm": place.arm}
    if ended.status != DONE:
        return who | {"status": "failed", "exit_status": ended.status, "last_lines": list(ended.last_lines)}
    return who | {"status": "done", "figures": run_figures(place.directory, horizon)}


# ---------------------------------------------------------------- options


def setting_of(options: argparse.Namespace) -> Setting:
    """Raises UserError for values out of range."""
    if options.out.suffix != ".json":
        raise UserError(f"--out {options.out}: must end in .json")
    form = FORMS[options.form or ("gpu" if has_cuda() else "cpu")]
    if options.steps is not None and options.steps < 1:
        raise UserError(f"--steps {options.steps}: must be at least 1")
    if options.out.is_dir():
        raise UserError(f"--out {options.out}: is a directory, not a file")
    check_place(options.out, "--out")
    if options.jobs < 1:
        raise UserError(f"--jobs {options.jobs}: must be at least 1")
    default_engine = "vllm" if form.name == "gpu" and find_spec("vllm") else "transformers"
    engine = options.engine or default_engine
    if engine == "vllm" and find_spec("vllm") is None:
        raise UserError(
            '--engine vllm: vLLM is not installed; pip install "depo-rl[gpu]", or --engine transformers'
        )
    return Setting(
        model=options.model,
        task=TASKS[options.task],
        form=form,
        steps=options.steps or form.steps,
        engine=engine,
        encoder=options.encoder,
        jobs=options.jobs,
    )


def arms_of(options: argparse.Namespace) -> list[str]:
    """The arms asked for, each once. Arms that read with an encoder and ``--encoder`` go together."""
    arms = list(dict.fromkeys(options.arm or [*DEFAULT_ARMS, *(["depo"] if options.encoder else [])]))
    if any(map(needs_encoder, arms)) != (options.encoder is not None):
        raise UserError("--arm depo and --encoder go together: `depo fetch minilm DIR`, then --encoder DIR")
    return arms


def seeds_of(text: str) -> list[int]:
    """``0,1`` → [0, 1]."""
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(
            f"--seeds {text}: must be whole numbers with commas between them, like 0,1"
        ) from error
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(f"--seeds {text}: must be different numbers from 0 on")
    return seeds


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


# ---------------------------------------------------------------- checks


def check(setting: Setting, planned: Sequence[tuple[Place, Recipe]]) -> None:
    """Raise UserError for whatever would stop a run that has not finished yet."""
    if setting.task.reward == "reasoning_gym" and find_spec("reasoning_gym") is None:
        raise UserError('--task reasoning_gym: the package is missing; pip install "depo-rl[reasoning-gym]"')
    encoder = setting.encoder
    if encoder is not None and is_path(encoder) and not (Path(encoder) / "config.json").is_file():
        raise UserError(f"--encoder {encoder}: no text encoder there; `depo fetch minilm DIR` puts one there")
    for place, recipe in planned:
        assert isinstance(recipe.policy, PretrainedPolicy)
        for problem in model_problems(recipe, recipe.policy).values():
            raise UserError(f"--model: {problem}")
        check_inputs(recipe)
        check_same_recipe(place, recipe)


def show(setting: Setting, planned: Sequence[tuple[Place, Recipe]]) -> None:
    """What a run would do, and what it would take."""
    for place, recipe in planned:
        state = "finished" if place.finished else "to continue" if place.started else "to run"
        print(f"{place.directory}: {state}; {recipe.estimator.type}, {recipe.selection.type}")
    print(f"{setting.horizon:,} rollouts each (form {setting.form.name}, engine {setting.engine})")
    if setting.jobs > 1:
        print(f"{setting.jobs} at a time; the budget below is that of one")
    print(budget_text(planned[0][1]))


# ---------------------------------------------------------------- description


def described(setting: Setting) -> dict[str, Any]:
    """What all runs share, as JSON."""
    form, task = setting.form, setting.task
    return {
        "model": Path(setting.model).name,
        "task": task.name,
        "source": task.source,
        "template": task.template,
        "max_new_tokens": task.max_new_tokens,
        "engine": setting.engine,
        "horizon": setting.horizon,
        "jobs": setting.jobs,
        "form": asdict(form) | {"steps": setting.steps},
    }


def without_directory(blocks: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Where an encoder lay on one machine is nobody's business."""
    model = blocks["estimator"].get("model")
    return (
        blocks if model is None else blocks | {"estimator": blocks["estimator"] | {"model": Path(model).name}}
    )
