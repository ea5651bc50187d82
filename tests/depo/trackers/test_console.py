"""The console: what a step line says, on a terminal and in a file."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from depo.errors import WIDTH
from depo.recipe.loading import load_recipe
from depo.trackers.console import HEADER_EVERY, UNIFORM_GROUPS, WIDE, Console, columns_for

RECIPES = Path(__file__).parents[3] / "recipes"

METRICS = {
    "step": 12,
    "reward": 0.71234,
    "accuracy": 0.99,
    "uniform/groups": 4,
    "uniform/accuracy": 0.51,
    "uninformative_share": 0.25,
    "calibration/skill": -0.125,
    "calibration/ece": 0.0312,
    "selection/active": 1,
    "saved": -12345,
    "generated/rollouts": 6144,
    "completion_tokens": 211.4,
    "truncated_share": 0.125,
    "mismatch_kl": 0.00031,
    "tokens_per_second": 24180.0,
    "seconds/select": 0.012,
    "seconds/generate": 12.34,
    "seconds/verify": 0.4,
    "seconds/update": 123.4,
    "seconds/estimate": 0.05,
    "seconds/sync": 0.85,
    "seconds/step": 137.0,
    "something else": 1.0,
}


LEGEND = 8


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def table(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Without the legend."""
    shown = lines(capsys)
    return shown[next(i for i, line in enumerate(shown) if line.endswith("slowest part")) :]


def cells(header: str, line: str) -> dict[str, str]:
    """Values of a line by the column titles above them; titles and values are right-aligned."""
    ends = [match.end() for match in re.finditer(r"slowest part|\S+", header)]
    starts = [0, *ends]
    return {
        header[start:end].strip(): line[start:end].strip() for start, end in zip(starts, ends, strict=False)
    }


def test_a_step_is_one_line_under_a_legend_and_a_header(capsys: pytest.CaptureFixture[str]) -> None:
    with Console(300, quiet=False, name="x") as console:
        console.step(METRICS)
    *legend, header, line = lines(capsys)
    assert len(legend) == LEGEND
    found = cells(header, line)
    assert found == {
        "step": "12/300",
        "reward": "0.712",
        "accuracy": "0.510",  # of the uniformly drawn prompts, not of those that were chosen
        "useful": "75%",
        "skill": "-0.12",
        "prompts": "chosen",
        "saved": "-12.3k",
        "tok/s": "24.2k",
        "time": "137s",
        "slowest part": "update 90%",
    }
    assert [line.split()[0] for line in legend] == list(found)[1:-1], "every column but step is explained"


@pytest.mark.parametrize("width", [100, 160])
def test_a_wide_terminal_has_more_columns(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    with Console(300, quiet=False, name="x", width=width) as console:
        console.step(METRICS)
    *legend, header, line = lines(capsys)
    found = cells(header, line)
    more = {"used": "6144", "length": "211", "cut": "12%", "mismatch": "3.1e-04"}
    assert {name: found.get(name) for name in more} == (more if width >= WIDE else dict.fromkeys(more))
    assert len(legend) == len(found) - 2
    assert max(map(len, [*legend, header, line])) <= width


def test_accuracy_is_that_of_the_newest_uniformly_drawn_groups(capsys: pytest.CaptureFixture[str]) -> None:
    with Console(300, quiet=False, name="x") as console:
        old = {"step": 1, "uniform/groups": UNIFORM_GROUPS, "uniform/accuracy": 0.0, "accuracy": 0.9}
        console.step(old | {"uniform/groups": 0, "uniform/accuracy": float("nan")})
        console.step(old | {"step": 2})
        for step in (3, 4):
            console.step(old | {"step": step, "uniform/groups": UNIFORM_GROUPS / 2, "uniform/accuracy": 0.5})
        console.step(old | {"step": 5, "uniform/groups": 0, "uniform/accuracy": None})
    header, *rows = table(capsys)
    assert [cells(header, row)["accuracy"] for row in rows] == ["-", "0.000", "0.167", "0.500", "0.500"]


def test_a_resumed_run_shows_the_accuracy_that_it_would_have_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps = [
        {"step": step, "uniform/groups": UNIFORM_GROUPS / 4, "uniform/accuracy": step / 10}
        for step in range(1, 8)
    ]
    shown = []
    for before in (0, 4):
        with Console(300, quiet=False, name="x") as console:
            console.remember(steps[:before])
            for metrics in steps[before:]:
                console.step(metrics)
        header, *rows = table(capsys)
        shown.append([cells(header, row)["accuracy"] for row in rows])
    assert shown[1] == shown[0][4:]


def test_what_cannot_vary_under_a_recipe_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    def titles(*overrides: str) -> list[str]:
        return [one.title for one in columns_for(load_recipe(RECIPES / "quickstart.yaml", overrides))]

    wide = ["used", "length", "cut"]
    assert titles() == ["reward", "accuracy", "useful", "skill", "prompts", "saved", *wide, "tok/s", "time"]
    assert titles("selection=uniform") == ["reward", "accuracy", "useful", *wide, "tok/s", "time"]
    assert "mismatch" in titles("rollout.engine=vllm")
    with Console(
        200, quiet=False, name="x", columns=columns_for(load_recipe(RECIPES / "quickstart.yaml"))
    ) as console:
        console.step(METRICS)
    shown = lines(capsys)
    assert max(len(line) for line in shown) <= 80
    assert len(shown) == LEGEND + 2


@pytest.mark.parametrize(
    ("saved", "shown"), [(0, "0"), (-0.2, "0"), (512, "+512"), (-3, "-3"), (2.5e6, "+2.5M")]
)
def test_saved_rollouts_have_a_sign(capsys: pytest.CaptureFixture[str], saved: float, shown: str) -> None:
    with Console(300, quiet=False, name="x") as console:
        console.step(METRICS | {"saved": saved})
    assert cells(*table(capsys))["saved"] == shown


def test_what_is_missing_or_not_a_number_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    with Console(300, quiet=False, name="x") as console:
        console.step({"step": 1, "reward": float("nan"), "saved": None, "calibration/ece": float("inf")})
    found = cells(*table(capsys))
    assert found.pop("step") == "1/300"
    assert set(found.values()) == {"-"}


@pytest.mark.parametrize("width", [WIDTH, WIDE])
def test_lines_stay_aligned_and_within_the_width_for_extreme_values(
    width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    extremes = [
        {key: 1e-9 if key != "step" else 1 for key in METRICS},
        dict.fromkeys(METRICS, 1.0)
        | {"step": 99_999, "saved": -123_456_789, "tokens_per_second": 999_999, "reward": -10.25}
        | {
            "calibration/skill": -1.5,
            "selection/active": 0,
            "seconds/generate": 99_999,
            "seconds/step": 99_999,
        },
    ]
    with Console(99_999, quiet=False, name="x", width=width) as console:
        for metrics in extremes:
            console.step(metrics)
    shown = table(capsys)
    assert len({len(line) for line in shown}) == 1
    assert len(shown[0]) <= width


def test_the_header_comes_back_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with Console(300, quiet=False, name="x") as console:
        for step in range(2 * HEADER_EVERY):
            console.step(METRICS | {"step": step})
    assert [index for index, line in enumerate(table(capsys)) if "accuracy" in line] == [0, HEADER_EVERY + 1]


def test_quiet_shows_only_what_is_always_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with Console(300, quiet=True, name="x") as console:
        console.say("loading")
        console.step(METRICS)
        console.say("the result", always=True)
    assert lines(capsys) == ["the result"]


PROGRAM = """
from depo.trackers.console import Console
with Console(4, quiet=False, name="[red]arith[/red]") as console:
    console.say("a [bold]word[/bold] :smile:")
    for step in (1, 2, 3, 4):
        console.step({"step": step, "reward": 0.5})
"""


LONG = """
import time
import depo.trackers.console as module
module.HEARTBEAT = 0.1
with module.Console(4, quiet=QUIET, name="x") as console:
    for item in console.counted("evaluating heldout", range(1000), 1000):
        time.sleep(0.0005)
    console.say("done")
"""


def test_a_long_phase_says_where_it_is_when_nothing_else_is_said() -> None:
    def output(quiet: bool) -> list[str]:
        program = LONG.replace("QUIET", str(quiet))
        return subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True
        ).stdout.splitlines()

    *beats, last = output(quiet=False)
    assert last == "done"
    counts = [
        int(re.fullmatch(r"\.\.\. evaluating heldout ([\d,]+)/1,000, \d+ s", line)[1].replace(",", ""))
        for line in beats
    ]
    assert counts
    assert counts == sorted(counts)
    assert output(quiet=True) == []


def test_on_a_terminal_the_bar_says_where_a_long_phase_is(tmp_path: Path) -> None:
    text = on_a_terminal(LONG.replace("QUIET", "False"), tmp_path / "transcript")
    assert re.search(r"x: evaluating heldout [\d,]+/1,000", text)
    assert "... evaluating" not in text


def test_without_a_terminal_there_are_plain_lines_only() -> None:
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "40"}
    outcome = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, env=environment
    )
    text = outcome.stdout.decode()
    assert "\x1b" not in text
    assert "\r" not in text
    assert text.splitlines()[0] == "a [bold]word[/bold] :smile:"
    assert len(text.splitlines()) == 1 + LEGEND + 1 + 4  # not wrapped to 40 columns


def on_a_terminal(program: str, transcript: Path) -> str:
    """What a program writes to a pseudo-terminal."""
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "130", "LINES": "40"}
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=follower, stderr=follower, env=environment
    )
    os.close(follower)
    written = b""
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # Linux reports the end of a pseudo-terminal as EIO
            break
        if not chunk:
            break
        written += chunk
    os.close(leader)
    assert process.wait() == 0, transcript.write_bytes(written)
    return written.decode()


def test_on_a_terminal_there_is_a_bar_with_eta_below_the_step_lines(tmp_path: Path) -> None:
    text = on_a_terminal(PROGRAM, tmp_path / "transcript")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert "\x1b[" in text
    assert "ETA" in plain
    assert "4/4" in plain
    assert "mismatch" in plain  # 130 columns have room for all
    assert "[red]arith[/red]" in plain  # names are not markup
    assert "a [bold]word[/bold] :smile:" in plain
    assert plain.index("1/4") < plain.rindex("ETA")
