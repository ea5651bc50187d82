"""The training loop, whole: read it top to bottom and you know depo.

How it differs from textbook GRPO:
- prompts are *chosen*: an estimator predicts which of them will give an *informative group* (right and
  wrong answers), and a selector picks those, plus a small uniform audit slice that grades the estimator;
- the same belief can be the baseline that a reward is compared with: then groups of one or two suffice;
- with refill, rounds go on until B groups are informative; each is sized by the yield to expect;
- every rollout is recorded: where it came from, and what it was worth.

P: prompts picked in a round, G: rollouts of a group, N: samples of the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from depo.learner.advantages import advantages_into
from depo.learner.samples import keep_learner_logprobs, train_samples
from depo.rollout.engine import collate, requests_for, samples_of
from depo.selection.picks import observations
from depo.train.metrics import step_metrics
from depo.types import Group, Pick
from estimators.base import Context

if TYPE_CHECKING:
    from collections.abc import Sequence

    from depo.train.metrics import Clock
    from depo.train.state import Run


def train(run: Run) -> None:
    """Take ``run`` from the step after its last one to the end of the recipe's steps or rollouts."""
    recipe = run.recipe
    while not run.spent:
        step = run.step + 1
        clock = run.clock(step)
        context = Context(recipe.contrast, step, run.kl_travelled)

        # Choose prompts, roll them out, verify; round after round until the selector has what it needs. With
        # pilots, a group gets the rest of its rollouts only where the first few are mixed.
        groups: list[Group] = []
        open_step = run.selector.begin(context)
        while True:
            with clock.phase("select"):
                picks_P = run.selector.pick(open_step, run.pool, run.estimator, groups)
            if not picks_P:
                break
            new = judged(run, clock, step, picks_P, range(recipe.selection.pilot or recipe.batch.group_size))
            if recipe.selection.pilot:
                promising = [group for group in new if group.mixed]
                rest = range(recipe.selection.pilot, recipe.batch.group_size)
                more = judged(run, clock, step, [group.pick for group in promising], rest)
                for group, further in zip(promising, more, strict=True):
                    group.extend(further)
            advantages_into(new, run.advantages, recipe.learner.min_advantage)
            groups += new

        # Grade the predictions, and keep the informative groups.
        with clock.phase("select"):
            run.selector.observe(open_step, groups)
            trained = run.selector.assign(open_step, groups)

        # Update the policy on that. Meanwhile the estimator learns.
        with clock.phase("update"):
            include = groups if recipe.learner.zero_variance == "include" else trained
            samples_N = train_samples(include)
            finish_update = run.learner.begin_update(samples_N)
        with clock.phase("estimate"):
            learned = run.estimator.observe(observations(groups, step), context)
        with clock.phase("update"):
            update = finish_update()
            keep_learner_logprobs(include, samples_N, update.old_logprobs)
        with clock.phase("sync"):
            parity = run.sync(version=step)

        # Account for every rollout, log, and make it durable.
        run.ledger.record(groups)
        run.kl_travelled += update.policy_kl
        run.step = step
        metrics = step_metrics(step, groups, trained, run.selector, run.ledger, clock)
        metrics |= {f"estimator/{name}": value for name, value in learned.items()} | update.metrics | parity
        if run.evaluation_due(step, sum(len(group.rollouts) for group in groups)):
            with clock.phase("evaluate"):
                metrics |= run.evaluate(step)
        run.log_step(step, metrics, groups, clock, update.layers)
        if run.checkpoint_due(step):
            run.save_checkpoint(step)


def judged(run: Run, clock: Clock, step: int, picks_P: Sequence[Pick], indices: range) -> list[Group]:
    """Generate and verify the rollouts with these indices of each pick."""
    if not picks_P:
        return []
    with clock.phase("generate"):
        requests_P = requests_for(picks_P, indices, run.recipe.seed, step)
        rollouts_PG = collate(requests_P, run.generate(requests_P, step))
    with clock.phase("verify"):
        samples_PG = samples_of(requests_P, rollouts_PG, run.tokenizer, run.recipe.rollout.max_new_tokens)
        scores_PG = run.reward.score([sample for samples_G in samples_PG for sample in samples_G])
        return Group.zip(picks_P, rollouts_PG, samples_PG, scores_PG)
