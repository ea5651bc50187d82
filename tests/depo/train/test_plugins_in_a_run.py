"""A run with a tracker and a data source of another package, found by its installed metadata."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_run import run_depo

from depo.data import load_prompts
from depo.errors import UserError
from depo.recipe.schema import Data
from depo.recipe.schema.recipe import Tracking
from depo.trackers.tracker import open_trackers

PACKAGE = """\
import json

def sums(source, where):
    for a in range(source.options["below"]):
        yield f"{a}+{a}=", str(2 * a), None

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


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on the path as pip would leave it."""
    site = tmp_path / "site"
    info = site / "theirs-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "theirs.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[depo.sources]\nsums = theirs:sums\n[depo.trackers]\nnotes = theirs:Notes\n"
    )
    monkeypatch.syspath_prepend(str(site))
    return site


def test_a_run_reads_their_prompts_and_tells_their_tracker_each_step(
    site: Path, workdir: Path, cluster: None
) -> None:
    command = ("train", "tiny.yaml", "steps=2", "--run-dir", "run", "--quiet")
    command += ("data.train={type: plugin, name: sums, options: {below: 40}}",)
    command += ("tracking.trackers=[{name: notes, options: {name: notes.jsonl}}]",)
    done = run_depo(*command, cwd=workdir)
    assert done.returncode == 0, done.stderr
    run = workdir / "run"
    kept = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    told = [json.loads(line) for line in (run / "notes.jsonl").read_text().splitlines()]
    assert told[:2] == [["opened"], ["truncate_after", 0]]
    assert told[-1] == ["closed"]
    steps = told[2:-1]
    assert [(step, generated) for _, step, generated, *_ in steps] == [
        (row["step"], row["generated/rollouts"]) for row in kept
    ]
    assert sum(rollouts for *_, rollouts, _ in steps) == kept[-1]["generated/rollouts"]
    assert all(layers for *_, layers in steps), "the tiny policy is a mixture of experts"
    assert json.loads((run / "summary.json").read_text())["prompts"]["pool"] == 30  # 40, 10 of them held out


def test_an_unknown_tracker_and_options_it_does_not_take_name_the_key(site: Path, tmp_path: Path) -> None:
    for tracker, says in (
        ({"name": "wandb"}, r"tracking\.trackers\.0: no entry point 'wandb' .*known: jsonl, notes, rollouts"),
        (
            {"name": "notes"},
            r"tracking\.trackers\.0: .*does not take these options: missing a required argument: 'name'",
        ),
    ):
        with pytest.raises(UserError, match=says):
            open_trackers(Tracking.model_validate({"trackers": [tracker]}), tmp_path)


def test_an_unknown_source_names_the_key_and_the_known_ones(site: Path) -> None:
    data = Data.model_validate({"train": {"type": "plugin", "name": "sum"}, "raw": True})
    with pytest.raises(UserError, match=r"data\.train: no entry point 'sum' .*known: arithmetic, file, hub"):
        load_prompts(data.train, data, tokenizer=None)
