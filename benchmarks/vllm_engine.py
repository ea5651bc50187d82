"""A real vLLM engine beside the trainer: do syncs arrive, how far apart are the two, what does replay cost?

1. *Sync.* The learner is perturbed, exported and loaded into the running engine, several times in a row. Both
   score the same sequences before and after each load: how far apart they were, how far they still are.
2. *Mismatch.* vLLM answers questions in bfloat16 and returns the experts that it chose. The same answers then
   go through learners in bfloat16 (float32 weights under autocast, as ``policy.dtype: bfloat16`` trains) and
   in float32, routed natively and with the engine's routes replayed (R3). Of a dense model: natively only.
3. *Cost.* Seconds of an update on those answers, the device waited for: bare, with R3, with R2 and with
   telemetry in turn, the order reversed every round.
4. *Experts.* The same update with each way to compute them: transformers', and depo's own.

Parts 3 and 4, and routes from vLLM, need a GPU; without one the script shows that it works.

    depo upcycle models/smollm2 models/moe --top-k 4 --router grouped --drop 0.1 \
        --repair 300 --repair-batch 16 --text FILE
    python -m benchmarks vllm_engine --model models/moe --out benchmarks/results/vllm_engine
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoTokenizer

from benchmarks.report import made_by, write_result
from depo.errors import DONE, say
from depo.learner.learner import PolicyLearner
from depo.learner.routing import Routing
from depo.models.experts import GROUPED
from depo.models.experts import NAME as SORTED
from depo.models.loading import load_model
from depo.models.tokenizer import load_tokenizer
from depo.moe.upcycle.repair import QUESTIONS, question_ids
from depo.recipe import schema
from depo.recipe.schema import PretrainedPolicy
from depo.report.document import Block, Document, Figure, Number, Paragraph, Section, Table
from depo.report.plots import panels
from depo.report.provenance import provenance_blocks
from depo.report.statistics import ratio_interval, t_interval
from depo.rng import generator, seed64
from depo.rollout.engine import Sampling, WeightUpdate
from depo.rollout.parity import choose_sequences, difference
from depo.rollout.vllm.worker import VllmOptions, VllmWorker, worker_environment
from depo.types import Prompt, Request, Rollout, TrainSample

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

PROGRAM = "python -m benchmarks vllm_engine"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = ("bfloat16", "float32")

SETTINGS: dict[str, dict[str, Any]] = {
    "one step": {"minibatches": 1},
    "two steps": {"minibatches": 2},
    "R3 replay": {"minibatches": 1, "routing_replay": "r3"},
    "telemetry": {"minibatches": 1, "routing_telemetry": True},
    "R2 replay": {"minibatches": 2, "routing_replay": "r2"},
}

BARE = {"R3 replay": "one step", "telemetry": "one step", "R2 replay": "two steps"}
EXPERTS = (GROUPED, "grouped_mm", "batched_mm", "eager", SORTED)

STILL = {"lr": 1e-12, "correction": {"type": "none"}, "tokens_per_microbatch": 8192}
"""A learner's settings whose steps are too small to move anything."""

FIGURES = {
    "mismatch_kl": ("mismatch KL (nats a token)", 6),
    "mismatch_max": ("largest difference of log-probabilities", 3),
    "routing/agreement_engine": ("experts in common with the engine", 4),
}


def learner_of(model: torch.nn.Module, pad_token_id: int, **settings: Any) -> PolicyLearner:
    """One that stays where it is, with ``settings``."""
    return PolicyLearner(
        model,
        schema.Learner.model_validate(STILL | settings),
        temperature=1.0,
        max_new_tokens=1024,
        total_steps=1000,
        pad_token_id=pad_token_id,
    )


def questions(directory: str) -> list[Prompt]:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    return [
        Prompt(str(n), text, tuple(question_ids(text, tokenizer)), "") for n, text in enumerate(QUESTIONS)
    ]


def answers(
    worker: VllmWorker, prompts: list[Prompt], seed: int, samples: int, tokens: int, routes: bool
) -> tuple[list[Rollout], float]:
    """What the engine says, in order of prompt and sample, and how many tokens a second it said."""
    requests = [
        Request(prompt, tuple(seed64(seed, "sample", 0, prompt.key, g) for g in range(samples)))
        for prompt in prompts
    ]
    started = time.perf_counter()
    looks = list(worker.generate(requests, Sampling(1.0, tokens, routes=routes)))
    seconds = time.perf_counter() - started
    found = sorted((r for look in looks for r in look.finished), key=lambda r: (int(r.key), r.index))
    return found, sum(len(r.token_ids) for r in found) / seconds


def batch_of(prompts: list[Prompt], rollouts: list[Rollout], seed: int) -> list[TrainSample]:
    """Advantages are made up."""
    advantages_N = generator(seed, "advantages").normal(size=len(rollouts)).astype(np.float32)
    return [
        TrainSample.of_completion(
            prompts[int(r.key)].token_ids,
            r.token_ids,
            r.logprobs,
            advantage=float(advantage),
            group=int(r.key),
            routes=r.routes,
        )
        for r, advantage in zip(rollouts, advantages_N, strict=True)
    ]


def syncs(
    learner: PolicyLearner, tokenizer: Any, worker: VllmWorker, prompts: list[Prompt], times: int
) -> list[dict]:
    """Mean and largest |learner − engine| in nats before and after each load. The last load restores."""
    sequences = choose_sequences(prompts, len(tokenizer), seed=0)
    found = []
    root = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    for number in range(times):
        last = number == times - 1
        if not last:
            learner.perturb(number)
        wanted = learner.score(sequences)
        before = difference(wanted, worker.score(sequences))
        with tempfile.TemporaryDirectory(dir=root) as directory:
            started = time.perf_counter()
            learner.export(Path(directory))
            exported = time.perf_counter()
            worker.load_weights(WeightUpdate(number + 1, directory))
            loaded = time.perf_counter()
        after = difference(wanted, worker.score(sequences))
        found.append(
            {
                "what": "the real policy again" if last else f"perturbed, seed {number}",
                "mean_before": before.mean_abs,
                "mean_after": after.mean_abs,
                "max_after": after.max_abs,
                "export_seconds": exported - started,
                "load_seconds": loaded - exported,
            }
        )
        say(json.dumps(found[-1]))
        if not last:
            learner.restore()
    return found


def mismatches(
    models: dict[str, torch.nn.Module], pad: int, batch: list[TrainSample], moe: bool
) -> dict[str, float]:
    """Of one seed's answers, by trainer's type and replay. The same weights in all: steps move nothing."""
    found: dict[str, float] = {"tokens": float(sum(s.trained for s in batch))}
    for dtype, model in models.items():
        for replay in ("none", "r3") if moe else ("none",):
            metrics = learner_of(model, pad, routing_replay=replay).update(batch).metrics
            found |= {f"{dtype}/{replay}/{name}": metrics[name] for name in FIGURES if name in metrics}
        if moe:
            found[f"{dtype}/cut"] = found[f"{dtype}/none/mismatch_kl"] / found[f"{dtype}/r3/mismatch_kl"]
    return found


def timed_update(learner: PolicyLearner, batch: list[TrainSample]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    learner.update(batch)
    torch.cuda.synchronize()
    return time.perf_counter() - started


def cost(model: torch.nn.Module, pad: int, batch: list[TrainSample], rounds: int) -> dict[str, Any]:
    """Seconds of an update with each of ``SETTINGS``, round by round."""
    learner = learner_of(model, pad, routing_telemetry=False)
    seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for number in range(-2, rounds):  # two rounds warm up
        for name in list(SETTINGS) if number % 2 == 0 else list(SETTINGS)[::-1]:
            learner.settings = schema.Learner.model_validate(
                STILL | {"routing_telemetry": False} | SETTINGS[name]
            )
            learner.routing = Routing(model, learner.settings)
            taken = timed_update(learner, batch)
            if number >= 0:
                seconds[name].append(taken)
    ratios = {
        name: [a / b for a, b in zip(seconds[name], seconds[bare], strict=True)]
        for name, bare in BARE.items()
    }
    return {
        "rounds": rounds,
        "sequences": len(batch),
        "tokens": sum(s.trained for s in batch),
        "seconds": seconds,
        "ratio": {name: ratio_interval(values).to_json() for name, values in ratios.items()},
        "median_ratio": {name: float(np.median(values)) for name, values in ratios.items()},
    }


def experts(model: torch.nn.Module, pad: int, batch: list[TrainSample], rounds: int) -> dict[str, Any]:
    """Seconds of an update by how the experts are computed, or why they could not be."""
    found: dict[str, Any] = {}
    usual = model.config._experts_implementation
    for name in EXPERTS:
        try:
            model.set_experts_implementation(name)
            learner = learner_of(model, pad, routing_telemetry=False, tokens_per_microbatch=2048)
            torch.cuda.reset_peak_memory_stats()
            times = [timed_update(learner, batch) for _ in range(rounds + 1)][1:]
            found[name] = {"seconds": times, "peak_gib": torch.cuda.max_memory_allocated() / 2**30}
        except (RuntimeError, ValueError) as error:
            found[name] = {"error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
            torch.cuda.empty_cache()
        say(f"experts {name}: {found[name]}")
    model.set_experts_implementation(usual)
    return found


# ---------------------------------------------------------------- report


def report(result: Mapping[str, Any]) -> Document:
    engine = result["engine"]
    about = (
        f"{engine['model']}, engine in bfloat16 (vLLM {engine['vllm']}), up after {engine['seconds']:.0f} s; "
        f"{engine['tokens_per_second']:,.0f} tokens a second. {engine['prompts']} questions, "
        f"{engine['samples']} answers each, at most {engine['tokens']} tokens."
    )
    blocks: list[Block] = [*provenance_blocks(result), Paragraph(about), sync_section(result["syncs"])]
    blocks.append(mismatch_section(list(result["mismatch"].values())))
    if result["cost"]:
        blocks.append(cost_section(result["cost"]))
    if result["experts"]:
        rows = [
            [name, Number(float(np.median(one["seconds"]))), Number(one["peak_gib"], ".1f")]
            if "seconds" in one
            else [name, one["error"], ""]
            for name, one in result["experts"].items()
        ]
        heads = ["", "s, median", "peak GiB"]
        about = Paragraph("An update in micro-batches of 2,048 tokens.")
        blocks.append(Section("How the experts are computed", [about, Table(heads, rows)]))
    return Document("A real vLLM engine beside the trainer", blocks)


def sync_section(syncs: Sequence[Mapping[str, Any]]) -> Section:
    forms = {
        "mean_before": ".3f",
        "mean_after": ".4f",
        "max_after": ".3f",
        "export_seconds": ".2f",
        "load_seconds": ".2f",
    }
    rows = [[one["what"], *(Number(one[key], form) for key, form in forms.items())] for one in syncs]
    about = (
        "Mean |difference| of log-probabilities between learner (bfloat16) and engine, nats, on "
        "pseudo-random continuations."
    )
    heads = ["loaded", "before", "after", "largest after", "s to export", "s to load"]
    return Section("Weight sync", [Paragraph(about), Table(heads, rows)])


def mismatch_section(seeds: Sequence[Mapping[str, float]]) -> Section:
    tokens = sum(seed["tokens"] for seed in seeds)
    rows = []
    for dtype in DTYPES:
        for replay in ("none", "r3"):
            for name, (shown, digits) in FIGURES.items():
                key = f"{dtype}/{replay}/{name}"
                if key in seeds[0]:
                    values = t_interval([seed[key] for seed in seeds]).to_json()
                    how = "replayed (R3)" if replay == "r3" else "native"
                    rows.append([dtype, how, shown, Number.of(values, f".{digits}f")])
        if f"{dtype}/cut" in seeds[0]:
            cuts = ratio_interval([seed[f"{dtype}/cut"] for seed in seeds]).to_json()
            rows.append([dtype, "native ÷ replayed", "KL, geometric mean", Number.of(cuts, ".2f")])
    about = Paragraph(f"{len(seeds)} seeds (samples), {tokens:,.0f} tokens; mean over seeds [95 %].")
    blocks: list[Block] = [about, Table(["trainer", "routing", "", ""], rows)]
    if "bfloat16/cut" in seeds[0]:
        blocks.append(Figure("", "mismatch of vLLM and the trainer, by routing", partial(draw, seeds)))
    return Section("Mismatch of vLLM and the trainer", blocks)


def draw(seeds: Sequence[Mapping[str, float]]) -> Drawing:
    """Mismatch KL natively and with R3: a panel for each type of the trainer, a line for each seed."""
    picture, places = panels([f"trainer in {dtype}" for dtype in DTYPES], 3.6, 3.4)
    for axes, dtype in zip(places, DTYPES, strict=True):
        for seed in seeds:
            pair = [seed[f"{dtype}/{replay}/mismatch_kl"] for replay in ("none", "r3")]
            axes.plot([0, 1], pair, marker="o", markersize=4, linewidth=1, color="C0", alpha=0.7)
        axes.set(yscale="log", ylabel="mismatch KL, nats a token")
        axes.set(xlabel="routing_replay", xlim=(-0.3, 1.3), xticks=[0, 1], xticklabels=["none", "r3"])
        axes.grid(alpha=0.3)
    return picture


def cost_section(found: Mapping[str, Any]) -> Section:
    about = (
        f"{found['sequences']} sequences, {found['tokens']:,} completion tokens, {found['rounds']} rounds; "
        "seconds of an update with over without, the device waited for."
    )
    rows = [
        [
            name,
            bare,
            Number.of(found["ratio"][name], ".4f"),
            Number(found["median_ratio"][name], ".4f"),
            Number(float(np.median(found["seconds"][bare]))),
        ]
        for name, bare in BARE.items()
    ]
    heads = ["added", "to an update of", "ratio, geometric mean [95 %]", "median", "s without"]
    return Section("Cost of replay and telemetry", [Paragraph(about), Table(heads, rows)])


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="directory of a chat model, dense or mixture")
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.md and OUT.json")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--samples", type=int, default=16, help="answers to each of the 12 questions")
    parser.add_argument("--tokens", type=int, default=256, help="of an answer, at most")
    parser.add_argument("--rounds", type=int, default=12, help="of the cost part; 0: none")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    os.environ.update(worker_environment(None))
    policies = {dtype: PretrainedPolicy(model=options.model, dtype=dtype) for dtype in DTYPES}
    models = {dtype: load_model(policy, DEVICE) for dtype, policy in policies.items()}
    tokenizer = load_tokenizer(policies["float32"])
    pad = tokenizer.pad_token_id
    learner = learner_of(models["bfloat16"], pad)
    layers = tuple(router.layer for router in learner.routing.routers) if DEVICE == "cuda" else ()
    prompts = questions(options.model)
    started = time.perf_counter()
    worker = VllmWorker(
        VllmOptions(
            model=options.model,
            dtype="bfloat16",
            max_model_len=1024,
            eos_token_ids=(tokenizer.eos_token_id,),
            gpu_memory_utilization=0.3,
            routed_layers=layers,
        )
    )
    import vllm

    engine: dict[str, Any] = {
        "model": Path(options.model).name,
        "vllm": vllm.__version__,
        "seconds": time.perf_counter() - started,
        "prompts": len(prompts),
        "samples": options.samples,
        "tokens": options.tokens,
    }
    say(json.dumps(engine))
    arrived = syncs(learner, tokenizer, worker, prompts, times=5)
    measured, speeds = {}, []
    for seed in options.seeds:
        found, speed = answers(worker, prompts, seed, options.samples, options.tokens, bool(layers))
        speeds.append(speed)
        batch = batch_of(prompts, found, seed)
        measured[str(seed)] = mismatches(models, pad, batch, bool(layers))
        say(f"seed {seed}: {json.dumps(measured[str(seed)])}")
    engine["tokens_per_second"] = float(np.median(speeds))
    result = {
        "kind": "vllm_engine",
        "provenance": made_by(arguments, options.seeds),
        "engine": engine,
        "syncs": arrived,
        "mismatch": measured,
        "cost": None,
        "experts": None,
    }
    out = options.out.with_suffix(".json")
    write_result(result, out)  # what follows is long
    if options.rounds and layers:
        result["cost"] = cost(models["bfloat16"], pad, batch, options.rounds)
        write_result(result, out)
        result["experts"] = experts(models["bfloat16"], pad, batch, 3)
        write_result(result, out)
    print(out, out.with_suffix(".md"), sep="\n")
    return DONE
