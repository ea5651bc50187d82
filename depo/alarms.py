"""What a run says out loud, because nobody watches every column over a weekend, and when it stops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from depo.errors import UserError
from depo.types import Group

COLLAPSE = (
    "warning: routing collapses: some layers have lost half of the experts they used in the first steps "
    "(routing/experts_in_use in metrics.jsonl, by layer in routing.jsonl; see docs/moe.md)"
)
UNSCORABLE_SHARE = 0.1
"""Of a step's rollouts: from here on it is worth a line. A timeout here and there is not."""
BLIND_STEPS = 3
"""Steps one after another without a single verdict: then it is no accident, and going on only costs."""


class Alarms:
    """Each warning is said once a run. ``say`` reaches the reader even when the console is quiet."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.said: set[str] = set()
        self.blind = 0  # newest steps without a verdict, one after another

    def step(self, step: int, groups: Sequence[Group], metrics: Mapping[str, float]) -> None:
        """Look at a finished step. Raises UserError when verification has given up altogether."""
        if metrics.get("routing/collapsing"):
            self.once("collapse", COLLAPSE)
        if metrics.get("skipped_steps"):
            self.once(
                "skipped",
                f"warning: step {step}: gradients were not finite, {metrics['skipped_steps']:.0f} optimizer "
                "steps were left out (skipped_steps in metrics.jsonl); if it goes on, lower learner.lr",
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
            raise UserError(
                f"reward: not one verdict in the last {BLIND_STEPS} steps, up to step {step}; most often: "
                f"{told}. Mend the reward or what it needs, then go on with --resume"
            )

    def once(self, name: str, text: str) -> None:
        if name not in self.said:
            self.said.add(name)
            self.say(text)
