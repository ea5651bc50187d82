"""Pool and held-out set composed by *measured* difficulty of the initial policy.

How it differs from grading by operand length:
- a problem's pass rate, at sampling temperature 1, is not estimated from samples but computed: where the
  answer is the whole completion, it is the probability of answer and end token under teacher forcing;
- an answer behind some work has no such probability: there ``data.grade.samples`` completions are judged;
- three classes are kept apart by the recipe's thresholds, and what lies between them is left out;
- held-out candidates are set apart before anything is measured, so the two sets share no problem.

N is the number of problems.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from depo.data.stored import RunPrompts
from depo.data.text import prompt_key
from depo.errors import UserError
from depo.evaluation.evaluator import Evaluator, Row, Task, Verdicts, requests_of
from depo.learner.scoring import score_sequences
from depo.recipe.schema import ArithmeticSource, Grading, Recipe
from depo.reward import build
from depo.rollout.engine import Sampling
from depo.rollout.transformers import TransformersEngine
from depo.toy.arithmetic import Phrasing, Problem, draw_problems
from depo.types import Prompt

MASTERED, LEARNABLE, IMPOSSIBLE = LEVELS = ("mastered", "learnable", "impossible")


@dataclass(frozen=True, slots=True)
class Candidates:
    """Problems from which the two sets are composed; they share none."""

    train: list[Problem]
    heldout: list[Problem]


@dataclass(frozen=True, slots=True)
class Measured:
    """Pass rates float64 (N,), and what was seen of the samples they are measured by, if they are."""

    rates_N: np.ndarray
    samples: str = ""


@dataclass(frozen=True, slots=True)
class Graded:
    """The composed sets. ``levels`` has the level of each prompt of both, by key; the accuracies are the mean
    measured pass rate of held-out prompts, of those not impossible and of all."""

    train: list[Prompt]
    heldout: list[Prompt]
    levels: dict[str, str]
    solvable_accuracy: float
    accuracy: float

    @property
    def prompts(self) -> RunPrompts:
        """Both sets; the ``solvable`` part of the held-out one is all that is not impossible."""
        solvable = frozenset(p.key for p in self.heldout if self.levels[p.key] != IMPOSSIBLE)
        return RunPrompts(self.train, self.heldout, {"solvable": solvable})


class TooFewProblems(Exception):
    """A level has fewer candidates than its share of a set asks for; the message says which."""


def candidates(recipe: Recipe) -> Candidates:
    """``data.train.size`` generated problems, divided like the two sets they are for."""
    source, grading = arithmetic_parts(recipe)
    problems = draw_problems(source)
    heldout = round(len(problems) * grading.heldout / (grading.heldout + grading.pool))
    return Candidates(train=problems[heldout:], heldout=problems[:heldout])


def arithmetic_parts(recipe: Recipe) -> tuple[ArithmeticSource, Grading]:
    """The blocks that grading needs; the recipe's own checks see to it that they are there."""
    source, grading = recipe.data.train, recipe.data.grade
    assert isinstance(source, ArithmeticSource)
    assert grading is not None
    return source, grading


# ---------------------------------------------------------------- measuring


def encode(tokenizer: PreTrainedTokenizerBase, question: str, answer: str) -> tuple[list[int], list[int]]:
    """Token ids of a question as the policy is asked it, and of an answer with the end token."""
    answer_ids = tokenizer.encode(answer, add_special_tokens=False)
    return tokenizer.encode(question, add_special_tokens=False), [*answer_ids, tokenizer.eos_token_id]


def pass_rates(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    phrasing: Phrasing = "digits",
) -> np.ndarray:
    """Exact pass rate of each problem at temperature 1: float64 (N,).

    Π_t p(gold_t | question, gold_<t), end token included. The model must be in evaluation mode.
    """
    sequences = [encode(tokenizer, problem.question(phrasing), problem.answer) for problem in problems]
    logprobs = score_sequences(model, sequences, tokenizer.pad_token_id)
    return np.exp([values_T.sum(dtype=np.float64) for values_T in logprobs])


def measure(
    recipe: Recipe,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
) -> Measured:
    """Pass rates as the recipe wants them measured. The model must be in evaluation mode."""
    source, grading = arithmetic_parts(recipe)
    if not grading.samples:
        return Measured(pass_rates(model, tokenizer, problems, source.phrasing))
    prompts = [prompt_of(problem, tokenizer, source.phrasing) for problem in problems]
    engine = TransformersEngine(
        model,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_ids=[tokenizer.eos_token_id],
        batch_size=recipe.rollout.transformers.batch_size,
    )
    task = Task("grading", prompts, build(recipe.reward.model_dump()))
    evaluator = Evaluator([task], tokenizer, Sampling(1.0, recipe.rollout.max_new_tokens))
    rows = evaluator.rows(requests_of(prompts, grading.samples, recipe.seed), engine)
    return Measured(Verdicts.of(rows).accuracy_N, seen(rows))


def seen(rows: Sequence[Row]) -> str:
    """Lengths of right and wrong samples, and whether right ones recur: one line."""
    right, wrong = ([row for row in rows if row["correct"] == verdict] for verdict in (True, False))
    parts = [
        f"{len(some):,} {name} ones of {np.mean([row['tokens'] for row in some]):.1f} tokens"
        for name, some in (("right", right), ("wrong", wrong))
        if some
    ]
    if right:
        recurring = 1 - len({(row["key"], row["completion"]) for row in right}) / len(right)
        entropy = -np.mean([row["logprob"] for row in right])
        parts.append(f"a right one has {entropy:.1f} nats, {recurring:.1%} recur")
    return f"{len(rows):,} samples: " + "; ".join(parts)


def level_of(rate: float, grading: Grading) -> str | None:
    """The class of a pass rate; None between the classes."""
    if rate >= grading.mastered_above:
        return MASTERED
    if rate < grading.impossible_below:
        return IMPOSSIBLE
    low, high = grading.learnable_between
    return LEARNABLE if low <= rate < high else None


# ---------------------------------------------------------------- composing


def wanted(grading: Grading, count: int) -> dict[str, int]:
    """Problems of each level in a set of ``count``; the impossible tail takes what rounding leaves."""
    mastered, learnable = round(grading.mastered * count), round(grading.learnable * count)
    return {MASTERED: mastered, LEARNABLE: learnable, IMPOSSIBLE: count - mastered - learnable}


def compose(rates_N: np.ndarray, grading: Grading, count: int) -> tuple[np.ndarray, list[str]]:
    """Indices (count,) of the problems that make a set with the recipe's shares, ascending, and their levels.

    Within a level the first problems are taken: candidates come in random order, so that is a random draw.
    Raises TooFewProblems.
    """
    found: dict[str, list[int]] = {level: [] for level in LEVELS}
    for index, rate in enumerate(rates_N):
        level = level_of(float(rate), grading)
        if level is not None:
            found[level].append(index)
    need = wanted(grading, count)
    short = [
        f"{len(found[level])} {level} where {n} are wanted"
        for level, n in need.items()
        if len(found[level]) < n
    ]
    if short:
        raise TooFewProblems(", ".join(short))
    level_by_index = {index: level for level, n in need.items() for index in found[level][:n]}
    chosen = sorted(level_by_index)
    return np.array(chosen), [level_by_index[index] for index in chosen]


def solvable_accuracy(rates_N: np.ndarray, grading: Grading, count: int) -> float:
    """Mean pass rate of the mastered and learnable problems of the set composed from these rates.

    Raises TooFewProblems when no set can be composed.
    """
    chosen, levels = compose(rates_N, grading, count)
    return float(rates_N[chosen][[level != IMPOSSIBLE for level in levels]].mean())


def grade(
    recipe: Recipe, directory: Path, report: Callable[[str], None], known: Collection[Problem] = ()
) -> Graded:
    """Measure the policy in ``directory`` on all candidates, compose both sets and report their shares.

    Neither set has a problem of ``known``: for a policy that was taught with other candidates in mind.
    Raises UserError when a level has too few candidates.
    """
    source, grading = arithmetic_parts(recipe)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    both = candidates(recipe)
    sets: dict[str, list[Prompt]] = {}
    level_by_key: dict[str, str] = {}
    rates: dict[str, np.ndarray] = {}
    for name, problems, count in (
        ("training pool", both.train, grading.pool),
        ("held-out set", both.heldout, grading.heldout),
    ):
        problems = [problem for problem in problems if problem not in known]
        measured = measure(recipe, model, tokenizer, problems)
        rates_N = measured.rates_N
        try:
            chosen, levels = compose(rates_N, grading, count)
        except TooFewProblems as error:
            raise UserError(
                f"data.grade: of {len(problems):,} candidates for the {name} {error}; raise data.train.size, "
                "or change data.grade's thresholds or policy.warm_start"
            ) from error
        sets[name] = [prompt_of(problems[i], tokenizer, source.phrasing) for i in chosen]
        level_by_key |= {p.key: level for p, level in zip(sets[name], levels, strict=True)}
        rates[name] = rates_N[chosen]
        report(describe(name, [problems[i] for i in chosen], levels, rates[name]))
        if measured.samples:
            report(f"{name} candidates, {measured.samples}")
    solvable = np.array([level_by_key[prompt.key] != IMPOSSIBLE for prompt in sets["held-out set"]])
    accuracy = rates["held-out set"][solvable].mean()
    overall = rates["held-out set"].mean()
    report(f"accuracy on the solvable held-out part {accuracy:.3f}, on all of it {overall:.3f}")
    return Graded(
        train=sets["training pool"],
        heldout=sets["held-out set"],
        levels=level_by_key,
        solvable_accuracy=float(accuracy),
        accuracy=float(overall),
    )


def prompt_of(problem: Problem, tokenizer: PreTrainedTokenizerBase, phrasing: Phrasing) -> Prompt:
    text = problem.question(phrasing)
    token_ids = tuple(tokenizer.encode(text, add_special_tokens=False))
    return Prompt(key=prompt_key(text), text=text, token_ids=token_ids, reference=problem.answer)


def describe(name: str, problems: Sequence[Problem], levels: Sequence[str], rates_N: np.ndarray) -> str:
    """One line a set: share, mean measured pass rate and families of each level."""
    parts = []
    for level in LEVELS:
        inside = [i for i, found in enumerate(levels) if found == level]
        if inside:
            families = Counter(problems[i].family for i in inside)
            makeup = ", ".join(f"{n} {family.in_words}" for family, n in families.most_common())
            share, mean = len(inside) / len(levels), rates_N[inside].mean()
            parts.append(f"{level} {share:.0%} ({mean:.0%} right; {makeup})")
    return f"{name}, {len(levels):,} prompts by what the policy can do now: " + "; ".join(parts)
