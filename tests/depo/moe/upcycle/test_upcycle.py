"""`depo upcycle` on tiny llama, mistral and qwen3 models, by loading what it wrote."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from depo.cli import main
from depo.moe.upcycle.convert import MEASURED_LENGTH
from depo.moe.upcycle.repair import PASSAGES, encode, fidelity, read_passages, repair

Save = Callable[..., Path]

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "bos_token_id": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
    "rms_norm_eps": 1e-4,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "mistral": MistralConfig(**SIZES, sliding_window=4),
    "qwen3": Qwen3Config(**SIZES, head_dim=16, attention_bias=True),
}
TARGETS = {"llama": "mixtral", "mistral": "mixtral", "qwen3": "qwen3_moe"}
TOKENS = torch.arange(2, 58).view(2, 28)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory, save: Save) -> dict[str, Path]:
    """The directory of a tiny dense model of each architecture."""
    return {kind: save(CONFIGS[kind], tmp_path_factory.mktemp(kind)) for kind in CONFIGS}


def logits(directory: Path, **options) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(directory, **options)(input_ids=TOKENS).logits


def upcycle(*arguments: object) -> int:
    return main(["upcycle", *map(str, arguments)])


@pytest.mark.parametrize("kind", CONFIGS)
def test_exact_mode_equals_the_dense_model(
    kind: str, dense: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "moe"
    assert upcycle(dense[kind], out, "--slices", 4, "--replicas", 2) == 0
    moe = AutoModelForCausalLM.from_pretrained(out)
    assert moe.config.model_type == TARGETS[kind]
    assert (logits(out) - logits(dense[kind])).abs().max() < 1e-4
    assert moe.generation_config.eos_token_id == [1, 7]
    assert (
        AutoTokenizer.from_pretrained(out).get_vocab()
        == AutoTokenizer.from_pretrained(dense[kind]).get_vocab()
    )
    printed = capsys.readouterr().out
    assert "equals the dense model" in printed
    total = sum(p.numel() for p in moe.parameters())
    assert f"{TARGETS[kind]}, {total:,} parameters, {total:,} active per token" in printed


def test_experts_are_on_disk_one_by_one_under_published_names(dense: dict[str, Path], tmp_path: Path) -> None:
    for kind, name in (
        ("llama", "model.layers.1.block_sparse_moe.experts.7.w2.weight"),
        ("qwen3", "model.layers.1.mlp.experts.7.down_proj.weight"),
    ):
        assert upcycle(dense[kind], tmp_path / kind) == 0
        with safe_open(tmp_path / kind / "model.safetensors", "pt") as file:
            assert file.get_slice(name).get_shape() == [32, 12]


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_a_grouped_router_is_sparse_and_still_equals_the_dense_model(
    kind: str, dense: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "moe"
    assert upcycle(dense[kind], out, "--top-k", 4, "--router", "grouped") == 0
    assert "equals the dense model" in capsys.readouterr().out
    assert (logits(out) - logits(dense[kind])).abs().max() < 1e-4
    report = json.loads((out / "depo_upcycle.json").read_text())
    idle = 2 * 4 * 3 * 32 * 12  # layers · experts a token is not sent to · weights of one
    assert report["active_parameters"] == report["parameters"] - idle


@pytest.mark.parametrize("arguments", [["--scaling", "marco"], ["--top-k", 3], ["--drop", 0.5]])
def test_what_is_approximate_says_so_and_by_how_much(
    arguments: list, dense: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "moe"
    assert upcycle(dense["qwen3"], out, *arguments) == 0
    assert "; approximate" in capsys.readouterr().out
    assert (logits(out) - logits(dense["qwen3"])).abs().max() > 0.05
    report = json.loads((out / "depo_upcycle.json").read_text())
    assert report["upcycled"]["kl"] > 1e-4


def test_the_same_seed_gives_the_same_mixture(dense: dict[str, Path], tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert upcycle(dense["llama"], tmp_path / name, "--top-k", 3, "--drop", 0.5, "--seed", seed) == 0
    a, b, c = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["model.layers.0.mlp.gate.weight"], c["model.layers.0.mlp.gate.weight"])


def test_the_checkpoints_own_type_is_kept(tmp_path: Path, save: Save) -> None:
    save(CONFIGS["llama"], tmp_path / "dense", torch.bfloat16)
    assert upcycle(tmp_path / "dense", tmp_path / "moe") == 0
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "moe", dtype="auto").dtype == torch.bfloat16
    # the factor √4 is a power of two: rounding to bfloat16 loses nothing
    exact = logits(tmp_path / "moe", dtype=torch.float32) - logits(tmp_path / "dense", dtype=torch.float32)
    assert exact.abs().max() < 1e-4


def test_the_reported_error_is_that_of_the_logits(dense: dict[str, Path], tmp_path: Path) -> None:
    assert upcycle(dense["llama"], tmp_path / "moe", "--top-k", 3) == 0
    parent = AutoModelForCausalLM.from_pretrained(dense["llama"])
    moe = AutoModelForCausalLM.from_pretrained(tmp_path / "moe")
    result = fidelity(parent, moe, list(TOKENS))
    p, q = logits(dense["llama"]).flatten(0, 1), logits(tmp_path / "moe").flatten(0, 1)
    assert result.logit_error_max == pytest.approx(float((p - q).abs().max()), rel=1e-4)
    assert result.logit_error_mean == pytest.approx(float((p - q).abs().mean()), rel=1e-4)
    kl = torch.nn.functional.kl_div(
        q.log_softmax(-1), p.log_softmax(-1), reduction="batchmean", log_target=True
    )
    assert result.kl == pytest.approx(float(kl), rel=1e-4)
    assert result.tokens == 56


@pytest.mark.parametrize("from_file", [False, True])
@pytest.mark.slow
def test_repair_brings_the_mixture_back_towards_its_parent(
    from_file: bool, dense: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--top-k", 3, "--repair", 60, "--repair-lr", 1e-2]
    arguments += ["--repair-length", 24 if from_file else 90]
    if from_file:
        letters = torch.randint(57, (200, 24), generator=torch.Generator().manual_seed(5)) + ord("A")
        passages = ["".join(map(chr, row)) for row in letters.tolist()]
        (tmp_path / "text.txt").write_text("\n\n".join(passages))
        arguments += ["--text", tmp_path / "text.txt"]
    assert upcycle(dense["qwen3"], tmp_path / "moe", *arguments) == 0
    report = json.loads((tmp_path / "moe" / "depo_upcycle.json").read_text())
    assert report["repaired"]["kl"] < 0.8 * report["upcycled"]["kl"]
    assert "repaired   logits off by" in capsys.readouterr().out
    before, after = (
        AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (dense["qwen3"], tmp_path / "moe")
    )
    untouched = [name for name in before if ".mlp." not in name]
    assert all(torch.equal(before[name], after[name]) for name in untouched)


def test_a_device_that_is_not_there_is_refused_before_the_work(
    dense: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert upcycle(dense["llama"], tmp_path / "moe", "--device", "cuda") == 2
    said = capsys.readouterr()
    assert said.err == (
        "error: depo upcycle: --device: cuda is asked for, but torch finds no CUDA device; set cpu or auto\n"
    )
    assert not said.out  # not even the dense model was loaded
    for device in ("auto", "cpu"):
        assert upcycle(dense["llama"], tmp_path / device, "--device", device) == 0


@pytest.mark.gpu
def test_a_gpu_measures_what_a_cpu_measures_and_repairs_there(
    dense: dict[str, Path], tmp_path: Path, cuda: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []

    def noted(moe, *arguments, **options) -> None:
        repair(moe, *arguments, **options)
        used.append(moe.device.type)

    monkeypatch.setattr("depo.moe.upcycle.convert.repair", noted)
    state = torch.get_rng_state(), torch.cuda.get_rng_state() if cuda.type == "cuda" else torch.empty(0)
    arguments = ["--top-k", 3, "--repair", 60, "--repair-lr", 1e-2, "--repair-length", 90]
    for name, device in (("here", cuda.type), ("there", "cpu")):
        assert upcycle(dense["qwen3"], tmp_path / name, *arguments, "--device", device) == 0
    assert used == [cuda.type, "cpu"]
    here, there = (
        json.loads((tmp_path / name / "depo_upcycle.json").read_text()) for name in ("here", "there")
    )
    assert here["upcycled"]["kl"] == pytest.approx(there["upcycled"]["kl"], rel=1e-3)
    assert here["repaired"]["kl"] < 0.8 * here["upcycled"]["kl"]
    # What was written computes on a CPU what was measured there, and nobody's randomness was touched.
    moe = AutoModelForCausalLM.from_pretrained(tmp_path / "here")
    tokenizer = AutoTokenizer.from_pretrained(dense["qwen3"])
    parent = AutoModelForCausalLM.from_pretrained(dense["qwen3"])
    found = fidelity(parent, moe, encode(list(PASSAGES), tokenizer, MEASURED_LENGTH))
    assert found.kl == pytest.approx(here["repaired"]["kl"], rel=1e-3)
    if cuda.type == "cuda":
        assert torch.equal(torch.cuda.get_rng_state(), state[1])
    assert torch.equal(torch.get_rng_state(), state[0])


MISTAKES = [
    (["--slices", 5], "--slices 5 does not divide the 48 dimensions of the feed-forward layers of "),
    (["--slices", 0], "--slices must be at least 1, found 0"),
    (["--top-k", 9], "--top-k must be between 1 and the 8 experts (slices x replicas), found 9"),
    (["--drop", 1.5], "--drop must be a share between 0 and 1, found 1.5"),
    (["--top-k", 4, "--router-std", 0], "--router-std 0 sends every token to the same 4 of 8 experts"),
    (["--top-k", 3, "--router", "grouped"], "--top-k 3 must be a multiple of --slices 4"),
    (["--text", "nowhere.txt"], "--text nowhere.txt: cannot be read"),
    (["--repair", 1], "--repair has nothing to mend, for this mixture equals the dense model"),
    (["--top-k", 4, "--router-std", "inf"], "--router-std must be a number from 0 on, found inf"),
    (
        ["--top-k", 3, "--repair", 1, "--repair-length", 20],
        "--repair-length 20 leaves no room for answers; questions take up to",
    ),
]


@pytest.mark.parametrize(("arguments", "complaint"), MISTAKES, ids=lambda value: str(value)[:30])
def test_bad_input_is_one_line_and_status_2(
    arguments: list,
    complaint: str,
    dense: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert upcycle(dense["llama"], tmp_path / "moe", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line
    assert not (tmp_path / "moe").exists()
    if arguments == ["--slices", 5]:
        assert line.endswith("near it: 3, 4, 6, 8")


def test_a_checkpoint_that_lacks_weights_is_refused(
    dense: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Path(shutil.copytree(dense["llama"], tmp_path / "broken"))
    weights = load_file(broken / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    assert upcycle(broken, tmp_path / "moe") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "1 missing or misshapen, the first is model.layers.1.mlp.up_proj.weight" in line


def test_a_repair_is_measured_as_it_is_written(tmp_path: Path, save: Save) -> None:
    """In bfloat16 most of a small repair is lost to rounding, and the report must say so."""
    save(CONFIGS["llama"], tmp_path / "dense", torch.bfloat16)
    arguments = ["--top-k", 3, "--repair", 3, "--repair-lr", 1e-3, "--repair-length", 90]
    assert upcycle(tmp_path / "dense", tmp_path / "moe", *arguments) == 0
    report = json.loads((tmp_path / "moe" / "depo_upcycle.json").read_text())
    parent, moe = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32)
        for name in ("dense", "moe")
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "dense")
    found = fidelity(parent, moe, encode(list(PASSAGES), tokenizer, MEASURED_LENGTH))
    assert found.kl == pytest.approx(report["repaired"]["kl"], rel=1e-5)
    assert found.kl != pytest.approx(report["upcycled"]["kl"], rel=1e-5)


def test_a_temperature_without_do_sample_is_taken_as_meant(dense: dict[str, Path], tmp_path: Path) -> None:
    """transformers loads such a generation config, and would not save it."""
    parent = Path(shutil.copytree(dense["llama"], tmp_path / "dense"))
    settings = json.loads((parent / "generation_config.json").read_text())
    (parent / "generation_config.json").write_text(json.dumps(settings | {"temperature": 0.6, "top_p": 0.9}))
    assert upcycle(parent, tmp_path / "moe") == 0
    written = GenerationConfig.from_pretrained(tmp_path / "moe")
    assert (written.do_sample, written.temperature, written.top_p) == (True, 0.6, 0.9)
    (parent / "generation_config.json").write_text(json.dumps(settings | {"max_new_tokens": -1}))
    assert upcycle(parent, tmp_path / "other") == 2


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    dense: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    file = dense["llama"] / "config.json"
    for out in (file / "moe", Path("/proc/moe"), Path(".")):
        assert upcycle(dense["llama"], out) == 2
        said = capsys.readouterr()
        assert len(said.err.splitlines()) == 1
        assert not said.out  # not even the dense model was loaded
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    monkeypatch.chdir(tmp_path)
    assert upcycle(dense["llama"], tmp_path / "link") == 0
    assert (tmp_path / "empty" / "config.json").is_file()


def test_passages_that_are_no_passages(
    dense: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nine.txt").write_text("\n\n".join(["ABCD"] * 8 + ["A"]))
    (tmp_path / "number.jsonl").write_text('{"text": "ABCD"}\n{"text": 5}\n')
    for name, complaint in (
        ("nine.txt", "no passage to train on has two tokens or more"),
        ("number.jsonl", 'the "text" of object 2 is no text: 5'),
    ):
        mixture = ["--top-k", 3, "--repair", 1]
        assert upcycle(dense["llama"], tmp_path / "moe", *mixture, "--text", tmp_path / name) == 2
        assert complaint in capsys.readouterr().err.splitlines()[-1]


def test_a_line_separator_within_a_json_string_parts_nothing(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    passages = ["one\u2028two\x85three", "four"]
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in passages]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert read_passages(path) == passages


def test_a_dense_model_without_counterpart_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = {
        "biased": (LlamaConfig(**SIZES, mlp_bias=True), "has biases (mlp_bias), which mixtral has not"),
        "moe": (
            Qwen3MoeConfig(**SIZES, num_experts=4, moe_intermediate_size=16),
            "is a qwen3_moe model; can be upcycled: llama, mistral, qwen3",
        ),
    }
    for name, (configuration, complaint) in cases.items():
        configuration.save_pretrained(tmp_path / name)
        assert upcycle(tmp_path / name, tmp_path / "out") == 2
        assert complaint in capsys.readouterr().err


def test_a_directory_in_use_is_left_alone(dense: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert upcycle(dense["llama"], dense["qwen3"]) == 2
    assert "exists and is not empty" in capsys.readouterr().err
