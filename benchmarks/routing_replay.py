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
   ``--task copy``, one with long answers that `python -m benchmarks copy_policy` made.
2. *Cost.* Updates of a Mixtral-style model of the size that SmolLM2-135M has after upcycling (8 experts of
   384, 4 of them active; ``--model`` takes a real one), bare and with replay or telemetry in turn, order
   changed every round. The routes replayed are the model's own: both sides do the same matrix products.
   Measured are processor time, which other processes on the machine disturb less than wall time, and the time
   inside the added code: two equal updates differ by some per cent, and the ratio takes many rounds.

    python -m benchmarks routing_replay --out benchmarks/results/routing_replay
    python -m benchmarks routing_replay --seeds --added telemetry --rounds 180 --rows 4 --out OUT
    python -m benchmarks routing_replay --policy DIR --task copy --tokens 40 --rounds 0 --out OUT
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, Qwen3MoeConfig

from benchmarks.copy_policy import DIGITS, question
from benchmarks.prompt_routes import PromptRecordingEngine, causes
from benchmarks.report import coded, made_by, write_result
from benchmarks.routing_cost import ARMS, END, PAD, cost, make_learner, section, upcycled_size
from depo.errors import DONE, say
from depo.models.experts import use_sorted_experts
from depo.report.document import Block, Document, Number, Paragraph, Section, Table
from depo.report.provenance import provenance_blocks
from depo.report.statistics import ratio_interval, t_interval
from depo.rng import generator, seed64
from depo.rollout.engine import Sampling
from depo.types import Prompt, Request, TrainSample

VOCABULARY = 64

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
    "copy": "a policy taught to copy rows of 32 digits (`python -m benchmarks copy_policy`)",
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


def report(result: Mapping[str, Any]) -> Document:
    blocks: list[Block] = [*provenance_blocks(result)]
    seeds = result["mismatch"]
    if seeds:
        rows = []
        for name, (shown, digits) in SHOWN.items():
            values = [seed[name] for seed in seeds.values()]
            over = ratio_interval if name.startswith("kl_ratio") else t_interval
            middle = Number.of(over(values).to_json(), f".{digits}f")
            rows.append([shown, middle, f"{min(values):.{digits}f} to {max(values):.{digits}f}"])
        tokens = sum(seed["tokens"] for seed in seeds.values())
        about = (
            f"Trainer float32, engine bfloat16, the same weights: {result['settings']['policy']}. "
            f"{len(seeds)} seeds, {tokens:,.0f} tokens."
        )
        found = Table(["", "mean over seeds [95 %]", "range"], rows)
        blocks.append(Section("Mismatch", [Paragraph(coded(about)), found]))
    if result["cost"] is not None:
        blocks.append(section(result["cost"]))
    return Document("Routing replay: what it mends and what it costs", blocks)


def add_options(parser: argparse.ArgumentParser) -> None:
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


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    torch.set_num_threads(options.threads)
    measured = {}
    for seed in options.seeds:
        measured[str(seed)] = mismatch(seed, options.tokens, options.policy, options.task)
        say(f"seed {seed}: {json.dumps(measured[str(seed)])}")
    result = {
        "kind": "routing_replay",
        "provenance": made_by(arguments, options.seeds),
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
        result["cost"] = cost(model, options.rows, options.length, options.rounds, options.added)
    for path in write_result(result, options.out.with_suffix(".json")):
        print(path)
    return DONE
