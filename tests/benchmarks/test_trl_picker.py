"""Both arms of the TRL benchmark on a tiny policy, and what its report makes of several seeds."""

from __future__ import annotations

from pathlib import Path

from benchmarks import trl_picker
from benchmarks.selection.work import COMPOSITION
from depo.data import RunPrompts
from depo.data.text import prompt_key
from depo.files import read_json, write_json
from depo.report.document import plain
from depo.types import Prompt


def prompt(left: int, right: int) -> Prompt:
    text = f"{left}+{right}="
    return Prompt(prompt_key(text), text, tuple(range(3, 3 + len(text))), str(left + right))


def test_both_arms_train_from_the_same_start(tmp_path: Path, tiny_policy: Path, monkeypatch) -> None:
    monkeypatch.setattr(trl_picker, "PROMPTS", 4)
    monkeypatch.setitem(trl_picker.SETTINGS, "per_device_train_batch_size", 32)
    heldout = [prompt(1, b) for b in range(6)]
    parts = {"solvable": frozenset(one.key for one in heldout[:3])}
    RunPrompts([prompt(2, b) for b in range(8)], heldout, parts).store(tmp_path)
    found = {}
    for arm in trl_picker.ARMS:
        result = tmp_path / f"{arm}.json"
        trl_picker.train(arm, tiny_policy, tmp_path, seed=0, steps=2, lr=1e-4, result=result)
        found[arm] = read_json(result)
    uniform, picker = found["uniform"], found["picker"]
    assert uniform["checks"][0] == picker["checks"][0]
    assert [check["rollouts"] for check in picker["checks"]] == [0, 32, 64]
    assert all(0 < check["accuracy"] < 0.1 for check in picker["checks"])  # an untrained policy
    assert len(uniform["zero_variance"]) == len(picker["zero_variance"]) == 2
    assert uniform["saved"] is None


def test_differences_are_paired_by_seed(table_of) -> None:
    def run(accuracy: float, zero: float) -> dict:
        checks = [{"rollouts": n, "accuracy": accuracy / 2, "solvable": accuracy} for n in (0, 1)]
        return {"checks": checks, "zero_variance": [zero] * 4, "seconds": 1.0, "saved": None}

    seeds = {
        seed: {"uniform": run(0.1 * seed, 0.7), "picker": run(0.1 * seed + gain, 0.2)}
        for seed, gain in enumerate((0.1, 0.2, 0.3))
    }
    machine = {"processor": "none", "cores": 1, "gpus": []}
    made = {"command": "", "seeds": [0, 1, 2], "machine": machine, "versions": {}, "commit": "", "date": ""}
    document = trl_picker.report(
        {"kind": "trl_picker", "provenance": made, "steps": 4, "lr": 1e-4, "seeds": seeds}
    )
    rows = table_of(document, "difference")
    assert plain(rows["accuracy, solvable"][-1]).startswith(
        "+0.200 [-0.048, +0.448]"
    )  # t of 2 degrees: 4.303
    assert plain(rows["zero-variance groups"][-1]).startswith("-0.500")


def test_what_is_there_is_not_planned_anew(tmp_path: Path) -> None:
    jobs, runs = trl_picker.plan(tmp_path, [0, 1], 10, 1e-4)
    assert len(jobs) == 8
    assert [job.needs for job in jobs[2:4]] == [(tmp_path / "seed_0" / "prompts" / COMPOSITION,)] * 2
    write_json(runs[0]["uniform"], {})
    again, _ = trl_picker.plan(tmp_path, [0, 1], 10, 1e-4)
    assert [job.done for job in again] == [False, False, True] + [False] * 5
