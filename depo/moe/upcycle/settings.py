"""What an upcycling is asked to do, checked; no torch here."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import Literal

from depo.errors import UserError

ROUTER_STD = 0.02  # transformers' own initializer_range: small beside hidden states of norm √H

NEAR = 2  # divisors shown on either side of a number of slices that does not divide


@dataclass(frozen=True, slots=True)
class Upcycling:
    """N slices of the feed-forward layer, M replicas of each, K of the N·M experts active per token."""

    slices: int
    replicas: int
    top_k: int
    drop: float
    """Share of an expert's intermediate dimensions that is drawn anew (Drop-Upcycling's r)."""
    scaling: Literal["exact", "marco"]
    router: Literal["random", "grouped"]
    router_std: float
    """Of the router's weights; 0: no expert is preferred."""
    seed: int

    @property
    def experts(self) -> int:
        return self.slices * self.replicas

    @property
    def is_exact(self) -> bool:
        """Whether the mixture computes what the dense model does, up to rounding: every slice is active with
        the same weight."""
        all_active = self.top_k == self.experts and self.router_std == 0
        return self.scaling == "exact" and (all_active or self.router == "grouped") and self.drop == 0


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


def check_slices(slices: int, intermediate_size: int, model: str) -> None:
    """Raise UserError unless ``slices`` cuts the feed-forward layer evenly; it names the nearest that do."""
    if intermediate_size % slices == 0:
        return
    divisors = [n for n in range(1, intermediate_size + 1) if intermediate_size % n == 0]
    below = [n for n in divisors if n < slices][-NEAR:]
    above = [n for n in divisors if n > slices][:NEAR]
    raise UserError(
        f"depo upcycle: --slices {slices} does not divide the {intermediate_size} dimensions of the "
        f"feed-forward layers of {model}; near it: {', '.join(map(str, below + above))}"
    )
