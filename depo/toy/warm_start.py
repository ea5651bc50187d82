"""Supervised fine-tuning of a freshly built policy, with `trl.SFTTrainer`, into a stated accuracy band.

1. Worked examples are drawn with repetition from the families the recipe names; no problem that could end
   up in pool or held-out set is among them. Their teacher is careless: in a stated share of the sums that
   need a carry it is forgotten, so that the policy learns how to carry but seldom does. That leaves a
   learnable middle: problems solved now and then, where RL has something to reinforce.
2. Every few steps the policy is measured: exact pass rates of the held-out candidates, and from them the
   accuracy on the solvable part of the held-out set that would be composed now (``depo.toy.grading``). That
   is the very number an evaluation before RL shows. Of a policy that writes its work out
   (``depo.toy.written``), samples of some held-out sums that its teacher always gets right.
3. Training stops at the first measurement inside the band. When one check lies below and the next above
   it, the way back is halved: along the straight line between the weights at the two checks, accuracy
   changes little by little, so that a point inside the band can be found by bisection.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from depo.errors import UserError
from depo.files import follow_umask
from depo.models.experts import use_sorted_experts
from depo.recipe.schema import Recipe, TinyMoePolicy, WarmStart
from depo.rng import generator, seed64
from depo.toy.arithmetic import Phrasing, Problem, parse_family
from depo.toy.grading import (
    TooFewProblems,
    arithmetic_parts,
    candidates,
    compose,
    encode,
    measure,
    pass_rates,
    solvable_accuracy,
)
from depo.toy.tiny_moe import build
from depo.toy.written import surely_right, unsure, written

if TYPE_CHECKING:
    from trl import SFTConfig

BISECTIONS = 6

# Checks between two lines of report.
REPORT_EVERY = 4

# Problems whose samples tell where a policy stands that writes its work out.
CHECKED = 64

# Training aims this share of the band's width inside its ends: an evaluation's rounding differs a little.
MARGIN = 0.05


@dataclass(frozen=True, slots=True)
class WarmStartResult:
    """Optimizer steps taken, and accuracy on the `yardstick` at the end."""

    steps: int
    accuracy: float


def yardstick(settings: WarmStart) -> str:
    """The problems whose accuracy the band is for."""
    return "held-out sums that the teacher gets right" if settings.written else "solvable held-out problems"


def warm_start(recipe: Recipe, directory: Path, report: Callable[[str], None]) -> WarmStartResult:
    """Train the policy in ``directory`` and save it in place.

    An attempt that has not reached the band after ``max_steps`` is given up and another initialisation
    built. Raises UserError when the last attempt has not reached it either.
    """
    policy = recipe.policy
    assert isinstance(policy, TinyMoePolicy)
    settings = policy.warm_start
    examples = worked_examples(recipe)
    report(
        f"warm start: teaching the new policy by {len(examples):,} worked examples (SFT), until its accuracy "
        f"on {yardstick(settings)} lies between {settings.band[0]:.2f} and {settings.band[1]:.2f}"
    )
    last = ""
    for attempt in range(settings.attempts):
        if attempt:
            report(f"warm start: attempt {attempt} given up ({last}); another initialisation")
            build(policy, directory, recipe.seed, attempt)
        result, last = train(recipe, settings, directory, examples, attempt, report)
        if result is not None:
            report(f"warm start: done after {result.steps} steps")
            return result
    raise UserError(
        f"policy.warm_start: no accuracy on {yardstick(settings)} inside the band {list(settings.band)} in "
        f"{settings.attempts} attempts of {settings.max_steps} steps (at the last check: {last}); change "
        "policy.warm_start or data.grade"
    )


def train(
    recipe: Recipe,
    settings: WarmStart,
    directory: Path,
    examples: list[tuple[Problem, str]],
    attempt: int,
    report: Callable[[str], None],
) -> tuple[WarmStartResult | None, str]:
    """One attempt: the result, None when the band was not reached, and what the last check saw."""
    # Seconds to import, and of what this module has only training needs them.
    from datasets import Dataset, disable_progress_bars
    from trl import SFTTrainer

    source, grading = arithmetic_parts(recipe)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    if settings.written:
        use_sorted_experts(model)  # chains are long enough for it to pay
    both = candidates(recipe)
    slips_AB = unsure(settings.unsure_facts, recipe.seed)
    taught = [problem for problem in both.heldout if surely_right(problem, slips_AB)]

    lengths_N = np.array([len(problem.answer) + 1 for problem in both.heldout])  # with the end token

    def accuracy() -> float:
        """On the yardstick; TooFewProblems unless held-out set *and* pool can be composed, where that can
        be told without sampling for all of the candidates."""
        was_training = model.training
        model.eval()
        if settings.written:
            found = float(measure(recipe, model, tokenizer, taught[:CHECKED]).rates_N.mean())
        else:
            heldout_N = pass_rates(model, tokenizer, both.heldout, source.phrasing)
            stop.sure = float(np.mean(heldout_N ** (1 / lengths_N)))
            found = solvable_accuracy(heldout_N, grading, grading.heldout)
            compose(pass_rates(model, tokenizer, both.train, source.phrasing), grading, grading.pool)
        model.train(was_training)
        return found

    stop = StopInBand(model, accuracy, settings, report)
    disable_progress_bars()
    dataset = Dataset.from_list(
        [tokenized(tokenizer, problem, answer, source.phrasing) for problem, answer in examples]
    )
    with tempfile.TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model=model,
            args=training_arguments(
                settings, Path(scratch), seed64(recipe.seed, "warm_start", index=attempt)
            ),
            train_dataset=dataset,
            processing_class=tokenizer,
            callbacks=[stop],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    if stop.reached is None:
        return None, stop.last
    # SFTTrainer has replaced the model's forward and tagged it: save the weights through a fresh copy.
    fresh = AutoModelForCausalLM.from_pretrained(directory)
    fresh.load_state_dict(model.state_dict())
    fresh.save_pretrained(directory)
    follow_umask(directory)
    return WarmStartResult(stop.steps, stop.reached), stop.last


def worked_examples(recipe: Recipe) -> list[tuple[Problem, str]]:
    """``warm_start.problems`` problems with the teacher's answers, in the recipe's shares, drawn with
    repetition, none of them a candidate for pool or held-out set."""
    policy = recipe.policy
    assert isinstance(policy, TinyMoePolicy)
    settings = policy.warm_start
    both = candidates(recipe)
    excluded = {*both.train, *both.heldout}
    rng = generator(recipe.seed, "worked_examples")
    total = sum(settings.families.values())
    drawn: list[Problem] = []
    for name, share in settings.families.items():
        family = parse_family(name)
        if sum(problem.family == family for problem in excluded) >= family.size:
            raise UserError(
                f"policy.warm_start.families: every problem of {name} is a candidate for pool or held-out "
                "set, which leaves none to learn from; lower data.train.size"
            )
        wanted = len(drawn) + round(settings.problems * share / total)
        while len(drawn) < wanted:
            problem = family.problem(int(rng.integers(family.size)))
            if problem not in excluded:
                drawn.append(problem)
    careless = rng.random(len(drawn)) < settings.forgotten_carries
    if settings.written:
        slips_AB = unsure(settings.unsure_facts, recipe.seed)
        answers = [written(problem, settings.forgotten_carries, rng, slips_AB) for problem in drawn]
    else:
        answers = [
            problem.careless_answer if slip else problem.answer
            for problem, slip in zip(drawn, careless, strict=True)
        ]
    return [(drawn[i], answers[i]) for i in rng.permutation(len(drawn))]


def tokenized(
    tokenizer: PreTrainedTokenizerBase, problem: Problem, answer: str, phrasing: Phrasing
) -> dict[str, list[int]]:
    """Token ids, and labels that leave the question out of the loss (−100)."""
    question_ids, answer_ids = encode(tokenizer, problem.question(phrasing), answer)
    return {"input_ids": question_ids + answer_ids, "labels": [-100] * len(question_ids) + answer_ids}


def training_arguments(settings: WarmStart, scratch: Path, seed: int) -> SFTConfig:
    """Silent, without checkpoints, in float32 on the CPU: the same numbers wherever it runs."""
    from trl import SFTConfig

    return SFTConfig(
        output_dir=str(scratch),
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.lr,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=settings.warmup_steps,
        adam_beta2=settings.beta2,
        weight_decay=0.01,
        max_grad_norm=1.0,
        seed=seed % 2**32,  # numpy takes no larger one
        bf16=False,
        gradient_checkpointing=False,
        router_aux_loss_coef=0.0,
        use_cpu=True,
        dataloader_pin_memory=False,
        save_strategy="no",
        logging_strategy="no",
        dataset_kwargs={"skip_prepare_dataset": True},  # tokenised already
        report_to="none",
        disable_tqdm=True,
    )


class StopInBand(TrainerCallback):
    """Measures every ``check_every`` steps and ends the training inside the band.

    ``reached`` is the accuracy it ended with, None until then; ``last`` says what the last check saw.
    ``sure`` is how probable a right character is to the policy (geometric mean of each answer, over all
    candidates): it grows from the first steps on, long before whole answers are right. None: not measured.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        measure: Callable[[], float],
        settings: WarmStart,
        report: Callable[[str], None],
    ) -> None:
        self.model = model
        self.measure = measure
        self.settings = settings
        self.report = report
        self.steps = 0
        self.reached: float | None = None
        self.last = "none was made"
        self.sure: float | None = None
        self.below = weights_of(model)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if state.global_step % self.settings.check_every == 0:
            self.steps = state.global_step
            self.check()
            control.should_training_stop = self.reached is not None
        return control

    def check(self) -> None:
        """Measure; inside the band: done; above it: go back; below it, or nothing to compose yet: go on."""
        side = self.side()
        if side > 0:
            self.bisect(self.below, weights_of(self.model))
        elif side < 0:
            self.below = weights_of(self.model)
        if self.reached is not None or self.steps % (REPORT_EVERY * self.settings.check_every) == 0:
            sure = "" if self.sure is None else f"{self.sure:.0%} sure of a character, "
            self.report(
                f"warm start: step {self.steps:,} of at most {self.settings.max_steps:,}: {sure}{self.last}"
            )

    def side(self) -> int:
        """−1 below the band, 0 inside, 1 above. A policy too weak to compose a set from counts as below."""
        low, high = self.settings.band
        margin = MARGIN * (high - low)
        try:
            accuracy = self.measure()
        except TooFewProblems as error:
            self.last = f"not yet enough to begin with: {error}"
            return -1
        self.last = f"{accuracy:.3f} on {yardstick(self.settings)}"
        if low + margin <= accuracy <= high - margin:
            self.reached = accuracy
            return 0
        return -1 if accuracy < low + margin else 1

    def bisect(self, below: dict[str, Tensor], above: dict[str, Tensor]) -> None:
        """Halve the way between two sets of weights until the accuracy lies inside the band.

        Where it jumps over the band (a set can just not be composed, and then lies above), the weights stay
        at ``above`` and training goes on.
        """
        low, high = 0.0, 1.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            mix(self.model, below, above, middle)
            side = self.side()
            if side == 0:
                return
            low, high = (middle, high) if side < 0 else (low, middle)
        mix(self.model, below, above, 1.0)


def weights_of(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@torch.no_grad()
def mix(model: PreTrainedModel, start: dict[str, Tensor], end: dict[str, Tensor], share: float) -> None:
    """Put the model on the straight line from ``start`` (share 0) to ``end`` (share 1)."""
    for name, parameter in model.named_parameters():
        parameter.copy_(torch.lerp(start[name], end[name], share))
