"""`depo verify`: what it finds in files whose faults are known, and the line at the start of a run."""

from __future__ import annotations

import json

import pytest

from depo.cli import main
from depo.errors import BAD_INPUT
from depo.evaluation.verify import gold_line
from depo.reward import VerifierPool

PROSE = "The claim follows by induction, since the sum of two even numbers is always an even number."


@pytest.fixture
def table(tmp_path):
    """Row 3 is prose, row 4 is read by no parser, row 5 is read otherwise by math-verify, row 6 is empty."""
    golds = ["42", r"\frac{1}{2}", PROSE, r"3 \to 8", "3(4)", None, "42"]
    path = tmp_path / "golds.jsonl"
    rows = [{"question": f"{i}?", "answer": gold, "lang": "en"} for i, gold in enumerate(golds)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_findings_name_row_and_text(table, tmp_path, capsys) -> None:
    out = tmp_path / "out.json"
    assert main(["verify", str(table), "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "gold answers: 5 of 6 verify" in printed
    assert f"prose: 1\n  row 3: {PROSE!r}" in printed
    assert r"row 4: '3 \\to 8'" in printed
    assert "disputed: 1\n  row 5: '3(4)' (read as 12, by math-verify as 7)" in printed
    stored = json.loads(out.read_text())
    assert [(row["row"], row["finding"]) for row in stored["findings"]] == [
        (3, "prose"),
        (4, "as text"),
        (5, "disputed"),
    ]


def test_rows_can_be_chosen(table, capsys) -> None:
    assert main(["verify", str(table), "--limit", "2", "--where", "lang=en"]) == 0
    assert capsys.readouterr().out == "gold answers: 2 of 2 verify\n"


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ('{"question": "?", "solution": "x"}', [], "no column is called answer or ground_truth"),
        ('{"question": "?", "answer": "x"}', ["--answer", "gold"], "--answer: no column 'gold'"),
        ('{"question": "?", "answer": "x"}', ["--where", "gold"], "--where gold: expected COLUMN=VALUE"),
        ('{"question": "?", "answer": null}', [], "column answer holds no gold answer"),
        (json.dumps({"answer": PROSE}), [], "no gold answer verifies"),
    ],
)
def test_a_file_without_usable_golds_is_bad_input(tmp_path, capsys, rows, options, message) -> None:
    path = tmp_path / "golds.jsonl"
    path.write_text(rows + "\n")
    assert main(["verify", str(path), *options]) == BAD_INPUT
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("prose", "warned"), [(4, False), (20, True)])
def test_a_run_says_how_many_golds_verify_and_warns_when_many_do_not(prose: int, warned: bool) -> None:
    said: list[str] = []
    with VerifierPool({"type": "math"}, workers=1) as pool:
        golds = [PROSE] * prose + [str(i) for i in range(100 - prose)]
        gold_line(golds, pool, lambda line, always=False: said.append(line))
    assert said[0] == f"gold answers: {100 - prose} of 100 verify"
    assert (
        any(line.startswith(f"warning: {prose} of 100 gold answers do not verify") for line in said) == warned
    )
