"""What a run says out loud, because nobody watches every column over a weekend, and when it stops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from depo.errors import RunFailed
from depo.types import Group

COLLAPSE = (
    "warning: routing collapses: some layers have lost half of the experts they used in the first steps "
    "(routing/experts_in_use in metrics.jsonl, by layer in routing.jsonl; see docs/moe.md)"
)

UNSCORABLE_SHARE = 0.1
"""Of a step's rollouts: from here on it is worth a line. A timeout here and there is not."""

BLIND_STEPS = 3
"""Steps one after another without a single verdict: then it is no accident, and going on only costs."""

BARREN_STEPS = 10
"""The same of steps whose every update was left out: the policy is broken, and no further step mends it."""


class Alarms:
    """Each warning is said once a run. ``say`` reaches the reader even when the console is quiet."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.said: set[str] = set()
        self.blind = 0  # newest steps without a verdict, one after another
        self.barren = 0  # newest steps without one finite gradient

    def step(self, step: int, groups: Sequence[Group], metrics: Mapping[str, float | None]) -> None:
        """Look at a finished step. Raises RunFailed when verification or updates have given up."""
        if metrics.get("routing/collapsing"):
            self.once("collapse", COLLAPSE)
        if metrics.get("skipped_steps"):
            self.once(
                "skipped",
                f"warning: step {step}: gradients were not finite, {metrics['skipped_steps']:.0f} optimizer "
                "steps were left out (skipped_steps in metrics.jsonl); if it goes on, lower learner.lr",
            )
        if metrics.get("optimizer_steps"):
            self.barren = 0
        elif metrics.get("skipped_steps"):
            self.barren += 1
        if self.barren == BARREN_STEPS:
            raise RunFailed(
                f"learner: not one finite gradient in the last {BARREN_STEPS} steps with an update, up to "
                f"step {step}; begin again with a lower learner.lr, or from an earlier policy"
            )
        scores = [score for group in groups for score in group.scores]
        reasons = Counter(score.detail for score in scores if score.correct is None)
        missing = reasons.total()
        if not scores:
            return
        self.blind = self.blind + 1 if missing == len(scores) else 0
        if missing < UNSCORABLE_SHARE * len(scores):
            return
        reason, count = reasons.most_common(1)[0]
        told = f"{reason or 'no reason given'} ({count} of {missing})"
        self.once(
            "unscorable",
            f"warning: step {step}: {missing / len(scores):.0%} of the rollouts got no verdict and teach "
            f"nothing; most often: {told}",
        )
        if self.blind == BLIND_STEPS:
            raise RunFailed(
                f"reward: not one verdict in the last {BLIND_STEPS} steps, up to step {step}; most often: "
                f"{told}. Mend the reward or what it needs, then go on with --resume"
            )

    def once(self, name: str, text: str) -> None:
        if name not in self.said:
            self.said.add(name)
            self.say(text)
