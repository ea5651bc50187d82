"""The command line: exit statuses, one line for every mistake, and how fast --help and --dry-run are."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from depo.cli import main
from depo.errors import RunFailed, RunStopped, UserError
from depo.recipe.loading import load_recipe, write_resolved
from depo.rollout.engine import WeightSyncError

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "ray", "transformers", "datasets", "trl", "vllm", "peft", "pandas", "pyarrow", "rich")

RECIPE = """\
name: small
steps: 3
policy: {type: pretrained, model: organisation/model}
data: {train: organisation/problems}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A recipe in an otherwise empty working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(RECIPE)
    return "small.yaml"


@pytest.fixture
def run_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable], list]:
    """Replaces the training run, which has tests of its own, by a function; returns the calls it got."""

    def install(behaviour: Callable) -> list:
        calls: list = []

        def train(recipe, run_dir, resume, quiet) -> None:
            calls.append((recipe, run_dir, resume, quiet))
            run_dir.mkdir(parents=True, exist_ok=True)
            write_resolved(recipe, run_dir / "recipe.yaml")
            behaviour()

        monkeypatch.setattr("depo.run.train", train)
        return calls

    return install


def raises(error: BaseException) -> Callable[[], None]:
    def behaviour() -> None:
        raise error

    return behaviour


def status(*arguments: str) -> int:
    """Exit status, whether argparse leaves by SystemExit or main returns."""
    try:
        return main(arguments)
    except SystemExit as leaving:
        return int(leaving.code or 0)


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    return line


# ---------------------------------------------------------------- speed


def processor_seconds(*arguments: str) -> float:
    """That Python takes with these arguments; the first of the two times it may have to compile."""
    durations = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, *arguments], check=True, capture_output=True, env={"PYTHONPATH": str(ROOT)}
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        durations.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(durations)


@pytest.fixture(scope="module")
def least() -> float:
    """What the least costs that a recipe needs."""
    return processor_seconds("-c", "import numpy, pydantic, yaml")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["upcycle", "--help"], ["train", "small.yaml", "--dry-run"]]
)
def test_help_and_dry_run_are_instant(recipe: str, least: float, arguments: list[str]) -> None:
    """A busy machine is slower with both. Here it is three times as much; with torch, ten times."""
    assert processor_seconds("-m", "depo", *arguments) < 5 * least


def test_a_dry_run_imports_nothing_heavy(recipe: str) -> None:
    program = (
        "import sys; from depo.cli import main; status = main(['train', 'small.yaml', '--dry-run']); "
        f"print('HEAVY', [name for name in {HEAVY} if name in sys.modules]); sys.exit(status)"
    )
    outcome = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert outcome.stdout.splitlines()[-1] == "HEAVY []"


# ---------------------------------------------------------------- what reaches the run


def test_dry_run_prints_a_recipe_that_loads_and_the_budget(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status("train", recipe, "batch.prompts=10", "--dry-run", "learner.lr=1e-5") == 0
    out = capsys.readouterr().out
    text, budget = out.split("\n\n")
    assert yaml.safe_load(text)["batch"] == {"prompts": 10, "group_size": 2}
    (tmp_path / "again.yaml").write_text(text)
    assert load_recipe("again.yaml") == load_recipe(recipe, ["batch.prompts=10", "learner.lr=1e-5"])
    assert "rollouts per step" in budget
    assert " 20 " in budget


def test_a_dry_run_without_the_model_says_what_is_unknown_and_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = str(ROOT / "recipes" / "math_cpu.yaml")
    assert status("train", recipe, "--dry-run") == 0
    out = capsys.readouterr().out
    (parameters,) = (line for line in out.splitlines() if line.split()[:1] == ["parameters"])
    assert parameters.split()[1] == "unknown"
    assert "depo fetch smollm2 models/smollm2" in out.splitlines()[-1]
    assert status("train", recipe) == 2, "to train it has to be there"
    assert error_line(capsys).endswith("(depo fetch smollm2 models/smollm2 puts a small model there)")


def test_a_dry_run_still_refuses_a_directory_that_holds_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "smollm2").mkdir(parents=True)
    assert status("train", str(ROOT / "recipes" / "math_cpu.yaml"), "--dry-run") == 2
    assert error_line(capsys).endswith("has no config.json; name a directory in Hugging Face format")


def test_a_dry_run_leaves_no_directory(recipe: str, tmp_path: Path) -> None:
    assert status("train", recipe, "--dry-run") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["small.yaml", "steps=7", "seed=5", "--quiet", "--run-dir", "here"],
        ["--quiet", "small.yaml", "steps=7", "--run-dir", "here", "seed=5"],
        ["small.yaml", "--run-dir=here", "steps=7", "--quiet", "seed=5"],
    ],
)
def test_flags_and_overrides_may_be_mixed(recipe: str, run_with, arguments: list[str]) -> None:
    calls = run_with(lambda: None)
    assert status("train", *arguments) == 0
    ((loaded, run_dir, resume, quiet),) = calls
    assert (loaded.steps, loaded.seed, run_dir, resume, quiet) == (7, 5, Path("here"), False, True)


def test_runs_started_in_the_same_second_get_different_directories(recipe: str, run_with) -> None:
    calls = run_with(lambda: None)
    assert [status("train", recipe) for _ in range(3)] == [0, 0, 0]
    directories = [run_dir for _, run_dir, _, _ in calls]
    assert len(set(directories)) == 3
    assert all(str(directory).startswith("runs/small-20") for directory in directories)


def test_resume_takes_the_recipe_of_the_run_when_none_is_given(recipe: str, run_with) -> None:
    calls = run_with(lambda: None)
    assert status("train", recipe, "seed=9", "--run-dir", "here") == 0
    assert status("train", "--resume", "--run-dir", "here", "steps=8") == 0
    loaded, run_dir, resume, _ = calls[1]
    assert (loaded.seed, loaded.steps, run_dir, resume) == (9, 8, Path("here"), True)


# ---------------------------------------------------------------- mistakes

NO_RECIPE = "error: the recipe file is missing; it comes before key=value (see depo train --help)"
NO_DATA = "error: command line: data.train.path: no such file: no.csv"
UNKNOWN_FLAG = "error: unrecognized arguments: --nonsense (see depo train --help)"
SMALL_GROUP = "error: command line: batch.group_size: must be at least 1, found 0"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["train"], NO_RECIPE),
        (["train", "steps=3"], NO_RECIPE),
        (["train", "small.yaml", "--resum"], None),
        (["train", "small.yaml", "--nonsense"], UNKNOWN_FLAG),
        (
            ["train", "small.yaml", "--resume"],
            "error: --resume needs --run-dir: the directory to continue in",
        ),
        (
            ["train", "small.yaml", "--resume", "--run-dir", "none"],
            "error: --run-dir none: no such directory, so there is no run to resume",
        ),
        (["train", "smal.yaml"], "error: smal.yaml: no such recipe file; did you mean small.yaml?"),
        (["train", "small.yaml", "batch.group_size=0"], SMALL_GROUP),
        (["train", "small.yaml", "data.train=no.csv"], NO_DATA),
        (["train", "small.yaml", "data.train=no.csv", "--dry-run"], NO_DATA),
        (["fetch", "smollm2"], "error: the following arguments are required: DIR (see depo fetch --help)"),
        (["fetch", "nosuchmodel", "d"], None),
        (["eval"], "error: the following arguments are required: MODEL_OR_RUN (see depo eval --help)"),
        (
            ["route"],
            "error: the following arguments are required: --small, --large, --estimator "
            "(see depo route --help)",
        ),
        (["train", "small.yaml", "reward={type: format, pattern: '('}", "--dry-run"], None),
        (["upcycle", "d"], "error: the following arguments are required: OUT (see depo upcycle --help)"),
        (
            ["upcycle", "d", "o", "--nonsense"],
            "error: unrecognized arguments: --nonsense (see depo upcycle --help)",
        ),
        (["upcycle", "./nowhere", "o"], "error: depo upcycle: DENSE: directory ./nowhere does not exist"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    recipe: str, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str | None
) -> None:
    assert status(*arguments) == 2
    found = error_line(capsys)
    assert found.startswith("error: ")
    if line is not None:
        assert found == line


def test_a_reward_that_cannot_be_built_leaves_no_directory_in_the_way(
    recipe: str, run_with, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    calls = run_with(lambda: None)
    assert status("train", recipe, "reward={type: plugin, name: none}", "--run-dir", "here") == 2
    assert error_line(capsys).startswith(
        "error: command line: reward: reward plugin 'none' is not registered"
    )
    assert status("train", recipe, "--run-dir", "here") == 0
    assert len(calls) == 1


def test_a_run_directory_in_use_is_not_overwritten(
    recipe: str, run_with, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    calls = run_with(lambda: None)
    (tmp_path / "empty").mkdir()
    assert status("train", recipe, "--run-dir", "empty") == 0
    assert status("train", recipe, "--run-dir", "empty") == 2
    assert error_line(capsys).endswith("is not empty; add --resume to continue it, or name another directory")
    assert len(calls) == 1


# ---------------------------------------------------------------- runs that fail


def test_bad_input_found_by_the_run_is_one_line_and_status_2(
    recipe: str, run_with, capsys: pytest.CaptureFixture[str]
) -> None:
    run_with(raises(UserError("data.train: no usable prompt")))
    assert status("train", recipe) == 2
    assert error_line(capsys) == "error: data.train: no usable prompt"


def test_an_unexpected_error_is_named_and_its_traceback_kept(
    recipe: str, run_with, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DEPO_TRACEBACK", raising=False)
    run_with(raises(WeightSyncError("log-probabilities are off by 3.2 nats\nmore detail")))
    assert status("train", recipe, "--run-dir", "here") == 1
    first, second, last = capsys.readouterr().err.splitlines()
    assert first == "error: WeightSyncError: log-probabilities are off by 3.2 nats"
    assert second.startswith("traceback: here/error.log")
    assert last == "what the run has saved is safe; continue with: depo train --resume --run-dir here"
    trace = (tmp_path / "here" / "error.log").read_text()
    assert "Traceback" in trace
    assert "more detail" in trace


def test_the_traceback_is_printed_when_asked_for(
    recipe: str, run_with, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPO_TRACEBACK", "1")
    run_with(raises(ZeroDivisionError("division by zero")))
    assert status("train", recipe) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_interrupted_run_says_how_to_continue(
    recipe: str, run_with, capsys: pytest.CaptureFixture[str]
) -> None:
    run_with(raises(KeyboardInterrupt()))
    assert status("train", recipe, "--run-dir", "here") == 130
    assert error_line(capsys) == "interrupted; continue with: depo train --resume --run-dir here"


def test_the_step_that_an_interrupted_run_goes_on_from_is_named(
    recipe: str, run_with, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        for step in (0, 40):
            Path(f"here/checkpoints/step_{step:06d}").mkdir(parents=True)
        raise KeyboardInterrupt

    run_with(interrupted)
    assert status("train", recipe, "--run-dir", "here") == 130
    assert error_line(capsys) == (
        "interrupted; continue from step 41 with: depo train --resume --run-dir here"
    )


@pytest.mark.parametrize("raised", [RunStopped("the learner died"), RunFailed("it has diverged")])
def test_only_a_run_that_was_stopped_from_outside_is_told_to_continue(
    raised: RunFailed, recipe: str, run_with, capsys: pytest.CaptureFixture[str]
) -> None:
    run_with(raises(raised))
    assert status("train", recipe, "--run-dir", "here") == 1
    first, *more = capsys.readouterr().err.splitlines()
    assert first == f"error: {raised}"
    assert [line.split("; ")[1] for line in more] == (
        ["continue with: depo train --resume --run-dir here"] if isinstance(raised, RunStopped) else []
    )


@pytest.mark.parametrize(
    ("when", "first", "status"),
    [("early", signal.SIGTERM, 143), ("early", signal.SIGHUP, 129), ("late", signal.SIGTERM, 143)],
)
def test_a_terminated_run_says_how_to_continue_and_leaves_no_process_however_often_it_is_told(
    when: str, first: signal.Signals, status: int, recipe: str
) -> None:
    program = """
import signal, sys, time
from pathlib import Path
import depo.run
from depo.cli import main
from depo.recipe.loading import write_resolved

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a shell may have them ignored
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

def train(recipe, run_dir, resume, quiet):
    run_dir.mkdir()
    write_resolved(recipe, run_dir / "recipe.yaml")
    if run_dir.name == "early":
        print("at work", flush=True)
        time.sleep(60)
    import ray
    from depo.workers.cluster import ray_for
    with ray_for(None, 0):
        waits = ray.remote(num_cpus=0)(lambda: time.sleep(60)).remote()
        print("at work", flush=True)
        ray.get(waits)

depo.run.train = train
sys.argv[1:] = ["train", "small.yaml", "--run-dir", sys.argv[1]]
sys.exit(main())
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, when],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    started = psutil.Process(process.pid).children(recursive=True)
    assert bool(started) == (when == "late")
    process.send_signal(first)
    if when == "late":
        time.sleep(1.5)  # Ray looks for signals every second
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
    _, said = process.communicate(timeout=120)
    assert process.returncode == status
    assert said.splitlines()[-1] == f"terminated; continue with: depo train --resume --run-dir {when}"
    _, alive = psutil.wait_procs(started, timeout=20)
    assert not alive
