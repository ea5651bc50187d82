"""Packing, drawing anew and scaling one layer, against the dense formula written out in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from depo.moe.upcycle.build import Experts, Upcycling, make_router, reinitialise, scale, split

HIDDEN, INTERMEDIATE = 6, 24


def dense_layer() -> tuple[Tensor, Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    shapes = [(INTERMEDIATE, HIDDEN), (INTERMEDIATE, HIDDEN), (HIDDEN, INTERMEDIATE)]
    gate, up, down = (torch.randn(shape, generator=stream, dtype=torch.float64) for shape in shapes)
    return gate, up, down


def mixture(experts: Experts, weights: list[float], x: Tensor, activation=silu) -> Tensor:
    """Σ_e w_e E_e(x), expert after expert."""
    outputs = [
        weight * (down @ (activation(gate @ x) * (up @ x)))
        for weight, gate, up, down in zip(
            weights, experts.gate_ESH, experts.up_ESH, experts.down_EHS, strict=True
        )
    ]
    return torch.stack(outputs).sum(0)


@pytest.mark.parametrize(("slices", "replicas"), [(1, 1), (1, 3), (4, 1), (4, 2), (3, 5)])
def test_exact_scaling_under_uniform_weights_is_the_dense_layer(slices: int, replicas: int) -> None:
    gate, up, down = dense_layer()
    x = torch.linspace(-1, 1, HIDDEN, dtype=torch.float64)
    experts = split(gate, up, down, slices, replicas)
    scale(experts, slices, "exact")
    count = slices * replicas
    expected = down @ (silu(gate @ x) * (up @ x))
    assert torch.allclose(mixture(experts, [1 / count] * count, x), expected, atol=1e-12)
    one_replica = [1 / slices] * slices + [0.0] * (count - slices)
    assert torch.allclose(mixture(experts, one_replica, x), expected, atol=1e-12)


def test_marcos_scaling_is_exact_where_the_activation_is_linear_and_only_there() -> None:
    gate, up, down = dense_layer()
    x = torch.linspace(-1, 1, HIDDEN, dtype=torch.float64)
    experts = split(gate, up, down, 4, 2)
    scale(experts, 4, "marco")
    linear = mixture(experts, [1 / 8] * 8, x, activation=lambda z: z)
    assert torch.allclose(linear, down @ ((gate @ x) * (up @ x)), atol=1e-12)
    dense = down @ (silu(gate @ x) * (up @ x))
    assert (mixture(experts, [1 / 8] * 8, x) - dense).norm() > 0.01 * dense.norm()


def test_dropping_draws_the_same_dimensions_of_all_three_matrices_anew_and_no_others() -> None:
    experts = split(*dense_layer(), slices=2, replicas=2)
    before = Experts(experts.gate_ESH.clone(), experts.up_ESH.clone(), experts.down_EHS.clone())
    reinitialise(experts, 0.25, torch.Generator().manual_seed(0))
    changed = []
    for e in range(4):
        gate = (experts.gate_ESH[e] != before.gate_ESH[e]).all(1)
        assert gate.sum() == 3  # a quarter of the 12 dimensions of an expert
        assert torch.equal(gate, (experts.gate_ESH[e] != before.gate_ESH[e]).any(1))
        assert torch.equal(gate, (experts.up_ESH[e] != before.up_ESH[e]).any(1))
        assert torch.equal(gate, (experts.down_EHS[e] != before.down_EHS[e]).any(0))
        changed.append(tuple(gate.tolist()))
    assert len(set(changed)) > 1  # replicas of a slice part ways


def test_what_is_drawn_anew_has_the_mean_and_spread_of_what_it_replaces() -> None:
    size, hidden = 400, 500
    stream = torch.Generator().manual_seed(3)
    gate = torch.randn(size, hidden, generator=stream) * 0.3 + 2.0
    up = torch.randn(size, hidden, generator=stream) * 5.0 - 1.0
    down = torch.randn(hidden, size, generator=stream) * 0.01
    experts = split(gate, up, down, 1, 1)
    reinitialise(experts, 1.0, torch.Generator().manual_seed(4))
    for new, old in ((experts.gate_ESH[0], gate), (experts.up_ESH[0], up), (experts.down_EHS[0], down)):
        assert not torch.equal(new, old)
        assert float(new.mean()) == pytest.approx(float(old.mean()), abs=0.02 * float(old.std()))
        assert float(new.std()) == pytest.approx(float(old.std()), rel=0.01)


def test_a_grouped_router_scores_all_slices_of_a_replica_alike() -> None:
    settings = Upcycling(3, 2, 3, 0.0, "exact", "grouped", 0.5, 0)
    rows = make_router(settings, 1000, torch.Generator().manual_seed(0))
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[0], rows[2])
    assert torch.equal(rows[3], rows[5])
    assert not torch.equal(rows[0], rows[3])
    assert float(rows.std()) == pytest.approx(0.5, rel=0.05)
