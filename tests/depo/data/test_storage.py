"""Stored prompts come back equal in every field."""

from __future__ import annotations

import pandas as pd
import pytest

from depo.data import load_saved, save_prompts
from depo.errors import UserError
from depo.types import Prompt

PROMPTS = [
    Prompt("k1", "two 😀\n\n\\frac{1}{2}", (1, 2, 2**31 - 1), "4", prior=0.1 + 0.2, level="mastered"),
    Prompt("k0", "", (), '{"task": "gcd"}', prior=None, level=None),
    Prompt("k2", "b", (7,), "", prior=0.0, level="impossible"),
]


def test_round_trip_is_exact_and_replaces_what_was_there(tmp_path):
    path = tmp_path / "prompts.parquet"
    save_prompts(path, PROMPTS[:1])
    save_prompts(path, PROMPTS)
    assert load_saved(path) == PROMPTS
    assert [entry.name for entry in tmp_path.iterdir()] == ["prompts.parquet"]


def test_no_prompts_round_trip_too(tmp_path):
    save_prompts(tmp_path / "none.parquet", [])
    assert load_saved(tmp_path / "none.parquet") == []


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"none\.parquet"):
        load_saved(tmp_path / "none.parquet")
    pd.DataFrame({"key": ["a"]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(UserError, match="does not hold prompts"):
        load_saved(tmp_path / "other.parquet")
