"""The update: old log-probabilities, mini-batches, optimizer steps, and what is worth knowing about them.

Shapes: N sequences of the batch, B of a micro-batch, T completion tokens. ``rows`` index the batch.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from depo.learner.balance import LoadBalancing
from depo.learner.logprobs import check_head, token_logprobs
from depo.learner.loss import correction_weights, k3, token_loss, token_weights
from depo.learner.metrics import Tally, mismatch
from depo.learner.optimizer import load_state, lr_factor, perturb, restore, save_state, silence_dropout
from depo.learner.packing import MicroBatch, Packing, Rows, pad_values, pass_cost, split_groups, unpad_values
from depo.learner.routing import Pass, Routing, UpdateRouting
from depo.learner.scoring import answer_logprobs, prompt_features
from depo.learner.shared_prompts import SHARED_TOKENS, can_share
from depo.models.devices import autocast, base_model
from depo.models.experts import keep_casts
from depo.models.export import export_policy
from depo.recipe import schema
from depo.rng import seed64
from depo.types import TrainingBatch, UpdateResult

POLICY_KL_ROWS = 32  # sequences on which an update's own KL is measured, a few percent of its cost


Values = list[np.ndarray]  # N float32 arrays of (T,)


class PolicyLearner:
    """Owns the policy's weights and optimizer. One ``update`` per training step.

    ``model`` is a `PreTrainedModel` or a `PeftModel`. A learner that penalises KL to the *initial* policy
    has to be built on it: with full fine-tuning it keeps a frozen copy (with LoRA, the adapter is switched
    off), and ``load`` does not replace that. Raises UserError for a routing replay that the model cannot do.
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
    ) -> None:
        self.model = model.eval()
        self.settings = settings
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens
        self.total_steps = total_steps
        self.pad_token_id = pad_token_id
        self.seed = seed
        if getattr(base_model(model).config, "output_router_logits", False):
            base_model(model).config.output_router_logits = False  # no load-balancing loss of its own
        coef = settings.load_balancing_coef
        self.balance = LoadBalancing(model, coef) if coef > 0 else None
        with self.inference():
            check_head(model)
        self.has_dropout = silence_dropout(model)
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.device = next(iter(self.parameters.values())).device
        self.packing = self.choose_packing()
        with self.inference():
            self.routing = Routing(model, settings)
        self.optimizer = adamw(self.parameters, settings)
        self.is_lora = hasattr(model, "disable_adapter")
        needs_copy = settings.kl_coef > 0 and not self.is_lora
        self.frozen = copy.deepcopy(model).requires_grad_(False) if needs_copy else None
        self.updates = 0  # position in the learning-rate schedule
        self.perturbed_from: dict[str, Tensor] | None = None

    def choose_packing(self) -> Packing:
        """Prompts are computed once for all of their completions, if that is wanted and the model can."""
        budget = self.settings.tokens_per_microbatch
        with self.inference():
            decoder = base_model(self.model).get_decoder()
            # A pass holds no sequence that is longer than another one by more than a pass costs.
            longest = min(SHARED_TOKENS, budget) + pass_cost(self.device)
            shares = self.settings.share_prompts and can_share(
                decoder, self.pad_token_id, self.device, longest
            )
        return Packing(budget, min(SHARED_TOKENS, budget) if shares else 0, self.pad_token_id, self.device)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Context for every forward pass that trains nothing: evaluation mode, no gradients, and the same
        autocast as training, so that log-probabilities agree. A colocated engine generates inside it."""
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), autocast(self.model), keep_casts():
                yield
        finally:
            self.model.train(was_training)

    # ------------------------------------------------------------ update

    def update(self, batch: TrainingBatch) -> UpdateResult:
        """Train on a batch: ``epochs`` passes of ``minibatches`` optimizer steps each.

        An empty batch trains nothing, but the schedule advances. An optimizer step whose gradient is not
        finite is skipped and counted. Metrics (nats unless stated):

        - ``loss`` (load balancing included), ``grad_norm`` (before clipping): means over the steps; ``lr``;
          ``optimizer_steps`` taken and ``skipped_steps``
        - ``entropy``, ``clip_fraction`` (share of tokens outside the clip range), ``kl_ref`` (k3, with
          ``kl_coef`` only): token means over all passes
        - ``mismatch_kl`` (k3) and ``mismatch_max`` (|difference|) of learner against engine;
          ``correction_mean`` weight and ``correction_cut``, the share of tokens truncated or masked
        - ``policy_kl``: k3 from the policy before to the one after this update, measured by one more pass
          over up to 32 sequences. The ratios of the last mini-batch would miss the last optimizer step, and
          be 1 with a single one. In bfloat16 it has a floor of rounding noise.
        - ``sequences``, ``tokens`` (completion tokens), ``padding_share``, ``seconds``
        - ``routing/…`` of a mixture of experts: see ``depo.learner.routing`` and docs/moe.md. With replayed
          routes all log-probabilities above are those under these routes (``kl_ref``'s reference excepted).

        Raises ValueError for rows that cannot be trained on (empty, misaligned or not finite; routes that do
        not fit).
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
            check_batch(batch)
            kl_rows = np.linspace(0, len(batch) - 1, min(POLICY_KL_ROWS, len(batch))).astype(int)
            routing = self.routing.of_update(batch, kl_rows, self.device, not self.one_step(batch))
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            with self.dropout_stream():
                old, trained = self.train_on(batch, routing)
            metrics |= trained
            metrics |= mismatch(self.settings.correction, old, batch.engine_logprobs)
            metrics["policy_kl"] = self.policy_kl(batch, old, kl_rows, routing)
            if routing is not None:
                watched, layers = routing.results()
                metrics |= watched
        self.updates += 1
        metrics["seconds"] = time.perf_counter() - started
        return UpdateResult(metrics, old, layers)

    def one_step(self, batch: TrainingBatch) -> bool:
        """Whether the old-policy pass can be saved: before the only optimizer step, current and old
        log-probabilities are the same numbers."""
        groups = len(np.unique(batch.group))
        steps = self.settings.epochs * min(self.settings.minibatches, groups)
        return steps == 1 and not self.has_dropout

    def train_on(
        self, batch: TrainingBatch, routing: UpdateRouting | None
    ) -> tuple[Values, dict[str, float]]:
        """All optimizer steps of one update. Returns old log-probabilities and metrics."""
        lengths_N = np.array([len(c) for c in batch.completion_ids])
        passes = [self.cut(batch, epoch) for epoch in range(self.settings.epochs)]
        first_pass = [rows for minibatch in passes[0] for rows in minibatch]
        one_step = self.one_step(batch)
        old = None
        if not one_step:
            old = self.logprobs(self.model, batch, first_pass, self.temperature, routing, "first")
        reference = self.reference_logprobs(batch, first_pass) if self.settings.kl_coef > 0 else None
        tally = Tally()
        current: Values = [np.empty(0, dtype=np.float32)] * len(batch)
        self.model.train()
        for minibatch in (minibatch for epoch in passes for minibatch in epoch):
            weights_N = self.weights(minibatch, lengths_N)
            for rows in minibatch:
                micro = self.packing.collate(rows, batch.prompt_ids, batch.completion_ids)
                with routed(routing, "first" if one_step else "train", micro):
                    logprobs_BT = self.backward(micro, batch, weights_N, old, reference, tally)
                if one_step:
                    for row, values in zip(rows, unpad_values(logprobs_BT, micro.mask_BT), strict=True):
                        current[row] = values
            self.optimizer_step(tally)
        self.model.eval()
        metrics = tally.means() | {
            "tokens": float(lengths_N.sum()),
            "padding_share": self.packing.padding(first_pass, batch.prompt_ids, batch.completion_ids),
        }
        return (current if old is None else old), metrics

    def cut(self, batch: TrainingBatch, epoch: int) -> list[list[Rows]]:
        """Mini-batches of one pass, each a list of micro-batches."""
        parts = split_groups(batch.group, self.settings.minibatches, self.seed, self.updates, epoch)
        return [self.packing.cut(rows, batch.prompt_ids, batch.completion_ids) for rows in parts]

    def weights(self, minibatch: list[Rows], lengths_N: np.ndarray) -> Tensor:
        """Token weights of a mini-batch, placed at its rows of (N,)."""
        rows = np.concatenate(minibatch)
        weights_N = torch.zeros(len(lengths_N), device=self.device)
        lengths = torch.from_numpy(lengths_N[rows]).to(self.device)
        weights_N[torch.from_numpy(rows)] = token_weights(self.settings.loss, lengths, self.max_new_tokens)
        return weights_N

    def backward(
        self,
        micro: MicroBatch,
        batch: TrainingBatch,
        weights_N: Tensor,
        old: Values | None,
        reference: Values | None,
        tally: Tally,
    ) -> Tensor:
        """Add a micro-batch's gradient; returns its current log-probabilities (B, T), detached."""
        mask_BT = micro.mask_BT
        listening = nullcontext([]) if self.balance is None else self.balance.listening()
        with autocast(self.model), listening as router_logits:
            logprobs_BT, entropy_BT = token_logprobs(self.model, micro, self.temperature)
        old_BT = logprobs_BT.detach() if old is None else pad_values(micro.rows, old, mask_BT)
        engine_BT = pad_values(micro.rows, batch.engine_logprobs, mask_BT)
        correction_BT, _ = correction_weights(self.settings.correction, old_BT, engine_BT)
        result = token_loss(
            self.settings.loss,
            logprobs_BT=logprobs_BT,
            old_BT=old_BT,
            advantages_B=torch.from_numpy(batch.advantages[micro.rows]).float().to(self.device),
            mask_BT=mask_BT,
            correction_BT=correction_BT,
            reference_BT=None if reference is None else pad_values(micro.rows, reference, mask_BT),
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
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.max_grad_norm)
        finite = bool(torch.isfinite(norm))
        if finite:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        tally.add_step(float(norm), finite)

    # ------------------------------------------------------------ log-probabilities

    def score(
        self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], temperature: float = 1.0
    ) -> Values:
        """Log-probabilities of each (prompt ids, completion ids): float32 arrays of (T,), in nats."""
        prompts = [np.asarray(prompt, dtype=np.int64) for prompt, _ in sequences]
        completions = [np.asarray(completion, dtype=np.int64) for _, completion in sequences]
        none = np.zeros(len(sequences), dtype=np.float32)
        batch = TrainingBatch(prompts, completions, [], none, np.arange(len(sequences)))
        parts = self.packing.cut(np.arange(len(batch)), prompts, completions)
        return self.logprobs(self.model, batch, parts, temperature)

    def answer_logprobs(
        self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], temperature: float
    ) -> np.ndarray:
        """Log-probability of each whole answer, (prompt ids, answer ids): (N,), in nats. Quicker than
        ``score`` where many are to one prompt."""
        with self.inference():
            return answer_logprobs(
                self.model,
                sequences,
                temperature=temperature,
                tokens_per_batch=self.settings.tokens_per_microbatch,
                pad_token_id=self.pad_token_id,
            )

    def prompt_features(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        """the prefill probe of N prompts, (N, F) float32: see ``depo.learner.scoring``."""
        with self.inference():
            return prompt_features(
                self.model,
                prompts,
                tokens_per_batch=self.settings.tokens_per_microbatch,
                pad_token_id=self.pad_token_id,
            )

    def logprobs(
        self,
        model: nn.Module,
        batch: TrainingBatch,
        parts: Sequence[Rows],
        temperature: float,
        routing: UpdateRouting | None = None,
        which: Pass = "first",
    ) -> Values:
        """Without gradients, by micro-batches that together hold every row of the batch."""
        values: Values = [np.empty(0, dtype=np.float32)] * len(batch)
        with self.inference():
            for rows in parts:
                micro = self.packing.collate(rows, batch.prompt_ids, batch.completion_ids)
                with routed(routing, which, micro):
                    logprobs_BT, _ = token_logprobs(model, micro, temperature)
                for row, row_values in zip(rows, unpad_values(logprobs_BT, micro.mask_BT), strict=True):
                    values[row] = row_values
        return values

    def reference_logprobs(self, batch: TrainingBatch, parts: Sequence[Rows]) -> Values:
        """Under the initial policy: the adapter switched off, or the frozen copy."""
        with self.model.disable_adapter() if self.is_lora else nullcontext():
            return self.logprobs(self.frozen or self.model, batch, parts, self.temperature)

    def policy_kl(
        self, batch: TrainingBatch, old: Values, rows: Rows, routing: UpdateRouting | None
    ) -> float:
        parts = self.packing.cut(rows, batch.prompt_ids, batch.completion_ids)
        new = self.logprobs(self.model, batch, parts, self.temperature, routing, "kl")
        difference = np.concatenate([new[row] - old[row] for row in rows])
        return float(k3(torch.from_numpy(difference).double()).mean())

    @contextmanager
    def dropout_stream(self) -> Iterator[None]:
        """Key dropout by (seed, update), so that a resumed run draws the same masks."""
        if not self.has_dropout:
            yield
            return
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed64(self.seed, "dropout", self.updates))
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


def adamw(parameters: dict[str, nn.Parameter], settings: schema.Learner) -> torch.optim.AdamW:
    """AdamW. Vectors (norms, biases) are not decayed: shrinking them regularises nothing."""
    groups = [
        {"params": [p for p in parameters.values() if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters.values() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=settings.lr, betas=settings.betas, fused=True
    )


def routed(routing: UpdateRouting | None, which: Pass, micro: MicroBatch) -> AbstractContextManager[None]:
    """Around a forward pass (and its backward pass): routes forced and watched, if there are any."""
    return nullcontext() if routing is None else routing.during(which, micro)


def check_batch(batch: TrainingBatch) -> None:
    """Raise ValueError naming the first row that cannot be trained on."""
    rows = zip(batch.prompt_ids, batch.completion_ids, batch.engine_logprobs, batch.advantages, strict=True)
    for row, (prompt, completion, engine, advantage) in enumerate(rows):
        if len(prompt) == 0 or len(completion) == 0:
            raise ValueError(
                f"row {row} of the batch has {len(prompt)} prompt and {len(completion)} completion tokens"
            )
        if len(engine) != len(completion):
            raise ValueError(
                f"row {row} has {len(completion)} completion tokens, {len(engine)} engine log-probabilities"
            )
        if not (np.isfinite(engine).all() and np.isfinite(advantage)):
            raise ValueError(f"row {row} has an engine log-probability or advantage that is not finite")
