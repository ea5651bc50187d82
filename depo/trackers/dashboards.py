"""Dashboards: trackers of other makers, imported only where a recipe asks for them.

    tensorboard   event files in RUN/tensorboard
    wandb         Weights & Biases, online or offline
    mlflow        MLflow, wherever its tracking URI points
    trackio       Trackio, with rollouts of some groups as traces

The last three are services, whose runs lie outside of the run directory. A resumed run goes on in the same
run there; its id is in RUN/SERVICE.json. Services take nothing back: a step that one has is not logged again,
even if the resumed run takes it anew. One that it lacks is sent from metrics.jsonl.
"""

from __future__ import annotations

import math
import re
import sys
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

from depo.errors import UserError
from depo.files import read_json, write_json
from depo.recipe.keys import parse_yaml
from depo.trackers.rollouts import rollout_rows
from depo.trackers.tracker import sound_rows
from depo.types import Group

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from depo.trackers.tracker import Scalar, StepRecord


@contextmanager
def opening(package: str) -> Iterator[None]:
    """Raises UserError, one line, where the package is missing or its dashboard cannot be reached."""
    try:
        yield
    except ImportError as error:
        raise UserError(
            f'{package} cannot be imported ({error}); pip install "depo-rl[{package}]"'
        ) from error
    except Exception as error:  # a service raises what its client raises
        reason = next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
        raise UserError(f"{package}: {reason}") from error


def numbers(metrics: Mapping[str, Scalar]) -> dict[str, float]:
    """What can be drawn over the step."""
    known = {
        name: value for name, value in metrics.items() if isinstance(value, float | int) and name != "step"
    }
    return {name: float(value) for name, value in known.items() if math.isfinite(value)}


class TensorBoard:
    """The tracker: event files in ``tensorboard/``. Raises UserError when tensorboard is not installed."""

    def __init__(self, run_dir: Path) -> None:
        with opening("tensorboard"):  # fails here, at start-up, rather than after a step
            import torch.utils.tensorboard  # noqa: F401
        self.directory = run_dir / "tensorboard"
        self.writer: SummaryWriter | None = None

    def step(self, record: StepRecord) -> None:
        """One point per finite metric. Points that an interrupted run wrote at or after the first step
        written here are hidden (``purge_step``)."""
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.directory), purge_step=record.step)
        for name, value in numbers(record.metrics).items():
            self.writer.add_scalar(name, value, record.step)
        self.writer.flush()

    def truncate_after(self, step: int) -> None:
        """Nothing yet: the first step written hides what was written at or after it."""

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


class Service(ABC):
    """What the trackers of services share. ``last``: the newest step that the service has."""

    name: str
    last = 0
    place = ""
    """Where to look, for people."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.title = run_dir.resolve().name
        self.note = run_dir / f"{self.name}.json"
        self.id: str | None = read_json(self.note)["run"] if self.note.exists() else None

    @property
    def recipe(self) -> dict[str, Any]:
        file = self.run_dir / "recipe.yaml"
        return parse_yaml(file.read_text(encoding="utf-8"), str(file)) if file.exists() else {}

    def note_id(self, run: str) -> None:
        self.id = run
        write_json(self.note, {"run": run})

    @abstractmethod
    def send(self, step: int, metrics: Mapping[str, float], groups: Sequence[Group]) -> None:
        """Log a step that the service does not have."""

    def step(self, record: StepRecord) -> None:
        if record.step > self.last:
            self.send(record.step, numbers(record.metrics), record.groups)
            self.last = record.step

    def truncate_after(self, step: int) -> None:
        """Send what is missing of the steps up to ``step``, without rollouts."""
        log = self.run_dir / "metrics.jsonl"
        for row in sound_rows(log)[0] if log.exists() else ():
            if self.last < row["step"] <= step:
                self.send(row["step"], numbers(row), ())
                self.last = row["step"]


class Wandb(Service):
    """Weights & Biases. ``options`` are those of ``wandb.init``: ``project``, ``entity``, ``mode``, ..."""

    name = "wandb"

    def __init__(self, run_dir: Path, **options: Any) -> None:
        super().__init__(run_dir)
        with opening(self.name):
            import wandb

            asked = {
                "project": "depo",
                "name": self.title,
                "config": self.recipe,
                "dir": run_dir,
                "id": self.id or uuid.uuid4().hex[:8],
                "resume": "allow",
                "settings": wandb.Settings(console="off", silent=True),
            }
            self.run = wandb.init(**asked | options)
            self.note_id(self.run.id)
            self.last = self.offline_step() if self.run.offline else self.run.step - 1
        self.place = str(Path(self.run.dir).parent) if self.run.offline else str(self.run.url)

    def offline_step(self) -> int:
        """The newest step that earlier starts of this run left on disk: a kill takes what W&B's own process
        has not written yet, and offline it does not know what its run has."""
        steps = [0]
        for file in Path(self.run.dir).parents[1].glob(f"*/run-{self.id}.wandb"):
            items = (item for record in wandb_records(file) for item in record.history.item)
            steps += [int(item.value_json) for item in items if "_step" in (item.key, *item.nested_key)]
        return max(steps)

    def send(self, step: int, metrics: Mapping[str, float], groups: Sequence[Group]) -> None:
        self.run.log(dict(metrics), step=step)

    def close(self) -> None:
        self.run.finish(exit_code=0 if sys.exception() is None else 1)


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of W&B's file, in LevelDB's log format: 7 bytes, then blocks of 32 KiB with parts of them,
    each behind 4 bytes of checksum, 2 of length and 1 that says if it is the whole (1) or the last (4)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        end = place + 7 + int.from_bytes(data[place + 4 : place + 6], "little")
        if end > len(data):  # cut by a kill
            return
        parts += data[place + 7 : end]
        if data[place + 6] in (1, 4):
            yield Record.FromString(parts)
            parts = b""
        place = end


class Mlflow(Service):
    """MLflow. The recipe's keys are the run's parameters."""

    name = "mlflow"

    def __init__(self, run_dir: Path, tracking_uri: str | None = None, experiment: str = "depo") -> None:
        super().__init__(run_dir)
        with opening(self.name):
            from mlflow import MlflowClient
            from mlflow.entities import Metric, Param

            self.client, self.metric = MlflowClient(tracking_uri), Metric
            if self.id is not None:
                self.client.update_run(self.id, status="RUNNING")
            else:
                known = self.client.get_experiment_by_name(experiment)
                where = known.experiment_id if known else self.client.create_experiment(experiment)
                self.note_id(self.client.create_run(where, run_name=self.title).info.run_id)
                params = [Param(allowed(key), str(value)[:6000]) for key, value in flat(self.recipe)]
                for start in range(0, len(params), 100):  # MLflow takes 100 at once
                    self.client.log_batch(self.id, params=params[start : start + 100])
            self.last = int(self.client.get_run(self.id).data.metrics.get("step", 0))
            self.place = f"experiment {experiment}, run {self.id}, at {self.client.tracking_uri}"

    def send(self, step: int, metrics: Mapping[str, float], groups: Sequence[Group]) -> None:
        now = int(time() * 1000)
        named = {**metrics, "step": step}  # a resume asks for it: MLflow counts steps metric by metric
        points = [self.metric(allowed(name), value, now, step) for name, value in named.items()]
        self.client.log_batch(self.id, metrics=points)

    def close(self) -> None:
        self.client.set_terminated(self.id, "FINISHED" if sys.exception() is None else "FAILED")


def allowed(name: str) -> str:
    """A name as MLflow takes it: ``visits_5+`` becomes ``visits_5_``."""
    return re.sub(r"[^\w\-. :/]", "_", name)


def flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of all that is below a mapping."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from flat(inner, f"{key}.{name}" if key else str(name))
    elif key:
        yield key, value


TRACE_COLUMNS = (
    "prompt_key",
    "sample_index",
    "reference",
    "value",
    "correct",
    "advantage",
    "origin",
    "outcome",
)


class Trackio(Service):
    """Trackio. The rollouts of the first ``rollouts`` groups of a step become traces. Further options are
    those of ``trackio.init``: ``project``, ``space_id``, ..."""

    name = "trackio"

    def __init__(self, run_dir: Path, rollouts: int = 4, **options: Any) -> None:
        super().__init__(run_dir)
        self.rollouts = rollouts
        with opening(self.name), redirect_stdout(None):
            import trackio

            # Trackio finds a run by its name, which other runs must not have.
            title = self.id or f"{self.title}-{uuid.uuid4().hex[:8]}"
            asked = {"project": "depo", "name": title, "config": self.recipe, "resume": "allow"}
            self.run, self.trace = trackio.init(**asked | options), trackio.Trace
            self.finish = trackio.finish
        self.last = self.run._next_step - 1  # private, but right for a local and for a remote store
        self.note_id(self.run.name)
        self.place = f'run {self.run.name}; trackio show --project "{self.run.project}"'

    def send(self, step: int, metrics: Mapping[str, float], groups: Sequence[Group]) -> None:
        traces = [
            self.trace(
                [
                    {"role": "user", "content": row["prompt"]},
                    {"role": "assistant", "content": row["completion"]},
                ],
                {name: row[name] for name in TRACE_COLUMNS},
            )
            for group in groups[: self.rollouts]
            for row in rollout_rows(step, group)
        ]
        self.run.log({**metrics, **({"rollouts": traces} if traces else {})}, step=step)

    def close(self) -> None:
        with redirect_stdout(None):
            self.finish()
