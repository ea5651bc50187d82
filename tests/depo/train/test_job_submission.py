"""`ray job submit` to a local Ray head, alone or with a second node; with tokens, as Ray asks for them."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
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
    shutil.copytree(REPOSITORY / "depo", workdir / "depo", ignore=shutil.ignore_patterns("__pycache__"))
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


SHORT = {
    "steps": 3,
    "data.heldout": 0,
    "data.train.digits": [1],  # one answer in five is right: some groups teach something
    "data.train.size": 64,
    "batch": {"prompts": 4, "group_size": 4},
    "rollout.max_new_tokens": 64,
    "rollout.engine": "vllm",
    "rollout.vllm": {"workers": 2, "max_num_seqs": 16, "cpu_kv_cache_gib": 0.25},
    "estimator": "uniform",
    "selection": {"type": "uniform", "refill": False},
    "learner.tokens_per_microbatch": 512,
    "learner.zero_variance": "include",
    "resources.threads": 1,
    "evaluation": {"at_start": False, "at_end": False},
    "checkpoint.every": 1,
}


@pytest.fixture
def second_node(ray_head):
    """Another node of that cluster, for engines alone: it has no CPU for the learner."""
    _, cluster, env = ray_head
    scratch = env["RAY_TMPDIR"]
    start = [RAY, "start", "--block", "--address", cluster, "--num-cpus=0"]
    start += ["--object-store-memory=150000000", "--temp-dir", f"{scratch}/second"]
    node = subprocess.Popen(start, cwd=scratch, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    joined = (
        "import ray, sys, time\n"
        f"ray.init({cluster!r}, logging_level='ERROR')\n"
        "while sum(node['Alive'] for node in ray.nodes()) < 2: time.sleep(0.5)"
    )
    subprocess.run([sys.executable, "-c", joined], env=env, check=True, timeout=120)
    yield node
    node.terminate()
    node.wait(timeout=60)


@pytest.mark.slow
@pytest.mark.vllm
def test_a_submitted_run_outlives_the_second_of_two_nodes(ray_head, second_node, smollm2, tmp_path):
    """As docs/cluster.md has it on one machine, with an engine on each node. The second is lost while they
    generate."""
    address, _, env = ray_head
    shutil.copytree(REPOSITORY / "depo", tmp_path / "depo", ignore=shutil.ignore_patterns("__pycache__"))
    run_dir = tmp_path / "run"
    short = [f"{key}={json.dumps(value)}" for key, value in SHORT.items()]
    command = ["python", "-m", "depo", "train", "math_cpu", f"policy.model={smollm2}", *short]
    submit = [RAY, "job", "submit", "--address", address, "--working-dir", ".", "--", *command]
    log = run_dir / "metrics.jsonl"
    with (tmp_path / "said.txt").open("w") as out:
        job = subprocess.Popen(
            [*submit, "--run-dir", str(run_dir)], cwd=tmp_path, env=env, stdout=out, stderr=subprocess.STDOUT
        )
        while job.poll() is None and not (log.exists() and log.read_text()):
            time.sleep(1)
        time.sleep(3)  # into the rollouts of step 2
        node = psutil.Process(second_node.pid)
        next(child for child in node.children() if child.name() == "raylet").kill()
        status = job.wait(timeout=1800)
    said = " ".join((tmp_path / "said.txt").read_text().split())  # lines are wrapped
    assert status == 0, said
    for words in ("through Ray to 1 other node", "died during", "another engine takes its place"):
        assert words in said
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["sync/copies"] for row in rows] == [1, 0, 0]
    assert all(row["parity/mean_abs"] < 1e-3 for row in rows)
    rollouts = json.loads((run_dir / "summary.json").read_text())["rollouts"]
    assert rollouts["generated"] == sum(rollouts["by_outcome"].values())
    assert rollouts["generated"] == 3 * 16 + rollouts["by_outcome"]["lost"]
