"""``depo report``: what is on the page, read as a browser would read it, and looked at in one."""

from __future__ import annotations

import hashlib
import json
import random
import sys
from base64 import b64encode
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from chromium import BROWSER, Chromium
from made_run import Read, group, make_run, report

from depo.cli import main

HOSTILE = "</script><img src=x onerror=alert(1)><!--<script>"
LINKS = ("src", "href", "srcset", "data", "action", "poster", "xlink:href")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps: a surprise, text that attacks the page, a timeout, a completion that was cut off."""
    directory = tmp_path_factory.mktemp("runs") / "a<b>&c"
    first = [group("aa", 1, [True, False], 0.5), group("bb", 1, [False, False], 0.99, HOSTILE)]
    second = [group("aa", 2, [True, True], 0.6), group("cc", 2, [None, False], 0.1, finish="length")]
    make_run(directory, [first, second], truncated_share=0.25, zero_variance_share=0.5)
    return directory


@pytest.fixture(scope="module")
def read(run: Path) -> Read:
    return report(run, run.parent / "page.html")


def series(read: Read, title: str) -> dict[str, list[float | None]]:
    (panel,) = [one for one in read.data["panels"] if one["title"] == title]
    return {one["name"]: one["y"] for one in panel["series"]}


def titles(read: Read) -> list[str]:
    return [one["title"] for one in read.data["panels"]]


# ---------------------------------------------------------------- one file


def test_the_page_needs_nothing_else(read: Read) -> None:
    named = [value for _, attributes in read.tags for name, value in attributes.items() if name in LINKS]
    assert named == []
    assert "url(" not in read.inside["style"][0]
    assert "@import" not in read.inside["style"][0]


def test_a_browser_may_load_nothing_and_run_this_script_alone(read: Read) -> None:
    (policy,) = [one["content"] for tag, one in read.tags if tag == "meta" and "http-equiv" in one]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    hashes = [
        f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in (read.inside["script"][1], read.inside["style"][0])
    ]
    assert (rules["script-src"], rules["style-src"], rules["default-src"]) == (*hashes, "'none'")


def test_hostile_text_stays_text(read: Read) -> None:
    assert {tag for tag, _ in read.tags} & {"img", "b>", "iframe", "object"} == set()
    assert len(read.inside["script"]) == 2
    completions = [row[0] for one in read.data["rollouts"][0]["groups"] for row in one[6]]
    assert completions.count(f"{HOSTILE} wrong") == 2
    assert read.inside["h2"][0] == "What the rollouts became"
    assert "a<b>&c" in read.text


def test_a_thousand_steps_fit_into_five_megabytes(tmp_path: Path) -> None:
    """Every key of docs/metrics.md, and more text of rollouts than there is place for."""
    keys = [
        cell.strip(" `")
        for line in (Path(__file__).parents[3] / "docs" / "metrics.md").read_text().splitlines()
        if line.startswith("| `")
        for cell in line.split("|")[1].split(",")
    ]
    assert len(keys) > 90
    long = "".join(random.Random(0).choices("abcdefgh ", k=60_000))
    steps = [
        [
            group(f"{prompt:03}", step, [True, False], 0.5, f"begin {long}")
            for prompt in range(step, step + 30)
        ]
        for step in range(1, 21)
    ]
    surprise = group("zzz", 7, [True, True], 1e-4, "surprise")
    steps[6].append(surprise)
    make_run(tmp_path / "run", steps)
    draw = random.Random(1)
    rows = [{key: draw.random() for key in keys} | {"step": step} for step in range(1, 1001)]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    page = report(tmp_path / "run", tmp_path / "page.html")

    assert (tmp_path / "page.html").stat().st_size < 5_000_000
    kept = page.data["rollouts"][0]
    assert 300 < kept["shown"] < kept["total"] == 2 * 601
    assert "at random" in kept["rule"]
    groups = [(kept["prompts"][one[0]][1], one[1]) for one in kept["groups"]]
    assert ("prompt zzz", 7) in groups  # the last key of all: only its surprise can have brought it in
    for visits in [{step for key, step in groups if key == f"prompt {prompt:03}"} for prompt in (1, 2, 9)]:
        assert visits == set(range(1, max(visits) + 1))  # whole histories, by key
    cut = kept["groups"][0][6][0][0]
    assert cut.startswith("begin ")
    assert cut.endswith(" right")
    assert "characters left out" in cut
    assert len(series(page, "Entropy")["nats a token"]) == 1000


# ---------------------------------------------------------------- figures


def test_figures_are_those_of_the_ledger(run: Path, read: Read) -> None:
    summary = json.loads((run / "summary.json").read_text())
    saved, used = summary["rollouts"]["saved"], summary["rollouts"]["generated"]
    assert f"Rollouts saved {saved:+,.0f}" in read.text
    low, high = (used + one for one in summary["rollouts"]["saved_interval"])
    assert f"{used + saved:,.0f} [{low:,.0f}, {high:,.0f}] rollouts; this run used {used:,}." in " ".join(
        read.text.split()
    )
    lines = series(read, "Rollouts against uniform sampling")
    assert lines["used"] == [None, 4, 8]  # step 0 is the evaluation before training
    assert lines["uniform sampling would have needed"][-1] == pytest.approx(used + saved, rel=1e-3)
    assert series(read, "Accuracy")["held-out"] == [0.25, None, 0.5]
    trained = summary["rollouts"]["by_outcome"]["trained"]
    assert read.inside["td"][:4] == ["trained", str(trained), f"{trained / used:.1%}", str(trained)]
    assert "it rose" in read.text


def test_an_unfinished_run_shows_what_its_newest_step_says(tmp_path: Path) -> None:
    groups = [group("aa", 1, [True, False], 0.5), group("bb", 1, [False, False], 0.5)]
    ledger = make_run(tmp_path / "run", [groups], finished=False)
    page = report(tmp_path / "run", tmp_path / "page.html")
    assert "not finished" in page.text
    assert f"Rollouts saved {ledger.saved().rollouts:+,.0f}" in page.text


def test_a_panel_is_left_out_where_the_run_has_no_such_key(read: Read, tmp_path: Path) -> None:
    groups = [[group("aa", 1, [True, False], 0.5)]]
    make_run(tmp_path / "moe", groups, routing__load_max=2.5, overlap__lag_mean=1.0)
    moe = titles(report(tmp_path / "moe", tmp_path / "page.html"))
    assert {"Expert load", "Staleness"} <= set(moe)
    assert {"Expert load", "Staleness", "Experts in use", "Learner against engine"} & set(
        titles(read)
    ) == set()
    assert {"Accuracy", "Spoilt rollouts", "Seconds by phase"} <= set(titles(read))


def test_a_run_without_rollouts_has_no_browser(tmp_path: Path) -> None:
    make_run(tmp_path / "run", [[group("aa", 1, [True, False], 0.5)]])
    for file in (tmp_path / "run" / "rollouts").iterdir():
        file.unlink()
    page = report(tmp_path / "run", tmp_path / "page.html")
    assert page.data["rollouts"] == [None]
    assert "Rollouts" not in page.inside["h2"]


def test_warnings_are_those_that_the_guards_give(tmp_path: Path) -> None:
    """guards.truncated warns after three steps in a row by default."""
    steps = [[group("aa", step, [True, False], 0.5)] for step in range(1, 6)]
    make_run(tmp_path / "run", steps, truncated_share=0.97)
    page = report(tmp_path / "run", tmp_path / "page.html")
    assert page.data["warnings"] == [[3]]
    (line,) = [one for one in page.inside["li"] if "guards.truncated" in one]
    assert line.startswith("step 3: 97% of the completions were cut off")


def test_an_unlikely_token_is_shaded(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models

    one = group("aa", 1, [True], 0.5)
    words = {"certain": 0, "ü🙂": 1, "x" * 5000: 2}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="certain"))
    tokenizer.decoder = decoders.Fuse()
    one.completions[0] = "certainü🙂certain"
    one.rollouts[0].token_ids.resize(3, refcheck=False)
    one.rollouts[0].token_ids[:] = [0, 1, 0]
    object.__setattr__(one.rollouts[0], "logprobs", [-0.01, -7.0, -0.6])
    make_run(tmp_path / "run", [[one]])
    (tmp_path / "run" / "policy").mkdir()
    tokenizer.save(str(tmp_path / "run" / "policy" / "tokenizer.json"))
    row = report(tmp_path / "run", tmp_path / "page.html").data["rollouts"][0]["groups"][0][6][0]
    assert row[10] == [0, 7, 9, 2, 1, 7]  # level, characters


def test_runs_of_one_seed_are_paired(tmp_path: Path) -> None:
    for seed in (0, 1):
        for rule, rounds in (("uniform", 3), ("thompson", 1)):
            steps = [[group("aa", step, [True, False], 0.5)] for step in range(1, rounds + 1)]
            make_run(tmp_path / f"{rule}{seed}", steps, seed=seed, rule=rule)
    runs = [tmp_path / f"{rule}{seed}" for rule in ("uniform", "thompson") for seed in (0, 1)]
    page = report(*runs, tmp_path / "page.html")
    cells = page.inside["td"]
    assert cells[:4] == ["uniform0", "selection=uniform", "0", "3"]
    paired = cells[4 * 9 :]
    assert paired[:2] == ["thompson0", "2"]
    assert paired[4].split()[0] == "-4"  # rollouts: 2 against 6, at either seed
    assert [one["run"] for one in page.data["panels"][0]["series"][:4]] == [0, 1, 2, 3]


def test_runs_of_one_name_are_told_apart_by_seed_or_else_by_path(tmp_path: Path) -> None:
    runs = [tmp_path / "x" / "grpo", tmp_path / "y" / "grpo", tmp_path / "z" / "grpo", tmp_path / "dapo"]
    for directory, seed in zip(runs, (0, 1, 1, 1), strict=True):
        make_run(directory, [[group("aa", 1, [True, False], 0.5)]], seed=seed)
    page = report(*runs, tmp_path / "page.html")
    assert page.data["runs"] == ["grpo, seed 0", str(runs[1]), str(runs[2]), "dapo"]


# ---------------------------------------------------------------- bad input


def test_bad_input_is_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*arguments: object) -> str:
        assert main(["report", *map(str, arguments)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "no such directory; expected the directory of a training run" in told(tmp_path / "none")
    assert "no metrics.jsonl in it" in told(tmp_path)
    assert "is a directory" in told(run, "--out", tmp_path)
    assert "--out" in told(run, "--out", run / "recipe.yaml" / "page.html")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "metrics.jsonl").write_text('{"step": 1}\nno row\n{"step": 2}\n')
    assert "metrics.jsonl:2: not a row of metrics" in told(damaged)
    (damaged / "metrics.jsonl").write_text("")
    assert "no step in it yet" in told(damaged)
    (damaged / "metrics.jsonl").write_text('{"step": 1}\n')
    (damaged / "rollouts").mkdir()
    (damaged / "rollouts" / "step_000001.parquet").write_text("no parquet")
    assert "step_000001.parquet: cannot be read as rollouts" in told(damaged, "--out", tmp_path / "page.html")
    other = tmp_path / "other.json"
    other.write_text('{"kind": "selection"}')
    assert "python -m benchmarks report" in told(other)
    other.write_text("nothing")
    assert "not JSON" in told(other)


# ---------------------------------------------------------------- other results


def test_a_stored_comparison_of_evaluations_is_a_page(tmp_path: Path) -> None:
    difference = {"first": 0.5, "second": 0.25, "difference": [-0.25, -0.5, -0.125], "without_verdict": 0}
    machine = {"processor": "p", "cores": 1, "system": "s", "memory_gib": 1, "gpus": []}
    model = {"name": "m", "fingerprint": "f", "active_parameters": 1}
    (tmp_path / "comparison.json").write_text(
        json.dumps(
            {
                "kind": "eval_comparison",
                "first": model | {"shown": "small <b>"},
                "second": model | {"shown": "large"},
                "suite": "sums",
                "unlike": [],
                "only_first": [],
                "only_second": [],
                "benchmarks": {"even": {"problems": 9, "only_first": 0, "only_second": 0, "avg": difference}},
                "mean": {"avg": difference},
                "provenance": {"command": "c", "seeds": [0], "machine": machine, "versions": {}, "date": "d"}
                | {"commit": None},
            }
        )
    )
    page = report(tmp_path, tmp_path / "page.html")
    assert "small <b>" in page.text
    assert "-0.250" in page.text
    assert page.inside["script"] == []


# ---------------------------------------------------------------- a browser


@pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium-headless-shell")
def test_in_a_browser(run: Path, read: Read, tmp_path: Path) -> None:
    """Charts are drawn, they follow the pointer, filters and search work; at two widths, light and dark, with
    nothing loaded but the file, and nothing on the console."""
    page, tab = run.parent / "page.html", Chromium(tmp_path)
    backgrounds = set()
    for width, dark in ((1440, False), (390, True)):
        tab.open(page, width, dark)
        assert tab.run("document.querySelectorAll('#charts svg path').length") >= len(titles(read))
        assert tab.run("document.documentElement.scrollWidth") <= width
        backgrounds.add(tab.run("getComputedStyle(document.body).backgroundColor"))
    assert len(backgrounds) == 2

    tab.run("charts[0].at(0)")
    assert "step 0" in tab.run("document.querySelector('.panel').textContent")
    assert "25 %" in tab.run("document.querySelector('.panel').textContent")

    def cards() -> list[str]:
        return tab.run("[...document.querySelectorAll('details summary')].map(one => one.textContent)")

    def press(name: str) -> None:
        tab.run(
            f"[...document.querySelectorAll('button')].find(b => b.textContent.startsWith('{name}')).click()"
        )

    def prompts() -> list[str]:
        return [one.split("step")[0] for one in cards()]

    assert prompts() == ["prompt cc", "prompt aa", "prompt bb", "prompt aa"]
    press("truncated")
    assert prompts() == ["prompt cc"]
    press("unscorable")
    assert prompts() == ["prompt cc"]
    press("never right")
    assert prompts() == ["prompt cc", "prompt bb"]
    press("largest")
    assert "|A| 1.5" in cards()[0]
    press("surprising")
    assert [("prompt bb" in one, "right 0 of 2" in one) for one in cards()] == [(True, True)]
    tab.run("document.querySelector('details').open = true")
    tab.run("new Promise(done => setTimeout(done, 50))")
    assert tab.run("document.querySelector('.sample .text').textContent") == f"{HOSTILE} wrong"
    press("all")
    tab.run(
        "(box => { box.value = 'Silent'; box.dispatchEvent(new Event('input')) })"
        "(document.querySelector('[type=search]'))"
    )
    assert ["prompt cc" in one for one in cards()] == [True]
    tab.close()
    assert tab.errors == []
    assert set(tab.requests) == {page.resolve().as_uri()}
