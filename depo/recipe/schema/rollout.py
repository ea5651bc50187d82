"""How completions are generated."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from depo.recipe.schema.block import Block, Fraction, PositiveFloat


class TransformersEngine(Block):
    """Generation with transformers, in the learner's own process and on its own weights."""

    batch_size: PositiveInt = 64
    """Sequences decoded together."""


class VllmEngine(Block):
    """Generation with vLLM in Ray actors of their own."""

    workers: PositiveInt = 1
    """Engines, one Ray actor each."""
    tensor_parallel: PositiveInt = 1
    """Devices of one engine."""
    gpu_memory_utilization: Fraction = 0.9
    """Share of a GPU's memory that an engine takes."""
    cpu_kv_cache_gib: PositiveFloat = 1.0
    """Memory of one engine's KV cache on a CPU, GiB; on GPUs gpu_memory_utilization decides."""
    max_model_len: PositiveInt | None = None
    """Context limit; prompt limit plus max_new_tokens when null."""
    max_num_seqs: PositiveInt = 256
    """Sequences that an engine decodes together, at most."""
    enforce_eager: bool | None = None
    """Run the model without compilation or CUDA graphs; null: on CPUs, where compiling costs more than it
    gives back."""
    sync_dir: Path | None = None
    """Where weights are handed over; a memory file system (/dev/shm) when null. Several nodes need a
    directory they all see."""
    parity_tolerance: PositiveFloat | None = None
    """Largest mean |difference| of log-probabilities (nats) that the parity probe accepts; by dtype when
    null."""


def check_draws(n: int, temperature: float) -> None:
    """Raise ValueError for ``n`` greedy completions of one prompt, which would be one and the same."""
    if temperature == 0 and n > 1:
        raise ValueError(
            f"n {n} at temperature 0 would draw the same completion {n} times; "
            "set temperature above 0, or n=1"
        )


class Rollouts(Block):
    """How completions are generated."""

    engine: Literal["transformers", "vllm"] = "transformers"
    """What generates. ``transformers``: the learner's own process. ``vllm``: processes of their own."""
    max_new_tokens: PositiveInt = 1024
    """Longest completion, in tokens."""
    temperature: PositiveFloat = 1.0
    """Of sampling, in rollouts for training; top_p is 1 and there is no top-k."""
    transformers: TransformersEngine = TransformersEngine()
    """Settings of the transformers engine."""
    vllm: VllmEngine = VllmEngine()
    """Settings of the vLLM engine."""
