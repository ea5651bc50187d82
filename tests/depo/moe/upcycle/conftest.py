"""Tiny dense models on disk, with a tokenizer of one token a letter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GenerationConfig, PretrainedConfig, PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def save() -> Callable[..., Path]:
    """Writes a model of a configuration, weights drawn, to a directory; returns that."""
    return save_dense


def save_dense(configuration: PretrainedConfig, directory: Path, dtype: torch.dtype = torch.float32) -> Path:
    torch.manual_seed(2)
    model = AutoModelForCausalLM.from_config(configuration, dtype=torch.float32)
    for parameter in model.parameters():  # norms and biases too: what is not copied shows
        parameter.data += 0.1 * torch.randn(parameter.shape)
    model.generation_config = GenerationConfig(eos_token_id=[1, 7], pad_token_id=0)
    model.to(dtype).save_pretrained(directory)
    vocabulary = {"<pad>": 0, "<eos>": 1, "<unk>": 2} | {chr(ord("A") + i): i + 3 for i in range(57)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", behavior="isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>").save_pretrained(
        directory
    )
    return directory
