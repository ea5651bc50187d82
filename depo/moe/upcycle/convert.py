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
from depo.models.devices import pick_device
from depo.models.experts import use_grouped_experts, use_sorted_experts
from depo.models.fetch import quiet_transformers
from depo.models.loading import check_source, from_pretrained, load_tokenizer, load_whole
from depo.moe.upcycle.build import build, moe_config
from depo.moe.upcycle.repair import Fidelity, fidelity, repair
from depo.moe.upcycle.settings import Upcycling, upcycling
from depo.moe.upcycle.text import PASSAGES, check_room, encode, generate, read_passages
from depo.recipe.model_shape import ModelShape, model_shape
from depo.recipe.schema import PretrainedPolicy

KEY = "depo upcycle: DENSE"


REPORT_FILE = "depo_upcycle.json"
"""What OUT was made of and how far it is from it."""


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
