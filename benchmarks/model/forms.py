"""Two sizes of the same benchmark: one GPU in about ten minutes, and 20 steps on two CPU cores.

One code path, other numbers. The learning rate is that of recipes/math_cpu.yaml on a CPU and four
times as high on a GPU, the same for every arm.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Form:
    """Sizes of a run; the fields are the recipe's keys unless said otherwise."""

    name: str
    steps: int
    """Of an arm without refill. All arms get the rollouts of that many: steps · prompts · group_size."""
    prompts: int
    group_size: int
    dtype: str
    lr: float
    pool: int
    """Problems to generate, held-out ones and duplicates included (there are only 100 one-digit sums)."""
    heldout: int
    samples: int
    """Answers to each held-out prompt in an evaluation."""
    generation_batch: int
    """Sequences that the transformers engine decodes together."""
    tokens_per_microbatch: int
    evaluations: int
    """Held-out evaluations within the horizon, the last one included, the one before training not."""
    max_rounds: int
    audit: float
    min_window: int
    window: int
    warmup_steps: int
    """Of the arms that have one."""
    checkpoint_every: int

    def horizon(self, steps: int) -> int:
        """Training rollouts that every arm gets."""
        return steps * self.prompts * self.group_size


CPU = Form(
    name="cpu",
    steps=20,
    prompts=4,
    group_size=4,
    dtype="float32",
    lr=5e-6,
    pool=240,
    heldout=45,
    samples=2,
    generation_batch=64,
    # SmolLM2-135M leaves 1.8 MB of activations behind for a token (30 layers in float32): 1.9 GB.
    tokens_per_microbatch=1024,
    evaluations=2,
    max_rounds=4,
    audit=0.25,  # one group of the four
    min_window=16,
    window=64,
    warmup_steps=5,
    checkpoint_every=10,
)


GPU = Form(
    name="gpu",
    steps=30,
    prompts=64,
    group_size=8,
    dtype="bfloat16",
    lr=2e-5,  # so that thirty steps show something; how it came about: docs/benchmarks.md
    pool=420,
    heldout=72,
    samples=16,
    generation_batch=512,
    tokens_per_microbatch=8192,  # by the same measure 7 GB in bfloat16: several runs fit on one GPU
    evaluations=5,
    max_rounds=4,
    audit=0.05,
    min_window=200,
    window=400,
    warmup_steps=10,
    checkpoint_every=10,
)


FORMS = {form.name: form for form in (CPU, GPU)}
