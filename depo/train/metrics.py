"""The scalars of one step, and the clock of its phases: what the console shows and every tracker keeps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import numpy as np

from depo.selection import Ledger, Selector
from depo.types import Group, Outcome

Around = Callable[[str], AbstractContextManager[None]]


class Time(Protocol):
    """What a run reads time from, and what its threads wait with."""

    def perf_counter(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...

    def lock(self) -> Any:
        """As ``threading.Lock``."""
        ...

    def condition(self) -> Any:
        """As ``threading.Condition``, with a lock that is not reentrant."""
        ...

    def thread(self, target: Callable[[], None], name: str) -> threading.Thread:
        """A daemon."""
        ...


class WallTime:
    """The machine's. ``depo.simulate`` has one in which nothing is waited for."""

    perf_counter = staticmethod(time.perf_counter)
    sleep = staticmethod(time.sleep)
    lock = staticmethod(threading.Lock)

    def condition(self) -> threading.Condition:
        return threading.Condition(threading.Lock())

    def thread(self, target: Callable[[], None], name: str) -> threading.Thread:
        return threading.Thread(target=target, name=name, daemon=True)


class Clock:
    """Adds up seconds by phase name, which ``begun`` hears. Phases do not nest; each is entered within
    ``around(name)``, and what that takes counts."""

    def __init__(
        self,
        begun: Callable[[str], None] = lambda phase: None,
        around: Around = lambda phase: nullcontext(),
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.seconds: dict[str, float] = {}
        self.begun = begun
        self.around = around
        self._now = now
        self._start = now()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.begun(name)
        start = self._now()
        try:
            with self.around(name):
                yield
        finally:
            self.add(name, self._now() - start)

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    @property
    def total(self) -> float:
        """Seconds since this clock was made."""
        return self._now() - self._start


def step_metrics(
    step: int,
    groups: Sequence[Group],
    trained: Sequence[Group],
    selector: Selector,
    ledger: Ledger,
    clock: Clock,
) -> dict[str, float | None]:
    """Reward, accuracy and signal of this step's rollouts; estimator calibration; savings; seconds.

    ``reward`` and ``accuracy`` are means over scorable rollouts; with a selector at work they describe the
    chosen prompts, not the pool. ``zero_variance_share`` is the share of groups that are all right or all
    wrong, among those with two verdicts or more; ``uninformative_share`` that of groups without an advantage
    to train on, among those that could have one. Each is NaN where there was nothing to judge by: no verdict
    is not a wrong answer.
    ``uniform/``: the prompts that were drawn uniformly, whatever a rule chose beside them: how many gave a
    verdict, and their mean pass rate, which does estimate the pool's.
    ``generated/``: rollouts and tokens for training since the start of the run; ``prefilled/`` and
    ``trained/``: tokens of prompts, probed candidates among them, and of trained rollouts.
    ``tokens_per_second`` is generated tokens by the whole step's wall time. ``cost/``: rollouts, tokens per
    effective group since the start. ``seconds_share/select``: share of the step spent on choosing prompts;
    ``seconds_share/estimate``: on the estimator beside the update.
    """
    scores = [score for group in groups for score in group.scores]
    values = [score.value for score in scores if score.correct is not None]
    tokens = [len(rollout.token_ids) for group in groups for rollout in group.rollouts]
    judged = [group for group in groups if group.trials > 1]
    usable = [group for group in groups if group.outcome != Outcome.UNSCORABLE]
    effective = sum(group.informative for group in usable)
    n_rollouts = max(len(scores), 1)
    uniform = [group.successes / group.trials for group in groups if group.pick.uniform and group.trials]
    metrics = {
        "step": step,
        "reward": float(np.mean(values)) if values else float("nan"),
        "accuracy": share(sum(group.successes for group in groups), sum(group.trials for group in groups)),
        "uniform/groups": len(uniform),
        "uniform/accuracy": float(np.mean(uniform)) if uniform else float("nan"),
        "groups": len(groups),
        "effective_groups": effective,
        "trained_groups": len(trained),
        "zero_variance_share": 1 - share(sum(group.mixed for group in judged), len(judged)),
        "uninformative_share": 1 - share(effective, len(usable)),
        "unparseable_share": sum(score.unparseable for score in scores) / n_rollouts,
        "unscorable_share": sum(score.correct is None for score in scores) / n_rollouts,
        "truncated_share": sum(
            rollout.finish_reason == "length" for group in groups for rollout in group.rollouts
        )
        / n_rollouts,
        "completion_tokens": float(np.mean(tokens)) if tokens else 0.0,
        "saved": ledger.saved().rollouts,
        "generated/rollouts": ledger.generated,
        "generated/tokens": ledger.generated_tokens,
        "prefilled/tokens": ledger.prefilled_tokens,
        "trained/tokens": ledger.trained_tokens,
        "tokens_per_second": sum(tokens) / clock.total,
    }
    seconds = {f"seconds/{phase}": value for phase, value in clock.seconds.items()}
    cost = {f"cost/{name}": value for name, value in ledger.cost().items()}
    seconds |= {"seconds/step": clock.total}
    for phase in ("select", "estimate"):
        seconds[f"seconds_share/{phase}"] = clock.seconds.get(phase, 0.0) / clock.total
    return metrics | cost | selector.metrics() | seconds


def share(part: int, whole: int) -> float:
    """NaN of nothing."""
    return part / whole if whole else float("nan")
