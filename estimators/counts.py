"""Observed counts, checked and added up per prompt."""

from __future__ import annotations

from collections.abc import Sequence

from estimators.base import Observation


def tally(observations: Sequence[Observation]) -> dict[str, tuple[int, int]]:
    """Successes and trials by prompt key, in order of first appearance.

    Groups of one prompt in the same call are added up, so that their order does not matter. Groups
    without a scorable rollout (trials 0) say nothing and are left out. Raises ValueError for counts that
    cannot be: negative, not whole, or more successes than trials.
    """
    counts: dict[str, tuple[int, int]] = {}
    for observation in observations:
        successes, trials = observation.successes, observation.trials
        if not 0 <= successes <= trials or successes != int(successes) or trials != int(trials):
            raise ValueError(
                f"prompt {observation.key}: successes and trials must be whole numbers with "
                f"0 <= successes <= trials, found {successes} of {trials}"
            )
        if trials:
            earlier = counts.get(observation.key, (0, 0))
            counts[observation.key] = (earlier[0] + int(successes), earlier[1] + int(trials))
    return counts
