"""The prompts that a selector draws from, in an order that is a function of seed and keys."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from depo import rng
from depo.errors import UserError
from depo.types import Prompt

SCHEMA_VERSION = 1


class PromptPool:
    """The training prompts. State: pass number, position in the pass, deferred prompts.

    ``by_key`` lists the prompts in the order of their keys, whatever the file's order was.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int) -> None:
        """Raises UserError for an empty pool or two prompts with the same key."""
        if not prompts:
            raise UserError("data.train: the pool holds no prompts")
        self.prompts = list(prompts)
        self.seed = seed
        self.by_key = sorted(self.prompts, key=lambda prompt: prompt.key)
        for first, second in zip(self.by_key, self.by_key[1:], strict=False):
            if first.key == second.key:
                raise UserError(
                    f"data.train: the pool holds the prompt {first.key[:12]} twice: {first.text[:60]!r}"
                )
        keys = "\n".join(prompt.key for prompt in self.by_key)
        self.fingerprint = hashlib.sha256(keys.encode()).hexdigest()
        # Of the passes met last: sorting 100,000 prompts takes time.
        self._orders: dict[int, list[Prompt]] = {}
        self._pass, self._position = 0, 0
        self._order: list[Prompt] = []
        self._start_pass(0)
        self._deferred: list[Prompt] = []

    def __len__(self) -> int:
        return len(self.prompts)

    def next(self, n: int) -> list[Prompt]:
        """The next ``n`` prompts. None comes twice while ``n`` ≤ len; beyond, all come equally often ± 1."""
        picked: list[Prompt] = []
        taken: set[str] = set()
        for _ in range(n):
            if len(taken) == len(self):
                taken.clear()
            prompt = self._next_not_in(taken)
            taken.add(prompt.key)
            picked.append(prompt)
        return picked

    def peek(self, n: int) -> list[Prompt]:
        """What ``next(n)`` would return; ``next(k)`` returns its first k. The position does not move."""
        here = self._pass, self._position, self._order, list(self._deferred)
        prompts = self.next(n)
        self._pass, self._position, self._order, self._deferred = here
        return prompts

    def put_back(self, prompts: Sequence[Prompt]) -> None:
        """These are the next ones, in this order."""
        self._deferred[:0] = prompts

    def candidates(self, n: int, rng: np.random.Generator) -> list[Prompt]:
        """``min(n, len)`` distinct prompts, uniformly; the position does not move."""
        chosen = rng.choice(len(self), size=min(n, len(self)), replace=False)
        return [self.by_key[index] for index in chosen]

    def state_dict(self) -> dict[str, Any]:
        """JSON; the prompts themselves are named by a fingerprint of their keys."""
        return {
            "schema_version": SCHEMA_VERSION,
            "fingerprint": self.fingerprint,
            "seed": self.seed,
            "pass": self._pass,
            "position": self._position,
            "deferred": [prompt.key for prompt in self._deferred],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises UserError for the state of a pool with other prompts or another seed."""
        if state["schema_version"] != SCHEMA_VERSION:
            raise UserError(
                f"checkpoint: the pool's schema_version is {state['schema_version']}, "
                f"this depo reads {SCHEMA_VERSION}"
            )
        if state["fingerprint"] != self.fingerprint:
            raise UserError("data.train: these are not the prompts that the checkpoint was made with")
        if state["seed"] != self.seed:
            raise UserError(f"seed: the checkpoint was made with {state['seed']}, the recipe has {self.seed}")
        self._start_pass(state["pass"])
        self._position = state["position"]
        by_key = {prompt.key: prompt for prompt in self.by_key}
        self._deferred = [by_key[key] for key in state["deferred"]]

    def _start_pass(self, number: int) -> None:
        self._pass = number
        self._position = 0
        if number not in self._orders:
            order = sorted(
                self.by_key, key=lambda prompt: rng.seed64(self.seed, "pool pass", number, prompt.key)
            )
            near = {known: self._orders[known] for known in self._orders if abs(known - number) == 1}
            self._orders = near | {number: order}
        self._order = self._orders[number]

    def _next_not_in(self, taken: set[str]) -> Prompt:
        for index, prompt in enumerate(self._deferred):
            if prompt.key not in taken:
                return self._deferred.pop(index)
        while True:
            if self._position == len(self._order):
                self._start_pass(self._pass + 1)
            prompt = self._order[self._position]
            self._position += 1
            if prompt.key not in taken:
                return prompt
            self._deferred.append(prompt)
