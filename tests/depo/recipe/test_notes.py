"""What a recipe is told that asks for something without effect."""

from __future__ import annotations

from pathlib import Path

import pytest

from depo.cli import main

RECIPE = """\
name: small
steps: 3
policy: {type: pretrained, model: organisation/model}
data: {train: organisation/problems}
"""

AHEAD = ["rollout.engine=vllm", "rollout.max_off_policy_steps=1"]

NOTED = [
    (["learner.routing_replay=r2"], ["learner.routing_replay: r2 does nothing"]),
    (["learner.loss=gspo"], ["learner.loss: gspo is grpo with one optimizer step"]),
    (
        ["learner.loss=gspo", "learner.minibatches=4", "learner.loss.clip_high=0.28"],
        ["learner.loss.clip_high: 0.28 is a range for single tokens"],
    ),
    (
        ["learner.load_balancing_coef=0.1", "policy.router=frozen"],
        ["learner.load_balancing_coef: the routers cannot follow it"],
    ),
    (
        ["learner.routing_replay=r2", "learner.loss=gspo"],
        ["learner.routing_replay: r2 does nothing", "learner.loss: gspo is grpo"],
    ),
    (
        [*AHEAD, "learner.correction=none", "selection.prefill_probe=false"],
        ["learner.correction: none takes what an older policy wrote"],
    ),
    (
        [*AHEAD, "selection.refill=true", "selection.prefill_probe=true"],
        ["selection.prefill_probe: refill rounds ask the learner"],
    ),
    ([*AHEAD, "selection.refill=false"], []),
    (["learner.correction=none"], []),
    ([], []),
    (["learner.routing_replay=r2", "learner.minibatches=2"], []),
    (["learner.routing_replay=r2", "learner.epochs=2"], []),
    (["learner.routing_replay=r2", "policy.lora={targets: [q_proj], dropout: 0.1}"], []),
    (["learner.loss=gspo", "learner.minibatches=4"], []),
    (["learner.loss.clip_high=0.28"], []),
    (["learner.load_balancing_coef=0.1"], []),
]


@pytest.mark.parametrize(("overrides", "said"), NOTED, ids=lambda value: str(value)[:50])
def test_a_dry_run_notes_what_has_no_effect(
    overrides: list[str],
    said: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(RECIPE)
    assert main(["train", "small.yaml", "--dry-run", *overrides]) == 0
    noted = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert len(noted) == len(said)
    assert all(line.startswith(f"note: {start}") for line, start in zip(noted, said, strict=True))
