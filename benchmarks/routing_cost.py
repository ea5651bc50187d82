"""What routing replay and telemetry cost: part 2 of ``python -m benchmarks routing_replay``.

The difference of two updates of twelve seconds says little about hundredths of a second. Therefore the added
code itself is timed too: the hooks on the routers, and laying out and keeping records around each pass. What
autograd does later for weights that were gathered anew is not in it; that needs the difference.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformers import AutoModelForCausalLM, MixtralConfig, PreTrainedModel

from depo.errors import say
from depo.learner.learner import PolicyLearner
from depo.learner.routing import Routing, UpdateRouting
from depo.models.experts import use_sorted_experts
from depo.moe.routers import find_routers
from depo.moe.routes import Recorder, RouterHook, hooked
from depo.recipe import schema
from depo.report.document import Number, Paragraph, Section, Table
from depo.report.statistics import ratio_interval, t_interval
from depo.rng import generator
from depo.types import TrainSample

PAD, END = 0, 1
UPCYCLED = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 384,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "num_local_experts": 8,
    "num_experts_per_tok": 4,
    "tie_word_embeddings": True,
    "pad_token_id": PAD,
    "eos_token_id": END,
}

ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    # what is added: (to what, settings of the learner)
    "R3 replay": ("one step", {"routing_replay": "r3", "routing_telemetry": False}),
    "telemetry": ("one step", {"routing_telemetry": True}),
    "R2 replay": ("two steps", {"routing_replay": "r2", "routing_telemetry": False}),
}

BARE = {"one step": {"minibatches": 1}, "two steps": {"minibatches": 2}}
AROUND = ("forced", "first_look", "second_look", "keep", "results")


def make_learner(model: PreTrainedModel, **settings: Any) -> PolicyLearner:
    return PolicyLearner(
        model,
        schema.Learner.model_validate({"lr": 1e-6, "correction": {"type": "none"}, **settings}),
        temperature=1.0,
        max_new_tokens=256,
        total_steps=1000,
        pad_token_id=PAD,
    )


def upcycled_size(directory: str | None) -> PreTrainedModel:
    if directory is not None:
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    else:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(MixtralConfig(**UPCYCLED), dtype=torch.float32)
    use_sorted_experts(model)
    return model.eval()


def made_up_batch(model: PreTrainedModel, rows: int, tokens: int) -> list[TrainSample]:
    """Random tokens, a quarter of them prompt, with the model's own routes as the engine's."""
    rng, routers = generator(0, "cost"), find_routers(model)
    sequences = rng.integers(2, model.config.vocab_size, (rows, tokens)).astype(np.int32)
    cut = tokens // 4
    routes: list[np.ndarray | None] = []
    for sequence in sequences:
        recorder = Recorder(routers)
        with torch.no_grad(), hooked(routers, observe=recorder):
            model.get_decoder()(input_ids=torch.from_numpy(sequence[None].astype(np.int64)), use_cache=False)
        routes.append(recorder.routes().transpose(1, 0, 2)[cut:-1].copy())
    advantages_N = rng.normal(size=rows).astype(np.float32)
    return [
        TrainSample.of_completion(
            sequence[:cut],
            sequence[cut:],
            np.full(tokens - cut, -5.0, dtype=np.float32),
            advantage=float(advantages_N[row]),
            group=row // 2,
            routes=routes[row],
        )
        for row, sequence in enumerate(sequences)
    ]


def cost(model: PreTrainedModel, rows: int, tokens: int, rounds: int, arms: Sequence[str]) -> dict[str, Any]:
    """Seconds of processor time an update takes, bare and with each addition: bare, with, with, bare, and so
    on. Each follows either equally often: what ran last changes caches and memory."""
    batch = made_up_batch(model, rows, tokens)
    off = {"lr": 1e-9, "routing_telemetry": False, "tokens_per_microbatch": 4 * tokens}
    # One learner for all: the optimizer's state is the larger part of the memory.
    learner = make_learner(model, **off)

    def update(settings: dict[str, Any]) -> tuple[float, float]:
        learner.settings = schema.Learner.model_validate({"correction": {"type": "none"}} | off | settings)
        learner.routing = Routing(model, learner.settings)
        with added_time() as own:
            started = time.process_time()
            learner.update(batch)
            taken = time.process_time() - started
        return taken, own.seconds / taken

    found: dict[str, Any] = {"bare": {}, "with": {}, "share": {}}
    for name in arms:
        to, added = ARMS[name]
        pair = {"bare": BARE[to], "with": BARE[to] | added}
        series: dict[str, list[tuple[float, float]]] = {"bare": [], "with": []}
        for number in range(-2, rounds):  # two rounds warm up
            for side in ("bare", "with") if number % 2 == 0 else ("with", "bare"):
                one = update(pair[side])
                if number >= 0:
                    series[side].append(one)
            say(f"{name}: round {number + 1}/{rounds}")
        found["bare"][name] = [taken for taken, _ in series["bare"]]
        found["with"][name] = [taken for taken, _ in series["with"]]
        found["share"][name] = [share for _, share in series["with"]]
    ratios = {
        name: [a / b for a, b in zip(found["with"][name], found["bare"][name], strict=True)] for name in arms
    }
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "rows": rows,
        "tokens": tokens,
        "rounds": rounds,
        "pairs": found,
        "ratio": {name: ratio_interval(values).to_json() for name, values in ratios.items()},
        "added_share": {name: t_interval(shares).to_json() for name, shares in found["share"].items()},
        "median_ratio": {name: float(np.median(values)) for name, values in ratios.items()},
    }


class AddedTime:
    """``seconds`` of processor time in the added code, calls within calls counted once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.inside = False

    def timed(self, function: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.inside:
                return function(*args, **kwargs)
            self.inside, started = True, time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.inside = False
                self.seconds += time.thread_time() - started

        return call


@contextmanager
def added_time() -> Iterator[AddedTime]:
    """Inside the block, updates add to ``seconds``."""
    added = AddedTime()
    original = RouterHook.hook
    with ExitStack() as stack:
        patches = [
            mock.patch.object(RouterHook, "hook", lambda hook, index: added.timed(original(hook, index)))
        ]
        patches += [mock.patch.object(Routing, "of_update", added.timed(Routing.of_update))]
        patches += [
            mock.patch.object(UpdateRouting, name, added.timed(getattr(UpdateRouting, name)))
            for name in AROUND
        ]
        for patch in patches:
            stack.enter_context(patch)
        yield added


def section(found: Mapping[str, Any]) -> Section:
    about = (
        f"{found['parameters'] / 1e6:.0f} M parameters, {found['rows']} sequences of {found['tokens']} "
        f"tokens, {found['rounds']} pairs. Processor time of an update with over without, and the share of "
        "it that was spent inside the added code."
    )
    rows = [
        [
            name,
            to,
            Number.of(found["ratio"][name], ".4f"),
            Number(found["median_ratio"][name], ".4f"),
            Number.of(found["added_share"][name], ".4f"),
        ]
        for name, (to, _) in ARMS.items()
        if name in found["ratio"]
    ]
    heads = ["added", "to an update of", "ratio, geometric mean [95 %]", "median", "share inside [95 %]"]
    return Section("Cost", [Paragraph(about), Table(heads, rows)])
