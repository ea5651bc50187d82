"""The console: what a step line says, on a terminal and in a file."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from depo.trackers.console import HEADER_EVERY, WIDTH, Console

METRICS = {
    "step": 12,
    "reward": 0.71234,
    "accuracy": 0.51,
    "zero_variance_share": 0.25,
    "calibration/brier_skill": -0.125,
    "calibration/ece": 0.0312,
    "selection/active": 1,
    "saved": -12345,
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


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def cells(header: str, line: str) -> dict[str, str]:
    """Values of a line by the column titles above them; titles and values are right-aligned."""
    ends = [match.end() for match in re.finditer(r"step s|\S+", header)]
    starts = [0, *ends]
    return {
        header[start:end].strip(): line[start:end].strip() for start, end in zip(starts, ends, strict=False)
    }


def test_a_step_is_one_line_under_a_header(capsys: pytest.CaptureFixture[str]) -> None:
    with Console(300, quiet=False, name="x") as console:
        console.step(METRICS)
    header, line = lines(capsys)
    assert cells(header, line) == {
        "step": "12/300",
        "reward": "0.712",
        "acc": "0.510",
        "zero": "25%",
        "brier": "-0.12",
        "ece": "0.031",
        "gate": "select",
        "saved": "-12.3k",
        "kl": "3.1e-04",
        "tok/s": "24.2k",
        "sel": "0.01",
        "gen": "12.3",
        "ver": "0.40",
        "upd": "123",
        "est": "0.05",
        "sync": "0.85",
        "step s": "137",
    }


@pytest.mark.parametrize(
    ("saved", "shown"), [(0, "0"), (-0.2, "0"), (512, "+512"), (-3, "-3"), (2.5e6, "+2.5M")]
)
def test_saved_rollouts_have_a_sign(capsys: pytest.CaptureFixture[str], saved: float, shown: str) -> None:
    with Console(300, quiet=False, name="x") as console:
        console.step(METRICS | {"saved": saved})
    assert cells(*lines(capsys))["saved"] == shown


def test_what_is_missing_or_not_a_number_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    with Console(300, quiet=False, name="x") as console:
        console.step({"step": 1, "reward": float("nan"), "saved": None, "calibration/ece": float("inf")})
    found = cells(*lines(capsys))
    assert found.pop("step") == "1/300"
    assert set(found.values()) == {"-"}


def test_lines_stay_aligned_and_within_the_width_for_extreme_values(
    capsys: pytest.CaptureFixture[str],
) -> None:
    extremes = [
        {key: 1e-9 if key != "step" else 1 for key in METRICS},
        dict.fromkeys(METRICS, 1.0)
        | {"step": 99_999, "saved": -123_456_789, "tokens_per_second": 999_999, "reward": -10.25}
        | {
            "calibration/brier_skill": -1.5,
            "selection/active": 0,
            "seconds/generate": 99_999,
            "seconds/step": 99_999,
        },
    ]
    with Console(99_999, quiet=False, name="x") as console:
        for metrics in extremes:
            console.step(metrics)
    shown = lines(capsys)
    assert len({len(line) for line in shown}) == 1
    assert len(shown[0]) <= WIDTH


def test_the_header_comes_back_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with Console(300, quiet=False, name="x") as console:
        for step in range(2 * HEADER_EVERY):
            console.step(METRICS | {"step": step})
    assert [index for index, line in enumerate(lines(capsys)) if "reward" in line] == [0, HEADER_EVERY + 1]


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


def test_without_a_terminal_there_are_plain_lines_only() -> None:
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "40"}
    outcome = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, env=environment
    )
    text = outcome.stdout.decode()
    assert "\x1b" not in text
    assert "\r" not in text
    assert text.splitlines()[0] == "a [bold]word[/bold] :smile:"
    assert len(text.splitlines()) == 6  # not wrapped to 40 columns


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
    assert "[red]arith[/red]" in plain  # names are not markup
    assert "a [bold]word[/bold] :smile:" in plain
    assert plain.index("1/4") < plain.rindex("ETA")
