"""How long it takes to bring a mixture of experts to a vLLM engine: all of it, or the trained blocks alone.

A model of Marco-Nano's shape (232 experts of 384 dimensions in each layer, 8 of them at work), with fewer
layers and random weights, and with LoRA on attention as in ``recipes/math.yaml``. In turn, round by round:
the whole policy is written and loaded, or only the blocks that hold an adapter (what ``depo train`` does).
Before each sync the learner is perturbed; after it both sides score the same sequences.

    python -m benchmarks.weight_sync --out benchmarks/results/weight_sync
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from benchmarks.storing import store
from benchmarks.vllm_engine import DEVICE, learner_of
from depo.models.loading import load_model
from depo.recipe.schema import Lora, PretrainedPolicy
from depo.report.provenance import provenance, provenance_lines
from depo.report.tables import table
from depo.rng import generator
from depo.rollout.engine import WeightUpdate
from depo.rollout.parity import difference
from depo.rollout.vllm.worker import VllmOptions, VllmWorker, worker_environment

PROGRAM = "python -m benchmarks.weight_sync"


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
            print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    return found


def markdown(document: dict[str, Any]) -> str:
    def spread(rows: list[dict[str, Any]], key: str) -> str:
        values = [row[key] for row in rows]
        return f"{np.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    shown = []
    for way in WAYS:
        rows = [row for row in document["syncs"] if row["way"] == way]
        shown.append(
            [
                way,
                f"{rows[0]['bytes'] / 2**20:,.1f}",
                spread(rows, "export_seconds"),
                spread(rows, "load_seconds"),
                spread(rows, "mean_before"),
                f"{np.median([row['mean_after'] for row in rows]):.4f}",
            ]
        )
    heads = ["what is sent", "MiB", "s to export", "s to load", "nats apart before", "after"]
    return "\n".join(
        [
            "# Weight sync of a mixture of experts with LoRA on attention",
            "",
            *provenance_lines(document),
            "",
            f"Marco-Nano's shape, {document['layers']} layers, {document['parameters']:,} parameters, random "
            f"weights, bfloat16, {document['device']}. Median (smallest to largest) of {document['rounds']} "
            "syncs each.",
            "",
            *table(heads, shown),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.md and OUT.json")
    parser.add_argument("--layers", type=int, default=4, help="Marco-Nano has 28 (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="syncs each way (%(default)s)")
    options = parser.parse_args()
    os.environ.update(worker_environment(None))
    root = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=root) as scratch:
        syncs = measure(options.layers, options.rounds, Path(scratch))
    with torch.device("meta"):
        parameters = random_model(options.layers, seed=0).num_parameters()
    document = {
        "provenance": provenance(sys.argv[1:], [0], PROGRAM),
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU",
        "layers": options.layers,
        "rounds": options.rounds,
        "parameters": parameters,
        "syncs": syncs,
    }
    store(document, markdown(document), options.out)
    print(markdown(document))


if __name__ == "__main__":
    main()
