"""Load a policy in Hugging Face format, from a directory or from the hub, ready to be trained.

Whatever cannot be loaded is bad input: one line that names the key of the recipe.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from depo.errors import UserError
from depo.models.experts import use_grouped_experts, use_sorted_experts
from depo.models.precision import base_model, route_in_float32, routers, set_compute_dtype
from depo.models.tokenizer import KEY, check_source, first_line, from_pretrained
from depo.recipe.schema import Lora, PretrainedPolicy, TinyMoePolicy
from depo.rng import seed64

LAYER = re.compile(r"\.layers\.\d+\.")


def load_model(
    policy: PretrainedPolicy,
    device: torch.device | str,
    seed: int = 0,
    key: str = KEY,
    at: torch.device | str | None = None,
) -> nn.Module:
    """The policy on ``device``: a `PreTrainedModel`, or a `PeftModel` around it when the recipe has LoRA.

    Weights are float32 when they are trained (they are the optimizer's master weights) and ``policy.dtype``
    when LoRA freezes them; see ``depo.models.precision``. ``policy.dtype`` counts, not what the checkpoint's
    config says. Routers compute in float32. The MoE load-balancing loss is off. The run's ``seed`` keys what
    LoRA begins with. ``at``: where the weights are put, for now, in place of the device that will compute.
    Raises UserError, beginning with ``key``, for a model that does not load completely, and for LoRA targets
    that it does not have.
    """
    check_source(policy.model, key)
    device = torch.device(device)
    compute = getattr(torch, policy.dtype)
    dtype = compute if policy.lora else torch.float32
    model = load_whole(policy, key, dtype=dtype, attn_implementation="sdpa")
    if getattr(model.config, "output_router_logits", False):
        model.config.output_router_logits = False
    if model._can_set_experts_implementation():
        # Grouped kernels pay off on GPUs; on a CPU the loop over experts is faster for small models.
        (use_sorted_experts if device.type == "cpu" else use_grouped_experts)(model)
    if policy.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.to(at or device)
    set_compute_dtype(model, compute)
    if compute != torch.float32:
        route_in_float32(model)
    adapted = add_lora(model, policy.lora, seed) if policy.lora else model
    set_router_training(adapted, policy)
    return adapted


def load_whole(policy: PretrainedPolicy, key: str = KEY, **options: Any) -> PreTrainedModel:
    """The model, every weight of it from the checkpoint, and fit to be saved again. Raises UserError,
    beginning with ``key``, where it is not."""
    model, report = from_pretrained(
        AutoModelForCausalLM,
        policy,
        key,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # reported below, by name
        **options,
    )
    misshapen = [entry if isinstance(entry, str) else entry[0] for entry in report["mismatched_keys"]]
    unfit = sorted([*report["missing_keys"], *misshapen])
    if unfit:
        raise UserError(
            f"{key}: the weights of {policy.model} do not fill the model of its config.json; "
            f"{len(unfit)} missing or misshapen, the first is {unfit[0]}"
        )
    check_finite(model.named_parameters(), policy.model, key)
    mend_generation_config(model, policy.model, key)
    return model


def check_finite(weights: Iterable[tuple[str, torch.Tensor]], source: str, key: str) -> None:
    """Raise UserError, beginning with ``key``, for weights that hold NaN or infinity."""
    for name, tensor in weights:
        # A finite sum says that all are finite, quickly and without a copy.
        if not tensor.sum(dtype=torch.float32).isfinite() and not tensor.isfinite().all():
            raise UserError(f"{key}: the weights of {source} hold NaN or infinity, first in {name}")


def stored_weights(directory: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """What the safetensors files of a model hold in 16 or more bits, one tensor after another."""
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                tensor = file.get_tensor(name)
                if tensor.is_floating_point() and tensor.element_size() > 1:
                    yield name, tensor


def mend_generation_config(model: PreTrainedModel, source: str, key: str) -> None:
    """transformers loads a temperature that comes without ``do_sample``, as in many published models, and
    then refuses to save it. Whoever gives one means to sample. Raises UserError for what else it would not
    save."""
    settings = model.generation_config
    if settings is None:
        return
    try:
        settings.validate(strict=True)
    except ValueError:
        settings.do_sample = True
        try:
            settings.validate(strict=True)
        except ValueError as error:
            complaint = "".join(str(error).strip().splitlines()[1:2]).lstrip("- ")  # behind a heading
            raise UserError(
                f"{key}: the generation_config.json of {source} is invalid: {complaint}"
            ) from error


def add_lora(model: PreTrainedModel, lora: Lora, seed: int = 0) -> nn.Module:
    """Wrap the model with an adapter on the named linear modules and parameters, drawn by ``seed`` and by
    nothing else; torch's global generators stay as they were. Raises UserError for a name that binds
    to nothing (`peft` accepts it as long as another one binds) and for one of a tied pair."""
    kind = model.config.model_type
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    parameters = [name for name, parameter in model.named_parameters() if parameter.ndim in (2, 3)]
    others = [name for name in parameters if name.removesuffix(".weight") not in linear]
    check_targets("targets", lora.targets, linear, f"linear module of {kind}")
    check_targets(
        "target_parameters", lora.target_parameters, parameters, f"parameter of {kind}", shown=others
    )
    refuse_tied(model, [*lora.targets, *lora.target_parameters])
    adapter = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        target_parameters=list(lora.target_parameters) or None,
        task_type="CAUSAL_LM",
    )
    try:
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            torch.manual_seed(seed64(seed, "lora"))
            # Its weights are float32 (peft's autocast_adapter_dtype).
            return get_peft_model(model, adapter)
    except ValueError as error:
        raise UserError(f"policy.lora: {first_line(error)}") from error


def refuse_tied(model: PreTrainedModel, targets: Sequence[str]) -> None:
    """Raise UserError for an adapter on output head or embedding where the two are one weight: it would part
    them, and whoever loads the policy ties them again."""
    if not model.config.get_text_config().tie_word_embeddings:
        return
    pair = (model.get_input_embeddings(), model.get_output_embeddings())
    tied = [name for name, module in model.named_modules() if module in pair]
    names = [*tied, *(f"{name}.weight" for name in tied)]
    parted = [t for t in targets if any(name == t or name.endswith(f".{t}") for name in names)]
    if parted:
        raise UserError(
            f"policy.lora: {', '.join(parted)}: output head and embedding of this model are one weight "
            "(tie_word_embeddings), which an adapter on one of them would part; leave it out"
        )


def check_targets(
    key: str, targets: Sequence[str], names: Sequence[str], what: str, shown: Sequence[str] | None = None
) -> None:
    """Raise UserError, with the names worth giving, for targets that are not the end of any name."""
    unknown = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name in names)]
    if unknown:
        # What a recipe would call them: a module by its last part, a parameter by all behind the layer.
        ends = {name.rpartition(".")[2] for name in names}
        if shown is not None:
            ends = {LAYER.split(name)[-1] for name in shown or names}
        has = ", ".join(sorted(ends))
        raise UserError(f"policy.lora.{key}: {', '.join(unknown)} names no {what}; it has {has}")


def pretrained_view(policy: TinyMoePolicy | PretrainedPolicy, built: Path) -> PretrainedPolicy:
    """The policy as something to load, from wherever an actor works: a tiny one was built into ``built``."""
    if isinstance(policy, PretrainedPolicy):
        local = Path(policy.model)
        return policy.model_copy(update={"model": str(local.absolute())}) if local.is_dir() else policy
    return PretrainedPolicy(model=str(built.absolute()), dtype=policy.dtype, router=policy.router)


def end_tokens(settings: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every token that ends a completion: the generation config's and the tokenizer's."""
    configured = settings.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return tuple(sorted({token for token in [*listed, tokenizer.eos_token_id] if token is not None}))


def set_router_training(model: nn.Module, policy: PretrainedPolicy) -> None:
    """Apply ``policy.router`` to a loaded policy. Raises UserError where it asks for what cannot be."""
    if policy.router is None:
        return
    found = routers(model)
    if not found:
        kind = base_model(model).config.model_type
        raise UserError(f"policy.router: {policy.router}, but a {kind} model has no router; leave it out")
    adapted = has_adapter(model, found)
    if policy.router == "frozen":
        if adapted:
            raise UserError(
                "policy.router: frozen, but policy.lora.target_parameters has an adapter on the router"
            )
        for router in found.values():
            router.requires_grad_(False)
    elif policy.lora is not None and not adapted:
        name = next(iter(found)).partition(".layers.")[2].partition(".")[2]
        raise UserError(
            "policy.router: trained, but policy.lora has no adapter on it; "
            f"add {name}.weight to policy.lora.target_parameters"
        )


def has_adapter(model: nn.Module, found: dict[str, nn.Module]) -> bool:
    """Whether LoRA wraps a router: `peft` puts the router inside, as ``base_layer``."""
    modules = dict(base_model(model).named_modules())
    return any(isinstance(modules[name.rpartition(".")[0]], LoraLayer) for name in found)
