"""How long it takes to bring a mixture of experts to a vLLM engine: all of it, or the trained blocks alone.

A model of Marco-Nano's shape (232 experts of 384 dimensions in each layer, 8 of them at work), with fewer
layers and random weights, and with LoRA on attention as in ``recipes/math.yaml``. In turn, round by round:
the whole policy is written and loaded, or only the blocks that hold an adapter (what ``depo train`` does).
Before each sync the learner is perturbed; after it both sides score the same sequences.

    python -m benchmarks weight_sync --out benchmarks/results/weight_sync
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from benchmarks.report import made_by, write_result
from benchmarks.vllm_engine import DEVICE, learner_of
from depo.errors import DONE, say
from depo.models.loading import load_model
from depo.recipe.schema import Lora, PretrainedPolicy
from depo.report.document import Document, Number, Paragraph, Table
from depo.report.provenance import provenance_blocks
from depo.rng import generator
from depo.rollout.engine import WeightUpdate
from depo.rollout.parity import difference
from depo.rollout.vllm.worker import VllmOptions, VllmWorker, worker_environment

MARCO_NANO = {
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_experts": 232,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 384,
    "norm_topk_prob": True,
    "tie_word_embeddings": True,
}

ADAPTERS = Lora(rank=32, alpha=64, targets=["q_proj", "k_proj", "v_proj", "o_proj"])
WAYS = {"whole policy": False, "trained blocks": True}
SEQUENCES, PROMPT, COMPLETION = 4, 16, 16


def random_model(layers: int, seed: int) -> Qwen3MoeForCausalLM:
    torch.manual_seed(seed)
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(num_hidden_layers=layers, **MARCO_NANO)).to(torch.bfloat16)
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = 2
    return model


def measure(layers: int, rounds: int, scratch: Path) -> list[dict[str, Any]]:
    """One row a sync: which way, seconds and bytes, and how far apart both sides were before and after."""
    checkpoint = scratch / "checkpoint"
    random_model(layers, seed=0).save_pretrained(checkpoint)
    model = load_model(
        PretrainedPolicy(model=str(checkpoint), dtype="bfloat16", lora=ADAPTERS, router="frozen"), DEVICE
    )
    learner = learner_of(model, pad_token_id=2)
    options = {"model": str(checkpoint), "dtype": "bfloat16", "gpu_memory_utilization": 0.4}
    worker = VllmWorker(VllmOptions(**options, max_model_len=512, eos_token_ids=(2,)))
    ids = generator(0, "sequences").integers(MARCO_NANO["vocab_size"], size=(SEQUENCES, PROMPT + COMPLETION))
    sequences = [(row[:PROMPT].tolist(), row[PROMPT:].tolist()) for row in ids]
    found = []
    for number in range(rounds):
        for way, trained_only in WAYS.items() if number % 2 == 0 else reversed(WAYS.items()):
            learner.perturb(len(found), scale=4.0)
            wanted = learner.score(sequences)
            before = difference(wanted, worker.score(sequences))
            directory = scratch / "weights"
            started = time.perf_counter()
            learner.export(directory, trained_only)
            exported = time.perf_counter()
            worker.load_weights(WeightUpdate(len(found) + 1, str(directory)))
            loaded = time.perf_counter()
            files = list(directory.glob("*.safetensors"))
            found.append(
                {
                    "way": way,
                    "export_seconds": exported - started,
                    "load_seconds": loaded - exported,
                    "bytes": sum(file.stat().st_size for file in files),
                    "mean_before": before.mean_abs,
                    "mean_after": difference(wanted, worker.score(sequences)).mean_abs,
                }
            )
            for file in directory.iterdir():
                file.unlink()
            learner.restore()
            say(json.dumps(found[-1]))
    return found


def report(result: Mapping[str, Any]) -> Document:
    def spread(rows: Sequence[Mapping[str, Any]], key: str) -> str:
        values = [row[key] for row in rows]
        return f"{np.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    shown = []
    for way in WAYS:
        rows = [row for row in result["syncs"] if row["way"] == way]
        shown.append(
            [
                way,
                Number(rows[0]["bytes"] / 2**20, ",.1f"),
                spread(rows, "export_seconds"),
                spread(rows, "load_seconds"),
                spread(rows, "mean_before"),
                Number(float(np.median([row["mean_after"] for row in rows])), ".4f"),
            ]
        )
    about = (
        f"Marco-Nano's shape, {result['layers']} layers, {result['parameters']:,} parameters, random "
        f"weights, bfloat16, {result['device']}. Median (smallest to largest) of {result['rounds']} syncs "
        "each."
    )
    heads = ["what is sent", "MiB", "s to export", "s to load", "nats apart before", "after"]
    return Document(
        "Weight sync of a mixture of experts with LoRA on attention",
        [*provenance_blocks(result), Paragraph(about), Table(heads, shown)],
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.md and OUT.json")
    parser.add_argument("--layers", type=int, default=4, help="Marco-Nano has 28 (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="syncs each way (%(default)s)")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    os.environ.update(worker_environment(None))
    root = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        syncs = measure(options.layers, options.rounds, Path(scratch))
    with torch.device("meta"):
        parameters = random_model(options.layers, seed=0).num_parameters()
    result = {
        "kind": "weight_sync",
        "provenance": made_by(arguments, [0]),
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU",
        "layers": options.layers,
        "rounds": options.rounds,
        "parameters": parameters,
        "syncs": syncs,
    }
    for path in write_result(result, options.out.with_suffix(".json")):
        print(path)
    return DONE
