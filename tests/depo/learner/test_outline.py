"""What `depo train --dry-run` refuses for the model's sake, from its config alone: no weights exist here."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from transformers import (
    AutoModelForCausalLM,
    GptOssConfig,
    GraniteMoeConfig,
    LlamaConfig,
    PretrainedConfig,
    Qwen3MoeConfig,
)

from depo.cli import main
from depo.errors import UserError
from depo.models.loading import load_model
from depo.recipe.loading import read_recipe

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 4096,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "dense": LlamaConfig(**SIZES),
    "tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "moe": Qwen3MoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
    "strange": GraniteMoeConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2),
    "eager": GptOssConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2),
}
KNOWN = "known are qwen3_moe, qwen2_moe, olmoe, qwen3_next, flex_olmo, mixtral, deepseek_v2, deepseek_v3"
FUSED = "policy.lora.target_parameters=[mlp.experts.up_proj]"

REFUSED = [
    ("dense", ["learner.routing_replay=r3"], ["learner.routing_replay r3: llama is a dense model", KNOWN]),
    ("dense", ["learner.routing_replay=r2"], ["learner.routing_replay r2: llama is a dense model", KNOWN]),
    ("strange", ["learner.routing_replay=r2"], ["granitemoe", "whose router is not known", KNOWN]),
    ("dense", ["policy.router=frozen"], ["policy.router: frozen, but a llama model has no router"]),
    ("dense", ["learner.load_balancing_coef=0.01"], ["no load-balancing loss for llama models"]),
    ("strange", ["learner.load_balancing_coef=0.01"], ["no load-balancing loss for granitemoe models"]),
    (
        "eager",
        ["policy.router=frozen"],
        ["policy.model: cannot build ./eager", "no sdpa attention for this architecture"],
    ),
    ("dense", ["policy.lora.targets=[q_proj, qkv]"], ["policy.lora.targets: qkv names no linear", "k_proj"]),
    ("tied", ["policy.lora.targets=[q_proj, lm_head]"], ["policy.lora: lm_head: ", "tie_word_embeddings"]),
    (
        "tied",
        ["policy.lora.target_parameters=[embed_tokens.weight]"],
        ["policy.lora: embed_tokens.weight: ", "one weight"],
    ),
    ("moe", [FUSED], ["target_parameters: mlp.experts.up_proj names no", "mlp.experts.gate_up_proj"]),
    ("moe", ["policy.lora.targets=[q_proj]", "policy.router=trained"], ["policy.lora has no adapter on it"]),
]
ACCEPTED = [
    ("moe", ["learner.routing_replay=r3", "policy.router=frozen", "learner.load_balancing_coef=0.01"]),
    ("moe", ["policy.lora.target_parameters=[mlp.experts.down_proj]", "learner.routing_replay=r2"]),
    ("dense", ["policy.lora.targets=[q_proj, down_proj, lm_head]"]),
    ("tied", ["policy.lora.targets=[q_proj, down_proj]"]),
]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A recipe beside three directories that hold a config, a tokenizer's name and no readable weight."""
    monkeypatch.chdir(tmp_path)
    for name, configuration in CONFIGS.items():
        write(configuration, tmp_path / name)
    Path("small.yaml").write_text(
        "name: small\nsteps: 3\npolicy: {type: pretrained, model: ./dense}\n"
        "data: {train: organisation/problems, max_prompt_tokens: 16}\nrollout: {max_new_tokens: 16}\n"
    )
    return "small.yaml"


def write(configuration: PretrainedConfig, directory: Path) -> None:
    configuration.save_pretrained(directory)
    (directory / "tokenizer.json").write_text("{}")
    (directory / "model.safetensors").write_text("\2\0\0\0\0\0\0\0{}")


def dry_run(recipe: str, model: str, overrides: list[str]) -> int:
    return main(["train", recipe, "--dry-run", f"policy.model=./{model}", *overrides])


@pytest.mark.parametrize(("model", "overrides", "said"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_the_model_cannot_do_is_one_line_and_status_2(
    model: str, overrides: list[str], said: list[str], recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dry_run(recipe, model, overrides) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("error: command line: ")  # where the key was written
    assert all(part in line for part in said)
    assert captured.out == ""


@pytest.mark.parametrize(("model", "overrides"), ACCEPTED)
def test_what_the_model_can_do_passes(
    model: str, overrides: list[str], recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dry_run(recipe, model, overrides) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "not checked" not in captured.out


def test_the_dry_run_says_what_the_run_would(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    AutoModelForCausalLM.from_config(CONFIGS["dense"]).save_pretrained(tmp_path / "dense")
    overrides = ["policy.lora.targets=[nothing]"]
    assert dry_run(recipe, "dense", overrides) == 2
    with pytest.raises(UserError) as caught:
        load_model(read_recipe(recipe, overrides)[0].policy, "cpu")
    assert f"error: command line: {caught.value}" in capsys.readouterr().err.splitlines()


def test_without_its_config_the_dry_run_says_what_it_did_not_check(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    command = ["train", recipe, "--dry-run", "policy.model=organisation/model"]
    assert main([*command, "learner.routing_replay=r3", "policy.router=frozen"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(
        "not checked against organisation/model: policy.router, learner.routing_replay (its config.json is"
    )
    assert main(command) == 0  # nothing asked, so that nothing is left unchecked
    assert "not checked" not in capsys.readouterr().out


def test_code_that_comes_with_a_model_is_not_executed(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "moe" / "config.json"
    own = {"auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    (tmp_path / "moe" / "own.py").write_text("raise SystemExit('executed')")
    assert dry_run(recipe, "moe", ["policy.trust_remote_code=true", "policy.router=frozen"]) == 0
    assert "code of its own, which a dry run does not execute" in capsys.readouterr().out


def test_a_model_of_many_experts_in_the_hubs_cache_is_checked_in_seconds(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8.8e9 parameters with a rank-32 adapter on every expert: 16 GiB, were they anywhere."""
    large = {"vocab_size": 151936, "hidden_size": 1024, "num_hidden_layers": 28, "head_dim": 128}
    experts = {"num_experts": 232, "num_experts_per_tok": 8, "moe_intermediate_size": 384}
    repository = tmp_path / "models--organisation--large"
    write(Qwen3MoeConfig(**SIZES | large | experts), repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    command = ["train", recipe, "--dry-run", "policy.model=organisation/large", "policy.router=frozen"]
    lora = "policy.lora.target_parameters=[mlp.experts.gate_up_proj, mlp.experts.down_proj]"
    before = time.process_time()
    assert main([*command, lora, "learner.routing_replay=r3"]) == 0
    assert time.process_time() - before < 10
    assert main([*command, "policy.lora.targets=[gate_up_proj]"]) == 2
