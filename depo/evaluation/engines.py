"""A model behind the rollout contract for an evaluation: no learner, no weight sync."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from depo.errors import UserError
from depo.recipe.schema import PretrainedPolicy, Rollouts
from depo.recipe.schema.suite import Suite
from depo.rollout.engine import RolloutEngine

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KEY = "policy.model: "
"""How the policy loader names what it loads; here it is the first argument."""


def policy_of(model: str, suite: Suite) -> PretrainedPolicy:
    return PretrainedPolicy(model=model, dtype=suite.dtype)


def load_tokenizer(model: str, suite: Suite) -> PreTrainedTokenizerBase:
    """Raises UserError for a model without tokenizer or end token."""
    from depo.models import loading as pretrained

    try:
        return pretrained.load_tokenizer(policy_of(model, suite))
    except UserError as error:
        raise UserError(str(error).removeprefix(KEY)) from error


@contextmanager
def serving(
    model: str,
    suite: Suite,
    tokenizer: PreTrainedTokenizerBase,
    context_length: int,
    heartbeat: Callable[[int], None],
) -> Iterator[RolloutEngine]:
    """The suite's engine with this model, for sequences of at most ``context_length`` tokens; closed at the
    end. It tells ``heartbeat`` every few seconds how many tokens it has decoded, whether or not a sample has
    ended. Raises UserError for a model that cannot be loaded."""
    try:
        if suite.engine == "vllm":
            started = vllm_engine(model, suite, tokenizer, context_length, heartbeat)
        else:
            started = transformers_engine(model, suite, tokenizer, heartbeat)
        with started as engine:
            yield engine
    except UserError as error:
        raise UserError(str(error).removeprefix(KEY)) from error


@contextmanager
def transformers_engine(
    model: str, suite: Suite, tokenizer: PreTrainedTokenizerBase, heartbeat: Callable[[int], None]
) -> Iterator[RolloutEngine]:
    """In this process. Weights are float32 whatever the compute type, as when a run generates on its
    learner's weights: 4 bytes a parameter."""
    import torch
    from transformers.utils import logging

    from depo.models.devices import autocast, pick_device
    from depo.models.loading import end_tokens, load_model
    from depo.report.provenance import usable_cores
    from depo.rollout.transformers import TransformersEngine

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(suite.threads or usable_cores())
    network = load_model(policy_of(model, suite), pick_device(suite.device, "device")).eval()

    @contextmanager
    def inference() -> Iterator[None]:
        with torch.no_grad(), autocast(network):
            yield

    engine = TransformersEngine(
        network,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_ids=end_tokens(network, tokenizer),
        batch_size=suite.transformers.batch_size,
        inference=inference,
        heartbeat=heartbeat,
    )
    yield engine
    engine.close()


@contextmanager
def vllm_engine(
    model: str,
    suite: Suite,
    tokenizer: PreTrainedTokenizerBase,
    context_length: int,
    heartbeat: Callable[[int], None],
) -> Iterator[RolloutEngine]:
    """In Ray actors, as many as ``vllm.workers``."""
    from depo.rollout.vllm.pool import VllmPool
    from depo.workers.cluster import gpus_in_cluster, ray_for

    with ray_for(address=None, engines=suite.vllm.workers):
        wanted, gpus = suite.vllm.workers * suite.vllm.tensor_parallel, gpus_in_cluster()
        if gpus and wanted > gpus:  # Ray would let those wait that find no place, and say nothing
            raise UserError(
                f"vllm: {wanted} GPUs are asked for (workers {suite.vllm.workers} x tensor_parallel "
                f"{suite.vllm.tensor_parallel}), the Ray cluster has {gpus}"
            )
        engine = VllmPool(
            Rollouts(engine="vllm", max_new_tokens=suite.sampling.max_new_tokens, vllm=suite.vllm),
            model,
            dtype=suite.dtype,
            context_length=context_length,
            eos_token_ids=configured_end_tokens(model, tokenizer),
            threads=suite.threads,
            num_gpus_per_worker=suite.vllm.tensor_parallel if gpus else 0,
            seed=suite.seed,
            heartbeat=heartbeat,
        )
        try:
            engine.ready()
            yield engine
        finally:
            engine.close()


def configured_end_tokens(model: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every token that ends a completion, without loading the weights: the generation config's (the model
    config's where there is none) and the tokenizer's."""
    from transformers import AutoConfig, GenerationConfig

    try:
        found = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:  # a model without generation_config.json; transformers derives one in the same way
        found = GenerationConfig.from_model_config(AutoConfig.from_pretrained(model)).eos_token_id
    listed = found if isinstance(found, list) else [found]
    return tuple(sorted({token for token in [*listed, tokenizer.eos_token_id] if token is not None}))
