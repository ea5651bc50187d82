"""The training loop, whole: read it top to bottom and you know depo.

How it differs from textbook GRPO:
- prompts are *chosen*: an estimator predicts which of them will give an *informative group* (right and
  wrong answers), and a selector picks those, plus a small uniform audit slice that grades the estimator;
- the same belief can be the baseline that a reward is compared with: then groups of one or two suffice;
- with refill, rounds go on until B groups are informative; each is sized by the yield to expect;
- rollouts may be made ahead of their update, by a policy a few versions older (``depo.train.ahead``);
- every rollout is recorded: where it came from, and what it was worth.

P: prompts picked in a round, G: rollouts of a group, N: samples of the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from depo.learner.advantages import advantages_into
from depo.learner.samples import keep_learner_logprobs, train_samples
from depo.rollout.engine import collate, requests_for, samples_of
from depo.selection.picks import observations
from depo.train.ahead import rollouts_of
from depo.train.metrics import step_metrics
from depo.types import Group, Outcome, Pick

if TYPE_CHECKING:
    from collections.abc import Sequence

    from depo.selection import OpenStep
    from depo.train.metrics import Clock
    from depo.train.state import Run


def train(run: Run) -> None:
    """Take ``run`` from the step after its last one to the end of the recipe's steps or rollouts."""
    recipe = run.recipe
    with rollouts_of(run, roll_out) as rollouts:
        while not run.spent:
            step = run.step + 1
            clock = rollouts.clock(step)

            # Choose prompts, roll them out, verify: now, or while the steps before were trained on.
            open_step, groups = rollouts.take(step, clock)

            # Grade the predictions, and keep the informative groups. What became stale is tried again.
            with clock.phase("select"):
                run.selector.observe(open_step, groups)
                oldest = step - 1 - recipe.rollout.max_off_policy_steps
                trained = run.selector.assign(open_step, groups, oldest)
                run.pool.put_back([group.pick.prompt for group in groups if group.outcome == Outcome.STALE])

            # Update the policy on that. Meanwhile the estimator learns.
            with clock.phase("update"):
                include = groups if recipe.learner.zero_variance == "include" else trained
                samples_N = train_samples(include)
                finish_update = run.learner.begin_update(samples_N)
            with clock.phase("estimate"):
                learned = run.estimator.observe(observations(groups, step), open_step.context)
            with clock.phase("update"):
                update = finish_update()
                keep_learner_logprobs(include, samples_N, update.old_logprobs)
            with clock.phase("sync"):
                parity = rollouts.sync(version=step)

            # Account for every rollout, log, and make it durable.
            run.ledger.record(groups)
            run.kl_travelled += update.policy_kl
            run.step = step
            metrics = step_metrics(step, groups, trained, run.selector, run.ledger, clock)
            metrics |= {f"estimator/{name}": value for name, value in learned.items()}
            metrics |= update.metrics | parity
            metrics |= rollouts.metrics(step, groups, clock, update.metrics["seconds"])
            if run.evaluation_due(step, sum(len(group.rollouts) for group in groups)):
                with clock.phase("evaluate"):
                    metrics |= run.evaluate(step)
            run.log_step(step, metrics, groups, clock, update.layers)
            if run.spent:
                rollouts.stop()
            if run.checkpoint_due(step):
                run.save_checkpoint(step)


def roll_out(run: Run, open_step: OpenStep, clock: Clock) -> list[Group]:
    """Round after round until the selector has what it needs. With pilots, a group gets the rest of its
    rollouts only where the first few are mixed."""
    recipe, step = run.recipe, open_step.context.step
    groups: list[Group] = []

    def next_round() -> list[Pick]:
        with clock.phase("select"):
            return run.selector.pick(open_step, run.pool, run.estimator, groups)

    picks_P = list(open_step.picks) or next_round()  # picks are there already where a checkpoint had the step
    while picks_P:
        new = judged(run, clock, step, picks_P, range(recipe.selection.pilot or recipe.batch.group_size))
        if recipe.selection.pilot:
            promising = [group for group in new if group.mixed]
            rest = range(recipe.selection.pilot, recipe.batch.group_size)
            more = judged(run, clock, step, [group.pick for group in promising], rest)
            for group, further in zip(promising, more, strict=True):
                group.extend(further)
        advantages_into(new, run.advantages, recipe.learner.min_advantage)
        groups += new
        picks_P = next_round()
    return groups


def judged(run: Run, clock: Clock, step: int, picks_P: Sequence[Pick], indices: range) -> list[Group]:
    """Generate and verify the rollouts with these indices of each pick."""
    if not picks_P:
        return []
    requests_P = requests_for(picks_P, indices, run.recipe.seed, step, run.selector.visits)
    with clock.phase("generate"):
        rollouts_PG = collate(requests_P, run.generate(requests_P, step))
    run.count_lost(picks_P, requests_P)
    with clock.phase("verify"):
        samples_PG = samples_of(requests_P, rollouts_PG, run.tokenizer, run.recipe.rollout.max_new_tokens)
        scores_PG = run.reward.score([sample for samples_G in samples_PG for sample in samples_G])
        return Group.zip(picks_P, rollouts_PG, samples_PG, scores_PG)
