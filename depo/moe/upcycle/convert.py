"""``depo upcycle`` from parsed options to a directory, with what it measured on the way."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from depo.errors import UserError, say
from depo.files import check_place, directory_aside
from depo.models.experts import use_grouped_experts, use_sorted_experts
from depo.models.fetch import quiet_transformers
from depo.models.loading import load_whole
from depo.models.precision import pick_device
from depo.models.tokenizer import check_source, from_pretrained, load_tokenizer
from depo.moe.upcycle.build import Upcycling, build, moe_config
from depo.moe.upcycle.repair import (
    PASSAGES,
    Fidelity,
    check_room,
    encode,
    fidelity,
    generate,
    read_passages,
    repair,
)
from depo.recipe.model_shape import ModelShape, model_shape
from depo.recipe.schema import PretrainedPolicy

KEY = "depo upcycle: DENSE"

REPORT_FILE = "depo_upcycle.json"
"""What OUT was made of and how far it is from it."""

ROUTER_STD = 0.02  # transformers' own initializer_range: small beside hidden states of norm √H

MEASURED = 8  # passages to measure on; of the user's or generated ones these are kept out of the repair

MEASURED_LENGTH = 512  # tokens of a passage, at most


def upcycle(options: argparse.Namespace) -> None:
    """Write the mixture and print how far it is from the dense model. Raises UserError for bad input."""
    settings = upcycling(options)
    device = pick_device(options.device, "depo upcycle: --device")
    check_out(options.out)
    texts = None if options.text is None else read_passages(options.text)
    if texts is not None and options.repair and len(texts) <= MEASURED:
        raise UserError(
            f"depo upcycle: --text {options.text}: --repair needs more than {MEASURED} passages, of which it "
            f"measures on {MEASURED}; found {len(texts)}"
        )
    source = PretrainedPolicy(model=options.dense)
    check_source(source.model, KEY)
    moe_config(from_pretrained(AutoConfig, source, KEY), settings, options.dense)  # before loading gigabytes
    with quiet_transformers():
        tokenizer = load_tokenizer(source, KEY)
        if options.repair and texts is None:
            check_room(tokenizer, options.repair_length)
        dense = load_whole(source, KEY, dtype="auto")
    stored = dense.dtype
    dense = dense.float().eval()
    print(f"dense      {options.dense}: {described(dense)}")
    moe = build(dense, settings, options.dense)
    as_written(moe, stored)
    dense.to(device)
    moe.to(device)
    (use_sorted_experts if device.type == "cpu" else use_grouped_experts)(moe)
    print(f"mixture    {experts_line(settings)}")
    print(f"           {described(moe)}")

    measured = encode(list(PASSAGES), tokenizer, MEASURED_LENGTH)
    if texts is not None:
        measured = encode(texts[:MEASURED], tokenizer, MEASURED_LENGTH)
    if not measured:
        raise UserError("depo upcycle: no passage to measure on has two tokens or more")
    results = {"upcycled": measure(dense, moe, measured)}
    print(f"error      {fidelity_line(results['upcycled'])}")
    if options.repair:
        distil(options, settings, dense, moe, tokenizer, texts)
        as_written(moe, stored)
        results["repaired"] = measure(dense, moe, measured)
        print(f"repaired   {fidelity_line(results['repaired'])}")
    write(options, settings, moe.to("cpu", stored), tokenizer, results)
    print(f"written    {options.out}")


def upcycling(options: argparse.Namespace) -> Upcycling:
    """The settings of the command line. Raises UserError for values that make no sense."""
    for name in ("slices", "replicas"):
        require(getattr(options, name) >= 1, name, getattr(options, name), "at least 1")
    experts = options.slices * options.replicas
    top_k = experts if options.top_k is None else options.top_k
    require(1 <= top_k <= experts, "top-k", top_k, f"between 1 and the {experts} experts (slices x replicas)")
    require(0 <= options.drop <= 1, "drop", options.drop, "a share between 0 and 1")
    router_std = options.router_std
    if router_std is None:
        router_std = 0.0 if top_k == experts else ROUTER_STD
    require(0 <= router_std < math.inf, "router-std", router_std, "a number from 0 on")
    if router_std == 0 and top_k < experts:
        raise UserError(
            f"depo upcycle: --router-std 0 sends every token to the same {top_k} of {experts} experts; "
            f"give a small one, such as {ROUTER_STD}, or leave --top-k out"
        )
    if options.router == "grouped" and top_k % options.slices:
        raise UserError(
            f"depo upcycle: --router grouped sends a token to whole replicas, so --top-k {top_k} must be a "
            f"multiple of --slices {options.slices}"
        )
    require(options.repair >= 0, "repair", options.repair, "0 steps or more")
    require(0 < options.repair_lr < math.inf, "repair-lr", options.repair_lr, "a number greater than 0")
    require(options.repair_batch >= 1, "repair-batch", options.repair_batch, "at least 1")
    require(options.repair_length >= 8, "repair-length", options.repair_length, "at least 8 tokens")
    settings = Upcycling(
        slices=options.slices,
        replicas=options.replicas,
        top_k=top_k,
        drop=options.drop,
        scaling=options.scaling,
        router=options.router,
        router_std=router_std,
        seed=options.seed,
    )
    if options.repair and settings.is_exact:
        raise UserError(
            "depo upcycle: --repair has nothing to mend, for this mixture equals the dense model; leave it "
            "out, or ask for another mixture (--top-k, --drop, --scaling marco)"
        )
    return settings


def require(holds: bool, name: str, found: float, wanted: str) -> None:
    if not holds:
        raise UserError(f"depo upcycle: --{name} must be {wanted}, found {found:g}")


def as_written(moe: PreTrainedModel, stored: torch.dtype) -> None:
    """Round the weights to the type they are written in, so that this is what is measured. Buffers (rotary
    frequencies) are not written, and stay."""
    for parameter in moe.parameters():
        parameter.data = parameter.data.to(stored).float()


def measure(dense: PreTrainedModel, moe: PreTrainedModel, passages: Sequence[Tensor]) -> Fidelity:
    """Raises UserError for a mixture that computes no numbers."""
    found = fidelity(dense, moe, passages)
    if not math.isfinite(found.kl):
        raise UserError(
            "depo upcycle: the mixture's outputs are not finite; nothing was written. Does the dense model's "
            "checkpoint hold NaN, or is --repair-lr too high?"
        )
    return found


def distil(
    options: argparse.Namespace,
    settings: Upcycling,
    dense: PreTrainedModel,
    moe: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str] | None,
) -> None:
    """Repair ``moe`` in place, on other passages than are measured on."""
    if texts is None:
        count = options.repair * options.repair_batch
        say(f"the dense model writes {count} passages of up to {options.repair_length} tokens")
        sequences = generate(dense, tokenizer, count, options.repair_length, settings.seed)
    else:
        sequences = encode(texts[MEASURED:], tokenizer, options.repair_length)
    if not sequences:
        raise UserError(f"depo upcycle: --text {options.text}: no passage to train on has two tokens or more")
    repair(
        moe,
        dense,
        sequences,
        steps=options.repair,
        lr=options.repair_lr,
        batch=options.repair_batch,
        seed=settings.seed,
        say=say,
    )


def check_out(out: Path) -> None:
    """Raise UserError unless a model can be put there; asked before the work, not after it."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"depo upcycle: {out} exists and is not empty; name a new directory")
    if out.resolve() == Path.cwd():
        raise UserError(f"depo upcycle: {out} is the directory you are in; name a new one")
    check_place(out, "depo upcycle:")


def write(
    options: argparse.Namespace,
    settings: Upcycling,
    moe: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    results: dict[str, Fidelity],
) -> None:
    """Model, generation config, tokenizer and report, written aside and renamed: all of it or nothing.

    ``save_pretrained`` writes the experts one by one, under the names of published checkpoints.
    """
    shape = shape_of(moe)
    report = {
        "dense": str(options.dense),
        **asdict(settings),
        "repair_steps": options.repair,
        "parameters": shape.parameters,
        "active_parameters": shape.active,
        **{name: asdict(result) for name, result in results.items()},
    }
    moe.config.dtype = moe.dtype
    # An empty directory may be there, perhaps behind a link.
    with directory_aside(options.out.resolve()) as aside, quiet_transformers():
        moe.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        (aside / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def experts_line(settings: Upcycling) -> str:
    parts = [
        f"{settings.slices} slices x {settings.replicas} replicas = {settings.experts} experts, "
        f"top-{settings.top_k}, {settings.scaling} scaling, "
        + (
            f"{settings.router} router of std {settings.router_std:g}"
            if settings.router_std
            else "zero router"
        )
    ]
    if settings.drop:
        parts.append(f"{settings.drop:.0%} of the dimensions drawn anew")
    parts.append("equals the dense model" if settings.is_exact else "approximate")
    return "; ".join(parts)


def fidelity_line(result: Fidelity) -> str:
    return (
        f"logits off by {result.logit_error_mean:.3g} on average, {result.logit_error_max:.3g} at most; "
        f"KL(dense || mixture) {result.kl:.3g} nats, same top token {result.same_top_token:.1%} "
        f"({result.tokens} tokens)"
    )


def described(model: PreTrainedModel) -> str:
    shape = shape_of(model)
    return f"{model.config.model_type}, {shape.parameters:,} parameters, {shape.active:,} active per token"


def shape_of(model: PreTrainedModel) -> ModelShape:
    shape = model_shape(model.config.to_dict())
    assert shape is not None  # all architectures that can be upcycled are covered
    return shape
