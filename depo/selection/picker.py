"""Difficulty estimator and selector in anybody's training loop: keys out, counts in.

The loop owns prompts, policy and reward. It asks for keys, rolls each of them out ``group_size`` times, and
says how many came out right:

>>> import random
>>> from depo.selection import Picker
>>> problems = [f"{a}+{b}=" for a in range(40) for b in range(10)]
>>> solved = lambda row: random.random() < row / 400             # stands for policy and verifier
>>> picker = Picker(problems, group_size=8, seed=0)
>>> for step in range(3):
...     for row in picker.pick(16):                              # rows of `problems`
...         belief = picker.baseline(row)                        # mean and sd of its pass rate
...         picker.report(row, correct=sum(solved(row) for _ in range(8)), total=8)
>>> picker.metrics()["generated/rollouts"]
384.0

Outcomes may come late, in parts, in any order, or never. A group is learned from once it is whole.
Selection is uniform until the estimator has proved itself on 200 uniformly drawn groups (``min_window``), and
what was saved is counted as in ``depo.selection.ledger``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np

from depo import estimators
from depo.estimators.base import Context, State, joined, part
from depo.reward.base import Score, unscorable
from depo.selection.ledger import Ledger
from depo.selection.open_step import OpenStep
from depo.selection.picks import observations
from depo.selection.pool import PromptPool
from depo.selection.selector import build_selector
from depo.types import Group, Outcome, Pick, Prompt, Rollout

SCHEMA_VERSION = 1

Key = str | int


class Baseline(NamedTuple):
    """What was believed of a prompt's pass rate when it was picked."""

    mean: float
    sd: float


@dataclass(slots=True)
class Counted:
    """A pick, and what has been reported of its rollouts so far; ``tokens``: of their completions."""

    pick: Pick
    correct: int = 0
    total: int = 0
    without: int = 0  # rollouts without a verdict
    tokens: int = 0

    @property
    def rollouts(self) -> int:
        return self.total + self.without

    @property
    def belief(self) -> Baseline:
        return Baseline(self.pick.predicted_mean, self.pick.predicted_sd)

    def group(self, step: int) -> Group:
        """As the selector and the ledger know groups; tokens are spread evenly over the rollouts."""
        key, n = self.pick.prompt.key, self.rollouts
        lengths = [self.tokens // n + (i < self.tokens % n) for i in range(n)]
        scores = [Score(1.0, True)] * self.correct + [Score(0.0, False)] * (self.total - self.correct)
        scores += [unscorable("no verdict was reported")] * self.without
        nothing = np.zeros(max(lengths, default=0), np.int32)
        rollouts = [
            Rollout(
                key, i, 0, nothing[:length], nothing[:length].view(np.float32), "stop", policy_version=step
            )
            for i, length in enumerate(lengths)
        ]
        return Group(self.pick, rollouts, scores, [""] * n)


class Picker:
    """``prompts``: texts, whose keys are their rows; or mappings with ``key``, ``text`` and, if the data
    bring one, ``prior``, a pass rate in [0, 1]. ``group_size``: G, rollouts of a prompt.

    ``estimator``: a name such as "hybrid", or ``{"type": name, **options}``. ``rule`` and ``selection``: a
    rule's name, its options and fields of ``SelectionSettings``. A pick that is not whole ``give_up_after``
    calls of ``pick`` later is given up; the estimator learns from the verdicts it has. With groups of one,
    where no group can be informative, predicted pass rates are graded. Raises ValueError, one line, for what
    cannot be.
    """

    def __init__(
        self,
        prompts: Sequence[str | Mapping[str, Any]],
        *,
        group_size: int,
        estimator: str | Mapping[str, Any] = "hybrid",
        rule: str = "thompson",
        seed: int = 0,
        give_up_after: int = 16,
        **selection: Any,
    ) -> None:
        for name, value in (("group_size", group_size), ("give_up_after", give_up_after)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, found {value}")
        if {"refill", "max_rounds"} & set(selection):
            raise ValueError("refill, max_rounds: a Picker has one round a step; pick again for more")
        if group_size == 1:
            selection.setdefault("graded_on", "pass_rate")
        self.group_size, self.give_up_after = group_size, give_up_after
        self._prompts = dict(map(prompt_of, range(len(prompts)), prompts))
        self._keys = {prompt.key: key for key, prompt in self._prompts.items()}
        if not self._keys:
            raise ValueError("prompts: none are given")
        if len(self._keys) < len(prompts):
            raise ValueError(f"prompts: {len(prompts)} are given, with {len(self._keys)} different keys")
        self._rows = {key: row for row, key in enumerate(self._prompts)}
        spec = {"type": estimator} if isinstance(estimator, str) else dict(estimator)
        self.estimator = estimators.build(spec)
        self.pool = PromptPool(list(self._prompts.values()), seed)
        self.selector = build_selector({"type": rule, **selection}, batch=1, seed=seed)
        self.ledger = Ledger(group_size)
        self.step = 0  # calls of pick so far
        self.lost, self.unasked = 0, 0
        self._open: dict[int, dict[str, Counted]] = {}  # by step and prompt key, as the selector's open steps
        self._latest: dict[str, Baseline] = {}  # by prompt key, of picks that are closed
        self._last: dict[str, float] = {}
        self._setup = {
            "group_size": group_size,
            "seed": seed,
            "estimator": str(spec["type"]),
            "rule": rule,
            "prompts": self.pool.fingerprint,
        }

    def __len__(self) -> int:
        return len(self.pool)

    def row(self, key: Key) -> int:
        """Where the prompt stands in ``prompts``."""
        self._known(key)
        return self._rows[key]

    def _known(self, key: Key) -> str:
        if key not in self._prompts:
            raise ValueError(f"no prompt has the key {key!r}; keys are those that pick() returns")
        return self._prompts[key].key

    # ---------------------------------------------------------------- in the loop

    def pick(self, n: int) -> list[Key]:
        """n different prompts to roll out next. Earlier picks may still be open, and may be picked again."""
        if not 1 <= n <= len(self):
            raise ValueError(f"cannot pick {n} prompts: there are {len(self)}")
        for step in list(self.selector.open_steps):
            self._learn(step, over=step.context.step + self.give_up_after <= self.step + 1)
        self.step += 1
        self._expect(n)
        # Of single rollouts: the chance that two would differ says how much one teaches (docs/baseline.md).
        step = self.selector.begin(Context(max(self.group_size, 2), self.step))
        picks = self.selector.pick(step, self.pool, self.estimator)
        self._open[self.step] = {pick.prompt.key: Counted(pick) for pick in picks}
        return [self._keys[pick.prompt.key] for pick in picks]

    def report(
        self, key: Key, correct: int, total: int, tokens: int | None = None, unscorable: int = 0
    ) -> None:
        """``total`` rollouts of this prompt have a verdict, ``correct`` of them came out right, and
        ``unscorable`` more have none (a verifier that timed out). ``tokens``: of all these completions.

        Counts are those of its oldest pick that is not whole yet, and add up over several calls. Where no
        pick of it is open, nothing is learned; metrics count that as ``picker/unasked``.
        """
        known = self._known(key)
        counts = (correct, total, unscorable, tokens or 0)
        if not (0 <= correct <= total and min(counts) >= 0 and all(count == int(count) for count in counts)):
            raise ValueError(
                f"prompt {key!r}: expected whole numbers with 0 <= correct <= total, found correct "
                f"{correct}, total {total}, unscorable {unscorable}, tokens {tokens}"
            )
        if total + unscorable == 0:
            raise ValueError(
                f"prompt {key!r}: total is 0; say how many rollouts had no verdict with unscorable="
            )
        waiting = self._waiting(known)
        if waiting is None:
            self.unasked += 1
            return
        number, counted = waiting
        counted.correct += int(correct)
        counted.total += int(total)
        counted.without += int(unscorable)
        counted.tokens += int(tokens or 0)
        if all(one.rollouts >= self.group_size for one in self._open[number].values()):
            self._learn(next(s for s in self.selector.open_steps if s.context.step == number), over=True)

    def baseline(self, key: Key) -> Baseline:
        """The belief about the pick that the next report of this prompt is for; once there is none, about its
        latest pick."""
        known = self._known(key)
        waiting = self._waiting(known)
        if waiting is None and known not in self._latest:
            raise ValueError(f"prompt {key!r} has not been picked: nothing was believed of it")
        return self._latest[known] if waiting is None else waiting[1].belief

    def _waiting(self, known: str) -> tuple[int, Counted] | None:
        """The oldest pick of this prompt that is not whole, with its step."""
        for number, counted in self._open.items():
            if known in counted and counted[known].rollouts < self.group_size:
                return number, counted[known]
        return None

    def _learn(self, step: OpenStep, over: bool) -> None:
        """From the groups of this step that are whole. ``over``: close it, and give up those that are not."""
        number = step.context.step
        counted = self._open[number]
        whole = {key: one.group(number) for key, one in counted.items() if one.rollouts >= self.group_size}
        new = [group for key, group in whole.items() if key not in step.observed]
        if new:
            self.selector.observe(step, new)
        if over:
            self._expect(len(step.picks))
            self.selector.assign(step, list(whole.values()))
            self.ledger.record(list(whole.values()))
            # Half a group is seldom informative, whatever its prompt is like: it must not grade a prediction
            # about whole ones. Its verdicts tell the estimator something all the same.
            new += [self._given_up(one, number) for key, one in counted.items() if key not in whole]
            self._latest |= {key: one.belief for key, one in counted.items()}
            del self._open[number]
            judged = [group for group in whole.values() if group.trials > 1]
            if judged:
                self._last = {
                    "accuracy": sum(g.successes for g in judged) / sum(g.trials for g in judged),
                    "zero_variance_share": 1 - sum(g.mixed for g in judged) / len(judged),
                }
        told = [replace(one, mean_logprob=math.nan) for one in observations(new, number) if one.trials]
        if told:
            self.estimator.observe(told, step.context)

    def _given_up(self, counted: Counted, number: int) -> Group:
        self.lost += 1
        self.ledger.record_ungrouped(counted.pick.origin, Outcome.LOST, counted.rollouts, counted.tokens)
        return counted.group(number)

    def _expect(self, n: int) -> None:
        """Steps may differ in size; a selector's batch is that of the step at hand."""
        self.selector.settings = replace(self.selector.settings, batch=n)

    # ---------------------------------------------------------------- metrics, state

    def metrics(self) -> dict[str, float]:
        """Whether a rule chooses, how good predictions are, what was saved: named as in docs/metrics.md, and
        left out where undefined. ``accuracy`` and ``zero_variance_share`` are of the latest step that closed.
        ``picker/open``: picks that wait for outcomes, ``picker/lost``: given up, ``picker/unasked``: reports
        that no pick waited for."""
        figures = {
            **self._last,
            **self.selector.metrics(),
            "saved": self.ledger.saved().rollouts,
            "generated/rollouts": self.ledger.generated,
            **{f"cost/{name}": value for name, value in self.ledger.cost().items()},
            "picker/open": sum(
                one.rollouts < self.group_size for counted in self._open.values() for one in counted.values()
            ),
            "picker/lost": self.lost,
            "picker/unasked": self.unasked,
        }
        return {name: float(value) for name, value in figures.items() if value is not None}

    def state_dict(self) -> State:
        """JSON values and numpy arrays (``depo.files.save_state`` writes them), open picks included."""
        values = {
            "setup": self._setup,
            "step": self.step,
            "lost": self.lost,
            "unasked": self.unasked,
            "latest": {key: list(belief) for key, belief in self._latest.items()},
            "open": [
                [
                    number,
                    {key: [one.correct, one.total, one.without, one.tokens] for key, one in counted.items()},
                ]
                for number, counted in self._open.items()
            ],
            "pool": self.pool.state_dict(),
            "selector": self.selector.state_dict(),
            "ledger": self.ledger.state_dict(),
        }
        return joined(State(SCHEMA_VERSION, values), {"estimator": self.estimator.state_dict()})

    def load_state_dict(self, state: State) -> None:
        """Go on where the saved one was. Raises ValueError for the state of another set-up."""
        state.require_version(SCHEMA_VERSION, "picker")
        values = cast("dict[str, Any]", state.values)
        for name, mine in self._setup.items():
            if values["setup"][name] != mine:
                theirs = values["setup"][name]
                raise ValueError(
                    "picker: the state was made with other prompts, or with the same in another order"
                    if name == "prompts"
                    else f"picker: the state was made with {name} {theirs!r}, this one has {mine!r}"
                )
        self.pool.load_state_dict(values["pool"])
        self.selector.load_state_dict(values["selector"], self.pool)
        self.ledger.load_state_dict(values["ledger"])
        self.estimator.load_state_dict(part(state, "estimator"))
        self.step, self.lost, self.unasked = values["step"], values["lost"], values["unasked"]
        self._latest = {key: Baseline(*belief) for key, belief in values["latest"].items()}
        picks = {(s.context.step, p.prompt.key): p for s in self.selector.open_steps for p in s.picks}
        self._open = {
            number: {key: Counted(picks[number, key], *counts) for key, counts in counted.items()}
            for number, counted in values["open"]
        }


def prompt_of(row: int, given: str | Mapping[str, Any]) -> tuple[Key, Prompt]:
    """Key for the caller, and prompt. A text without a key has its row and its content for one, so that the
    state of other texts is not taken for its own."""
    if isinstance(given, str):
        digest = hashlib.sha256(given.encode()).hexdigest()
        return row, Prompt(f"{row}-{digest[:16]}", given, (), "")
    try:
        key, text = given["key"], given["text"]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"prompts: row {row} is neither a text nor a mapping with key and text: {str(given)[:60]}"
        ) from error
    return key, Prompt(str(key), text, (), "", given.get("prior"))
