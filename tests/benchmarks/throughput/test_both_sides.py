"""Both sides for real, as small as it goes: depo with its Ray processes, TRL with its trainer."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.throughput.command import check_prompts, summary
from benchmarks.throughput.measurements import agreement, updates, whole_steps
from benchmarks.throughput.processes import SIDES
from benchmarks.throughput.workload import Workload, known_difficulty, spread_lengths
from depo.reward.base import Sample


@pytest.fixture
def workload(tiny_policy: Path) -> Workload:
    return Workload(
        model=str(tiny_policy),
        seed=0,
        threads=1,
        steps=2,
        prompts=2,
        max_new_tokens=4,
        micro_rows=8,
        pool=20,
        prompt_tokens=6,
        rows=16,
        row_prompt_tokens=3,
        longest=16,
        row_micro_rows=4,
        updates=1,
    )


@pytest.mark.slow
def test_both_sides_run_whole_steps(workload: Workload, tmp_path: Path) -> None:
    pair = {side: whole_steps(side, workload, tmp_path / side) for side in SIDES}
    for side in SIDES:
        found = pair[side]
        assert found["samples_per_second"] == pytest.approx(16 / found["step_seconds"])
        # 16 rows of 6 prompt tokens and 1 to 4 new ones
        assert 16 * 7 <= found["tokens_per_step"] <= 16 * 10
        assert found["generate_seconds"] + found["update_seconds"] <= 1.01 * found["step_seconds"]
        assert found["startup_seconds"] > 1  # imports alone take that
        # torch alone is more than this
        assert found["peak_memory_mib"] is None or found["peak_memory_mib"] > 150
    check_prompts([pair])
    assert summary([pair])["samples_per_second"]["advantage"]["low"] is None


@pytest.mark.slow
def test_both_sides_get_the_same_loss_and_gradient_on_the_spread_batch(
    workload: Workload, tmp_path: Path
) -> None:
    pair = {side: updates(side, workload, tmp_path / side) for side in SIDES}
    assert pair["depo"]["loss"] == pytest.approx(pair["trl"]["loss"], abs=1e-6)
    assert abs(pair["trl"]["loss"]) > 1e-3
    agreed = agreement(tmp_path / "depo", tmp_path / "trl")
    assert agreed["cosine"] == pytest.approx(1, abs=1e-6)
    assert agreed["norm_difference"] < 1e-4
    assert pair["depo"]["padding_share"] < pair["trl"]["padding_share"]


def test_lengths_spread_evenly_one_to_eight(workload: Workload) -> None:
    lengths = sorted(spread_lengths(workload))
    assert (lengths[0], lengths[-1]) == (2, 16)
    assert max(b - a for a, b in pairwise(lengths)) <= 1


def test_known_difficulty_differs_by_prompt() -> None:
    def rate(prompt: str) -> float:
        samples = [Sample(str(i), "", 1, "stop", 8, prompt) for i in range(400)]
        return sum(map(known_difficulty, samples)) / len(samples)

    rates = [rate(f"{a}+17=") for a in range(10, 40)]
    assert min(rates) < 0.1
    assert max(rates) > 0.8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "result.txt"], "--out result.txt: must be a file that ends in .json"),
        (["--out", "r.json", "--repeats", "0"], "--repeats 0: must be at least 1"),
        (["--out", "r.json", "--steps", "-1"], "--steps -1: must be at least 1"),
        (["--out", "r.json", "--model", "./nowhere"], "./nowhere"),
    ],
)
def test_bad_input_is_one_line(arguments, words, refused, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in refused(["throughput", *arguments])
