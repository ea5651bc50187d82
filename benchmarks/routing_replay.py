"""What routing replay does about an engine that rounds differently, and what replay and telemetry cost.

1. *Mismatch.* A tiny `qwen3_moe` trains in float32; its rollouts come from a copy of it in bfloat16. The same
   rollouts then go through the learner twice: routed natively, and with the engine's routes replayed (R3).
   Reported: share of experts that engine and trainer have in common, and k3 estimate of the KL between their
   distributions over tokens (prompts are routed natively in both arms); and, as an ablation, the KL with
   prompts replayed too, which depo's learners do not. The weights are drawn at random, with
   standard deviation 1/sqrt(fan-in), routers and output head scaled by the factors below: a fresh model of
   standard deviation 0.02 routes almost uniformly and changes its output little when experts change. What
   came of it (entropies of routers and of tokens) is reported beside the figures. ``--policy DIR`` takes a
   policy that the quickstart warm-started (runs/NAME/initial_policy) instead, on sums of two digits, or, with
   ``--task copy``, one with long answers that `benchmarks.copy_policy` made.
2. *Cost.* Updates of a Mixtral-style model of the size that SmolLM2-135M has after upcycling (8 experts of
   384, 4 of them active; ``--model`` takes a real one), bare and with replay or telemetry in turn, order
   changed every round. The routes replayed are the model's own, so that both sides do the same matrix
   products. Processor time, which other processes on the machine disturb less than wall time, and the time
   inside the added code: two updates alike differ by some per cent, so that the ratio takes many rounds.

    python -m benchmarks.routing_replay --out benchmarks/results/routing_replay
    python -m benchmarks.routing_replay --seeds --added telemetry --rounds 180 --rows 4 --out OUT
    python -m benchmarks.routing_replay --policy DIR --task copy --tokens 40 --rounds 0 --out OUT
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, MixtralConfig, PreTrainedModel, Qwen3MoeConfig

from benchmarks.added_time import added_time
from benchmarks.copy_policy import DIGITS, question
from benchmarks.prompt_routes import PromptRecordingEngine, causes
from benchmarks.storing import store
from depo.learner.learner import PolicyLearner
from depo.learner.routing import Routing
from depo.models.experts import use_sorted_experts
from depo.moe.hooks import Recorder, hooked
from depo.moe.routers import find_routers
from depo.recipe import schema
from depo.report.provenance import provenance, provenance_lines
from depo.report.statistics import ratio_interval, t_interval
from depo.report.tables import interval, table
from depo.rng import generator, seed64
from depo.rollout.engine import Sampling
from depo.types import Prompt, Request, TrainSample

PROGRAM = "python -m benchmarks.routing_replay"


VOCABULARY, PAD, END = 64, 0, 1


TINY = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "max_position_embeddings": 256,
    "pad_token_id": PAD,
    "eos_token_id": END,
}


ROUTER_SCALE, HEAD_SCALE = 2.0, 1.5


PROMPTS, GROUP, PROMPT_TOKENS = 16, 4, 8


SUMS, ROWS = 128, 64


RANDOM = (
    "random weights. Experts drawn at random have nothing in common, so that taking another one costs more "
    "than in a trained model"
)


TRAINED = {
    "sums": "the quickstart's warm-started policy on sums",
    "copy": "a policy taught to copy rows of 32 digits (`benchmarks.copy_policy`)",
}


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


SHOWN = {
    # of a seed's figures: (in words, digits)
    "agreement_native": ("experts in common, routed natively", 4),
    "agreement_under_replay": ("the same, of the trainer's own choice under replay", 4),
    "kl_native": ("mismatch KL, routed natively (nats a token)", 6),
    "kl_replay": ("mismatch KL with R3", 6),
    "kl_ratio": ("KL natively / KL with R3", 2),
    "kl_whole_replay": ("ablation: mismatch KL with R3 and prompts replayed too", 6),
    "kl_ratio_whole": ("ablation: KL natively / that", 2),
    "prompts_apart": ("sequences whose prompt engine and trainer route apart somewhere", 3),
    "kl_replay_of_prompts_apart": ("their share of the KL with R3", 3),
    "kl_replay_of_top_tokens": ("share of the KL with R3 that 1 % of the tokens have", 3),
    "largest_difference_native": ("largest difference of log-probabilities, natively", 3),
    "largest_difference_replay": ("the same with R3", 3),
    "router_entropy": ("router entropy (nats)", 2),
    "token_entropy": ("token entropy (nats)", 2),
    "prompt_tokens": ("tokens of a prompt", 1),
    "answer_tokens": ("tokens of an answer", 1),
}


BARE = {"one step": {"minibatches": 1}, "two steps": {"minibatches": 2}}


def noisy_pair(seed: int) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Trainer's float32 model and the engine's bfloat16 copy of it."""
    model = AutoModelForCausalLM.from_config(Qwen3MoeConfig(**TINY), dtype=torch.float32)
    draws = torch.Generator().manual_seed(seed64(seed, "routing_replay"))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2:
                scale = {"gate": ROUTER_SCALE, "lm_head": HEAD_SCALE}.get(name.split(".")[-2], 1.0)
                fan_in = 1 if "embed_tokens" in name else weight.shape[-1]
                weight.normal_(0, scale * fan_in**-0.5, generator=draws)
    use_sorted_experts(model)
    return model.eval(), copy.deepcopy(model).to(torch.bfloat16)


def trained_pair(directory: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The same of a policy that was trained."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    use_sorted_experts(model)
    return model.eval(), copy.deepcopy(model).to(torch.bfloat16)


def random_prompts(seed: int) -> list[tuple[int, ...]]:
    rng = generator(seed, "prompts")
    return [tuple(rng.integers(2, VOCABULARY, PROMPT_TOKENS).tolist()) for _ in range(PROMPTS)]


def taught_prompts(directory: str, task: str, seed: int) -> list[tuple[int, ...]]:
    """Sums as the quickstart's policy was taught to do them, or rows to copy."""
    rng, tokenizer = generator(seed, "prompts"), AutoTokenizer.from_pretrained(directory)
    if task == "sums":
        questions = [f"{a}+{b}=" for a, b in rng.integers(10, 100, (SUMS, 2)).tolist()]
    else:
        questions = [question(digits) for digits in rng.integers(0, 10, (ROWS, DIGITS))]
    return [tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in questions]


def rollouts(
    engine_model: PreTrainedModel, prompts: list[tuple[int, ...]], seed: int, tokens: int
) -> tuple[list[TrainSample], PromptRecordingEngine]:
    """Sampled by the noisy engine, with its log-probabilities and routes; advantages are made up."""
    rng = generator(seed, "advantages")
    requests = [
        Request(Prompt(str(p), "", ids, ""), tuple(seed64(seed, "sample", p, "", g) for g in range(GROUP)))
        for p, ids in enumerate(prompts)
    ]
    end = engine_model.config.eos_token_id
    engine = PromptRecordingEngine(
        engine_model, pad_token_id=PAD, eos_token_ids=[end], batch_size=len(prompts) * GROUP
    )
    found = sorted(engine.generate(requests, Sampling(1.0, tokens, routes=True)), key=lambda r: int(r.key))
    advantages_N = rng.normal(size=len(found)).astype(np.float32)
    batch = [
        TrainSample.of_completion(
            prompts[int(rollout.key)],
            rollout.token_ids,
            rollout.logprobs,
            advantage=float(advantage),
            group=int(rollout.key),
            routes=rollout.routes,
        )
        for rollout, advantage in zip(found, advantages_N, strict=True)
    ]
    return batch, engine


def make_learner(model: PreTrainedModel, **settings: Any) -> PolicyLearner:
    return PolicyLearner(
        model,
        schema.Learner.model_validate({"lr": 1e-6, "correction": {"type": "none"}, **settings}),
        temperature=1.0,
        max_new_tokens=256,
        total_steps=1000,
        pad_token_id=PAD,
    )


def mismatch(seed: int, tokens: int, policy: str | None, task: str) -> dict[str, float]:
    """One seed: the same rollouts through the learner natively, with R3, and with prompts replayed too."""
    model, engine_model = noisy_pair(seed) if policy is None else trained_pair(policy)
    prompts = random_prompts(seed) if policy is None else taught_prompts(policy, task, seed)
    batch, engine = rollouts(engine_model, prompts, seed, tokens)
    why = causes(make_learner(model), batch, engine)
    found = {}
    for replay in ("none", "r3"):
        found[replay] = make_learner(copy.deepcopy(model), routing_replay=replay).update(batch).metrics
    native, replayed = found["none"], found["r3"]
    return {
        "tokens": native["tokens"],
        "agreement_native": native["routing/agreement_engine"],
        "agreement_under_replay": replayed["routing/agreement_engine"],
        "kl_native": native["mismatch_kl"],
        "kl_replay": replayed["mismatch_kl"],
        "kl_ratio": native["mismatch_kl"] / replayed["mismatch_kl"],
        "kl_ratio_whole": native["mismatch_kl"] / why["kl_whole_replay"],
        "largest_difference_native": native["mismatch_max"],
        "largest_difference_replay": replayed["mismatch_max"],
        "router_entropy": native["routing/entropy"],
        "token_entropy": native["entropy"],
        **why,
    }


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
    engine = np.full(tokens - cut, -5.0, dtype=np.float32)
    return [
        TrainSample.of_completion(
            sequence[:cut],
            sequence[cut:],
            engine,
            advantage=float(advantages_N[row]),
            group=row // 2,
            routes=routes[row],
        )
        for row, sequence in enumerate(sequences)
    ]


def cost(model: PreTrainedModel, rows: int, tokens: int, rounds: int, arms: Sequence[str]) -> dict[str, Any]:
    """Seconds of processor time an update takes, bare and with each addition: bare, with, with, bare, and so
    on, so that each follows either equally often; what ran last leaves its mark on caches and memory."""
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
            print(f"{name}: round {number + 1}/{rounds}", file=sys.stderr, flush=True)
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


def markdown(document: dict[str, Any]) -> str:
    lines = ["# Routing replay: what it mends and what it costs", "", *provenance_lines(document), ""]
    seeds = document["mismatch"]
    if seeds:
        rows = []
        for name, (shown, digits) in SHOWN.items():
            values = [seed[name] for seed in seeds.values()]
            over = ratio_interval if name.startswith("kl_ratio") else t_interval
            middle = interval(over(values).to_json(), digits)
            rows.append([shown, middle, f"{min(values):.{digits}f} to {max(values):.{digits}f}"])
        tokens = sum(seed["tokens"] for seed in seeds.values())
        lines += ["## Mismatch", "", "Trainer float32, engine bfloat16, the same weights:"]
        lines += [f"{document['settings']['policy']}. {len(seeds)} seeds, {tokens:,.0f} tokens.", ""]
        lines += [*table(["", "mean over seeds [95 %]", "range"], rows), ""]
    found = document["cost"]
    if found is not None:
        lines += ["## Cost", ""]
        lines += [
            f"{found['parameters'] / 1e6:.0f} M parameters, {found['rows']} sequences of {found['tokens']} "
            f"tokens, {found['rounds']} pairs. Processor time of an update with over without, and the share "
            "of it that was spent inside the added code (`benchmarks.added_time`).",
            "",
        ]
        rows = [
            [
                name,
                to,
                interval(found["ratio"][name], 4),
                f"{found['median_ratio'][name]:.4f}",
                interval(found["added_share"][name], 4),
            ]
            for name, (to, _) in ARMS.items()
            if name in found["ratio"]
        ]
        heads = ["added", "to an update of", "ratio, geometric mean [95 %]", "median", "share inside [95 %]"]
        lines += table(heads, rows)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.md and OUT.json")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4], help="none: no mismatch")
    parser.add_argument("--tokens", type=int, default=64, help="completion tokens of the mismatch part")
    parser.add_argument("--policy", help="directory of a tiny policy taught --task; else random weights")
    parser.add_argument("--task", choices=tuple(TRAINED), default="sums", help="what --policy was taught")
    parser.add_argument("--rounds", type=int, default=24, help="of the cost part; 0: none")
    parser.add_argument("--added", nargs="+", choices=tuple(ARMS), default=list(ARMS), help="cost of what")
    parser.add_argument("--rows", type=int, default=8, help="sequences of an update of the cost part")
    parser.add_argument("--length", type=int, default=128, help="their tokens")
    parser.add_argument("--model", help="directory of a mixture to take the cost of; else made up")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    measured = {}
    for seed in options.seeds:
        measured[str(seed)] = mismatch(seed, options.tokens, options.policy, options.task)
        print(f"seed {seed}: {json.dumps(measured[str(seed)])}", file=sys.stderr, flush=True)
    document = {
        "provenance": provenance(sys.argv[1:], options.seeds, PROGRAM),
        "settings": {
            "policy": RANDOM if options.policy is None else TRAINED[options.task],
            "tiny": TINY,
            "router_scale": ROUTER_SCALE,
            "head_scale": HEAD_SCALE,
        },
        "mismatch": measured,
        "cost": None,
    }
    if options.rounds:
        model = upcycled_size(options.model)
        document["cost"] = cost(model, options.rows, options.length, options.rounds, options.added)
    store(document, markdown(document), options.out)
    print(markdown(document))


if __name__ == "__main__":
    main()
