"""`ray job submit` to a local Ray head, alone or with a second node; with tokens, as Ray asks for them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import yaml
from tiny_run import depo_command

RAY = Path(sys.executable).with_name("ray")
pytestmark = pytest.mark.xdist_group("ray")

REPOSITORY = Path(__file__).parents[3]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def ray_head(tmp_path_factory):
    """A Ray head on free ports."""
    dashboard, port = free_port(), free_port()
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    # The token is kept under ~/.ray; a directory of its own, with a short path (sockets), hides this head
    # from other Ray programs of the machine.
    scratch = tempfile.mkdtemp(prefix="ray")
    env |= {"RAY_AUTH_MODE": "token", "HOME": str(tmp_path_factory.mktemp("home")), "RAY_TMPDIR": scratch}
    env["PATH"] = f"{RAY.parent}{os.pathsep}{env['PATH']}"  # whose `python` runs the job
    subprocess.run([RAY, "get-auth-token", "--generate"], env=env, check=True, capture_output=True)
    start = [
        *(RAY, "start", "--head", "--block", "--port", str(port), "--num-cpus=2"),
        *("--object-store-memory=150000000", "--dashboard-port", str(dashboard), "--disable-usage-stats"),
        *("--dashboard-agent-listen-port", str(free_port())),
    ]
    # Elsewhere than any run, as a system service would be: workers inherit its working directory.
    # --block keeps the head a child of ours: ending it ends its processes, and no one else's Ray.
    head = subprocess.Popen(start, cwd=scratch, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_port(dashboard, head, seconds=90)
    yield f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{port}", env
    head.terminate()
    head.wait(timeout=60)
    shutil.rmtree(scratch, ignore_errors=True)


def run_until_agent_is_up(command: list, **options: object) -> subprocess.CompletedProcess[str]:
    """A head that has just started takes a while to find its own job agent."""
    deadline = time.monotonic() + 90
    while True:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(2)


def wait_for_port(port: int, process: subprocess.Popen[bytes], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        assert process.poll() is None, "ray start ended early"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, f"no dashboard on port {port}"
            time.sleep(0.5)


@pytest.mark.slow
def test_a_submitted_job_trains_and_writes_its_run_directory(ray_head, workdir):
    address, _, env = ray_head
    for package in ("depo", "estimators", "reward"):
        shutil.copytree(REPOSITORY / package, workdir / package, ignore=shutil.ignore_patterns("__pycache__"))
    run_dir = workdir / "run"
    command = ["python", "-m", "depo", "train", "tiny.yaml", "steps=2", "--run-dir", str(run_dir)]
    submit = [RAY, "job", "submit", "--address", address, "--working-dir", ".", "--", *command]
    done = run_until_agent_is_up(submit, cwd=workdir, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((run_dir / "summary.json").read_text())["steps"] == 2


@pytest.mark.slow
def test_relative_paths_are_the_drivers_on_a_cluster_that_was_started_elsewhere(
    ray_head, workdir, tiny_policy
):
    _, cluster, env = ray_head
    (workdir / "base").symlink_to(tiny_policy)
    done = subprocess.run(
        depo_command("train", "tiny.yaml", "steps=2", "policy.model=base", "--run-dir", "run"),
        cwd=workdir,
        env=env | {"RAY_ADDRESS": cluster},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (workdir / "run" / "policy" / "config.json").is_file()
    assert (workdir / "run" / "checkpoints" / "step_000002" / "learner" / "learner.json").is_file()
    assert not list(Path(env["RAY_TMPDIR"]).rglob(".step_*.partial"))


@pytest.mark.slow
@pytest.mark.vllm
def test_a_submitted_run_outlives_the_second_of_two_nodes(ray_head, smollm2, tmp_path):
    """docs/cluster.md, with two nodes on one machine: an engine on each, and the second is lost while they
    generate."""
    address, cluster, env = ray_head
    for package in ("depo", "estimators", "reward"):
        shutil.copytree(
            REPOSITORY / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(REPOSITORY / "recipes" / "math_cpu.yaml", tmp_path)
    start = [RAY, "start", "--block", "--address", cluster, "--num-cpus=0"]
    second = subprocess.Popen(
        [*start, "--object-store-memory=150000000", "--temp-dir", f"{env['RAY_TMPDIR']}/second"],
        **{"cwd": env["RAY_TMPDIR"], "env": env, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL},
    )
    run_dir = tmp_path / "run"
    vllm = {"workers": 2, "max_num_seqs": 16, "cpu_kv_cache_gib": 0.25}
    settings = {
        "policy.model": str(smollm2),
        "steps": 3,
        "data.heldout": 0,
        "batch": {"prompts": 4, "group_size": 4},
        "rollout.max_new_tokens": 48,
        "rollout.engine": "vllm",
        "rollout.vllm": vllm,
        "selection": {"type": "uniform", "refill": False},
        "estimator": "uniform",
        "learner.tokens_per_microbatch": 512,
        "learner.zero_variance": "include",
        "resources.threads": 1,
        "evaluation": {"at_start": False, "at_end": False},
        "checkpoint.every": 1,
    }
    written = [
        f"{key}={yaml.safe_dump(value, default_flow_style=True).split(chr(10))[0]}"
        for key, value in settings.items()
    ]
    command = ["python", "-m", "depo", "train", "math_cpu.yaml", *written, "--run-dir", str(run_dir)]
    submit = [RAY, "job", "submit", "--address", address, "--working-dir", ".", "--", *command]
    log = run_dir / "metrics.jsonl"
    with (tmp_path / "job.txt").open("w") as out:
        job = subprocess.Popen(submit, cwd=tmp_path, env=env, stdout=out, stderr=subprocess.STDOUT)
        while job.poll() is None and not (log.exists() and log.read_text()):
            time.sleep(1)
        time.sleep(3)  # into the rollouts of step 2
        raylet = next(child for child in psutil.Process(second.pid).children() if child.name() == "raylet")
        raylet.send_signal(signal.SIGKILL)
        status = job.wait(timeout=1800)
    said = (tmp_path / "job.txt").read_text()
    second.wait(timeout=60)
    assert status == 0, said
    assert "through Ray to 1 other node" in said
    assert "died during" in said
    assert "another engine takes its place" in said
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["sync/copies"] for row in rows] == [1, 0, 0]
    assert all(row["parity/mean_abs"] < 1e-3 for row in rows)
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["steps"] == 3
    rollouts = summary["rollouts"]
    assert sum(rollouts["by_outcome"].values()) == rollouts["generated"]
    assert rollouts["generated"] == 3 * 16 + rollouts["by_outcome"]["lost"]
