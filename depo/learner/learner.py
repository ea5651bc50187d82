"""The update: old log-probabilities, mini-batches, optimizer steps, and what is worth knowing about them.

Shapes: N samples of the batch, B of a micro-batch, T trained tokens of a sample. ``rows`` index the batch.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from depo.errors import UserError
from depo.learner.corrections import build_correction, mismatch
from depo.learner.layout import best_layout, padded_because
from depo.learner.logprobs import check_head, token_logprobs
from depo.learner.loss import Tally, build_loss, k3, token_loss
from depo.learner.optimizer import (
    adamw,
    load_state,
    lr_factor,
    perturb,
    restore,
    save_state,
    silence_dropout,
)
from depo.learner.packing import MicroBatch, Packing, Rows, pad_values, split_groups, unpad_values
from depo.learner.ranks import ALONE, Ranks
from depo.learner.routing import LoadBalancing, Pass, Routing, UpdateRouting
from depo.learner.samples import check_samples
from depo.learner.scoring import (
    Values,
    completions,
    inference,
    prompt_features,
    sample_logprobs,
)
from depo.models.attention import use_packed_attention
from depo.models.export import export_policy
from depo.models.precision import autocast, base_model
from depo.models.sharding import inside, local, whole
from depo.recipe import schema
from depo.rng import seed64
from depo.types import TrainSample, UpdateResult

WATCHED_WEIGHTS = 64  # of each tensor: enough to see whether an update changed anything
DUST = 1e-12  # far below any useful learning rate: a weight of 0 takes on changes of every size
POLICY_KL_ROWS = 32  # samples on which an update's own KL is measured, a few percent of its cost

Batch = Sequence[TrainSample]
Sequences = Sequence[tuple[Sequence[int], Sequence[int]]]


class PolicyLearner:
    """Owns the policy's weights and optimizer. One ``update`` per training step.

    ``model`` is a `PreTrainedModel` or a `PeftModel`. A learner that penalises KL to the *initial* policy
    has to be built on it: with full fine-tuning it keeps a frozen copy (with LoRA, the adapter is switched
    off), and ``load`` does not replace that. ``layout_note`` says why passes do not compute the fastest
    layout, None where they do. With several ``ranks`` the model is sharded in place; all of them have to call
    the same methods with the same arguments, and get the same results. Raises UserError for a routing replay
    that the model cannot do, and for a loss or correction that is not registered.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: schema.Learner,
        *,
        temperature: float,
        max_new_tokens: int,
        total_steps: int,
        pad_token_id: int,
        seed: int = 0,
        ranks: Ranks = ALONE,
    ) -> None:
        self.model = model.eval()
        self.ranks = ranks
        self.settings = settings
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens
        self.total_steps = total_steps
        self.pad_token_id = pad_token_id
        self.seed = seed
        try:
            self.loss = build_loss(settings.loss)
            self.correction = build_correction(settings.correction)
        except ValueError as error:
            raise UserError(f"learner: {error}") from error
        if getattr(base_model(model).config, "output_router_logits", False):
            base_model(model).config.output_router_logits = False  # no load-balancing loss of its own
        coef = settings.load_balancing_coef
        self.balance = LoadBalancing(model, coef) if coef > 0 else None
        with self.inference():
            self.routing = Routing(model, settings)
        not_packed = (
            use_packed_attention(base_model(model)) if settings.packing else "learner.packing is false"
        )
        self.is_lora = hasattr(model, "disable_adapter")
        needs_copy = settings.kl_coef > 0 and not self.is_lora
        self.frozen = copy.deepcopy(model).requires_grad_(False) if needs_copy else None
        ranks.shard(model, self.frozen)
        with self.inference():
            check_head(model)
        self.has_dropout = silence_dropout(model)
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.device = next(iter(self.parameters.values())).device
        if not_packed is None:
            decoder = base_model(model).get_decoder()
            with self.inference():
                layout, note = inside(model, partial(best_layout, decoder, self.device))
        else:
            layout, note = "padded", padded_because(not_packed)
        self.layout_note: str | None = note
        budget = settings.tokens_per_microbatch
        self.packing = Packing(budget, layout, pad_token_id, self.device, ranks)
        self.optimizer = adamw(self.parameters, settings)
        self.updates = 0  # position in the learning-rate schedule
        self.perturbed_from: dict[str, Tensor] | None = None

    def inference(self) -> AbstractContextManager[None]:
        """Context for every forward pass that trains nothing: see ``depo.learner.scoring``."""
        return inference(self.model)

    # ------------------------------------------------------------ update

    def update(self, batch: Batch) -> UpdateResult:
        """Train on a batch: ``epochs`` passes of ``minibatches`` optimizer steps each.

        An empty batch trains nothing, but the schedule advances. An optimizer step whose gradient is not
        finite is skipped and counted. Metrics (nats unless stated):

        - ``loss`` (load balancing included), ``grad_norm`` (before clipping): means over the steps; ``lr``;
          ``optimizer_steps`` taken and ``skipped_steps``
        - ``entropy``, ``clip_fraction`` (share of tokens outside the clip range), ``kl_ref`` (k3, with
          ``kl_coef`` only): means of trained tokens over all passes
        - ``mismatch_kl`` (k3) and ``mismatch_max`` (|difference|) of learner against engine;
          ``correction_mean`` weight and ``correction_cut``, the share of tokens truncated or masked
        - ``policy_kl``: k3 from the policy before to the one after this update, measured by one more pass
          over up to 32 sequences. The ratios of the last mini-batch would miss the last optimizer step, and
          be 1 with a single one. In bfloat16 it has a floor of rounding noise.
        - ``weights_changed``: share of a fixed sample of the trained weights that the update changed
        - ``sequences``, ``tokens`` (trained ones), ``padding_share``, ``seconds``
        - ``routing/…`` of a mixture of experts: see ``depo.learner.routing`` and docs/moe.md. With replayed
          routes all log-probabilities above are those under these routes (``kl_ref``'s reference excepted).

        Raises ValueError for samples that cannot be trained on (nothing to train on, misaligned or not
        finite; routes that do not fit).
        """
        started = time.perf_counter()
        lr = self.settings.lr * lr_factor(
            self.settings.schedule, self.updates, self.settings.warmup_steps, self.total_steps
        )
        metrics = {"lr": lr, "sequences": float(len(batch)), "tokens": 0.0}
        metrics |= {"optimizer_steps": 0.0, "skipped_steps": 0.0}
        old: Values = []
        layers: dict[str, list[float]] = {}
        if len(batch):
            check_samples(batch)
            kl_rows = np.linspace(0, len(batch) - 1, min(POLICY_KL_ROWS, len(batch))).astype(int)
            routing = self.routing.of_update(batch, kl_rows, self.device, not self.one_step(batch))
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            before = self.watched_weights()
            with self.dropout_stream():
                old, trained = self.train_on(batch, routing)
            metrics |= trained
            changed = (self.watched_weights() - before).abs() > DUST
            counts = self.ranks.total(torch.tensor([changed.sum(), changed.numel()], dtype=torch.double))
            metrics["weights_changed"] = float(counts[0] / counts[1])
            metrics["policy_kl"] = self.policy_kl(batch, old, kl_rows, routing)
            if routing is not None:
                watched, layers = routing.results(self.ranks)
                metrics |= watched
        self.updates += 1
        metrics["seconds"] = time.perf_counter() - started
        return UpdateResult(metrics, old, layers)

    def watched_weights(self) -> Tensor:
        """Some of every trained tensor (of this rank's part of it), evenly spaced, float32."""
        flat = (local(parameter.detach()).reshape(-1) for parameter in self.parameters.values())
        return torch.cat([one[:: len(one) // WATCHED_WEIGHTS + 1].float() for one in flat])

    def one_step(self, batch: Batch) -> bool:
        """Whether the old-policy pass can be saved: before the only optimizer step, current and old
        log-probabilities are the same numbers."""
        groups = len({sample.group for sample in batch})
        steps = self.settings.epochs * min(self.settings.minibatches, groups)
        return steps == 1 and not self.has_dropout

    def train_on(self, batch: Batch, routing: UpdateRouting | None) -> tuple[Values, dict[str, float]]:
        """All optimizer steps of one update. Returns old log-probabilities and metrics."""
        passes = [self.cut(batch, epoch) for epoch in range(self.settings.epochs)]
        first_pass = [rows for minibatch in passes[0] for rows in minibatch]
        one_step = self.one_step(batch)
        old = None
        if not one_step:
            old = self.logprobs(self.model, batch, first_pass, routing, "first")
            self.share_routes(routing, first_pass)
        reference = self.reference_logprobs(batch, first_pass) if self.settings.kl_coef > 0 else None
        tally = Tally()
        current: Values = [np.empty(0, dtype=np.float32)] * len(batch)
        self.model.train()
        for minibatch in (minibatch for epoch in passes for minibatch in epoch):
            weights_N = self.weights(minibatch, batch)
            for rows in self.ranks.own(minibatch):
                micro = self.packing.collate(rows, batch)
                with routed(routing, "first" if one_step else "train", micro):
                    logprobs_BT = self.backward(micro, batch, weights_N, old, reference, tally)
                if one_step:
                    for row, values in zip(rows, unpad_values(logprobs_BT, micro.mask_BT), strict=True):
                        current[row] = values
            self.optimizer_step(tally)
        self.model.eval()
        if old is None:
            old = self.ranks.gathered(current, first_pass)
            self.share_routes(routing, first_pass)
        metrics = tally.means(self.ranks.total) | {
            "tokens": float(sum(sample.trained for sample in batch)),
            "padding_share": self.packing.padding(first_pass, batch),
        }
        engine = [sample.logprobs[sample.loss_mask] for sample in batch]
        return old, metrics | mismatch(self.correction, old, engine)

    def share_routes(self, routing: UpdateRouting | None, parts: Sequence[Rows]) -> None:
        """What this rank recorded in its first pass, to all: later passes deal the rows out anew."""
        if routing is not None:
            routing.first = self.ranks.gathered(routing.first, parts)

    def cut(self, batch: Batch, epoch: int) -> list[list[Rows]]:
        """Mini-batches of one pass, each a list of micro-batches of all ranks."""
        group_N = np.array([sample.group for sample in batch])
        parts = split_groups(group_N, self.settings.minibatches, self.seed, self.updates, epoch)
        return [self.packing.cut(rows, batch) for rows in parts]

    def weights(self, minibatch: list[Rows], batch: Batch) -> Tensor:
        """Token weights of a mini-batch, placed at its rows of (N,)."""
        rows = np.concatenate(minibatch)
        weights_N = torch.zeros(len(batch), device=self.device)
        lengths = torch.tensor([batch[row].trained for row in rows], device=self.device)
        weights_N[torch.from_numpy(rows)] = self.loss.weights(lengths.float(), self.max_new_tokens)
        return weights_N

    def backward(
        self,
        micro: MicroBatch,
        batch: Batch,
        weights_N: Tensor,
        old: Values | None,
        reference: Values | None,
        tally: Tally,
    ) -> Tensor:
        """Add a micro-batch's gradient; returns its current log-probabilities (B, T), detached."""
        mask_BT = micro.mask_BT
        samples = [batch[row] for row in micro.rows]
        advantages = [np.broadcast_to(s.advantage, len(s))[s.loss_mask] for s in samples]
        engine_BT = pad_values([s.logprobs[s.loss_mask] for s in samples], mask_BT)
        listening: AbstractContextManager[list[Tensor]] = (
            nullcontext([]) if self.balance is None else self.balance.listening()
        )
        with autocast(self.model), listening as router_logits:
            logprobs_BT, entropy_BT = token_logprobs(self.model, micro, self.temperature)
        old_BT = logprobs_BT.detach()
        if old is not None:
            old_BT = pad_values([old[row] for row in micro.rows], mask_BT)
        reference_BT = None
        if reference is not None:
            reference_BT = pad_values([reference[row] for row in micro.rows], mask_BT)
        correction_BT, _ = self.correction(old_BT, engine_BT, mask_BT)
        result = token_loss(
            self.loss,
            logprobs_BT=logprobs_BT,
            old_BT=old_BT,
            advantages_BT=pad_values(advantages, mask_BT),
            mask_BT=mask_BT,
            correction_BT=correction_BT,
            reference_BT=reference_BT,
            kl_coef=self.settings.kl_coef,
        )
        weights_BT = weights_N[torch.from_numpy(micro.rows)].unsqueeze(1) * mask_BT
        loss = (weights_BT * result.loss_BT).sum()
        if self.balance is not None:
            share = len(micro.rows) / weights_N.count_nonzero()
            loss = loss + self.balance.loss(router_logits, micro, share)
        loss.backward()
        tally.add_loss(loss.detach())
        tally.add_tokens(mask_BT, entropy=entropy_BT, clip_fraction=result.clipped_BT, kl_ref=result.kl_BT)
        return logprobs_BT.detach()

    def optimizer_step(self, tally: Tally) -> None:
        norm = whole(nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.max_grad_norm))
        finite = bool(torch.isfinite(norm))
        if finite:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        tally.add_step(float(norm), finite)

    # ------------------------------------------------------------ log-probabilities

    def logprobs(
        self,
        model: nn.Module,
        batch: Batch,
        parts: Sequence[Rows],
        routing: UpdateRouting | None = None,
        which: Pass = "first",
    ) -> Values:
        """Of the trained tokens of these micro-batches, without gradients."""
        around = partial(routed, routing, which)
        with self.inference():
            return sample_logprobs(model, batch, self.packing, self.temperature, parts=parts, around=around)

    def reference_logprobs(self, batch: Batch, parts: Sequence[Rows]) -> Values:
        """Under the initial policy: the adapter switched off, or the frozen copy."""
        with self.model.disable_adapter() if self.is_lora else nullcontext():
            return self.logprobs(self.frozen or self.model, batch, parts)

    def policy_kl(self, batch: Batch, old: Values, rows: Rows, routing: UpdateRouting | None) -> float:
        new = self.logprobs(self.model, batch, self.packing.cut(rows, batch), routing, "kl")
        difference = np.concatenate([new[row] - old[row] for row in rows])
        return float(k3(torch.from_numpy(difference).double()).mean())

    def score(self, sequences: Sequences, temperature: float = 1.0) -> Values:
        """Log-probabilities of each (prompt ids, completion ids): float32 arrays of (T,), in nats."""
        with self.inference():
            return sample_logprobs(self.model, completions(sequences), self.packing, temperature)

    def prompt_features(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        """The prefill probe of N prompts, (N, F) float32: see ``depo.learner.scoring``."""
        with self.inference():
            return prompt_features(self.model, prompts, self.packing)

    @contextmanager
    def dropout_stream(self) -> Iterator[None]:
        """Key dropout by (seed, update), so that a resumed run draws the same masks."""
        if not self.has_dropout:
            yield
            return
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed64(self.seed, "dropout", self.updates, index=self.ranks.rank))
            yield

    # ------------------------------------------------------------ weights

    def export(self, directory: Path, trained_only: bool = False) -> None:
        """The policy in Hugging Face format, LoRA merged; the weights in memory are not touched. See
        ``depo.models.export``."""
        export_policy(self.model, Path(directory), trained_only)

    def perturb(self, seed: int, scale: float = 1.0) -> None:
        """Move the policy visibly until ``restore``."""
        if self.perturbed_from is not None:
            raise RuntimeError("the policy is perturbed already: restore() it first")
        self.perturbed_from = perturb(self.parameters, seed, scale)

    def restore(self) -> None:
        """Undo ``perturb``, bit by bit."""
        if self.perturbed_from is None:
            raise RuntimeError("the policy is not perturbed")
        restore(self.parameters, self.perturbed_from)
        self.perturbed_from = None

    def save(self, directory: Path) -> None:
        """Trainable weights, AdamW moments, the schedule's position and what the routing alarm remembers."""
        counters: dict[str, Any] = {"updates": self.updates}
        if self.routing.alarm is not None:
            counters["routing_alarm"] = self.routing.alarm.state()
        save_state(Path(directory), self.parameters, self.optimizer, counters)

    def load(self, directory: Path) -> None:
        """Continue from ``save``: further updates are the same numbers. ValueError if it does not fit."""
        counters = load_state(Path(directory), self.parameters, self.optimizer)
        self.updates = counters["updates"]
        if self.routing.alarm is not None and "routing_alarm" in counters:
            self.routing.alarm.restore(counters["routing_alarm"])


def routed(routing: UpdateRouting | None, which: Pass, micro: MicroBatch) -> AbstractContextManager[None]:
    """Around a forward pass (and its backward pass): routes forced and watched, if there are any."""
    return nullcontext() if routing is None or not len(micro.rows) else routing.during(which, micro)
