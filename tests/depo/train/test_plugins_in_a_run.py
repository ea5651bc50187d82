"""A run with a tracker and a data source of another package, found by its installed metadata; measured
and ended by rollouts instead of steps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from tiny_run import make_workdir, metrics_of, run_depo

from depo.data import load_prompts
from depo.errors import UserError
from depo.recipe.schema import Data
from depo.recipe.schema.recipe import Tracking
from depo.trackers.tracker import open_trackers

PACKAGE = """\
import json

def sums(source, where):
    for a in range(source.options["below"]):
        for b in range(10):
            yield f"{a}+{b}=", str(a + b), None

class Notes:
    def __init__(self, run_dir, name):
        self.file = open(run_dir / name, "a")
        self.note("opened")

    def note(self, *what):
        print(json.dumps(what), file=self.file, flush=True)

    def step(self, record):
        rollouts = sum(len(group.rollouts) for group in record.groups)
        self.note("step", record.step, record.metrics["generated/rollouts"], rollouts, len(record.layers))

    def truncate_after(self, step):
        self.note("truncate_after", step)

    def close(self):
        self.note("closed")
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory on the path as pip would leave it."""
    site = tmp_path_factory.mktemp("theirs") / "site"
    info = site / "theirs-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "theirs.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[depo.sources]\nsums = theirs:sums\n[depo.trackers]\nnotes = theirs:Notes\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        yield site


@pytest.fixture(scope="module")
def straight(finished: Path) -> list[dict[str, float]]:
    """The metrics of a run of the same prompts from a file, ended by its steps."""
    return metrics_of(finished)


@pytest.fixture(scope="module")
def theirs(
    site: Path, straight: list[dict[str, float]], tmp_path_factory: pytest.TempPathFactory, tiny_policy: Path
) -> Path:
    """The directory of the run: as long as four of six steps, measured three times on the way."""
    workdir = make_workdir(tmp_path_factory.mktemp("plugins"), tiny_policy)
    limit = int(straight[3]["generated/rollouts"])
    command = ("train", "tiny.yaml", "--run-dir", "run", "--quiet", f"max_rollouts={limit}")
    command += (f"evaluation.every_rollouts={limit // 3}",)
    command += ("data.train={type: plugin, name: sums, options: {below: 12}}",)
    command += ("tracking.trackers=[{name: notes, options: {name: notes.jsonl}}]",)
    done = run_depo(*command, cwd=workdir)
    assert done.returncode == 0, done.stdout + done.stderr
    return workdir / "run"


def test_a_run_reads_their_prompts_and_tells_their_tracker_each_step(
    theirs: Path,
) -> None:
    kept = metrics_of(theirs)
    told = [json.loads(line) for line in (theirs / "notes.jsonl").read_text().splitlines()]
    assert told[:2] == [["opened"], ["truncate_after", 0]]
    assert told[-1] == ["closed"]
    steps = told[2:-1]
    assert [(step, generated) for _, step, generated, *_ in steps] == [
        (row["step"], row["generated/rollouts"]) for row in kept
    ]
    assert sum(rollouts for *_, rollouts, _ in steps) == kept[-1]["generated/rollouts"]
    assert all(layers for *_, layers in steps), "the tiny policy is a mixture of experts"
    prompts = pd.read_parquet(theirs / "prompts.parquet")
    assert len(prompts) == 110  # 120, 10 of them held out
    assert set(prompts["text"]) <= {f"{a}+{b}=" for a in range(12) for b in range(10)}


def test_a_run_can_be_measured_and_ended_by_rollouts_instead_of_steps(
    theirs: Path, straight: list[dict[str, float]]
) -> None:
    """Up to there it is the run that is ended by its steps."""
    rows = metrics_of(theirs)
    without_evaluation = [{k: v for k, v in row.items() if not k.startswith("eval/")} for row in rows]
    assert without_evaluation == straight[:4]

    every = int(straight[3]["generated/rollouts"]) // 3
    counts = [0, *(int(row["generated/rollouts"]) for row in rows)]
    crossed = [after // every > before // every for before, after in pairwise(counts)]
    crossed[-1] = False  # the last one is evaluated by the end of the run
    assert ["eval/all" in row for row in rows] == crossed
    assert any(crossed)
    frame = pd.concat(pd.read_parquet(path) for path in (theirs / "rollouts").glob("*.parquet"))
    assert len(frame) == counts[-1]
    assert frame["token_ids"].map(len).sum() == rows[-1]["generated/tokens"]


def test_an_unknown_tracker_and_options_it_does_not_take_name_the_key(site: Path, tmp_path: Path) -> None:
    for tracker, says in (
        ({"name": "notices"}, r"tracking\.trackers\.0: no entry point 'notices' .*known: mlflow, notes"),
        (
            {"name": "notes"},
            r"tracking\.trackers\.0: .*does not take these options: missing a required argument: 'name'",
        ),
    ):
        with pytest.raises(UserError, match=says):
            open_trackers(Tracking.model_validate({"trackers": [tracker]}), tmp_path, print)


def test_an_unknown_source_names_the_key_and_the_known_ones(site: Path) -> None:
    data = Data.model_validate({"train": {"type": "plugin", "name": "sum"}, "raw": True})
    with pytest.raises(UserError, match=r"data\.train: no entry point 'sum' .*known: arithmetic, file, hub"):
        load_prompts(data.train, data, tokenizer=None)
