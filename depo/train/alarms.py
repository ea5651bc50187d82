"""Watching a run, because nobody reads every column over a weekend: every guard first warns, then ends the
run.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from depo.errors import RunFailed
from depo.files import complete_checkpoints, step_name
from depo.recipe.schema import Guard, Recipe, RelativeGuard
from depo.train.guards import WATCHES, Memory, Metrics, Watch
from depo.types import Group

EXAMPLES, ENDING = 3, 60
"""Rollouts that are named when a run ends, and how many characters of each completion's end are shown."""


@dataclass(slots=True)
class Streak:
    """A guard's newest steps at its limit, one after another."""

    steps: int = 0
    since: int = 0
    examples: list[str] = field(default_factory=list)  # of the first of these steps
    text: str = ""  # of the newest


class Alarms:
    """All guards of a run. ``say`` reaches the reader even when the console is quiet. The state is part of
    every checkpoint."""

    def __init__(self, say: Callable[[str], None], recipe: Recipe, directory: Path) -> None:
        self.say, self.recipe, self.directory = say, recipe, directory
        self.streaks: dict[str, Streak] = {}
        self.memory: dict[str, Memory] = {}
        self.said: set[str] = set()
        self.totals: Counter[str] = Counter()
        """Over the run: ``optimizer_steps``; ``moving``, updates that changed a weight; ``choosing``, steps
        in which a rule chose prompts."""

    def step(self, step: int, groups: Sequence[Group], metrics: Metrics) -> None:
        """Look at a finished step. Raises RunFailed when a guard's patience is over."""
        self.totals["optimizer_steps"] += int(metrics.get("optimizer_steps") or 0)
        self.totals["moving"] += bool(metrics.get("weights_changed"))
        self.totals["choosing"] += any(not group.pick.uniform for group in groups)
        over = []
        for watch in WATCHES:
            guard: Guard | None = getattr(self.recipe.guards, watch.name)
            if guard is None:
                self.streaks.pop(watch.name, None)
                continue
            memory = self.memory.setdefault(watch.name, {})
            value = watch.figure(metrics, memory, guard.window if isinstance(guard, RelativeGuard) else 0)
            if value is None:
                continue
            if not watch.at_limit(value, guard.limit):
                self.streaks.pop(watch.name, None)
                continue
            streak = self.streaks.setdefault(watch.name, Streak(since=step))
            streak.steps += 1
            streak.examples = streak.examples or examples(groups, watch.shown)
            streak.text = f"{watch.says.format(value)}{most_often(groups, watch)}"
            if streak.steps == guard.warn:
                self.warn(step, watch, guard, streak)
            if guard.end is not None and streak.steps >= guard.end:
                over.append((watch, streak))
        if over:
            raise RunFailed("\n".join(self.ending(step, *over[0])))

    def warn(self, step: int, watch: Watch, guard: Guard, streak: Streak) -> None:
        if guard.end is None and watch.name in self.said:
            return  # a run that ends has warned in this very stretch; what only warns does so once
        self.said.add(watch.name)
        lasts = "" if guard.end is None else f"; the run ends when it lasts for {guard.end}"
        self.say(
            f"warning: step {step}: {streak.text} (guards.{watch.name}, {counted(streak.steps)}{lasts}). "
            f"What helps: {watch.remedy}"
        )

    def ending(self, step: int, watch: Watch, streak: Streak) -> list[str]:
        """What happened, the first rollouts of it, what is safe, and what to type next."""
        guard: Guard = getattr(self.recipe.guards, watch.name)
        limit = f"guards.{watch.name}: limit {guard.limit:g}, end {guard.end}"
        lines = [f"step {step}: {streak.text}, {counted(streak.steps)} ({limit})"]
        if streak.examples:
            file = f", in {self.directory}/rollouts/{step_name(streak.since)}.parquet"
            lines.append(
                f"  the first, of step {streak.since}{file if self.recipe.tracking.rollouts else ''}:"
            )
            lines += [f"    {one}" for one in streak.examples]
        lines.append(f"  what helps: {watch.remedy}")
        others = [warning for warning in self.standing(but=watch) if not warning.startswith(streak.text)]
        lines += [f"  at the same time: {warning}" for warning in others]
        checkpoints = sorted(complete_checkpoints(self.directory / "checkpoints"))
        sound = step_name(self.sound_until() or 0)
        before = [path for path in checkpoints if path.name <= sound]
        start = ""
        if before:
            lines.append(f"  safe: {before[-1]}, from before all this")
            if before[-1].name != step_name(0) and self.recipe.policy.type == "pretrained":
                start = f" policy.model={shlex.quote(str(before[-1] / 'policy'))}"
        recipe = shlex.quote(str(self.directory / "recipe.yaml"))
        lines.append(f"  next, with what you mend as KEY=VALUE: depo train {recipe}{start} KEY=VALUE")
        if checkpoints:
            again = f"depo train --resume --run-dir {shlex.quote(str(self.directory))}"
            lines.append(
                f"  or go on from {checkpoints[-1].name}: {again} "
                f"(with guards.{watch.name}.end=null, whatever happens)"
            )
        return lines

    def standing(self, but: Watch | None = None) -> list[str]:
        """What the guards, all but one, warn of at this moment."""
        return [
            f"{streak.text}, {counted(streak.steps)} (guards.{watch.name})"
            for watch in WATCHES
            if (streak := self.streaks.get(watch.name)) and (guard := getattr(self.recipe.guards, watch.name))
            if streak.steps >= guard.warn and watch is not but
        ]

    def sound_until(self) -> int | None:
        """The last step before all for which guards would end the run; None when there is nothing."""
        guards = {name: getattr(self.recipe.guards, name) for name in self.streaks}
        since = [self.streaks[name].since for name, guard in guards.items() if guard and guard.end]
        return min(since) - 1 if since else None

    def state_dict(self) -> dict[str, Any]:
        """JSON."""
        return {
            "streaks": {name: asdict(streak) for name, streak in self.streaks.items()},
            "memory": self.memory,
            "said": sorted(self.said),
            "totals": dict(self.totals),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.streaks = {name: Streak(**streak) for name, streak in state["streaks"].items()}
        self.memory = state["memory"]
        self.said = set(state["said"])
        self.totals = Counter(state["totals"])


def counted(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps} steps in a row"


def most_often(groups: Sequence[Group], watch: Watch) -> str:
    """The commonest reasons among the rollouts that the guard shows, where their scores name any."""
    reasons = Counter(
        group.scores[index].detail
        for group in groups
        for index in range(len(group.scores))
        if group.scores[index].detail and watch.shown(group, index)
    )
    if not reasons:
        return ""
    reason, count = reasons.most_common(1)[0]
    return f"; most often: {reason} ({count} of {reasons.total()})"


def examples(groups: Sequence[Group], badness: Callable[[Group, int], float]) -> list[str]:
    """The worst rollouts of a step, of as many prompts: where they are in the rollouts' file, and what they
    are like."""
    worst = []
    for group in groups:
        index = max(range(len(group.rollouts)), key=lambda index: badness(group, index), default=None)
        if index is not None and badness(group, index) > 0:
            worst.append((badness(group, index), group, index))
    worst.sort(key=lambda one: -one[0])  # stable: equals stay in the order of the step
    return [described(group, index) for _, group, index in worst[:EXAMPLES]]


def described(group: Group, index: int) -> str:
    score, rollout = group.scores[index], group.rollouts[index]
    verdict = {True: "right", False: "wrong", None: "no verdict"}[score.correct]
    if score.unparseable:
        verdict += ", no answer found"
    if rollout.finish_reason == "length":
        verdict += f", cut off after {len(rollout.token_ids)} tokens"
    if score.detail:
        verdict += f" ({score.detail})"
    return (
        f"prompt_key {group.pick.prompt.key[:16]}, sample_index {rollout.index}: {verdict}; "
        f"ends {group.completions[index][-ENDING:]!r}"
    )
