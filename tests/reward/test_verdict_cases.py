"""Verdicts on cases whose right verdict is known: ours by kind, and a larger set where it is at hand.

`verdict_kinds.jsonl` holds completions and references by kind of mistake (units, scripts, shotguns, …).
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from depo import reward

OURS = [json.loads(line) for line in (Path(__file__).parent / "verdict_kinds.jsonl").read_text().splitlines()]
KINDS = list(dict.fromkeys((case["expected"], case["kind"]) for case in OURS))


@pytest.fixture(scope="module")
def math_reward() -> reward.Reward:
    return reward.build({"type": "math"})


def wrong(math_reward: reward.Reward, cases: list[dict[str, str]]) -> list[tuple[str, str, str]]:
    """(verdict, completion, reference) of the cases that are judged otherwise than expected."""
    samples = [reward.Sample(case["completion"], case["reference"], 5, "stop", 100) for case in cases]
    verdicts = {True: "accept", False: "reject", None: "unscorable"}
    found = [verdicts[score.correct] for score in math_reward.score(samples)]
    return [
        (verdict, case["completion"], case["reference"])
        for verdict, case in zip(found, cases, strict=True)
        if verdict != case["expected"]
    ]


@pytest.mark.parametrize(("expected", "kind"), KINDS)
def test_every_case_of_a_kind_is_judged_rightly(math_reward, expected: str, kind: str) -> None:
    cases = [case for case in OURS if (case["expected"], case["kind"]) == (expected, kind)]
    assert wrong(math_reward, cases) == []


def test_at_most_three_in_a_hundred_of_the_public_cases_are_judged_wrongly(test_data, math_reward) -> None:
    file = test_data / "verdicts" / "math_verdicts.jsonl"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    cases = [json.loads(line) for line in file.read_text().splitlines()]
    found = wrong(math_reward, cases)
    print(Counter(verdict for verdict, _, _ in found), found)
    assert len(found) <= 0.03 * len(cases)
    assert sum(verdict == "accept" for verdict, _, _ in found) <= 0.01 * len(cases), "paid for wrong answers"
