"""The quickstart's policy and prompts, made before the run is assembled: built, warm-started, graded.

It happens in a Ray actor of its own, which ends with it.
"""

from __future__ import annotations

import queue
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from depo.data.stored import RunPrompts
from depo.recipe.schema import Recipe, TinyMoePolicy
from depo.report.provenance import usable_cores


def prepare(recipe: Recipe, policy: Path, run_dir: Path, say: Callable[[str], None]) -> RunPrompts:
    """Prompts of a ``tiny_moe`` recipe and, in the directory ``policy``, the policy they were graded by; or
    what an earlier start of the run stored. ``say`` shows a line of progress.

    Ray must be initialised. Raises UserError where the warm start misses its band, and where grading finds
    too few problems.
    """
    stored = RunPrompts.stored(run_dir)
    if stored is not None:
        return stored
    import ray

    from depo.rollout.calls import Calls

    shutil.rmtree(policy, ignore_errors=True)
    builder = ray.remote(num_cpus=1)(Builder).remote(recipe)
    building = builder.build.options(num_returns="streaming").remote(policy.absolute())
    for item in Calls(recipe.resources.call_timeout, say).items(building, "the toy's builder", "build"):
        if isinstance(item, str):
            say(item)
        else:
            item.store(run_dir)
            return item
    raise RuntimeError("the tiny policy's builder ended without graded prompts")


class Builder:
    """Computes as the learner's actor does: the same threads, transformers as quiet."""

    def __init__(self, recipe: Recipe) -> None:
        import torch
        from transformers.utils import logging

        self.recipe = recipe
        torch.set_num_threads(recipe.resources.threads or usable_cores())
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def build(self, directory: Path) -> Iterator[str | RunPrompts]:
        """Build the policy in ``directory``, warm-start it and grade its prompts.

        Yields lines to show while it works and the prompts at the end.
        """
        lines: queue.SimpleQueue[str | RunPrompts | BaseException] = queue.SimpleQueue()

        def work() -> None:
            from depo.toy import grading, tiny_moe, warm_start

            policy = self.recipe.policy
            assert isinstance(policy, TinyMoePolicy)
            try:
                tiny_moe.build(policy, directory, self.recipe.seed)
                warm_start.warm_start(self.recipe, directory, lines.put)
                lines.put(grading.grade(self.recipe, directory, lines.put).prompts)
            except BaseException as error:  # noqa: BLE001 - handed to the caller's thread and raised there
                lines.put(error)

        threading.Thread(target=work, daemon=True).start()
        while True:
            item = lines.get()
            if isinstance(item, BaseException):
                raise item
            yield item
            if not isinstance(item, str):
                return
