"""TRL's GRPOTrainer as it comes against the same trainer with a Picker, at equal rollouts, paired seeds.

The quickstart's policy and prompts: a small mixture of experts, warm-started on sums; a quarter of the pool
is mastered, a quarter learnable, half out of reach. Both arms have the same policy, prompts, seed and
settings, TRL's defaults unless SETTINGS says otherwise. Held-out accuracy is exact: the mean probability of
the right answer, at temperature 1.

What is finished in OUT is not run again: stop it at any time and start it again. A seed is a warm start of
minutes and two runs.

    python -m benchmarks trl --out OUT --seeds 0,1,2,3,4 --jobs 1
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.jobs import Job, beside, resumable, run_jobs
from benchmarks.report import made_by, write_result
from benchmarks.selection.command import numbers
from benchmarks.selection.work import COMPOSITION
from depo.errors import DONE, FAILED, say
from depo.files import check_place, read_json, write_json
from depo.recipe.loading import load_recipe, write_resolved
from depo.report.document import Document, Number, Paragraph, Table
from depo.report.provenance import provenance_blocks
from depo.report.statistics import t_interval

ARMS = ("uniform", "picker")
PROMPTS, GROUP_SIZE, STEPS, CHECKS = 32, 8, 150, 10
LR = 1e-4  # what was tuned for GRPO in `selection`, on other problems

SETTINGS = {
    "num_generations": GROUP_SIZE,
    "per_device_train_batch_size": PROMPTS * GROUP_SIZE,
    "max_completion_length": 8,
    "lr_scheduler_type": "constant_with_warmup",
    "warmup_steps": 10,  # Adam's first steps are as long as its longest
    "logging_steps": 1,
    "gradient_checkpointing": False,
    "bf16": False,
    "use_cpu": True,
    "dataloader_pin_memory": False,
    "router_aux_loss_coef": 0.0,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="for the runs and the result")
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2, 3, 4], metavar="0,1", help="0,1,2,3,4")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N", help="of each run (%(default)s)")
    parser.add_argument("--lr", type=float, default=LR, help="learning rate of both arms (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (%(default)s)")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Run what is missing, then store and render what is there. Exit status 1 when a run failed."""
    check_place(options.out, "--out")
    jobs, runs = plan(options.out, options.seeds, options.steps, options.lr)
    with resumable():
        failed = run_jobs(jobs, options.jobs, 1, say)
    whole = {seed: files for seed, files in runs.items() if all(file.exists() for file in files.values())}
    if not whole:
        say("no seed has ended, so there is nothing to report")
        return FAILED
    found = {
        seed: {arm: read_json(file) for arm, file in files.items()} for seed, files in sorted(whole.items())
    }
    result = {"kind": "trl_picker", "provenance": made_by(arguments, [*found]), "seeds": found}
    result |= {"settings": SETTINGS, "steps": options.steps, "lr": options.lr}
    for path in write_result(result, options.out / f"trl_picker_{options.lr:g}.json"):
        print(path)
    return FAILED if failed else DONE


def plan(
    out: Path, seeds: Sequence[int], steps: int, lr: float
) -> tuple[list[Job], dict[int, dict[str, Path]]]:
    """The jobs, and the result of every run by seed and arm."""
    jobs: list[Job] = []
    runs: dict[int, dict[str, Path]] = {}
    for seed in seeds:
        here = out / f"seed_{seed}"
        policy, prompts = here / "policy", here / "prompts"
        recipe = here / "warm.yaml"
        here.mkdir(parents=True, exist_ok=True)
        write_resolved(load_recipe("quickstart", [f"seed={seed}", f"data.train.seed={seed}"]), recipe)
        runs[seed] = {arm: here / f"{arm}_{steps}_{lr:g}.json" for arm in ARMS}
        warm = (str(recipe), str(policy))
        composed = (str(recipe), str(recipe), str(policy), str(prompts))
        config = policy / "config.json"
        work = "benchmarks.selection.work"
        jobs += [
            Job(f"seed {seed}: warm start", work, ("warm_up", *warm), config),
            Job(f"seed {seed}: pool", work, ("compose", *composed), prompts / COMPOSITION, (config,)),
        ]
        for arm, result in runs[seed].items():
            told = (arm, str(policy), str(prompts), str(seed), str(steps), str(lr), str(result))
            needs = (prompts / COMPOSITION,)
            jobs.append(Job(f"seed {seed}, {arm}", "benchmarks.trl_picker", told, result, needs))
    return jobs, runs


# ---------------------------------------------------------------- one run


def train(arm: str, policy: Path, prompts: Path, seed: int, steps: int, lr: float, result: Path) -> None:
    """Train, and write accuracies, zero-variance shares and seconds."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from transformers.utils import logging
    from trl import GRPOConfig, GRPOTrainer

    from depo.data import RunPrompts
    from depo.integrations.trl import DifficultySampling
    from depo.learner.scoring import score_sequences
    from depo.selection import Picker

    logging.set_verbosity_error()
    torch.set_num_threads(1)
    pool = RunPrompts.stored(prompts)
    assert pool is not None
    tokenizer = AutoTokenizer.from_pretrained(policy)
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    model.set_experts_implementation("eager")
    solvable_N = np.array([prompt.key in pool.parts["solvable"] for prompt in pool.heldout])
    sequences = [
        (one.token_ids, [*tokenizer.encode(one.reference, add_special_tokens=False), tokenizer.eos_token_id])
        for one in pool.heldout
    ]
    checks: list[dict[str, float]] = []

    def check(step: int) -> None:
        model.eval()
        logprobs = score_sequences(model, sequences, tokenizer.pad_token_id)
        model.train()
        rates_N = np.exp([values_T.sum(dtype=np.float64) for values_T in logprobs])
        accuracy = {"accuracy": float(rates_N.mean()), "solvable": float(rates_N[solvable_N].mean())}
        checks.append({"rollouts": step * PROMPTS * GROUP_SIZE} | accuracy)

    class Check(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % max(steps // CHECKS, 1) == 0 or state.global_step == steps:
                check(state.global_step)

    def exact(completions: list[str], answer: list[str], **_: Any) -> list[float]:
        return [float(text == right) for text, right in zip(completions, answer, strict=True)]

    class Picking(DifficultySampling, GRPOTrainer):
        pass

    questions = [prompt.text for prompt in pool.train]
    answers = [prompt.reference for prompt in pool.train]
    own = {} if arm == "uniform" else {"picker": Picker(questions, group_size=GROUP_SIZE, seed=seed)}
    trainer = (GRPOTrainer if arm == "uniform" else Picking)(
        model=model,
        reward_funcs=exact,
        args=GRPOConfig(
            output_dir=str(beside(result, "_trainer")),
            max_steps=steps,
            seed=seed,
            learning_rate=lr,
            **SETTINGS,
        ),
        train_dataset=Dataset.from_dict({"prompt": questions, "answer": answers}),
        processing_class=tokenizer,
        callbacks=[Check()],
        **own,
    )
    check(0)
    start = time.perf_counter()
    trainer.train()
    log = [row for row in trainer.state.log_history if "frac_reward_zero_std" in row]
    write_json(
        result,
        {
            "checks": checks,
            "zero_variance": [row["frac_reward_zero_std"] for row in log],
            "active": [row.get("selection/active", 0.0) for row in log],
            "saved": None if arm == "uniform" else trainer.picker.metrics().get("saved"),
            "seconds": time.perf_counter() - start,
        },
    )


# ---------------------------------------------------------------- the report

MEASURES = {
    "zero-variance groups": lambda one: float(np.mean(one["zero_variance"])),
    "in the second half": lambda one: float(np.mean(one["zero_variance"][len(one["zero_variance"]) // 2 :])),
    "accuracy, solvable": lambda one: one["checks"][-1]["solvable"],
    "mean over the run": lambda one: float(np.mean([check["solvable"] for check in one["checks"]])),
    "accuracy, all": lambda one: one["checks"][-1]["accuracy"],
    "seconds": lambda one: one["seconds"],
}


def report(result: Mapping[str, Any]) -> Document:
    seeds = result["seeds"]
    rows: list[list[Any]] = []
    for name, measure in MEASURES.items():
        values = {arm: [measure(runs[arm]) for runs in seeds.values()] for arm in ARMS}
        gain = t_interval(np.subtract(values["picker"], values["uniform"]))
        rows.append(
            [
                name,
                *(Number(float(np.mean(values[arm])), ".3f") for arm in ARMS),
                Number.of(gain.to_json(), "+.3f"),
            ]
        )
    rollouts = result["steps"] * PROMPTS * GROUP_SIZE
    first = float(np.mean([runs[ARMS[0]]["checks"][0]["solvable"] for runs in seeds.values()]))
    about = (
        f"{rollouts:,} rollouts a run, {PROMPTS} prompts × {GROUP_SIZE} a step, learning rate "
        f"{result['lr']:g}. Means over seeds ({len(seeds)}); differences are paired, 95 % by Student's t. "
        f"Before training: accuracy {first:.3f} on the solvable part."
    )
    head = ["measure", "GRPOTrainer", "with a Picker", "difference"]
    return Document(
        "TRL's GRPOTrainer with and without a Picker",
        [*provenance_blocks(result), Paragraph(about), Table(head, rows)],
    )


if __name__ == "__main__":
    arm, policy, prompts, seed, steps, lr, result = sys.argv[1:]
    train(arm, Path(policy), Path(prompts), int(seed), int(steps), float(lr), Path(result))
