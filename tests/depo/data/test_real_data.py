"""The real data sets: row counts as published, no duplicates, references kept."""

from __future__ import annotations

import pandas as pd
import pytest

from depo.data import load_data, prompt_key
from depo.recipe.schema import Data

# Rows in each file, and distinct normalised problems among them.
TRAIN = [
    ("gsm8k_train", 7_473, 7_473),
    ("math_12k", 12_000, 11_998),
    ("dapo_math_17k", 17_255, 17_188),
    ("deepscaler_32k", 32_333, 32_141),
]
EVAL = [
    ("gsm8k_test", 1_319),
    ("math500", 500),
    ("amc23", 40),
    ("olympiadbench_oe_to_maths_en", 675),
    ("minerva_math", 272),
    ("aime24", 30),
    ("aime25", 30),
]


@pytest.mark.parametrize(("name", "rows", "distinct"), TRAIN)
def test_training_sets_are_read_whole_without_duplicates(test_data, tokenizer, name, rows, distinct):
    path = test_data / "train" / f"{name}.parquet"
    data = Data(train=str(path), heldout=0.05, max_prompt_tokens=100_000)
    loaded = load_data(data, tokenizer, seed=0)
    prompts = loaded.train + loaded.heldout
    assert loaded.report.read == rows
    assert loaded.report.kept == distinct == len(prompts) == len({prompt.key for prompt in prompts})
    assert loaded.report.kept + sum(loaded.report.dropped.values()) == rows
    assert len(loaded.heldout) == round(0.05 * distinct)

    frame = pd.read_parquet(path)
    frame["key"] = [prompt_key(text) for text in frame["question"]]
    gold = frame.drop_duplicates("key").set_index("key")["answer"].str.strip()
    assert {prompt.key: prompt.reference for prompt in prompts} == gold.to_dict()


@pytest.mark.parametrize(("name", "rows"), EVAL)
def test_benchmarks_are_read_whole(test_data, tokenizer, name, rows):
    data = Data(train=str(test_data / "eval" / f"{name}.jsonl"), max_prompt_tokens=100_000)
    loaded = load_data(data, tokenizer, seed=0)
    assert loaded.report.kept == loaded.report.read == rows


def test_smollm2_prompts_decode_to_its_chat_format(test_data, smollm2):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    path = test_data / "train" / "gsm8k_train.parquet"
    data = Data.model_validate(
        {
            "train": {"type": "file", "path": path, "limit": 50},
            "system": "Be brief.",
            "template": "{question}\n\nPut your final answer in \\boxed{}.",
        }
    )
    prompts = load_data(data, tokenizer, seed=0).train
    assert len(prompts) == 50
    for prompt in prompts:
        assert tokenizer.decode(prompt.token_ids) == (
            "<|im_start|>system\nBe brief.<|im_end|>\n"
            f"<|im_start|>user\n{prompt.text}\n\nPut your final answer in \\boxed{{}}.<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
