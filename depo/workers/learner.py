"""The learner's process: policy, optimizer and, for the transformers engine, generation on the same weights.

``LearnerActor`` is what Ray runs; ``RemoteLearner`` is how the driver talks to it; ``ColocatedEngine`` is
the rollout engine in that process.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray

from depo.models.loading import end_tokens
from depo.recipe.schema import PretrainedPolicy, Recipe
from depo.report.provenance import usable_cores
from depo.rollout.calls import FIRST, Calls
from depo.rollout.engine import Sampling, WeightUpdate
from depo.types import Prompt, Request, Rollout, TrainSample, UpdateResult
from depo.workers.cluster import gpus_in_cluster, learner_gpus
from depo.workers.group import LEARNER, ActorGroup, Asked

HANDFUL = 256
"""Rollouts that travel together: a Ray object each would cost more than a small policy."""

LOCALHOST = "127.0.0.1"

WEIGHTS_AND_MOMENTS, EXPORTED = 12, 2
"""Bytes in a checkpoint of a trained parameter (its float32 value and AdamW's two moments), and of any
parameter in the exported policy, at least (bfloat16)."""

Sequences = Sequence[tuple[Sequence[int], Sequence[int]]]


@dataclass(frozen=True, slots=True)
class PolicyFacts:
    """What the driver needs to know of the policy that the learner loaded. ``routed_layers``: decoder layers
    whose routing is replayed or watched. ``layout_note``: why passes do not compute the
    fastest layout."""

    parameters: int
    trainable: int
    vocab_size: int
    pad_token_id: int
    eos_token_ids: tuple[int, ...]
    device: str
    routed_layers: tuple[int, ...] = ()
    layout_note: str | None = None


class LearnerActor:
    """Owns the policy, which ``start`` loads. What can fail does so there: an error raised while Ray makes an
    actor would arrive as text."""

    def __init__(self, recipe: Recipe, rank: int = 0) -> None:
        import torch
        from transformers.utils import logging

        self.recipe, self.rank = recipe, rank
        torch.set_num_threads(recipe.resources.threads or max(1, usable_cores() // recipe.learner.ranks))
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def place(self) -> tuple[str, int]:
        """This machine's address, and a port that is free there."""
        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def start(self, policy: PretrainedPolicy, address: str | None = None) -> PolicyFacts:
        """Load the policy and make the learner and its colocated engine. ``address``: where ranks meet."""
        from depo.learner.learner import PolicyLearner
        from depo.learner.ranks import ALONE, Ranks
        from depo.models.loading import load_model
        from depo.models.precision import pick_device
        from depo.models.tokenizer import load_tokenizer
        from depo.rollout.transformers import TransformersEngine

        recipe = self.recipe
        device = pick_device(recipe.learner.device)
        ranks = ALONE
        if address is not None:
            # Longer than the driver waits: it knows better what went wrong.
            timeout = 2 * (recipe.resources.call_timeout or FIRST)
            ranks = Ranks.join(address, self.rank, recipe.learner.ranks, device.type, timeout)
        self.tokenizer = tokenizer = load_tokenizer(policy)
        # What is to be sharded is loaded where there is room for all of it.
        model = load_model(policy, device, recipe.seed, at=device if ranks is ALONE else "cpu")
        eos_token_ids = end_tokens(model.generation_config, tokenizer)
        pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos_token_ids[0]
        self.learner = PolicyLearner(
            model,
            recipe.learner,
            temperature=recipe.rollout.temperature,
            max_new_tokens=recipe.rollout.max_new_tokens,
            total_steps=recipe.steps,
            pad_token_id=pad_token_id,
            seed=recipe.seed,
            ranks=ranks,
        )
        self.engine = TransformersEngine(
            model,
            pad_token_id=pad_token_id,
            eos_token_ids=eos_token_ids,
            batch_size=recipe.rollout.transformers.batch_size,
            inference=self.learner.inference,
        )
        parameters = list(model.parameters())
        return PolicyFacts(
            parameters=sum(p.numel() for p in parameters),
            trainable=sum(p.numel() for p in parameters if p.requires_grad),
            vocab_size=model.config.vocab_size,
            pad_token_id=pad_token_id,
            eos_token_ids=eos_token_ids,
            device=str(device),
            routed_layers=tuple(router.layer for router in self.learner.routing.routers),
            layout_note=self.learner.layout_note,
        )

    def generate(self, requests: list[Request], sampling: Sampling) -> Iterator[list[Rollout]]:
        """Rollouts as they finish, by the handful."""
        from depo.models.sharding import gathered

        handful: list[Rollout] = []
        # No `yield from`: Ray sends values into the generator it runs, which a list's iterator cannot take.
        with gathered(self.learner.model):
            for rollout in self.engine.generate(requests, sampling):
                handful.append(rollout)
                if len(handful) == HANDFUL:
                    yield handful
                    handful = []
        if handful:
            yield handful

    def serve(self, version: int) -> int:
        return self.engine.load_weights(WeightUpdate(version))

    def call(self, method: str, *arguments: Any) -> Any:
        """A method of the `PolicyLearner`."""
        return getattr(self.learner, method)(*arguments)

    def export(self, directory: Path, trained_only: bool) -> None:
        self.learner.export(directory, trained_only)
        if not trained_only and self.rank == 0:
            self.tokenizer.save_pretrained(directory)


class RemoteLearner:
    """The driver's side of the learner's actors, one a rank: the same methods, waiting for their results.

    Directories go there as absolute paths: the actor's working directory is its cluster's, not the driver's.
    """

    def __init__(self, recipe: Recipe, calls: Calls) -> None:
        self.group = ActorGroup(LearnerActor, recipe, learner_gpus(recipe, gpus_in_cluster()), calls)
        self.calls, self.ranks = calls, recipe.learner.ranks
        self.checkpoint_bytes = 0
        """Of a checkpoint, at least; known once the policy is loaded."""
        self.updating: Asked | None = None

    def start(self, policy: PretrainedPolicy) -> PolicyFacts:
        address = None
        if self.ranks > 1:
            places: list[tuple[str, int]] = self.group.ask("place")()
            hosts = {host for host, _ in places}
            address = f"{places[0][0] if len(hosts) > 1 else LOCALHOST}:{places[0][1]}"
        facts: PolicyFacts = self.group.ask("start", policy, address)()[0]
        self.checkpoint_bytes = WEIGHTS_AND_MOMENTS * facts.trainable + EXPORTED * facts.parameters
        return facts

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Rollout]:
        shares = [list(requests[rank :: self.ranks]) for rank in range(self.ranks)]
        for handful in self.group.items("generate", shares, sampling):
            yield from handful

    def serve(self, version: int) -> int:
        return self.group.ask("serve", version)()[0]

    def begin_update(self, batch: Sequence[TrainSample]) -> Callable[[], UpdateResult]:
        """Start an update; call what comes back to wait for its result."""
        self.updating = self.group.ask("call", "update", batch, what="update")
        answers = self.updating
        return lambda: answers()[0]

    def score(self, sequences: Sequences, temperature: float = 1.0) -> list[np.ndarray]:
        """Log-probabilities of each (prompt ids, completion ids): (T,) each, in nats."""
        return self.call("score", sequences, temperature)

    def prompt_features(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """(N, F) float32, from one prefill of each prompt: see ``depo.learner.scoring``."""
        return self.call("prompt_features", [prompt.token_ids for prompt in prompts])

    def export(self, directory: Path, trained_only: bool = False) -> None:
        """The policy in Hugging Face format with its tokenizer, LoRA merged; with ``trained_only`` what an
        engine lacks that was started from the same checkpoint."""
        self.group.ask("export", directory.absolute(), trained_only)()

    def perturb(self, seed: int, scale: float) -> None:
        self.call("perturb", seed, scale)

    def restore(self) -> None:
        self.call("restore")

    def save(self, directory: Path) -> None:
        self.call("save", directory.absolute())

    def load(self, directory: Path) -> None:
        self.call("load", directory.absolute())

    def call(self, method: str, *arguments: Any) -> Any:
        """A method of the `PolicyLearner`."""
        answers = self.group.ask("call", method, *arguments, what=method)
        for reference in self.updating.pending if self.updating is not None else ():
            self.calls.wait([reference], LEARNER, "update")  # its time is not this call's own
        return answers()[0]

    def close(self) -> None:
        self.group.close()


class ColocatedEngine:
    """A RolloutEngine on a RemoteLearner. ``load_weights`` copies nothing: the weights are shared."""

    def __init__(self, learner: RemoteLearner) -> None:
        self.learner = learner

    def generate(
        self, requests: Iterable[Request], sampling: Sampling, oldest: int | None = None
    ) -> Iterator[Rollout]:
        yield from self.learner.generate(list(requests), sampling)

    def load_weights(self, update: WeightUpdate) -> int:
        return self.learner.serve(update.version)

    def close(self) -> None:
        """Nothing of its own to end."""
