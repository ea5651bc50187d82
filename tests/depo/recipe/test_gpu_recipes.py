"""The recipes for several GPUs: what they are set to, and that --dry-run says what their comments say.

The models' config.json is put into a cache of the hub of our own, from the facts that the recipes state."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from depo.recipe.budget import budget_text
from depo.recipe.loading import load_recipe
from depo.recipe.schema import GspoLoss, PretrainedPolicy, Recipe

RECIPES = Path(__file__).parents[3] / "recipes"
DENSE = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
}
ARCHITECTURE = {
    "model_type": "qwen3_moe",
    "dtype": "float32",
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_experts_per_tok": 8,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}
CONFIGS = {
    "math": ARCHITECTURE | {"num_experts": 232, "moe_intermediate_size": 384},
    "math_mini": ARCHITECTURE | {"num_experts": 256, "moe_intermediate_size": 768},
    "math_dense": DENSE,
}


@pytest.fixture(params=CONFIGS)
def recipe(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe whose model's config is in the hub's cache."""
    loaded = load_recipe(RECIPES / f"{request.param}.yaml")
    assert isinstance(loaded.policy, PretrainedPolicy)
    repository = tmp_path / f"models--{loaded.policy.model.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "snapshots" / "abc" / "config.json").write_text(json.dumps(CONFIGS[request.param]))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    return loaded


def stated(name: str) -> list[tuple[str, str]]:
    """(name, value) of each line of the comments that quotes the budget, in their order."""
    pattern = re.compile(r"^ *#   ([a-z][A-Za-z ,-]*?) {2,}([\d,.]+(?: [MG]iB)?)(?: {2,}.*)?$")
    lines = (RECIPES / f"{name}.yaml").read_text().splitlines()
    return [match.groups() for line in lines if (match := pattern.match(line))]


def test_the_memory_arithmetic_of_the_comments_is_that_of_a_dry_run(recipe: Recipe) -> None:
    printed = [re.split(r" {2,}", line.strip()) for line in budget_text(recipe).splitlines()]
    rows = [(parts[0], parts[1]) for parts in printed if len(parts) > 1]
    quoted = stated(recipe.name)
    assert [name for name, _ in quoted] == [
        "parameters",
        "active per token",
        "trained",
        "weights",
        "gradients and AdamW",
        "logits, one chunk",
        "activations, estimate",
        "whole for a pass",
        "sum",
        "weights",
        "key-value cache, at most",
    ]
    policy = [row[0] for row in rows].index("parameters")
    assert quoted == rows[policy : policy + len(quoted)]


@pytest.mark.parametrize("recipe", ["math", "math_mini"], indirect=True)
def test_a_mixture_is_trained_by_whole_sequences_with_its_router_frozen(recipe: Recipe) -> None:
    assert recipe.learner.loss == GspoLoss(clip_low=3e-4, clip_high=4e-4)
    assert recipe.learner.minibatches > 1  # with a single step every ratio is 1 and nothing is clipped
    assert recipe.learner.load_balancing_coef == 0
    assert recipe.policy.router == "frozen"
    assert recipe.policy.dtype == "bfloat16"


@pytest.mark.parametrize(("name", "gpus"), [("math", 8), ("math_dense", 8), ("math_mini", 16)])
def test_ranks_and_engines_fill_the_nodes(name: str, gpus: int) -> None:
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    engines = recipe.rollout.vllm.workers * recipe.rollout.vllm.tensor_parallel
    assert recipe.resources.learner_gpus == 1
    assert recipe.learner.ranks + engines == gpus
