"""Load, entropy, agreement and the alarm against plain counting."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from depo.moe.routers import find_routers
from depo.moe.routes import ForcedRoutes
from depo.moe.telemetry import (
    PATIENCE,
    REFERENCE,
    AgreementTally,
    CollapseAlarm,
    LoadTally,
    layer_statistics,
    scalars,
)

CPU = torch.device("cpu")


def test_load_statistics_of_cases_worked_out_by_hand() -> None:
    balanced, one_sided, skewed = [6, 6, 6, 6], [12, 12, 0, 0], [4, 2, 2, 0]
    found = layer_statistics(np.array([balanced, one_sided, skewed], dtype=float))
    assert found["load_max"].tolist() == [1, 2, 2]
    assert found["load_cv"].tolist() == pytest.approx([0, 1, math.sqrt(2) / 2])
    assert found["dead"].tolist() == [0, 0.5, 0.25]
    # exp of the entropy: 4 and 2 equal shares; 1/2, 1/4, 1/4 have an entropy of 1.5 bits.
    assert found["experts_in_use"].tolist() == pytest.approx([4, 2, 2**1.5])


def test_scalars_show_the_worst_layers_load_and_means_otherwise() -> None:
    layers = layer_statistics(np.array([[6.0, 6, 6, 6], [12, 12, 0, 0]])) | {"entropy": np.array([1.0, 0.5])}
    assert scalars(layers) == {
        "routing/load_max": 2,
        "routing/load_cv": 0.5,
        "routing/dead": 0.25,
        "routing/experts_in_use": pytest.approx(2),
        "routing/entropy": 0.75,
    }


@pytest.mark.parametrize("architecture", ["qwen3_moe", "deepseek_v3"])
def test_load_and_entropy_are_counted_over_the_given_positions_only(architecture: str, moe) -> None:
    routers = find_routers(moe(architecture))
    torch.manual_seed(1)
    tally = LoadTally(routers, CPU)
    loads, entropies = np.zeros(8), []
    for counted in ([0, 2, 5], [1]):
        logits = torch.randn(6, 8)
        native = logits.topk(2).indices
        tally.add(0, logits, native, torch.tensor(counted))
        for n in counted:
            for expert in native[n].tolist():
                loads[expert] += 1
            scores = logits[n].sigmoid() if architecture == "deepseek_v3" else logits[n].exp()
            p = (scores / scores.sum()).tolist()
            entropies.append(-sum(q * math.log(q) for q in p))
    assert tally.load_LE[0].tolist() == loads.tolist()
    assert tally.layers()["entropy"][0] == pytest.approx(np.mean(entropies), rel=1e-5)


def test_agreement_is_the_share_of_experts_in_common_whatever_their_order() -> None:
    ours = torch.tensor([[3, 1], [0, 2], [5, 6], [0, 1]])
    theirs = torch.tensor([[[1, 3], [2, 7], [0, 1], [0, 1]]])
    mask = torch.tensor([[True], [True], [True], [False]])
    tally = AgreementTally(1, CPU)
    tally.add(0, ours, ForcedRoutes(theirs, mask))
    assert tally.shares() == pytest.approx([(2 + 1 + 0) / 6])
    assert AgreementTally(1, CPU).shares() is None, "nothing compared is not full agreement"


def fed(alarm: CollapseAlarm, *steps: list[float]) -> list[list[int]]:
    return [alarm.check(np.array(step)) for step in steps]


def test_the_alarm_sounds_for_the_layer_that_lost_half_of_what_it_had_and_only_after_patience() -> None:
    alarm = CollapseAlarm(layers=2, top_k=2)
    assert fed(alarm, *[[10.0, 6.0]] * REFERENCE) == [[]] * REFERENCE
    # Layer 1 had 4 above its minimum of 2: half of it is lost below 4.
    assert fed(alarm, *[[10.0, 4.1]] * 9) == [[]] * 9
    assert fed(alarm, *[[10.0, 3.9]] * PATIENCE) == [[]] * (PATIENCE - 1) + [[1]]
    assert fed(alarm, [10.0, 4.1], [5.9, 3.9]) == [[], []], "one good step starts the count anew"


def test_a_layer_without_anything_to_lose_raises_no_alarm() -> None:
    alarm = CollapseAlarm(layers=1, top_k=2)
    assert fed(alarm, *[[2.2]] * REFERENCE, *[[2.0]] * 9) == [[]] * (REFERENCE + 9)


def test_the_alarm_goes_on_from_its_state_where_it_stood() -> None:
    steps = [[8.0]] * (REFERENCE + 1) + [[2.5]] * PATIENCE
    whole = fed(CollapseAlarm(1, 2), *steps)
    assert whole[-1] == [0]
    for cut in range(len(steps)):
        first, second = CollapseAlarm(1, 2), CollapseAlarm(1, 2)
        fed(first, *steps[:cut])
        second.restore(json.loads(json.dumps(first.state())))
        assert fed(second, *steps[cut:]) == whole[cut:]
