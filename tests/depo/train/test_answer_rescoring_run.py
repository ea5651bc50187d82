"""Answer rescoring in a run: what the estimator is told is true of the policy, also after a stop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_run import run_depo
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.usefixtures("cluster")

TEMPERATURE = 0.2
OVERRIDES = [
    "estimator={type: hybrid, text: none, history: false}",
    "selection.answer_rescoring=8",
    "selection.min_window=0",
    "rollout.max_new_tokens=1",
    f"rollout.temperature={TEMPERATURE}",
    "evaluation.at_end=false",
    "data.heldout=1",
]


def train(workdir: Path, run: str, *more: str) -> Path:
    lines = (workdir / "sums.jsonl").read_text().splitlines()[:11]  # few prompts: many visits
    (workdir / "sums.jsonl").write_text("\n".join(lines) + "\n")
    done = run_depo("train", "tiny.yaml", "--run-dir", run, *OVERRIDES, *more, cwd=workdir)
    assert done.returncode == 0, done.stdout + done.stderr
    return workdir / run


@pytest.mark.slow
def test_predictions_keep_to_what_the_policy_makes_of_its_earlier_answers(
    workdir: Path, tiny_policy: Path
) -> None:
    """With a learning rate next to nothing the policy stays the one that can be loaded here, so that the
    probability of every earlier answer can be worked out with transformers alone."""
    run = train(workdir, "run", "steps=4", "learner.lr=1e-12", "selection.refill=false")
    done = run_depo("train", "--resume", "--run-dir", "run", "steps=6", cwd=workdir)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = pd.concat(pd.read_parquet(path) for path in sorted((run / "rollouts").glob("*.parquet")))
    model = AutoModelForCausalLM.from_pretrained(tiny_policy, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    told = rows[rows.step == 5].groupby("prompt_key").predicted_mean.first()
    assert np.ptp(told) > 0.01, (
        "without history and text, only answers from before the stop tell prompts apart"
    )
    width, bounded = 0.0, 0
    for key, visits in rows.groupby("prompt_key"):
        ids = tokenizer(visits.prompt.iloc[0], add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            probability_V = (model(ids).logits[0, -1] / TEMPERATURE).softmax(-1)
        for step in sorted(set(visits.step))[1:]:
            earlier = visits[visits.step < step].drop_duplicates("completion")
            latest = earlier.assign(token=earlier.token_ids.map(lambda ids: int(ids[0])))
            if len(latest) > 8:
                continue  # more than are remembered
            p = probability_V[torch.tensor(latest.token.to_list())].numpy()
            right, wrong = p[latest.correct.to_numpy(bool)].sum(), p[~latest.correct.to_numpy(bool)].sum()
            predicted = visits[visits.step == step].predicted_mean.iloc[0]
            assert right - 0.03 <= predicted <= 1.0 - wrong + 0.03, (key, step)  # the grid is that coarse
            width += 1.0 - right - wrong
            bounded += 1
    assert bounded > 5
    assert width / bounded < 0.5, "much was known"
