"""Rollouts with transformers, in the learner's process and on the learner's own model object.

How it differs from ``model.generate``:
- every token is drawn with a uniform number that is a hash of (the sample's seed, its position), so that a
  sample does not depend on which others share its batch, and no global random state is touched;
- the log-probability of each token is recorded under the very distribution it was drawn from;
- a prompt is read once for all of its samples: its key-value cache is copied to G rows;
- rows that have ended leave the batch, so that a few long samples do not keep the others waiting;
- what has ended is handed out every few seconds, in the middle of a batch too, with a sign of life.
``generate`` can do the first two with a logits processor that forces its choice. Measured on the tiny
policy (512 samples of up to 8 tokens, one thread) it takes about twice as long: it reads each prompt G
times and keeps ended rows to the last token. It would also apply whatever else a model's generation
config asks for (top-k, repetition penalty).

Shapes: R rows decoded together, U distinct prompts among them, S tokens of the longest prompt, T completion
tokens so far, V vocabulary, L routed layers, K experts chosen for a token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from depo.moe.routers import find_routers
from depo.moe.routes import Recorder, RouterHook, hooked
from depo.rollout.engine import LOOK_SECONDS, Look, Sampling, WeightUpdate
from depo.types import Request, Rollout

# Share of ended rows at which the others are packed together: packing copies the cache, so not at every end.
PACK_AT = 0.25


@dataclass(slots=True)
class Row:
    """One sample that is being decoded."""

    request: Request
    offset: int  # which of the request's seeds
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    routes: list[np.ndarray] = field(default_factory=list)  # (L, K) of each token that was fed back

    def rollout(self, finish_reason: str, version: int, recorder: Recorder | None) -> Rollout:
        routes = None
        if recorder is not None:
            routes = np.array(self.routes, dtype=recorder.compact).reshape(-1, *recorder.shape)
        return Rollout(
            key=self.request.prompt.key,
            index=self.request.first_index + self.offset,
            seed=self.request.seeds[self.offset],
            token_ids=np.array(self.token_ids, dtype=np.int32),
            logprobs=np.array(self.logprobs, dtype=np.float32),
            finish_reason=finish_reason,
            policy_version=version,
            routes=routes,
        )


class TransformersEngine:
    """A RolloutEngine on a model object that it shares with the learner: nothing is ever copied.

    ``inference`` gives the context for forward passes (evaluation mode, no gradients, autocast); without
    it, evaluation mode and no gradients. ``heartbeat`` is told every few seconds how many tokens were decoded
    since it was told last, whether or not a sample has ended.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        pad_token_id: int,
        eos_token_ids: Sequence[int],
        batch_size: int,
        inference: Callable[[], AbstractContextManager[None]] | None = None,
        heartbeat: Callable[[int], None] | None = None,
    ) -> None:
        self.model = model
        self.pad_token_id = pad_token_id
        self.eos_token_ids = np.array(sorted(eos_token_ids), dtype=np.int64)
        self.batch_size = batch_size
        self.inference = inference or self._evaluation_mode
        self.heartbeat = heartbeat or (lambda tokens: None)
        self.version = 0
        self.routers = find_routers(model)

    def load_weights(self, update: WeightUpdate) -> int:
        """Note the version: the weights are the learner's own and already in place."""
        self.version = update.version
        return self.version

    def close(self) -> None:
        """Nothing of its own to end."""

    def generate(
        self, requests: Iterable[Request], sampling: Sampling, oldest: int | None = None
    ) -> Iterator[Rollout]:
        """Yield the rollouts as they end, batch by batch; prompts of similar length share a batch.

        With temperature 0 the most likely token is taken and its log-probability at temperature 1 recorded.
        Raises ValueError when routes are asked for and the model has no known router.
        """
        if sampling.routes and not self.routers:
            raise ValueError("routes are asked for; this model is dense or its router is not known")
        rows = [Row(request, offset) for request in requests for offset in range(request.n)]
        # Stable: ties keep the order of requests.
        rows.sort(key=lambda row: len(row.request.prompt.token_ids))
        for start in range(0, len(rows), self.batch_size):
            recorder = Recorder(self.routers) if sampling.routes else None
            # Autocast forgets its casts of the weights when its outermost context is left. With this one
            # around, that is not at every look: casting all of them costs as much as some tokens.
            keeping_casts = torch.autocast(self.model.device.type, enabled=False)
            with keeping_casts, hooked(self.routers if recorder else (), observe=recorder) as hook:
                looks = self._decode(rows[start : start + self.batch_size], sampling, recorder, hook)
                while (look := self._next(looks)) is not None:
                    yield from look.finished
                    self.heartbeat(look.tokens)

    # ------------------------------------------------------------ one batch

    def _next(self, looks: Iterator[Look]) -> Look | None:
        """Decode up to the next look. The inference context is left in between: whoever takes the rollouts
        goes on with gradients and precision as they were."""
        with self.inference():
            return next(looks, None)

    def _decode(
        self, rows: list[Row], sampling: Sampling, recorder: Recorder | None, hook: RouterHook
    ) -> Iterator[Look]:
        """Decode rows until each has ended or is at the limit."""
        version = self.version
        finished: list[Rollout] = []
        tokens, looked = 0, time.monotonic()
        cache, mask_RS, logits_RV = self._read_prompts(rows)
        seeds_R = np.array([row.request.seeds[row.offset] for row in rows], dtype=np.uint64)
        alive_R = np.ones(len(rows), dtype=bool)
        for position in range(sampling.max_new_tokens):
            uniform_R = uniforms(seeds_R, position)
            token_R, logprob_R = draw(logits_RV, uniform_R, sampling.temperature)
            ended_R = np.isin(token_R, self.eos_token_ids)
            last = position + 1 == sampling.max_new_tokens
            tokens += int(alive_R.sum())
            for r in np.flatnonzero(alive_R):
                rows[r].token_ids.append(int(token_R[r]))
                rows[r].logprobs.append(float(logprob_R[r]))
                if ended_R[r] or last:
                    reason = "stop" if ended_R[r] else "length"
                    finished.append(rows[r].rollout(reason, version, recorder))
            alive_R &= ~ended_R
            if last or not alive_R.any():
                break
            if time.monotonic() - looked >= LOOK_SECONDS:
                yield Look(finished, tokens)
                finished, tokens, looked = [], 0, time.monotonic()
            if alive_R.mean() <= 1 - PACK_AT:
                kept = np.flatnonzero(alive_R)
                kept_on_device = torch.from_numpy(kept).to(mask_RS.device)
                cache.reorder_cache(kept_on_device)
                mask_RS = mask_RS[kept_on_device]
                rows = [rows[r] for r in kept]
                seeds_R, token_R, alive_R = seeds_R[kept], token_R[kept], alive_R[kept]
            mask_RS = torch.cat([mask_RS, mask_RS.new_ones(len(rows), 1)], dim=1)
            hook.next_pass()
            logits_RV = self._forward(torch.from_numpy(token_R).to(mask_RS.device)[:, None], mask_RS, cache)
            if recorder is not None:
                for row, routes_LK in zip(rows, recorder.routes().transpose(1, 0, 2), strict=True):
                    row.routes.append(routes_LK)
        yield Look(finished, tokens)

    def _read_prompts(self, rows: list[Row]) -> tuple[DynamicCache, Tensor, Tensor]:
        """Run each distinct prompt once and copy its cache to its rows: cache, mask (R, S), logits (R, V)."""
        prompts = list(dict.fromkeys(row.request.prompt.token_ids for row in rows))
        place = {prompt: u for u, prompt in enumerate(prompts)}
        longest = max(len(prompt) for prompt in prompts)
        tokens_US = np.full((len(prompts), longest), self.pad_token_id, dtype=np.int64)
        mask_US = np.zeros((len(prompts), longest), dtype=np.int64)
        for u, prompt in enumerate(prompts):  # padded on the left, so that all go on from the same column
            tokens_US[u, longest - len(prompt) :] = prompt
            mask_US[u, longest - len(prompt) :] = 1
        device = self.model.device
        mask = torch.from_numpy(mask_US).to(device)
        cache = DynamicCache(config=self.model.config)
        logits_UV = self._forward(torch.from_numpy(tokens_US).to(device), mask, cache)
        copies_R = torch.tensor([place[row.request.prompt.token_ids] for row in rows], device=device)
        cache.reorder_cache(copies_R)
        return cache, mask[copies_R], logits_UV[copies_R]

    def _forward(self, tokens: Tensor, mask: Tensor, cache: DynamicCache) -> Tensor:
        """Logits (rows, V) behind the last column of ``tokens``; positions count from a row's first token."""
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        return self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    @contextmanager
    def _evaluation_mode(self) -> Iterator[None]:
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.train(was_training)


def draw(logits_RV: Tensor, uniform_R: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """One token a row and its log-probability: int64 and float32 arrays (R,).

    Inverse of the cumulative distribution at ``uniform_R`` in [0, 1); temperature 0 takes the most likely.
    """
    logprobs_RV = torch.log_softmax(logits_RV.float() / (temperature or 1.0), dim=-1)
    if temperature == 0:
        token_R = logprobs_RV.argmax(-1)
    else:
        # In float64: a float32 sum over a large vocabulary moves the borders by more than rare tokens weigh.
        cumulative_RV = logprobs_RV.double().exp().cumsum(-1)
        target_R1 = torch.from_numpy(uniform_R).to(logits_RV.device)[:, None] * cumulative_RV[:, -1:]
        token_R = torch.searchsorted(cumulative_RV, target_R1, right=True).squeeze(-1)
    logprob_R = logprobs_RV.gather(-1, token_R[:, None]).squeeze(-1)
    return token_R.cpu().numpy(), logprob_R.cpu().numpy()


def uniforms(seeds_R: np.ndarray, position: int) -> np.ndarray:
    """Numbers in [0, 1) that depend on (seed, position) alone: output ``position`` of a SplitMix64 generator
    started at each seed (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").

    48 bits, so that ``u * total < total`` holds in float64 and the draw never falls behind the last token.
    """
    with np.errstate(over="ignore"):  # the arithmetic is meant to wrap around
        state_R = seeds_R.astype(np.uint64) + np.uint64(position + 1) * np.uint64(0x9E3779B97F4A7C15)
        state_R = (state_R ^ (state_R >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state_R = (state_R ^ (state_R >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state_R = state_R ^ (state_R >> np.uint64(31))
    return (state_R >> np.uint64(16)).astype(np.float64) * 2.0**-48
