"""What is run: arms, forms (sizes) and tasks.

The arms are those of ``python -m benchmarks selection``, with the gate sized for the batch at hand. Only
estimator and selection are taken over: the learning rates there belong to another policy.

The two forms are one code path with other numbers: one GPU in about ten minutes, and 20 steps on two CPU
cores. The learning rate is that of recipes/math_cpu.yaml on a CPU and four times as high on a GPU, the same
for every arm.

Tasks are sums in words or some of reasoning_gym's, easy enough for informative groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.selection.arms import ARMS as METHODS
from benchmarks.selection.arms import ROUND, estimator_block, selection_block

ARMS = tuple(
    name
    for name, method in METHODS.items()
    if (method.group_size, method.batches) == (8, 1) and not method.estimator.get("live")
)
"""Without arms that change the batch (all arms train on the same recipe otherwise), and without the live
oracle, which needs one exact answer."""

BASELINES = ("grpo", "dapo")
"""Arms without beliefs, which the others are compared with."""

DEFAULT_ARMS = ("grpo", "dapo", "hybrid")

CANDIDATES = 8
"""For each prompt of a batch, where the policy looks at all of them."""

ALLOWED_BLOCKS = {"name", "estimator", "selection"}
"""Recipe blocks in which arms of one seed may differ."""


def needs_encoder(arm: str) -> bool:
    return METHODS[arm].needs_encoder


def arm_blocks(arm: str, form: Form, encoder: str | None = None) -> dict[str, dict[str, Any]]:
    """``estimator`` and ``selection`` of an arm; what the method itself says wins over the form.

    With four prompts a step, the usual 200 graded groups of the gate would outlast the run.
    """
    method = METHODS[arm]
    selection = {"audit": form.audit, "min_window": form.min_window, "window": form.window}
    selection |= {"max_rounds": form.max_rounds} | dict(method.selection)
    if selection.get("candidates") == ROUND["candidates"]:
        selection["candidates"] = CANDIDATES * form.prompts  # each is prefilled
    if "warmup_steps" in selection:
        selection["warmup_steps"] = form.warmup_steps  # of DEPO; how long is for the user to say
    estimator = estimator_block(method.estimator)
    if method.needs_encoder:
        estimator["model"] = encoder
    return {"estimator": estimator, "selection": selection_block(selection)}


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
    lr=2e-5,  # thirty steps of it show something
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

GYM_TASKS = ("ransom_note", "course_schedule", "isomorphic_strings")
"""Of 12 tasks sampled (6 problems, 5 answers each), those that SmolLM2-135M-Instruct solved at all."""


@dataclass(frozen=True, slots=True)
class Task:
    """A source of problems with what goes with it in a recipe."""

    name: str
    source: dict[str, Any]
    """``data.train`` without size and seed."""
    problems_per_size: int
    """Into how many equal parts the source's ``size`` must be divided: reasoning_gym counts per task."""
    template: str
    reward: str
    max_prompt_tokens: int
    max_new_tokens: int

    def train(self, pool: int, seed: int) -> dict[str, Any]:
        """``data.train`` with ``pool`` problems in all."""
        return self.source | {"size": pool // self.problems_per_size, "seed": seed}


SUMS = Task(
    name="sums",
    # One digit three times: SmolLM2-135M-Instruct solves a sampled one-digit sum in seven and hardly a longer
    # one. What is drawn twice is dropped; about two in five of the prompts left have one digit.
    source={"type": "arithmetic", "phrasing": "words", "operations": ["+"], "digits": [1, 1, 1, 2, 3]},
    problems_per_size=1,
    template="{question} Answer with a number.",
    reward="math",
    max_prompt_tokens=96,
    max_new_tokens=48,
)

GYM = Task(
    name="reasoning_gym",
    source={"type": "reasoning_gym", "tasks": list(GYM_TASKS)},
    problems_per_size=len(GYM_TASKS),
    template="{question}\n\nGive only the answer.",
    reward="reasoning_gym",
    max_prompt_tokens=384,
    max_new_tokens=32,
)

TASKS = {task.name: task for task in (SUMS, GYM)}
