"""W&B, MLflow and Trackio: what is in their stores; and that no dashboard ends a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated_run import simulated_recipe, simulated_run
from small_recipe import MINIMAL, problems, written
from tiny_run import metrics_of

from depo.errors import UserError
from depo.loop import train
from depo.recipe.checks import check_inputs
from depo.recipe.loading import load_recipe
from depo.recipe.schema.recipe import Tracking
from depo.reward.base import Score
from depo.trackers.dashboards import Mlflow, Service, Trackio, Wandb, wandb_records
from depo.trackers.tracker import Guarded, MetricsLog, StepRecord, open_trackers
from depo.types import Group, Origin, Outcome, Pick, Prompt, Rollout


def record(step: int, reward: float = 0.5) -> StepRecord:
    values = {"step": step, "reward": reward, "calibration/visits_5+/ece": 0.1, "saved": float("nan")}
    return StepRecord(step, values, [group()], {})


def group() -> Group:
    pick = Pick(Prompt("aa", "1+1=", (3, 4), "2"), Origin.AUDIT, "thompson", True, 0.25, 0.4, 0.8)
    ids, logprobs = np.array([1], dtype=np.int32), np.array([-0.5], dtype=np.float32)
    rollouts = [Rollout("aa", i, i, ids, logprobs, "stop", 0) for i in range(2)]
    return Group(pick, rollouts, [Score(1.0, True), Score(0.0, False)], ["2", "3"], Outcome.ZERO_VARIANCE)


def run_three_times(run_dir: Path, start: Callable[[], Service]) -> None:
    """Steps 1 to 6. The service is gone after 2; a resume goes on after 4, another one takes 4 and 5 anew."""
    log = MetricsLog(run_dir / "metrics.jsonl")
    for step in range(1, 5):
        log.write(record(step).metrics)
    first = start()
    for step in (1, 2):
        first.step(record(step))
    first.close()
    second = start()
    second.truncate_after(4)
    second.step(record(5))
    second.close()
    third = start()
    third.truncate_after(3)
    for step in (4, 5, 6):
        third.step(record(step, reward=0.9))
    third.close()


EXPECTED = [(1, 0.5), (2, 0.5), (3, 0.5), (4, 0.5), (5, 0.5), (6, 0.9)]


def test_wandb_offline_has_each_step_once_in_one_run(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="optional: pip install 'depo-rl[wandb]'")
    (tmp_path / "recipe.yaml").write_text(MINIMAL)

    def start() -> Wandb:
        return Wandb(tmp_path, mode="offline", project="sums")

    run_three_times(tmp_path, start)
    files = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len({file.name for file in files}) == 1, "one run id"
    points, configs = [], []
    for one in (one for file in files for one in wandb_records(file)):
        values = {item.key or item.nested_key[0]: item.value_json for item in one.history.item}
        if values:
            assert "saved" not in values
            points.append((int(values["_step"]), float(values["reward"])))
        configs += [item.value_json for item in one.run.config.update if item.key == "steps"]
    assert points == EXPECTED
    assert configs[0] == "3"

    last = files[-1].read_bytes()
    files[-1].write_bytes(last[: last.rindex(b"_step") + 3])  # what a kill leaves of the last step
    again = start()
    assert again.last == 5
    again.close()


@pytest.mark.slow  # MLflow makes the tables of its store
def test_mlflow_has_each_step_once_in_one_run(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="optional: pip install 'depo-rl[mlflow]'")
    (tmp_path / "recipe.yaml").write_text(MINIMAL)
    uri = f"sqlite:///{tmp_path}/store.db"
    run_three_times(tmp_path, lambda: Mlflow(tmp_path, tracking_uri=uri, experiment="sums"))
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("sums").experiment_id])
    assert [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, "reward")] == EXPECTED
    assert len(client.get_metric_history(run.info.run_id, "calibration/visits_5_/ece")) == 6
    assert run.data.params["policy.model"] == "organisation/model"
    assert (run.info.status, run.info.run_name) == ("FINISHED", tmp_path.name)
    with pytest.raises(OSError, match="power"):  # noqa: PT012
        tracker = Mlflow(tmp_path, tracking_uri=uri, experiment="sums")
        try:
            raise OSError("power cut")
        finally:
            tracker.close()
    assert client.get_run(run.info.run_id).info.status == "FAILED"


def test_trackio_has_each_step_once_and_rollouts_as_traces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    pytest.importorskip("trackio", reason="optional: pip install 'depo-rl[trackio]'")
    from trackio.sqlite_storage import SQLiteStorage

    options = {"project": tmp_path.name, "rollouts": 1, "auto_log_cpu": False}
    run_three_times(tmp_path, lambda: Trackio(tmp_path, **options))
    assert capsys.readouterr().out == ""
    (name,) = SQLiteStorage.get_runs(tmp_path.name)
    logs = SQLiteStorage.get_logs(tmp_path.name, name)
    assert [(one["step"], one["reward"]) for one in logs] == EXPECTED
    traces = SQLiteStorage.get_traces(tmp_path.name, name, step=6)
    messages = [[one["content"] for one in trace["messages"]] for trace in traces]
    assert sorted(messages) == [["1+1=", "2"], ["1+1=", "3"]]
    assert {trace["metadata"]["correct"] for trace in traces} == {True, False}
    assert SQLiteStorage.get_traces(tmp_path.name, name, step=3) == [], "sent from metrics.jsonl"


class Flaky:
    def __init__(self) -> None:
        self.steps: list[int] = []

    def step(self, record: StepRecord) -> None:
        if record.step == 2:
            raise ConnectionError("no route\nto host")
        self.steps.append(record.step)

    def truncate_after(self, step: int) -> None:
        raise AssertionError

    def close(self) -> None:
        raise AssertionError


def test_a_failing_tracker_is_told_once_and_hears_no_more() -> None:
    said: list[str] = []
    flaky = Flaky()
    guarded = Guarded("wandb", flaky, said.append)
    for step in (1, 2, 3):
        guarded.step(record(step))
    guarded.truncate_after(3)
    guarded.close()
    assert flaky.steps == [1]
    reason = "failed at step 2 (ConnectionError: no route to host)"
    assert said == [f"warning: tracking: wandb {reason}; the run goes on without it"]


def test_a_run_goes_on_where_tensorboard_cannot_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real loop, with stand-ins for engine and learner."""
    pytest.importorskip("tensorboard")
    recipe = simulated_recipe(steps=3, tracking={"trackers": [{"name": "tensorboard"}]})
    run = simulated_run(recipe, tmp_path / "run")
    said: list[str] = []
    board = run.trackers[-1]
    monkeypatch.setattr(board, "say", said.append)
    (tmp_path / "run" / "tensorboard").write_text("a file where the directory should be")
    train(run)
    assert [row["step"] for row in metrics_of(run.directory)] == [1, 2, 3]
    (line,) = said
    assert "tensorboard failed at step 1 (FileExistsError" in line


def names(tracking: Tracking) -> list[tuple[str, Mapping[str, Any]]]:
    return [(one.name, one.options) for one in tracking.trackers]


def test_a_list_of_names_is_short_for_trackers(tmp_path: Path) -> None:
    text = f"{MINIMAL}tracking: [wandb, {{name: mlflow, options: {{experiment: x}}}}]\n"
    recipe = load_recipe(written(tmp_path, text), ["tracking.rollouts=false"])
    assert names(recipe.tracking) == [("wandb", {}), ("mlflow", {"experiment": "x"})]
    assert not recipe.tracking.rollouts
    for value in ("trackio", "[trackio]"):
        assert names(load_recipe(written(tmp_path), [f"tracking={value}"]).tracking) == [("trackio", {})]


def test_the_older_form_of_tensorboard_still_works(tmp_path: Path) -> None:
    for value, there in (("true", [("tensorboard", {})]), ("false", [])):
        assert names(load_recipe(written(tmp_path), [f"tracking.tensorboard={value}"]).tracking) == there


def test_what_is_always_written_and_what_is_there_twice_is_an_error(tmp_path: Path) -> None:
    for entry, says in (("jsonl", "metrics.jsonl is always written"), ("wandb, wandb", "in there already")):
        (line,) = problems(tmp_path, f"{MINIMAL}tracking: [{entry}]\n")
        assert line.startswith("FILE: tracking.trackers: ")
        assert says in line


def test_a_missing_package_is_one_line_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("depo.recipe.checks.find_spec", lambda name: None)
    recipe = load_recipe(written(tmp_path), ["tracking=[trackio]"])
    with pytest.raises(UserError) as caught:
        check_inputs(recipe)
    line = 'recipe: tracking.trackers.0.name: trackio is missing; pip install "depo-rl[trackio]"'
    assert str(caught.value) == line


@pytest.mark.slow  # importing MLflow takes seconds
def test_a_dashboard_that_cannot_be_reached_at_the_start_is_bad_input(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="optional: pip install 'depo-rl[mlflow]'")
    tracking = Tracking(trackers=[{"name": "mlflow", "options": {"tracking_uri": "gopher://nowhere"}}])
    with pytest.raises(UserError, match=r"tracking\.trackers\.0: mlflow: "):
        open_trackers(tracking, tmp_path, print)
