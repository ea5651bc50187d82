"""Hand-worked examples of the pure functions; parity with TRL is in test_trl_parity.py."""

from __future__ import annotations

import math

import pytest
import torch

from depo.learner.corrections import binary_kl, build_correction
from depo.learner.loss import build_loss, k3, sequence_ratio, surrogate, token_loss
from depo.recipe import schema

LOSSES = [schema.GrpoLoss(), schema.DapoLoss(), schema.DrGrpoLoss(), schema.GspoLoss(), schema.CispoLoss()]


def test_token_weights_of_lengths_1_and_4() -> None:
    lengths = torch.tensor([1.0, 4.0])
    assert build_loss(schema.GrpoLoss()).weights(lengths, 10).tolist() == pytest.approx([1 / 2, 1 / 8])
    assert build_loss(schema.GspoLoss()).weights(lengths, 10).tolist() == pytest.approx([1 / 2, 1 / 8])
    assert build_loss(schema.DapoLoss()).weights(lengths, 10).tolist() == pytest.approx([1 / 5, 1 / 5])
    assert build_loss(schema.CispoLoss()).weights(lengths, 10).tolist() == pytest.approx([1 / 5, 1 / 5])
    assert build_loss(schema.DrGrpoLoss()).weights(lengths, 10).tolist() == pytest.approx([1 / 20, 1 / 20])


def corrected(
    correction: schema.Correction, old: torch.Tensor, engine: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return build_correction(correction)(old, engine, torch.ones_like(old, dtype=torch.bool))


@pytest.mark.parametrize(
    ("correction", "expected"),
    [
        # ratios 0.25, 0.8, 1.5, 8
        (schema.NoCorrection(), [1, 1, 1, 1]),
        (schema.TisCorrection(cap=2.0), [0.25, 0.8, 1.5, 2]),
        (schema.MisCorrection(cap=2.0), [0.25, 0.8, 1.5, 0]),
        (schema.IcePopCorrection(low=0.5, high=5.0), [0, 0.8, 1.5, 0]),
        (schema.IcePopCorrection(low=0.5, high=1.2), [0, 0.8, 0, 0]),
    ],
)
def test_correction_weights_of_known_ratios(correction: schema.Correction, expected: list[float]) -> None:
    ratios = torch.tensor([[0.25, 0.8, 1.5, 8.0]])
    engine = torch.tensor([[-3.0, -2.0, -4.0, -5.0]])
    weights, cut = corrected(correction, engine + ratios.log(), engine)
    assert weights[0].tolist() == pytest.approx(expected)
    changed = [w != pytest.approx(r) for w, r in zip(expected, ratios[0].tolist(), strict=True)]
    assert cut[0].tolist() == (changed if not isinstance(correction, schema.NoCorrection) else [False] * 4)


def test_a_token_the_engine_called_impossible_keeps_every_correction_finite() -> None:
    old, engine = torch.tensor([[-1.0]]), torch.tensor([[-200.0]])  # ratio overflows float32
    for correction in (
        schema.TisCorrection(),
        schema.MisCorrection(),
        schema.IcePopCorrection(),
        schema.KPopCorrection(),
    ):
        assert torch.isfinite(corrected(correction, old, engine)[0]).all()


def test_icepop_keeps_both_ends_of_its_published_range() -> None:
    ratios = torch.tensor([[0.499, 0.501, 4.99, 5.01]], dtype=torch.float64)
    weights, _ = corrected(schema.IcePopCorrection(), ratios.log(), torch.zeros_like(ratios))
    assert weights[0].tolist() == pytest.approx([0, 0.501, 4.99, 0])


def test_kpop_by_hand() -> None:
    """(p, q) of the learner and the engine, and both divergences worked out:

    0.5, 0.3      KL(p‖q) = 0.5 ln(5/3) + 0.5 ln(5/7)                 = 0.0872   kept, weight 5/3
                  KL(q‖p) = 0.3 ln(3/5) + 0.7 ln(7/5)                 = 0.0823
    0.6, 0.3      KL(p‖q) = 0.6 ln 2 + 0.4 ln(4/7)                    = 0.1920   cut
    0.04, 0.002   KL(p‖q) = 0.04 ln 20 + 0.96 ln(0.96/0.998)          = 0.0826   kept, though the ratio is 20
                  KL(q‖p) = 0.002 ln 0.05 + 0.998 ln(0.998/0.96)      = 0.0328
    0.9, 0.99     KL(p‖q) = 0.9 ln(0.9/0.99) + 0.1 ln 10              = 0.1445   cut, though the ratio is 0.91
                  KL(q‖p) = 0.99 ln 1.1 + 0.01 ln 0.1                 = 0.0713
    0.99, 0.9     the same the other way round                                   cut
    """
    learner = torch.tensor([[0.5, 0.6, 0.04, 0.9, 0.99]]).log()
    engine = torch.tensor([[0.3, 0.3, 0.002, 0.99, 0.9]]).log()
    forward, backward = binary_kl(learner, engine)[0], binary_kl(engine, learner)[0]
    assert forward.tolist() == pytest.approx([0.0872, 0.1920, 0.0826, 0.1445, 0.0713], abs=1e-4)
    assert backward[[0, 2, 3]].tolist() == pytest.approx([0.0823, 0.0328, 0.0713], abs=1e-4)
    weights, cut = corrected(schema.KPopCorrection(), learner, engine)
    assert weights[0].tolist() == pytest.approx([5 / 3, 0, 20, 0, 0], rel=1e-5)
    assert cut[0].tolist() == [False, True, False, True, True]


def test_a_certain_token_that_rounds_to_one_on_one_side_is_kept_by_kpop() -> None:
    weights, _ = corrected(
        schema.KPopCorrection(), torch.tensor([[0.0, -1e-6, 0.0]]), torch.tensor([[-1e-6, 0.0, 0.0]])
    )
    assert weights[0].tolist() == pytest.approx([1, 1, 1], rel=1e-5)


def test_clipping_is_pessimistic_on_both_sides_of_the_asymmetric_range() -> None:
    ratio = torch.tensor([0.5, 0.5, 1.27, 1.5, 1.5])
    advantages = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0])
    loss, clipped = surrogate(0.2, 0.28)(ratio, advantages, ratio.log())
    # a worse action made likelier still hurts in full (last), a better one gains no more than 1 + high
    assert loss.tolist() == pytest.approx([-0.5, 0.8, -1.27, -1.28, 1.5])
    assert clipped.tolist() == [False, True, False, True, False]


def test_gspo_ratio_is_the_geometric_mean_over_the_sequence_and_ignores_padding() -> None:
    log_ratio = torch.tensor([[0.2, -0.1, 0.5], [0.3, 99.0, 99.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert sequence_ratio(log_ratio, mask)[:, 0].log().tolist() == pytest.approx([0.2, 0.3])


def test_k3_averages_to_the_divergence() -> None:
    q, p = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    estimate = (q * k3(p.log() - q.log())).sum()
    assert float(estimate) == pytest.approx(float((q * (q / p).log()).sum()), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.type)
def test_kl_gradient_is_that_of_the_divergence_to_the_reference(loss: schema.Loss) -> None:
    """Expectation over all tokens of a one-token policy, by enumeration, on policy: the gradient of the
    penalty must be that of KL(policy ‖ reference), which plain k3 does not give."""
    logits = torch.tensor([0.5, -1.0, 0.3, 1.2], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.1, 0.4, 0.3, 0.2], dtype=torch.float64).log()
    current = logits.log_softmax(0)
    result = token_loss(
        build_loss(loss),
        logprobs_BT=current.unsqueeze(1),
        old_BT=current.detach().unsqueeze(1),
        advantages_BT=torch.zeros(4, 1, dtype=torch.float64),
        mask_BT=torch.ones(4, 1, dtype=torch.bool),
        correction_BT=torch.ones(4, 1, dtype=torch.float64),
        reference_BT=reference.unsqueeze(1),
        kl_coef=1.0,
    )
    sampled = (current.detach().exp() * result.loss_BT[:, 0]).sum()
    (estimated,) = torch.autograd.grad(sampled, logits, retain_graph=True)
    (exact,) = torch.autograd.grad((current.exp() * (current - reference)).sum(), logits)
    assert torch.allclose(estimated, exact, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.type)
def test_on_policy_gradient_is_that_of_the_expected_advantage(loss: schema.Loss) -> None:
    """Policy gradient theorem by enumeration: at ratio 1 every loss gives −∇ E[advantage]."""
    logits = torch.tensor([0.5, -1.0, 0.3, 1.2], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([1.0, -0.5, 2.0, -1.0], dtype=torch.float64)
    current = logits.log_softmax(0)
    result = token_loss(
        build_loss(loss),
        logprobs_BT=current.unsqueeze(1),
        old_BT=current.detach().unsqueeze(1),
        advantages_BT=advantages.unsqueeze(1),
        mask_BT=torch.ones(4, 1, dtype=torch.bool),
        correction_BT=torch.ones(4, 1, dtype=torch.float64),
    )
    (estimated,) = torch.autograd.grad(
        (current.detach().exp() * result.loss_BT[:, 0]).sum(), logits, retain_graph=True
    )
    (exact,) = torch.autograd.grad(-(current.exp() * advantages).sum(), logits)
    assert torch.allclose(estimated, exact, atol=1e-12)


def test_correction_scales_the_policy_term_and_leaves_the_kl_alone() -> None:
    common = {
        "logprobs_BT": torch.tensor([[-1.0]]),
        "old_BT": torch.tensor([[-1.0]]),
        "advantages_BT": torch.tensor([[2.0]]),
        "mask_BT": torch.ones(1, 1, dtype=torch.bool),
        "reference_BT": torch.tensor([[-1.5]]),
        "kl_coef": 0.1,
    }
    result = token_loss(build_loss(schema.DapoLoss()), correction_BT=torch.tensor([[0.25]]), **common)
    kl = math.exp(-0.5) - 1 + 0.5
    assert result.loss_BT.item() == pytest.approx(-2.0 * 0.25 + 0.1 * kl)
    assert result.kl_BT is not None
    assert result.kl_BT.item() == pytest.approx(kl)
