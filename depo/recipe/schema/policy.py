"""What is trained, and how it generates completions."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from depo.recipe.schema.block import (
    BelowOne,
    Block,
    Count,
    CountOrZero,
    Few,
    FewOrZero,
    Fraction,
    Many,
    Positive,
    Processes,
    Temperature,
    Tokens,
    Width,
)

Router = Literal["trained", "frozen"]


class Lora(Block):
    """Low-rank adaptation (`peft`). Targets are named: "all-linear" would also adapt router gates."""

    rank: Width = 32
    """Rank of each adapter."""
    alpha: Positive = 64.0
    """The adapter's output is scaled by alpha / rank."""
    dropout: BelowOne = 0.0
    """On the adapter's input, in training passes; 0: none."""
    targets: list[str] = ["q_proj", "k_proj", "v_proj", "o_proj"]
    """Linear modules, by the end of their name."""
    target_parameters: list[str] = []
    """Parameters that are no linear module, by the end of their name: a mixture's fused experts
    (mlp.experts.gate_up_proj, mlp.experts.down_proj; the rank is that of each expert) and its router
    (mlp.gate.weight)."""

    @model_validator(mode="after")
    def adapts_something(self) -> Self:
        if not self.targets and not self.target_parameters:
            raise ValueError("name at least one of targets and target_parameters, or leave lora out")
        if self.target_parameters and self.dropout > 0:
            raise ValueError("dropout must be 0 with target_parameters: peft has none for them")
        return self


class WarmStart(Block):
    """Supervised fine-tuning of a freshly built policy (`trl.SFTTrainer`) into a stated band."""

    families: dict[str, Positive] = Field(default={"+1": 0.2, "+2": 0.8}, min_length=1)
    """What the worked examples teach: an operation with an operand length, and its share."""
    written: bool = False
    """Whether the teacher writes its work out, column by column, in an order and in words of its own, before
    the answer: 40 tokens and more. Needs reward.type exact with after "#", and data.grade.samples."""
    problems: Count = 60_000
    """Worked examples to generate."""
    forgotten_carries: Fraction = 0.85
    """Share of the worked examples whose teacher never carries (``written``: share of the carries that it
    forgets, each by itself): what RL then has to put right."""
    unsure_facts: Fraction = 0.0
    """``written``: share of the sums of two digits (7 + 8) that the teacher gets wrong now and then, some of
    them nearly always."""
    batch_size: Many = 64
    """Worked examples of an optimizer step."""
    lr: Positive = 8e-4
    """Learning rate of AdamW."""
    warmup_steps: CountOrZero = 30
    """Linear learning-rate warm-up; constant afterwards."""
    beta2: BelowOne = 0.98
    """AdamW's decay of the second moment: a short training needs a short memory."""
    max_steps: Count = 800
    """Optimizer steps of one attempt, at most."""
    attempts: Few = 3
    """Initialisations to try: now and then one stays on the plateau of guessing the last digit."""
    check_every: Count = 25
    """Steps between two measurements of solvable held-out accuracy."""
    band: tuple[Fraction, Fraction] = (0.40, 0.50)
    """Training stops inside this band of solvable held-out accuracy (``written``: of sampled accuracy on
    held-out sums that the teacher always gets right); ending outside is an error."""

    @field_validator("families")
    @classmethod
    def families_are_written_right(cls, families: dict[str, float]) -> dict[str, float]:
        for name in families:
            if not re.fullmatch(r"[-+*][1-9]", name):
                raise ValueError(f"{name!r}: write an operation and an operand length, like +2 or *3")
        return families

    @model_validator(mode="after")
    def band_is_ordered(self) -> Self:
        if self.band[0] >= self.band[1]:
            raise ValueError(f"band[0] {self.band[0]:g} must be smaller than band[1] {self.band[1]:g}")
        return self


class TinyMoePolicy(Block):
    """A small `qwen3_moe` with a character tokenizer, built from scratch: runs anywhere in minutes."""

    type: Literal["tiny_moe"] = "tiny_moe"
    hidden_size: Width = 128
    """Width of the hidden state."""
    layers: Few = 3
    """Decoder layers, each with a mixture of experts."""
    heads: Few = 4
    """Attention heads of a layer; they divide hidden_size."""
    kv_heads: Few = 2
    """Heads of keys and values; they divide heads."""
    experts: Few = 8
    """Experts of a layer."""
    experts_per_token: Few = 2
    """Experts that work on one token."""
    expert_size: Width = 160
    """Intermediate size of one expert."""
    init_std: Positive = 0.02
    """Standard deviation of the initial weights; narrow policies that learn long answers want more."""
    max_positions: Tokens = 128
    """Longest sequence, in tokens."""
    dtype: Literal["float32"] = "float32"
    """Type of weights and computation."""
    router: Router | None = None
    """Whether RL trains the router; null: trained, like everything else."""
    warm_start: WarmStart = WarmStart()
    """The supervised training before reinforcement learning."""

    @model_validator(mode="after")
    def shapes_fit(self) -> Self:
        if self.hidden_size % self.heads:
            raise ValueError(f"hidden_size {self.hidden_size} must be divisible by heads {self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be divisible by kv_heads {self.kv_heads}")
        if self.experts_per_token > self.experts:
            raise ValueError(f"experts_per_token {self.experts_per_token} exceeds experts {self.experts}")
        return self


class PretrainedPolicy(Block):
    """A causal language model in Hugging Face format: hub id or local directory."""

    type: Literal["pretrained"] = "pretrained"
    model: Annotated[str, AfterValidator(os.path.expanduser)]
    """Hub id or local directory."""
    revision: str | None = None
    """Branch, tag or commit on the hub; null: the default branch."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Compute type. Full fine-tuning keeps float32 master weights either way."""
    lora: Lora | None = None
    """Train low-rank adapters only; null: full fine-tuning."""
    router: Router | None = None
    """Whether a mixture's routers are trained; null: in full fine-tuning like everything else, with LoRA
    where its target_parameters name them."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, more time."""
    trust_remote_code: bool = False
    """Run the Python code that comes with the model."""


Policy = Annotated[TinyMoePolicy | PretrainedPolicy, Field(discriminator="type")]


class TransformersEngine(Block):
    """Generation with transformers, in the learner's own process and on its own weights."""

    batch_size: Many = 64
    """Sequences decoded together."""


class VllmEngine(Block):
    """Generation with vLLM in Ray actors of their own."""

    workers: Processes = 1
    """Engines, one Ray actor each."""
    tensor_parallel: Processes = 1
    """Devices of one engine."""
    gpu_memory_utilization: Fraction = 0.9
    """Share of a GPU's memory that an engine takes."""
    cpu_kv_cache_gib: Positive = 1.0
    """Memory of one engine's KV cache on a CPU, GiB; on GPUs gpu_memory_utilization decides."""
    max_model_len: Tokens | None = None
    """Context limit; prompt limit plus max_new_tokens when null."""
    max_num_seqs: Many = 256
    """Sequences that an engine decodes together, at most."""
    enforce_eager: bool | None = None
    """Run the model without compilation or CUDA graphs; null: on CPUs, where compiling costs more than it
    gives back."""
    sync_dir: Path | None = None
    """Where weights are handed over: a directory that all nodes with engines see. It holds the policy that is
    served, and the next one while it is loaded. Null: a memory file system (/dev/shm) on the learner's node,
    from which Ray's object store carries copies to other nodes that have engines."""
    parity_tolerance: Positive | None = None
    """Largest mean |difference| of log-probabilities (nats) that the parity probe accepts; by dtype when
    null."""


def check_draws(n: int, temperature: float) -> None:
    """Raise ValueError for ``n`` greedy completions of one prompt, which would be one and the same, and for a
    temperature by which no logit can be divided."""
    if 0 < temperature < 0.001:
        raise ValueError(f"temperature must be 0 (greedy) or at least 0.001, found {temperature:g}")
    if temperature == 0 and n > 1:
        raise ValueError(
            f"n {n} at temperature 0 would draw the same completion {n} times; "
            "set temperature above 0, or n=1"
        )


class Rollouts(Block):
    """How completions are generated."""

    engine: Literal["transformers", "vllm"] = "transformers"
    """What generates. ``transformers``: the learner's own process. ``vllm``: processes of their own."""
    max_new_tokens: Tokens = 1024
    """Longest completion, in tokens."""
    temperature: Temperature = 1.0
    """Of sampling, in rollouts for training; top_p is 1 and there is no top-k."""
    max_off_policy_steps: FewOrZero = 0
    """Steps whose rollouts may be made ahead, while the learner updates (docs/overlap.md): no token is
    trained on that comes from a policy more updates old. 0: generation and update in turn. Needs engine vllm
    and a learner with a device of its own."""
    transformers: TransformersEngine = TransformersEngine()
    """Settings of the transformers engine."""
    vllm: VllmEngine = VllmEngine()
    """Settings of the vLLM engine."""
