"""vLLM on the same greedy questions: ``depo eval --engine vllm``, and a policy behind vLLM's own server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file
from tiny_run import run_depo

from depo.rollout.vllm.worker import worker_environment

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("cluster")]

TOKENS = 8
SUITE = f"""\
name: sums
raw: true
max_prompt_tokens: 16
reward: {{type: function, path: "even_reward:judge"}}
sampling: {{n: 1, temperature: 0, max_new_tokens: {TOKENS}}}
dtype: float32
threads: 1
resamples: 20
benchmarks:
  sums: {{source: {{type: file, path: sums.jsonl, limit: 24}}}}
"""
START = 300.0
"""Seconds that a server may take to start."""


def evaluated(workdir: Path, policy: Path, engine: str) -> dict[str, tuple[str, bool]]:
    """Completion and verdict by question."""
    out = workdir / engine
    command = ("eval", str(policy), "--suite", "sums.yaml", "--engine", engine, "--run-dir", str(out))
    done = run_depo(*command, "--quiet", cwd=workdir)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [row for part in (out / "samples").glob("*.parquet") for row in pq.read_table(part).to_pylist()]
    problems = pq.read_table(out / "problems/sums.parquet").to_pylist()
    question = {problem["key"]: problem["text"] for problem in problems}
    assert json.loads((out / "results.json").read_text())["suite"]["engine"] == engine
    return {question[row["key"]]: (row["completion"], row["correct"]) for row in rows}


@contextmanager
def server(policy: Path, log: Path) -> Iterator[str]:
    """The address of vLLM's server with this policy, started as `vllm serve POLICY` would; that command fails
    in the CPU build, whose package is not called what it asks the version of."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(policy)]
    command += [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--served-model-name",
        "policy",
        "--dtype",
        "float32",
    ]
    command += [
        "--max-model-len",
        "48",
        "--max-num-seqs",
        "8",
        "--kv-cache-memory-bytes",
        "268435456",
        "--enforce-eager",
    ]
    environment = os.environ | worker_environment(1) | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(address, process, log)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START
    while True:
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)


def served(address: str, questions: list[str]) -> list[str]:
    """Greedy completions by the server's OpenAI interface."""
    body = {"model": "policy", "prompt": questions, "temperature": 0, "max_tokens": TOKENS}
    request = urllib.request.Request(
        f"{address}/v1/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        choices = json.load(answer)["choices"]
    return [choice["text"] for choice in sorted(choices, key=lambda choice: choice["index"])]


def test_both_engines_and_vllms_server_say_the_same_when_greedy(workdir, talkative_policy):
    (workdir / "sums.yaml").write_text(SUITE)
    expected = evaluated(workdir, talkative_policy, "transformers")
    assert {right for _, right in expected.values()} == {True, False}
    assert len({completion for completion, _ in expected.values()}) > 12, "they say different things"
    assert evaluated(workdir, talkative_policy, "vllm") == expected
    with server(talkative_policy, workdir / "server.log") as address:
        questions = list(expected)
        assert served(address, questions) == [expected[question][0] for question in questions]


def test_vllm_is_not_asked_with_weights_that_are_no_numbers(workdir: Path, talkative_policy: Path) -> None:
    (workdir / "sums.yaml").write_text(SUITE)
    broken = shutil.copytree(talkative_policy, workdir / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    command = ("eval", str(broken), "--suite", "sums.yaml", "--engine", "vllm", "--run-dir", "out", "--quiet")
    done = run_depo(*command, cwd=workdir)
    assert done.returncode == 2
    assert (
        done.stderr
        == f"error: model: the weights of {broken} hold NaN or infinity, first in model.norm.weight\n"
    )
