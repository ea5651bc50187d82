"""A package of somebody else's registers a loss, a correction and advantages; a learner trains with them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from made_samples import build_batch, engine_of, sequences_of

from depo.errors import UserError
from depo.learner.advantages import advantages_into, build_advantages
from depo.recipe import checks, schema
from depo.reward.base import Score, unscorable
from depo.types import Group, Origin, Outcome, Pick, Prompt, Rollout

CODE = '''
import numpy as np
import torch
from depo.learner.loss import Loss, mean_of_tokens, token_ratio

def reinforce(scale):
    """Ratios do not enter: minus advantage times log-probability, all times ``scale``."""
    def clip(ratio_BT, advantages_BT, logprobs_BT):
        return -scale * advantages_BT * logprobs_BT, torch.zeros_like(ratio_BT, dtype=torch.bool)
    return Loss(mean_of_tokens, token_ratio, clip)

def whole_sequences(cap):
    """Drop every sequence whose geometric mean ratio is above ``cap``."""
    def weigh(old, engine, mask):
        mean = ((old - engine) * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        dropped = (mean.exp() > cap).expand_as(old)
        return torch.ones_like(old).masked_fill(dropped, 0.0), dropped
    return weigh

def leave_one_out(factor):
    def advantages(judged_P):
        values = [judged.rewards for judged in judged_P]
        return [factor * (v - (np.nansum(v) - v) / (np.count_nonzero(~np.isnan(v)) - 1)) for v in values]
    return advantages
'''
ENTRY_POINTS = """
[depo.losses]
reinforce = somebodys_losses:reinforce
[depo.corrections]
whole_sequences = somebodys_losses:whole_sequences
[depo.advantages]
leave_one_out = somebodys_losses:leave_one_out
"""


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their package, as pip leaves it."""
    (tmp_path / "somebodys_losses.py").write_text(CODE)
    info = tmp_path / "somebodys_losses-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys-losses\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(tmp_path))


def gradients(learner, batch) -> dict[str, torch.Tensor]:
    """Of an update's only optimizer step, before it is clipped."""
    taken: dict[str, torch.Tensor] = {}
    step = learner.optimizer.step

    def keep() -> None:
        taken.update({name: p.grad.clone() for name, p in learner.parameters.items()})
        step()

    learner.optimizer.step = keep
    learner.update(batch)
    return taken


def plugin(name: str, **options: float) -> dict:
    return {"type": "plugin", "name": name, "options": options}


def test_a_step_is_trained_with_a_loss_of_somebody_elses(make_model, make_learner) -> None:
    """On policy it has the gradient of dapo, times its own factor."""
    settings = {"max_grad_norm": 1e9}
    dapo = gradients(make_learner(make_model("llama"), loss={"type": "dapo"}, **settings), build_batch())
    loss = plugin("reinforce", scale=0.5)
    theirs = gradients(make_learner(make_model("llama"), loss=loss, **settings), build_batch())
    assert max(float(grad.norm()) for grad in dapo.values()) > 1e-3
    for name, grad in dapo.items():
        torch.testing.assert_close(theirs[name], 0.5 * grad, rtol=1e-4, atol=1e-7)


def test_a_correction_of_somebody_elses_sees_whole_sequences(make_model, make_learner) -> None:
    batch = build_batch()
    old = make_learner(make_model("llama")).score(sequences_of(batch), 0.8)
    ratios = [math.exp(np.mean(o - e)) for o, e in zip(old, engine_of(batch), strict=True)]
    cap = float(np.median(ratios))
    dropped = sum(s.trained for s, ratio in zip(batch, ratios, strict=True) if ratio > cap)
    learner = make_learner(make_model("llama"), correction=plugin("whole_sequences", cap=cap))
    tokens = sum(sample.trained for sample in batch)
    metrics = learner.update(batch).metrics
    assert 0 < dropped < tokens
    assert metrics["correction_cut"] == pytest.approx(dropped / tokens)
    assert metrics["correction_mean"] == pytest.approx(1 - dropped / tokens)
    assert metrics["optimizer_steps"] == 1


def test_advantages_of_somebody_elses_leave_unscorable_rollouts_at_zero() -> None:
    pick = Pick(Prompt("a", "a", (1, 2), "1"), Origin.SELECTED, "uniform", True, math.nan, math.nan, math.nan)
    scores = [Score(1.0, True), unscorable("timeout"), Score(0.0, False), Score(0.0, False)]
    rollouts = [
        Rollout("a", i, i, np.zeros(3, np.int32), np.zeros(3, np.float32), "stop", 0) for i in range(4)
    ]
    group = Group(pick, rollouts, scores, [""] * 4, Outcome.TRAINED)
    advantages_into([group], build_advantages(plugin("leave_one_out", factor=2.0)))
    assert group.advantages is not None
    assert group.advantages.tolist() == [2.0, 0.0, -1.0, -1.0]
    assert group.advantages.dtype == np.float32


def test_what_is_not_registered_is_told_by_key_before_anything_is_loaded(make_model, make_learner) -> None:
    wrong = schema.Learner.model_validate(
        {"loss": plugin("renforce"), "correction": plugin("whole"), "baseline": plugin("goup")}
    )
    problems = checks.plugin_problems(wrong, "learner")
    assert list(problems) == [
        "learner.loss.name",
        "learner.correction.name",
        "learner.baseline.name",
    ]
    assert "no entry point 'renforce' in the group depo.losses; known: " in problems["learner.loss.name"]
    assert "reinforce" in problems["learner.loss.name"]
    right = {"loss": plugin("reinforce", scale=1.0), "baseline": plugin("leave_one_out")}
    assert checks.plugin_problems(schema.Learner.model_validate(right)) == {}
    with pytest.raises(UserError, match=r"'reinforce' of depo.losses does not take these options: .*'scale'"):
        make_learner(make_model("llama"), loss=plugin("reinforce"))
