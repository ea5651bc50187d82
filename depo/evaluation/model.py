"""The model that ``depo eval`` is pointed at: found by name, recognised on resume, served by an engine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from depo.errors import UserError
from depo.files import latest_checkpoint, read_json, step_name
from depo.recipe.checks import directory_problem
from depo.recipe.model_shape import HUB_ID, config_directory, find_config, model_shape
from depo.recipe.schema import PretrainedPolicy, Rollouts
from depo.recipe.schema.evaluation import Suite
from depo.rollout.engine import RolloutEngine

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

RESULTS, SUMMARY = "results.json", "summary.json"

BLOCKS, BLOCK_BYTES = 512, 2**14
"""Hashed of a weight file, evenly spread from end to end, for whole files take minutes. An adapter that was
merged into some layers changes long stretches, and no end."""


@dataclass(frozen=True, slots=True)
class Target:
    """A model to evaluate. ``model`` is a directory or hub id; ``run`` the training run it came from and
    ``checkpoint`` the checkpoint with the estimator of the same step, where there are such."""

    name: str
    model: str
    run: Path | None = None
    checkpoint: Path | None = None


def is_evaluation(text: str) -> bool:
    """Whether this names the directory of a finished evaluation."""
    return (Path(text) / RESULTS).is_file()


def find_target(text: str) -> Target:
    """The model that a command-line argument means. Raises UserError when there is none."""
    path = Path(text).expanduser()
    if path.is_dir():
        if (path / "recipe.yaml").is_file():
            return run_target(path)
        if (path / "suite.yaml").is_file():
            goes_on = f"depo eval MODEL --run-dir {text} --resume"
            raise UserError(f"{text}: an evaluation that has not finished; go on with {goes_on}")
        if problem := directory_problem(path):
            raise UserError(f"neither a model nor a training run: {problem}")
        return model_target(path)
    if path.exists():
        raise UserError(f"{text}: is a file; name a model directory, a run directory or a hub id")
    if not HUB_ID.match(text) or text.startswith((".", "/", "~")):
        raise UserError(f"{text}: no such directory, and not a hub id (organisation/name)")
    return Target(text, text)


def run_target(run: Path) -> Target:
    """The final policy of a training run, or that of its newest checkpoint when it has not finished, for
    the first time or since it was extended."""
    checkpoint = latest_checkpoint(run / "checkpoints")
    policy = run / "policy"
    if not (policy / "config.json").is_file() or not belongs(run, checkpoint):
        if checkpoint is None:
            raise UserError(f"{run}: a training run without policy/ or checkpoints/: nothing to evaluate yet")
        policy = checkpoint / "policy"
    if problem := directory_problem(policy):
        raise UserError(problem)
    return Target(run.name or run.resolve().name, str(policy), run, checkpoint)


def belongs(run: Path, checkpoint: Path | None) -> bool:
    """Whether ``policy/`` of a run is of its newest checkpoint's step, as far as can be told. It is of an
    earlier one where a finished run is being extended."""
    summary = run / SUMMARY
    if checkpoint is None or not summary.is_file():
        return True
    return checkpoint.name == step_name(read_json(summary)["steps"])


def model_target(directory: Path) -> Target:
    """A model directory; one inside a training run is told where it belongs."""
    resolved = directory.resolve()
    name = resolved.name
    if name == "policy":
        step = resolved.parent
        if re.fullmatch(r"step_\d+", step.name) and (step.parents[1] / "recipe.yaml").is_file():
            return Target(f"{step.parents[1].name}-{step.name}", str(directory), step.parents[1], step)
        if (step / "recipe.yaml").is_file():
            checkpoint = latest_checkpoint(step / "checkpoints")
            return Target(step.name, str(directory), step, checkpoint if belongs(step, checkpoint) else None)
        name = f"{step.name}-policy"
    return Target(name, str(directory))


def fingerprint(model: str) -> str:
    """SHA-256 (hex, 16 digits) of a model directory: its configuration, tokenizer, and blocks of its weight
    files (small files whole). For a hub id, of the id."""
    digest = hashlib.sha256()
    directory = Path(model)
    if not directory.is_dir():
        return hashlib.sha256(model.encode()).hexdigest()[:16]
    for file in sorted(path for path in directory.iterdir() if path.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.name}\x1f{size}\x1f".encode())
        with file.open("rb") as stream:
            if size <= BLOCKS * BLOCK_BYTES:
                digest.update(stream.read())
                continue
            for block in range(BLOCKS):
                stream.seek((size - BLOCK_BYTES) * block // (BLOCKS - 1))
                digest.update(stream.read(BLOCK_BYTES))
    return digest.hexdigest()[:16]


def active_parameters(model: str) -> int | None:
    """Parameters that one token passes through; None where the configuration is not at hand or its
    architecture is not covered by `depo.recipe.model_shape`."""
    config = find_config(model)
    shape = None if config is None else model_shape(config)
    return None if shape is None else shape.active


KEY = "model"
"""What errors of loading begin with."""


def policy_of(model: str, suite: Suite) -> PretrainedPolicy:
    return PretrainedPolicy(model=model, dtype=suite.dtype)


def load_tokenizer(model: str, suite: Suite) -> PreTrainedTokenizerBase:
    """Raises UserError for a model without tokenizer or end token."""
    from depo.models import tokenizer

    return tokenizer.load_tokenizer(policy_of(model, suite), KEY)


def serving(
    model: str,
    suite: Suite,
    tokenizer: PreTrainedTokenizerBase,
    context_length: int,
    heartbeat: Callable[[int], None],
) -> AbstractContextManager[RolloutEngine]:
    """The suite's engine with this model, for sequences of at most ``context_length`` tokens; closed at the
    end. It tells ``heartbeat`` every few seconds how many tokens it has decoded, whether or not a sample has
    ended. Raises UserError for a model that cannot be loaded."""
    if suite.engine == "vllm":
        return vllm_engine(model, suite, tokenizer, context_length, heartbeat)
    return transformers_engine(model, suite, tokenizer, heartbeat)


@contextmanager
def transformers_engine(
    model: str, suite: Suite, tokenizer: PreTrainedTokenizerBase, heartbeat: Callable[[int], None]
) -> Iterator[RolloutEngine]:
    """In this process. Weights are float32 whatever the compute type, as when a run generates on its
    learner's weights: 4 bytes a parameter."""
    import torch
    from transformers.utils import logging

    from depo.models.loading import end_tokens, load_model
    from depo.models.precision import autocast, pick_device
    from depo.report.provenance import usable_cores
    from depo.rollout.transformers import TransformersEngine

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(suite.threads or usable_cores())
    network = load_model(policy_of(model, suite), pick_device(suite.device, "device"), key=KEY).eval()

    @contextmanager
    def inference() -> Iterator[None]:
        with torch.no_grad(), autocast(network):
            yield

    engine = TransformersEngine(
        network,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_ids=end_tokens(network.generation_config, tokenizer),
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
    from depo.models.loading import check_finite, stored_weights
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
            if directory := config_directory(model):  # vLLM itself would serve NaN weights, and say nothing
                check_finite(stored_weights(directory), model, KEY)
            yield engine
        finally:
            engine.close()


def configured_end_tokens(model: str, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every token that ends a completion, without loading the weights: the generation config's (the model
    config's where there is none) and the tokenizer's."""
    from transformers import AutoConfig, GenerationConfig

    from depo.models.loading import end_tokens

    try:
        settings = GenerationConfig.from_pretrained(model)
    except OSError:  # a model without generation_config.json; transformers derives one in the same way
        settings = GenerationConfig.from_model_config(AutoConfig.from_pretrained(model))
    return end_tokens(settings, tokenizer)
