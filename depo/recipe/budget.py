"""What a recipe will cost, computed before anything is loaded: batch arithmetic, parameters, rough memory.

Bounds are for sequences that all reach the length limit, where nothing else is said; "unknown" where a hub
model's config is not at hand.
Memory leaves out what the frameworks take for themselves; activations are an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, isqrt

from depo.recipe.model_shape import DENSE, MIXTURES, ModelShape, find_config, model_shape
from depo.recipe.schema import Lora, PretrainedPolicy, Recipe, TinyMoePolicy
from depo.recipe.schema.learner import CHUNK_LOGITS, PASS_TOKENS

BYTES = {"float32": 4, "bfloat16": 2}

MASTER = 4
"""Bytes of a float32 master weight; its gradient has as many, AdamW's two moments twice as many."""

TINY_VOCABULARY, WRITTEN_VOCABULARY = 17, 45
"""Tokens of the tiny policy's character tokenizer."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: ``value`` with its unit, ``note`` on how it comes about; ``size`` in bytes where
    the value is memory and known."""

    name: str
    value: str
    note: str = ""
    size: int | None = None


def budget_text(recipe: Recipe) -> str:
    """The budget of ``recipe`` as a text table."""
    shape = policy_shape(recipe)
    sections = [("batch", batch_rows(recipe)), ("policy", policy_rows(recipe, shape))]
    sections += memory_sections(recipe, shape)
    rows = [row for _, section in sections for row in section]
    name_width = max(len(row.name) for row in rows)
    value_width = max(len(row.value) for row in rows)
    lines = []
    for title, section in sections:
        lines.append(title)
        lines += [
            f"  {row.name:<{name_width}}  {row.value:>{value_width}}  {row.note}".rstrip() for row in section
        ]
    return "\n".join(lines)


def batch_rows(recipe: Recipe) -> list[Row]:
    """Rollouts, tokens and micro-batches of a step, and of the run."""
    batch, learner = recipe.batch, recipe.learner
    context, completion = recipe.context_length, recipe.rollout.max_new_tokens
    rollouts = batch.prompts * batch.group_size
    rounds = recipe.selection.max_rounds if recipe.selection.refill else 1
    rows_per_minibatch = rollouts // learner.minibatches
    rows_per_microbatch = max(1, learner.tokens_per_microbatch // context)
    passes_of_full_length = (
        learner.minibatches * learner.epochs * ceil(rows_per_minibatch / rows_per_microbatch)
    )
    passes = f"{plural(learner.epochs, 'epoch')} × {plural(learner.minibatches, 'mini-batch')}"
    return [
        Row("rollouts per step", f"{rollouts:,}", f"{batch.prompts} prompts × group size {batch.group_size}"),
        Row("generated per step, at most", f"{rollouts * rounds:,}", plural(rounds, "round")),
        Row(
            "trained tokens per step, at most",
            f"{rollouts * context:,}",
            f"{rollouts:,} × {context}: {recipe.data.max_prompt_tokens} prompt, {completion} completion",
        ),
        Row("optimizer steps per step", f"{learner.minibatches * learner.epochs}", passes),
        Row(
            "micro-batches per step, at most",
            f"{learner.minibatches * learner.epochs * most_microbatches(recipe, rows_per_minibatch):,}",
            f"{passes_of_full_length:,} if all sequences have {context} tokens",
        ),
        Row("steps", f"{recipe.steps:,}"),
        Row("rollouts trained on in all, at most", f"{rollouts * recipe.steps:,}"),
    ]


def most_microbatches(recipe: Recipe, rows: int) -> int:
    """A bound on the micro-batches of one mini-batch of so many sequences, whatever their lengths.

    Packed, two that follow each other hold more than the budget together: what begins the second did not fit
    into the first. Padded, with W tokens of the longest and P what a pass costs, one that ends by the budget
    holds budget // W rows. One of k rows that ends by its padding is followed by rows shorter by P / k at
    least; m such together by m² P / rows (Cauchy-Schwarz), which cannot be more than W. A GPU's P is larger
    and cuts less.
    """
    budget, longest = recipe.learner.tokens_per_microbatch, recipe.context_length
    if recipe.learner.packing:
        return min(rows, 2 * ceil(rows * longest / budget) - 1)
    by_budget = ceil(rows / max(1, budget // longest))
    return min(rows, by_budget + isqrt(rows * longest // PASS_TOKENS))


def policy_shape(recipe: Recipe) -> ModelShape | None:
    """The policy's shape, None where its config is not at hand or its architecture not covered."""
    policy = recipe.policy
    if isinstance(policy, TinyMoePolicy):
        return model_shape(tiny_config(policy))
    config = find_config(policy.model, policy.revision)
    return None if config is None else model_shape(config)


def why_unknown(recipe: Recipe) -> str:
    """Why there is no shape."""
    policy = recipe.policy
    assert isinstance(policy, PretrainedPolicy)
    config = find_config(policy.model, policy.revision)
    if config is None:
        return "its config.json is not at hand"
    return f"{config.get('model_type')} is not counted, only {', '.join((*DENSE, *MIXTURES))} are"


def tiny_config(policy: TinyMoePolicy) -> dict[str, object]:
    """What config.json of the tiny policy will say."""
    return {
        "model_type": "qwen3_moe",
        "vocab_size": WRITTEN_VOCABULARY if policy.warm_start.written else TINY_VOCABULARY,
        "hidden_size": policy.hidden_size,
        "intermediate_size": policy.expert_size * policy.experts_per_token,
        "num_hidden_layers": policy.layers,
        "num_attention_heads": policy.heads,
        "num_key_value_heads": policy.kv_heads,
        "moe_intermediate_size": policy.expert_size,
        "num_experts": policy.experts,
        "num_experts_per_tok": policy.experts_per_token,
        "tie_word_embeddings": True,
    }


def policy_rows(recipe: Recipe, shape: ModelShape | None) -> list[Row]:
    policy = recipe.policy
    model = policy.model if isinstance(policy, PretrainedPolicy) else "built from scratch"
    if shape is None:
        return [Row("parameters", "unknown", f"{model}: {why_unknown(recipe)}")]
    lora = lora_of(recipe)
    targets = [] if lora is None else [*lora.targets, *lora.target_parameters]
    whole = "all of them" if recipe.policy.router != "frozen" else "all but the routers"
    trained = whole if lora is None else f"LoRA of rank {lora.rank} on {', '.join(targets)}"
    return [
        Row("parameters", count(shape.parameters), model),
        Row("active per token", count(shape.active)),
        Row("trained", count(trained_parameters(recipe, shape)), trained),
    ]


def lora_of(recipe: Recipe) -> Lora | None:
    return recipe.policy.lora if isinstance(recipe.policy, PretrainedPolicy) else None


def trained_parameters(recipe: Recipe, shape: ModelShape) -> int | None:
    lora = lora_of(recipe)
    if lora is None:
        return shape.parameters - (shape.routers if recipe.policy.router == "frozen" else 0)
    return shape.lora_parameters(lora.rank, lora.targets, lora.target_parameters)


def memory_sections(recipe: Recipe, shape: ModelShape | None) -> list[tuple[str, list[Row]]]:
    """Rough memory of the learner's device and, when it generates elsewhere, of an engine's."""
    if recipe.rollout.engine == "transformers":
        sequences = recipe.rollout.transformers.batch_size
        rows = [*learner_rows(recipe, shape), cache_row(recipe, shape, sequences, devices=1)]
        if recipe.learner.ranks > 1:
            whole = None if shape is None else shape.parameters * MASTER
            rows.append(memory("the whole policy", whole, "on each rank while it generates"))
            return [("memory of each rank's device, learner and engine together", [*rows, total(rows)])]
        return [("memory of the device, learner and engine together", [*rows, total(rows)])]
    vllm = recipe.rollout.vllm
    learner = learner_rows(recipe, shape)
    devices = vllm.tensor_parallel
    width = BYTES[recipe.policy.dtype]
    weights = None if shape is None else shape.parameters * width // devices
    engine = [
        memory("weights", weights, f"{recipe.policy.dtype}, over {plural(devices, 'device')}"),
        cache_row(recipe, shape, vllm.max_num_seqs, devices),
    ]
    return [
        (
            "memory of the learner's device" if recipe.learner.ranks == 1 else "memory of each rank's device",
            [*learner, total(learner)],
        ),
        (f"memory of each device of {plural(vllm.workers, 'engine')}", [*engine, total(engine)]),
    ]


def learner_rows(recipe: Recipe, shape: ModelShape | None) -> list[Row]:
    """Weights, optimizer state and logits that the learner holds, a rank of it where there are several."""
    lora, settings, ranks = lora_of(recipe), recipe.learner, recipe.learner.ranks
    shared = f", over {ranks} ranks" if ranks > 1 else ""
    parameters = None if shape is None else shape.parameters
    trained = None if shape is None else trained_parameters(recipe, shape)
    if lora is None:
        weights, kind = times(parameters, MASTER), "float32 masters"
    else:
        frozen = times(parameters, BYTES[recipe.policy.dtype])
        weights, kind = plus(frozen, times(trained, MASTER)), f"{recipe.policy.dtype}, adapter float32"
    logits = None
    if shape is not None:
        logits = 3 * 4 * min(CHUNK_LOGITS, settings.tokens_per_microbatch * shape.vocabulary)
    rows = [
        memory("weights", part(weights, ranks), kind + shared),
        memory(
            "gradients and AdamW",
            part(times(trained, 3 * MASTER), ranks),
            f"float32, of what is trained{shared}",
        ),
        memory("logits, one chunk", logits, "float32, three times at most"),
    ]
    rows.append(activations(recipe, shape))
    if ranks > 1:
        width = MASTER if lora is None else BYTES[recipe.policy.dtype]
        rows.append(memory("whole for a pass", gathered(shape, width), "what is in no layer, and two layers"))
    by_layer = ranks > 1 and checkpointed(recipe)
    if lora is None and recipe.policy.dtype == "bfloat16" and not by_layer:
        copies = times(parameters, BYTES["bfloat16"])
        rows.append(memory("copies for a pass, at most", copies, "bfloat16, of the weights, by autocast"))
    if settings.kl_coef > 0 and lora is None:
        rows.append(memory("reference policy", part(times(parameters, MASTER), ranks), f"float32{shared}"))
    return rows


def activations(recipe: Recipe, shape: ModelShape | None) -> Row:
    """What a forward pass keeps for the backward pass: of all layers, or of one and the inputs of all."""
    tokens = max(recipe.learner.tokens_per_microbatch, recipe.context_length)
    size = None
    if shape is not None:
        values = shape.layers * shape.layer_values
        if checkpointed(recipe):
            values = shape.layers * shape.hidden_size + shape.layer_values
        size = tokens * values * BYTES[recipe.policy.dtype]
    kept = "one layer and all layers' inputs" if checkpointed(recipe) else "all layers"
    return memory("activations, estimate", size, f"{tokens:,} tokens, {kept}")


def gathered(shape: ModelShape | None, width: int) -> int | None:
    """What a rank gets from the others: the root unit, the layer at work and the one fetched ahead."""
    if shape is None:
        return None
    layer = (shape.parameters - shape.outside) // shape.layers
    return width * (shape.outside + 2 * layer)


def checkpointed(recipe: Recipe) -> bool:
    return isinstance(recipe.policy, PretrainedPolicy) and recipe.policy.gradient_checkpointing


def cache_row(recipe: Recipe, shape: ModelShape | None, sequences: int, devices: int) -> Row:
    """The key-value cache of ``sequences`` running at once, all of full length."""
    tokens = sequences * recipe.context_length
    width = BYTES[recipe.policy.dtype]
    cache = None if shape is None else shape.kv_values_per_token * width * tokens // devices
    return memory(
        "key-value cache, at most", cache, f"{sequences} sequences of {recipe.context_length} tokens"
    )


def total(rows: list[Row]) -> Row:
    known = [row.size for row in rows if row.size is not None]
    return memory("sum", sum(known) if len(known) == len(rows) else None, "without what frameworks take")


def memory(name: str, size: int | None, note: str) -> Row:
    """A row that shows bytes as MiB or GiB."""
    if size is None:
        return Row(name, "unknown", note)
    text = f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"
    return Row(name, text, note, size)


def count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def times(number: int | None, factor: int) -> int | None:
    return None if number is None else number * factor


def part(size: int | None, ranks: int) -> int | None:
    """What a rank holds of it."""
    return None if size is None else size // ranks


def plus(first: int | None, second: int | None) -> int | None:
    return None if first is None or second is None else first + second


def plural(number: int, noun: str) -> str:
    ending = "" if number == 1 else "es" if noun.endswith("ch") else "s"
    return f"{number} {noun}{ending}"
