"""depo's side: ``python -m benchmarks.throughput.depo_side train | update WORK_DIR``.

``train`` is ``depo train`` with a clock: process, Ray actors and all. ``update`` gives the learner one batch
over and over. Both write ``result.json`` into WORK_DIR.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.throughput.workload import Workload, batch_tokens, spread_batch
from depo.trackers.tracker import StepRecord


class Stamps:
    """A tracker that notes when each step was done (seconds since the epoch)."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def step(self, record: StepRecord) -> None:
        self.times.append(time.time())

    def truncate_after(self, step: int) -> None: ...

    def close(self) -> None: ...


def train(directory: Path) -> dict[str, Any]:
    """Run ``recipe.yaml`` of the directory; its metrics, and when it began and when each step was done."""
    from depo import loop
    from depo.recipe.loading import load_recipe
    from depo.run import train as run_recipe
    from depo.train.state import Run

    measured: dict[str, Any] = {}
    take_steps = loop.train

    def timed_loop(run: Run) -> None:
        run.trackers.append(stamps := Stamps())
        measured["prompt_tokens"] = {prompt.text: list(prompt.token_ids) for prompt in run.pool.prompts[:64]}
        measured["begun"] = time.time()
        take_steps(run)
        measured["stamps"] = stamps.times

    loop.train = timed_loop
    run_recipe(load_recipe(directory / "recipe.yaml"), directory / "run", resume=False, quiet=True)
    return measured


def update(directory: Path) -> dict[str, Any]:
    """Seconds of each update, loss and gradient of the first."""
    import numpy as np
    import torch

    from benchmarks.throughput.workload import learner
    from depo.learner.learner import PolicyLearner
    from depo.models.loading import load_model
    from depo.models.tokenizer import load_tokenizer
    from depo.recipe import schema

    workload = Workload.read(directory / "workload.json")
    torch.set_num_threads(workload.threads)
    policy = schema.PretrainedPolicy(model=workload.model, dtype="float32")
    tokenizer = load_tokenizer(policy)
    policy_learner = PolicyLearner(
        load_model(policy, "cpu"),
        schema.Learner.model_validate(learner(workload, workload.row_tokens_per_microbatch)),
        temperature=1.0,
        max_new_tokens=workload.longest,
        total_steps=1 + workload.updates,
        pad_token_id=tokenizer.pad_token_id,
    )
    batch = spread_batch(workload, len(tokenizer))

    def keep_gradient(*_: Any) -> None:
        """Of the first update, as the optimizer gets it."""
        gradients = {
            name: p.grad.numpy() for name, p in policy_learner.parameters.items() if p.grad is not None
        }
        np.savez(directory / "gradient.npz", **gradients)
        hook.remove()

    hook = policy_learner.optimizer.register_step_pre_hook(keep_gradient)
    results = [policy_learner.update(batch).metrics for _ in range(1 + workload.updates)]
    return {
        "loss": results[0]["loss"],
        "padding_share": results[0]["padding_share"],
        "tokens": batch_tokens(batch),
        "seconds": [result["seconds"] for result in results[1:]],
    }


if __name__ == "__main__":
    mode, place = sys.argv[1], Path(sys.argv[2])
    (place / "result.json").write_text(json.dumps({"train": train, "update": update}[mode](place)))
