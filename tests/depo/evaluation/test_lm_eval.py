"""EleutherAI's lm_eval on the same model and prompts, greedy: equal to ``depo eval`` to the sample."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from depo.cli import main

lm_eval = pytest.importorskip("lm_eval", reason="lm_eval is not installed: pip install 'depo-rl[peers]'")

SUITE = {
    "sampling": {"n": 1, "temperature": 0.0},
    "dtype": "float32",
    "device": "cpu",
    "threads": 1,
    "resamples": 20,
}
JUDGE = '''
from math_verify import parse, verify


def process_results(doc, results):
    """math-verify as it comes, without this project's reward around it."""
    return {"acc": float(verify(parse(f"${doc['answer']}$"), parse(results[0])))}
'''


def write_rows(path: Path, rows: list[tuple[str, str]]) -> None:
    path.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows))


def write_task(directory: Path, template: str, max_new_tokens: int, scoring: str) -> None:
    (directory / "local_task.yaml").write_text(
        f"""\
task: local_task
dataset_path: json
dataset_kwargs:
  data_files: {{test: {directory / "problems.jsonl"}}}
  cache_dir: {directory / "cache"}
test_split: test
output_type: generate_until
doc_to_text: "{template}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: [], do_sample: false, max_gen_toks: {max_new_tokens}}}
{scoring}
"""
    )


def peer(model: Path, directory: Path, metric: str, chat: bool) -> dict[str, tuple[str, bool]]:
    """lm_eval's completion and verdict by question."""
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    outcome = lm_eval.simple_evaluate(
        model="hf",
        model_args=f"pretrained={model},dtype=float32",
        tasks=["local_task"],
        task_manager=TaskManager(include_path=str(directory), include_defaults=False),
        device="cpu",
        batch_size=4,
        apply_chat_template=chat,
        bootstrap_iters=0,
    )
    rows = outcome["samples"]["local_task"]
    found = {row["doc"]["question"]: (row["resps"][0][0], row[metric] == 1) for row in rows}
    accuracy = outcome["results"]["local_task"][f"{metric},none"]
    assert accuracy == pytest.approx(sum(right for _, right in found.values()) / len(found))
    return found


def ours(target: Path, directory: Path, **suite: object) -> dict[str, tuple[str, bool]]:
    """``depo eval``'s completion and verdict by question."""
    source = {"type": "file", "path": str(directory / "problems.jsonl")}
    settings = SUITE | suite | {"name": "local", "benchmarks": {"local": {"source": source}}}
    (directory / "local_suite.yaml").write_text(yaml.safe_dump(settings))
    out = directory / "out"
    command = ["eval", str(target), "--suite", str(directory / "local_suite.yaml"), "--run-dir", str(out)]
    assert main([*command, "--quiet"]) == 0
    parts = (out / "samples").glob("*.parquet")
    rows = [row for part in sorted(parts) for row in pq.read_table(part).to_pylist()]
    problems = pq.read_table(out / "problems/local.parquet").to_pylist()
    question = {problem["key"]: problem["text"] for problem in problems}
    found = {question[row["key"]]: (row["completion"], row["correct"]) for row in rows}
    accuracy = json.loads((out / "results.json").read_text())["benchmarks"]["local"]["avg"][0]
    assert accuracy == pytest.approx(sum(right for _, right in found.values()) / len(found))
    return found


def test_a_trained_run_gives_the_same_samples_and_verdicts(cluster, workdir, talkative_policy, monkeypatch):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.chdir(workdir)
    start = ["steps=1", f"policy.model={talkative_policy}"]
    assert main(["train", "tiny.yaml", "--run-dir", "run", "--quiet", *start]) == 0
    policy = workdir / "run/policy"
    # Gold answers: what the policy says by a third implementation; every second one is spoilt.
    model, tokenizer = AutoModelForCausalLM.from_pretrained(policy), AutoTokenizer.from_pretrained(policy)
    questions = [f"{a}+{b}=" for a in range(1, 30, 4) for b in (3, 12)]
    rows: list[tuple[str, str]] = []
    right: dict[str, bool] = {}
    for place, question in enumerate(questions):
        asked = tokenizer(question, return_tensors="pt", return_token_type_ids=False)
        said = model.generate(**asked, max_new_tokens=5, do_sample=False)[0, asked["input_ids"].shape[1] :]
        text = tokenizer.decode(said, skip_special_tokens=True)
        if text:  # a problem without a gold answer is none
            rows.append((question, text if place % 2 else text + "0"))
            right[question] = place % 2 == 1
    write_rows(workdir / "problems.jsonl", rows)
    scoring = "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]"
    write_task(workdir, "{{question}}", 5, scoring)

    mine = ours(
        workdir / "run",
        workdir,
        raw=True,
        max_prompt_tokens=16,
        reward={"type": "exact"},
        sampling={"n": 1, "temperature": 0.0, "max_new_tokens": 5},
    )
    assert mine == peer(policy, workdir, "exact_match", chat=False)
    assert len({completion for completion, _ in mine.values()}) > 8, "it says different things"
    assert {question: verdict for question, (_, verdict) in mine.items()} == right


def test_smollm2_with_its_chat_template_agrees_too(smollm2, tmp_path):
    rows = [(f"What is {a} + {b}?", str(a + b)) for a, b in ((2, 3), (4, 4), (10, 5), (17, 26), (81, 19))]
    write_rows(tmp_path / "problems.jsonl", rows)
    (tmp_path / "judge.py").write_text(JUDGE)
    scoring = (
        "process_results: !function judge.process_results\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]"
    )
    write_task(tmp_path, "{{question}} Answer in one sentence.", 24, scoring)
    mine = ours(
        smollm2,
        tmp_path,
        template="{question} Answer in one sentence.",
        reward={"type": "math"},
        sampling={"n": 1, "temperature": 0.0, "max_new_tokens": 24},
        verification={"workers": 1, "timeout": 20},
    )
    assert mine == peer(smollm2, tmp_path, "acc", chat=True)
    assert {right for _, right in mine.values()} == {True, False}, "agreement on both verdicts"
