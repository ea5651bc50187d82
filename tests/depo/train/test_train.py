"""`depo train`: real Ray, a tiny policy."""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny_run import depo_command, metrics_of, run_depo
from transformers import AutoModelForCausalLM, AutoTokenizer

from depo.recipe.loading import load_recipe

pytestmark = pytest.mark.usefixtures("cluster")


def test_a_run_leaves_everything_that_the_documentation_promises(finished):
    run_dir = finished
    printed = (run_dir.parent / "stdout.txt").read_text()
    assert "after training" in printed
    assert "\x1b[" not in printed, "no control codes when not on a terminal"
    summary = json.loads((run_dir / "summary.json").read_text())

    # Every rollout is accounted for, by origin and by outcome, in rollouts and in tokens.
    rollouts, tokens = summary["rollouts"], summary["tokens"]
    assert (
        sum(rollouts["by_outcome"].values()) == sum(rollouts["by_origin"].values()) == rollouts["generated"]
    )
    assert sum(tokens["by_outcome"].values()) == sum(tokens["by_origin"].values()) == tokens["generated"]
    assert summary["steps"] == 6
    assert summary["prompts"]["pool"] == 110
    assert summary["eval"]["before"].keys() >= {"all", "sets"}
    assert 0 <= summary["eval"]["after"]["all"] <= 1
    assert summary["seconds"]["wall"] > 0

    # The Parquet files say the same, independently added up.
    rows = pd.concat(pd.read_parquet(path) for path in sorted((run_dir / "rollouts").glob("step_*.parquet")))
    assert len(rows) == rollouts["generated"]
    assert rows["outcome"].value_counts().to_dict() == {k: v for k, v in rollouts["by_outcome"].items() if v}
    assert rows["token_ids"].map(len).sum() == tokens["generated"]
    trained = rows[rows["outcome"] == "trained"]
    by_group = trained.groupby(["step", "prompt_key"])["correct"].mean()
    assert ((by_group > 0) & (by_group < 1)).all(), "only informative groups are trained on"
    # Zero-copy engine and learner agree on what the sampled tokens' probabilities were.
    gaps = [
        np.abs(engine - learner).max()
        for engine, learner in zip(trained["engine_logprobs"], trained["learner_logprobs"], strict=True)
    ]
    assert max(gaps) < 1e-3

    # The trained policy is a Hugging Face directory, and it moved.
    model = AutoModelForCausalLM.from_pretrained(run_dir / "policy")
    tokenizer = AutoTokenizer.from_pretrained(run_dir / "policy")
    assert model(**tokenizer("3+4=", return_tensors="pt")).logits.isfinite().all()
    initial = AutoModelForCausalLM.from_pretrained(
        yaml.safe_load((run_dir / "recipe.yaml").read_text())["policy"]["model"]
    )
    assert not torch.equal(model.lm_head.weight, initial.lm_head.weight)


def test_kill_and_resume_gives_the_same_numbers_as_a_run_never_stopped(finished, workdir):
    """The run that is killed has a process and a Ray of its own, as a user's."""
    straight = finished
    process = subprocess.Popen(
        depo_command("train", "tiny.yaml", "--run-dir", "killed", "--quiet"),
        cwd=workdir,
        stdout=subprocess.DEVNULL,
    )
    metrics = workdir / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 3):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (workdir / "killed" / "summary.json").exists()

    done = run_depo("train", "tiny.yaml", "--run-dir", "killed", "--resume", cwd=workdir)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming after step" in done.stdout

    assert metrics_of(workdir / "killed") == metrics_of(straight)
    ours, theirs = (
        load_file(path / "policy" / "model.safetensors") for path in (workdir / "killed", straight)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    first, second = (
        json.loads((path / "summary.json").read_text()) for path in (straight, workdir / "killed")
    )
    for part in ("eval", "gain", "verdict", "rollouts", "tokens", "prompts", "steps"):
        assert first[part] == second[part]
    watched = [
        json.loads((path / "checkpoints/step_000006/run.json").read_text())["alarms"]
        for path in (straight, workdir / "killed")
    ]
    assert watched[0] == watched[1]
    assert watched[0]["totals"]["optimizer_steps"] > 0
    for step in range(1, 7):
        name = f"rollouts/step_{step:06d}.parquet"
        pd.testing.assert_frame_equal(
            pd.read_parquet(straight / name), pd.read_parquet(workdir / "killed" / name)
        )


def test_a_resumed_run_must_be_the_same_run(finished):
    done = run_depo(
        "train", "tiny.yaml", "learner.lr=1e-2", "--run-dir", "run", "--resume", cwd=finished.parent
    )
    assert done.returncode == 2
    refused, remedy = done.stderr.strip().splitlines()
    assert "learner.lr 0.001 → 0.01" in refused
    assert remedy.endswith("depo train run/recipe.yaml learner.lr=0.01")


@pytest.mark.slow
def test_a_run_that_is_extended_compares_no_evaluation_with_one_that_measured_otherwise(workdir):
    assert run_depo("train", "tiny.yaml", "steps=2", "--run-dir", "run", cwd=workdir).returncode == 0
    first = json.loads((workdir / "run/summary.json").read_text())
    assert first["eval"]["before"] is not None
    changes = ["steps=3", "evaluation.n=2", "evaluation.temperature=1.0"]
    done = run_depo("train", "tiny.yaml", *changes, "--run-dir", "run", "--resume", cwd=workdir)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed on resume: steps 2 → 3" in done.stdout
    assert "changed on resume: evaluation.n 1 → 2" in done.stdout
    assert "measured otherwise than before the resume" in done.stdout
    summary = json.loads((workdir / "run/summary.json").read_text())
    assert summary["steps"] == 3
    assert summary["eval"]["before"] is None
    assert summary["eval"]["after"] is not None
    once = first["evaluation"]["rollouts"] // 2  # before and after training, a sample a question
    assert summary["evaluation"]["rollouts"] == (1 + 1 + 2) * once > 0
    assert load_recipe(workdir / "run/recipe.yaml").evaluation.n == 2


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (["learner.los.type=grpo"], ["learner.los", "loss"]),
        (["batch.group_size=1"], ["batch.group_size", "learner.baseline belief"]),
        (["data.train=absent.jsonl"], ["data.train", "absent.jsonl"]),
        (["data.train=empty.jsonl"], ["data.train", "empty.jsonl"]),
        (["policy.model=./no_tokenizer"], ["policy.model", "no_tokenizer", "tokenizer"]),
        (["learner.minibatches=4"], ["batch.prompts", "learner.minibatches"]),
        (["reward.path=even_reward:absent"], ["even_reward:absent"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_input_is_one_clear_line_and_status_2(workdir, tiny_policy, override, says):
    (workdir / "empty.jsonl").write_text("")
    (workdir / "no_tokenizer").mkdir()
    (workdir / "no_tokenizer" / "config.json").write_text((tiny_policy / "config.json").read_text())
    done = run_depo("train", "tiny.yaml", *override, "--run-dir", "run", cwd=workdir)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for words in says:
        assert words in done.stderr


def test_a_process_that_finds_bad_input_says_nothing_but_the_line(workdir):
    """Nor do the libraries that it has loaded by then."""
    command = depo_command("train", "tiny.yaml", "reward.path=even_reward:absent", "--run-dir", "run")
    done = subprocess.run(command, cwd=workdir, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stdout
    first, *rest = done.stderr.strip().splitlines()
    assert first.startswith("error: "), done.stderr
    assert all(line.startswith("    ") for line in rest), "the same message, in lines that fit"
    assert "even_reward:absent" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("samples", [0, 400])
def test_a_live_oracle_predicts_the_policys_pass_rates(samples, workdir, tiny_policy):
    """Against a plain forward pass of transformers over question, answer and end token, prompt by prompt."""
    oracle = f"estimator={{type: oracle, live: true, samples: {samples}}}"
    overrides = [oracle, "reward={type: exact}", "steps=1"]
    overrides += ["evaluation.at_start=false", "evaluation.at_end=false"]
    done = run_depo("train", "tiny.yaml", "--run-dir", "run", *overrides, cwd=workdir)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = pd.read_parquet(workdir / "run" / "rollouts" / "step_000001.parquet")
    rows = rows.drop_duplicates("prompt_key")
    model = AutoModelForCausalLM.from_pretrained(tiny_policy).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    for row in rows.itertuples():
        question = tokenizer(row.prompt, add_special_tokens=False)["input_ids"]
        answer = tokenizer(row.reference, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        with torch.no_grad():
            logits = model(torch.tensor([question + answer])).logits[0]
        logprobs = logits.log_softmax(-1)[len(question) - 1 : -1]
        exact = logprobs.gather(1, torch.tensor(answer)[:, None]).sum().exp().item()
        if samples:
            spread = (exact * (1 - exact) / samples) ** 0.5
            assert row.predicted_mean == pytest.approx(exact, abs=4 * spread + 1 / samples)
        else:
            assert row.predicted_mean == pytest.approx(exact, rel=1e-3)


@pytest.mark.slow
def test_the_prefill_probe_tells_prompts_apart_before_their_first_visit(workdir):
    """Without text nothing else is known of prompts never visited: without the probe their predictions are
    all alike."""
    predicted = {}
    for probe in ("false", "true"):
        overrides = ["estimator={type: hybrid, text: none}", "selection=uniform"]
        overrides += [f"selection.prefill_probe={probe}", "steps=4", "evaluation.at_end=false"]
        done = run_depo("train", "tiny.yaml", "--run-dir", probe, *overrides, cwd=workdir)
        assert done.returncode == 0, done.stdout + done.stderr
        last = pd.read_parquet(workdir / probe / "rollouts" / "step_000004.parquet")
        predicted[probe] = last.groupby("prompt_key").predicted_mean.first().to_numpy()
        row = metrics_of(workdir / probe)[-1]
        assert row["estimator/prompts_visited"] == 24
        seconds = json.loads((workdir / probe / "metrics.jsonl").read_text().splitlines()[-1])
        assert 0 < seconds["seconds_share/estimate"] < 1
    assert np.ptp(predicted["false"]) < 1e-12
    assert np.ptp(predicted["true"]) > 0.01  # not rounding
