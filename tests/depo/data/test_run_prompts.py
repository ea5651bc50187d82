"""Stored prompts come back equal in every field."""

from __future__ import annotations

import pandas as pd
import pytest

from depo.data import RunPrompts, load_saved, save_prompts
from depo.errors import UserError
from depo.types import Prompt

PROMPTS = [
    Prompt("k1", "two 😀\n\n\\frac{1}{2}", (1, 2, 2**31 - 1), "4", prior=0.1 + 0.2),
    Prompt("k0", "", (), '{"task": "gcd"}', prior=None),
    Prompt("k2", "b", (7,), "", prior=0.0),
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


def test_a_run_keeps_its_prompts_and_the_names_of_their_parts(tmp_path):
    assert RunPrompts.stored(tmp_path) is None
    prompts = RunPrompts(PROMPTS[:1], PROMPTS[1:], {"solvable": frozenset({"k2", "k0"}), "none": frozenset()})
    prompts.store(tmp_path)
    assert RunPrompts.stored(tmp_path) == prompts


def test_a_start_that_was_killed_while_it_stored_prompts_has_stored_none(tmp_path):
    RunPrompts(PROMPTS[:1], PROMPTS[1:]).store(tmp_path)
    (tmp_path / "prompts.parquet").unlink()
    assert RunPrompts.stored(tmp_path) is None
