"""Routing of one update: what each of the learner's forward passes forces, records and counts.

                        forces                     watches
    first pass          R3: the engine's routes    load, entropy, agreement with the engine; records routes
    passes of training  R3, or R2: the first       –
                        pass's own routes
    KL pass at the end  as passes of training      agreement with the first pass

"First" is the old-policy pass where there is one, else the only training pass: with a single optimizer step
there is nothing between the two for R2 to bridge, and it does nothing. Reference policy and parity probe
route natively.

The load-balancing loss (``learner.load_balancing_coef``) is the architecture's own
``load_balancing_loss_func`` (Switch Transformer, arXiv 2101.03961, eq. 4-6) on the logits of real tokens,
trained on or not, of one micro-batch; micro-batches count by their share of the mini-batch's sequences.
Whatever the model's own config says is ignored: an auxiliary loss tuned for pretraining pulls the routing of
a finished model towards uniform.

Shapes: B sequences of a micro-batch, S its padded length, N = B·S, M counted positions, L routed layers,
K experts chosen for a token.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from depo.errors import UserError
from depo.learner.packing import MicroBatch
from depo.learner.ranks import ALONE, Ranks
from depo.models.precision import base_model, routers
from depo.moe.routers import Router, find_routers, require_routers
from depo.moe.routes import ForcedRoutes, Observe, Recorder, check_routes, force, hooked, unpad
from depo.moe.telemetry import AgreementTally, CollapseAlarm, LoadTally, scalars
from depo.recipe import schema
from depo.types import TrainSample

Pass = Literal["first", "train", "kl"]


class Routing:
    """A policy's routers under the recipe's settings. Raises UserError when they ask for a replay that the
    model cannot do. ``routers`` is empty where there is nothing to do: dense and unknown models."""

    def __init__(self, model: nn.Module, settings: schema.Learner) -> None:
        self.replay = settings.routing_replay
        self.routers: list[Router] = []
        if self.replay != "none":
            self.routers = require_routers(model, f"learner.routing_replay {self.replay}")
        elif settings.routing_telemetry:
            self.routers = find_routers(model)
        self.telemetry = settings.routing_telemetry and bool(self.routers)
        self.alarm = CollapseAlarm(len(self.routers), self.routers[0].top_k) if self.telemetry else None

    def of_update(
        self, batch: Sequence[TrainSample], kl_rows: np.ndarray, device: torch.device, has_old_pass: bool
    ) -> UpdateRouting | None:
        """The routing of one update, or None where nothing is replayed or watched. Raises ValueError for
        routes that do not fit the batch."""
        if not self.routers:
            return None
        if self.replay == "r3" and all(sample.routes is None for sample in batch):
            raise ValueError("learner.routing_replay r3: the rollouts came without routes")
        first = self.routers[0]
        for row, sample in enumerate(batch):
            if sample.routes is not None:
                shape = len(self.routers), first.top_k, first.experts
                check_routes(sample.routes, sample, *shape, what=f"row {row} of the batch")
        return UpdateRouting(self, batch, kl_rows, device, has_old_pass)


class UpdateRouting:
    """One update. Enter ``during`` around each forward pass, and its backward pass if it has one."""

    def __init__(
        self,
        routing: Routing,
        batch: Sequence[TrainSample],
        kl_rows: np.ndarray,
        device: torch.device,
        has_old_pass: bool,
    ) -> None:
        self.routing = routing
        self.routers = routing.routers
        self.device = device
        self.batch = batch
        self.engine = [sample.routes for sample in batch]
        # R2 needs the first pass's routes of every row, telemetry those of the rows that are passed again.
        self.replays_first = routing.replay == "r2" and has_old_pass
        wanted = range(len(batch)) if self.replays_first else kl_rows if routing.telemetry else ()
        self.wanted = {int(row) for row in wanted}
        self.first: list[np.ndarray | None] = [None] * len(batch)
        self.load = LoadTally(self.routers, device)
        self.with_engine = AgreementTally(len(self.routers), device)
        self.with_first = AgreementTally(len(self.routers), device)

    @contextmanager
    def during(self, which: Pass, micro: MicroBatch) -> Iterator[None]:
        """Force and watch what this pass has to."""
        forced = self.forced(which, micro)
        recorder = None
        observe: Observe | None = None
        if which == "first":
            recorder = Recorder(self.routers) if self.wanted & set(micro.rows.tolist()) else None
            observe = self.first_look(micro, recorder, forced)
        elif which == "kl" and self.routing.telemetry:
            observe = self.second_look(micro)
        if forced is None and observe is None:
            yield
            return
        with hooked(self.routers, *as_computed(micro, forced, observe)):
            yield
        if recorder is not None:
            self.keep(recorder, micro)

    def forced(self, which: Pass, micro: MicroBatch) -> ForcedRoutes | None:
        if self.routing.replay == "r3":
            return self.on(micro, self.engine)
        return self.on(micro, self.first) if self.replays_first and which != "first" else None

    def on(self, micro: MicroBatch, routes: Sequence[np.ndarray | None]) -> ForcedRoutes | None:
        """Records by row of the batch, laid out on the micro-batch's positions."""
        lengths_B = [len(self.batch[row]) for row in micro.rows]
        return force([routes[row] for row in micro.rows], lengths_B, micro.tokens_BS.shape[1], self.device)

    def first_look(
        self, micro: MicroBatch, recorder: Recorder | None, forced: ForcedRoutes | None
    ) -> Observe | None:
        """Keep the choice, count load and entropy, compare with the engine's routes."""
        if not self.routing.telemetry:
            return recorder
        counted_M = micro.predicting_M
        recorded = forced or self.on(micro, self.engine)  # forced here is r3's: the engine's
        engine = None if recorded is None else counted_only(recorded, counted_M)

        def observe(index: int, logits_NE: Tensor, native_NK: Tensor) -> None:
            if recorder is not None:
                recorder(index, logits_NE, native_NK)
            self.load.add(index, logits_NE, native_NK, counted_M)
            if engine is not None:
                self.with_engine.add(index, native_NK, engine)

        return observe

    def second_look(self, micro: MicroBatch) -> Observe:
        """Compare with the choice of the first pass."""
        recorded = self.on(micro, self.first)
        assert recorded is not None  # its rows are those that were kept
        first = counted_only(recorded, micro.predicting_M)
        return lambda index, _, native_NK: self.with_first.add(index, native_NK, first)

    def keep(self, recorder: Recorder, micro: MicroBatch) -> None:
        lengths_B = [len(self.batch[row]) for row in micro.rows]
        records_B = unpad(recorder.routes(), lengths_B, micro.tokens_BS.shape[1])
        for row, record in zip(micro.rows.tolist(), records_B, strict=True):
            if row in self.wanted:
                self.first[row] = record

    @property
    def replayed(self) -> float:
        """Share of trained tokens predicted from a position whose experts were forced."""
        if self.replays_first:
            return 1.0
        if self.routing.replay != "r3":
            return 0.0
        # n routes end with the last token but one, so they predict the last n tokens.
        forced = (s.loss_mask[len(s) - len(s.routes) :].sum() for s in self.batch if s.routes is not None)
        return int(sum(forced)) / sum(sample.trained for sample in self.batch)

    def results(self, ranks: Ranks = ALONE) -> tuple[dict[str, float], dict[str, list[float]]]:
        """Metrics of the update under ``routing/``, and values by routed layer for ``routing.jsonl``."""
        metrics = {} if self.routing.replay == "none" else {"routing/replayed": self.replayed}
        if not self.routing.telemetry or self.routing.alarm is None:
            return metrics, {}
        for counts in (self.load, self.with_engine, self.with_first):
            counts.add_up(ranks.total)
        layers = self.load.layers()
        for name, tally in (("agreement_engine", self.with_engine), ("agreement_update", self.with_first)):
            shares_L = tally.shares()
            if shares_L is not None:
                layers[name] = shares_L
        collapsing = self.routing.alarm.check(layers["experts_in_use"])
        metrics |= scalars(layers) | {"routing/collapsing": float(len(collapsing))}
        by_layer = {"layer": [router.layer for router in self.routers]}
        return metrics, by_layer | {name: values.tolist() for name, values in layers.items()}


def as_computed(
    micro: MicroBatch, forced: ForcedRoutes | None, observe: Observe | None
) -> tuple[ForcedRoutes | None, Observe | None]:
    """The same for the row that the pass computes: packed, tokens stand elsewhere, those of a prompt for all
    of its completions."""
    if micro.packed is None:
        return forced, observe
    place_N = micro.packed.token_BS.flatten()
    if forced is not None:
        at_M = place_N[forced.mask_N1.squeeze(1)]
        layers, _, top_k = forced.chosen_LNK.shape
        chosen_LNK = forced.chosen_LNK.new_zeros(layers, micro.computed, top_k)
        chosen_LNK[:, at_M] = forced.chosen_LNK[:, forced.mask_N1.squeeze(1)]
        mask_N1 = forced.mask_N1.new_zeros(micro.computed, 1)
        mask_N1[at_M] = True
        forced = ForcedRoutes(chosen_LNK, mask_N1)
    if observe is None:
        return forced, None
    return forced, lambda index, logits, native: observe(index, logits[place_N], native[place_N])


def counted_only(routes: ForcedRoutes, counted_M: Tensor) -> ForcedRoutes:
    """``routes`` at the flat positions ``counted_M`` only."""
    counted_N1 = torch.zeros_like(routes.mask_N1)
    counted_N1[counted_M] = True
    return ForcedRoutes(routes.chosen_LNK, routes.mask_N1 & counted_N1)


ARCHITECTURES = ("qwen3_moe", "qwen2_moe", "olmoe", "mixtral")
"""Whose routers give their logits first, as ``load_balancing_loss_func`` wants them."""

FUNCTION = "load_balancing_loss_func"


class LoadBalancing:
    """Listens to the routers during a forward pass and turns their logits into the loss."""

    def __init__(self, model: nn.Module, coef: float) -> None:
        """Raises UserError for other architectures."""
        self.model = base_model(model)
        self.coef = coef
        self.function = getattr(sys.modules[type(self.model).__module__], FUNCTION, None)
        kind = self.model.config.model_type
        if kind not in ARCHITECTURES or self.function is None:
            raise UserError(
                f"learner.load_balancing_coef: {coef:g}, but there is no load-balancing loss for {kind} "
                f"models (there is for {', '.join(ARCHITECTURES)})"
            )

    @contextmanager
    def listening(self) -> Iterator[list[Tensor]]:
        """Collects each layer's router logits (B·S, E) of the forward pass inside, with their gradient."""
        logits: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: Any, output: tuple[Tensor, ...]) -> None:
            logits.append(output[0])

        hooks = [router.register_forward_hook(keep) for router in routers(self.model).values()]
        try:
            yield logits
        finally:
            for hook in hooks:
                hook.remove()

    def loss(self, logits: list[Tensor], micro: MicroBatch, share: float | Tensor) -> Tensor:
        """coef · share · loss of a micro-batch; ``share`` is its part of the mini-batch."""
        positions_S = torch.arange(micro.tokens_BS.shape[1], device=micro.lengths_B.device)
        real_BS = positions_S < micro.lengths_B.unsqueeze(1)
        if micro.packed is not None:
            logits = [layer[micro.packed.token_BS.flatten()] for layer in logits]
        assert self.function is not None
        value = self.function(
            tuple(layer.float() for layer in logits),
            self.model.num_experts,
            self.model.num_experts_per_tok,
            real_BS,
        )
        return self.coef * share * value
