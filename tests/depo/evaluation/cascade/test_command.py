"""``depo route`` as a user runs it, with two untrained tiny policies: what it prints, writes and refuses."""

from __future__ import annotations

import json
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import yaml
from scipy.stats import binomtest
from tiny_run import make_workdir

from depo import estimators
from depo.cli import main
from depo.estimators.base import Context, Observation
from depo.evaluation.cascade.report import route_report
from depo.files import save_state
from depo.recipe.schema import TinyMoePolicy
from depo.report.document import Section, to_markdown
from depo.toy import tiny_moe

LARGER = TinyMoePolicy(
    hidden_size=96, layers=3, heads=2, kv_heads=1, experts=4, expert_size=32, max_positions=64
)
SUITE = """\
name: sums
raw: true
max_prompt_tokens: 16
reward: {type: function, path: "even_reward:judge"}
sampling: {n: 4, temperature: 1.0, max_new_tokens: 5}
dtype: float32
threads: 1
resamples: 50
verification: {workers: 1, timeout: 20}
benchmarks:
  even: {source: {type: file, path: sums.jsonl, limit: 30}}
  exact: {source: {type: file, path: sums.jsonl, limit: 12}, reward: {type: exact}}
"""
BETA = {"type": "mopps", "prior_successes": 1.0, "prior_failures": 1.0, "discount": 1.0}
TRIALS = 98
"""So a prediction is (successes + 1) / 100."""


def successes(place: int) -> int:
    """Of the problem in this place: predictions 0.10, 0.20, … 0.90, 0.10, …"""
    return 10 * (place % 9 + 1) - 1


def write_run(run: Path, recipe: Path, keys: list[str]) -> None:
    """A training run as far as routing reads it: recipe, and a checkpoint with an estimator."""
    estimator = estimators.build(BETA)
    outcomes = [Observation(key, "", successes(place), TRIALS, 1) for place, key in enumerate(keys)]
    estimator.observe(outcomes, Context(TRIALS, 1))
    checkpoint = run / "checkpoints/step_000002"
    save_state(checkpoint / "estimator", estimator.state_dict())
    (checkpoint / "run.json").write_text(json.dumps({"step": 2, "kl_travelled": 0.0}))
    (run / "recipe.yaml").write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()) | {"estimator": BETA}))


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_policy: Path) -> tuple[Path, str]:
    """A directory with two evaluations, made by ``depo route`` itself in ``out``; and what that printed."""
    workdir = make_workdir(tmp_path_factory.mktemp("route"), tiny_policy)
    (workdir / "sums.yaml").write_text(SUITE)
    tiny_moe.build(LARGER, workdir / "larger", seed=1)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.chdir(workdir)
        evaluate = ["--suite", "sums.yaml", "--quiet", "--run-dir"]
        assert main(["eval", str(tiny_policy), *evaluate, "first"]) == 0
        each = json.loads(Path("first/results.json").read_text())["benchmarks"]["even"]["each"]
        write_run(Path("run"), Path("tiny.yaml"), [one["key"] for one in each])
        models = ["--small", str(tiny_policy), "--large", "larger", "--estimator", "run"]
        assert main(["route", *models, *evaluate, "out", "--tau", "0.7,0.3", "--json", "copy.json"]) == 0
    return workdir, printed.getvalue()


@pytest.fixture
def here(base, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(base[0])
    return base[0]


def cascade(*arguments: str, small: str = "out/small", large: str = "out/large", run: str = "run") -> int:
    try:
        return main(["route", "--small", small, "--large", large, "--estimator", run, *arguments])
    except SystemExit as exit_:  # argparse's own
        return exit_.code


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_figures_are_those_of_going_through_the_questions_one_by_one(base, here):
    document = read(here / "out/route.json")
    assert read(here / "copy.json") == document
    small, large = read(here / "out/small/results.json"), read(here / "out/large/results.json")
    price = [side["model"]["active_parameters"] for side in (small, large)]
    assert 0 < price[0] < price[1]
    assert document["cost"]["ratio"] == pytest.approx(price[1] / price[0])
    assert document["taus"] == [0.3, 0.7]
    means = []
    for name in ("even", "exact"):
        rows = {one["key"]: one for one in large["benchmarks"][name]["each"]}
        places = {one["key"]: i for i, one in enumerate(small["benchmarks"]["even"]["each"])}
        share = right = paid = alone = 0.0
        for one in small["benchmarks"][name]["each"]:
            other = rows[one["key"]]
            to_small = (successes(places[one["key"]]) + 1) / 100 > 0.3
            chosen, cost = (one, price[0]) if to_small else (other, price[1])
            share += to_small
            right += chosen["correct"] / chosen["n"]
            paid += cost * chosen["tokens"]
            alone += price[1] * other["tokens"]
        point = document["benchmarks"][name]["routers"]["estimator"][0]
        expected = {"share": share / len(rows), "accuracy": right / len(rows), "saved": 1 - paid / alone}
        assert {key: point[key][0] for key in expected} == pytest.approx(expected)
        assert all(point[key][1] <= point[key][0] <= point[key][2] for key in expected)
        means.append(expected)
    found = document["mean"]["routers"]["estimator"][0]
    for key in means[0]:
        assert found[key][0] == pytest.approx((means[0][key] + means[1][key]) / 2)


def test_it_shows_the_figures_of_its_json_as_table_markdown_and_plot(base, here):
    assert "sent to small" in base[1]
    assert "oracle, above τ" in base[1]
    markdown = (here / "out/route.md").read_text()
    result = read(here / "out/route.json")
    report = route_report(result)
    assert to_markdown(report, "route") == markdown
    sections = {block.title: block.blocks[0] for block in report.walk() if isinstance(block, Section)}
    assert list(sections) == ["mean", "even", "exact"]
    row = next(row for row in sections["even"].rows if row[:2] == ["small above τ", "0.3"])
    point = result["benchmarks"]["even"]["routers"]["estimator"][0]
    for cell, key in zip(row[2:], ("accuracy", "share", "saved", "gain"), strict=True):
        assert [cell.value, cell.low, cell.high] == point[key]
    assert str(here) not in markdown + (here / "out/route.json").read_text(), "paths are nobody's business"
    for suffix in (".png", ".svg"):
        assert (here / f"out/route{suffix}").stat().st_size > 1000


def test_finished_evaluations_are_not_asked_again_and_a_cost_ratio_replaces_parameters(here, capsys):
    before = (here / "out/small/results.json").stat().st_mtime_ns
    assert cascade("--cost-ratio", "10", "--tau", "0.3", "--run-dir", "again") == 0
    assert (
        "a token of the large model's is 10 of the small one's, given as --cost-ratio"
        in capsys.readouterr().out
    )
    assert (here / "out/small/results.json").stat().st_mtime_ns == before
    again, first = read(here / "again/route.json"), read(here / "out/route.json")
    points = [document["mean"]["routers"]["estimator"][0] for document in (again, first)]
    assert points[0]["accuracy"] == points[1]["accuracy"]
    assert points[0]["saved"][0] > points[1]["saved"][0]


def test_equal_questions_do_not_make_a_router_certain(here, capsys):
    """Between a model and itself at the same price there is nothing to gain, on the questions seen."""
    arguments = ["--cost-ratio", "1", "--tau", "0.3,0.95,1", "--run-dir", "same"]
    assert cascade(*arguments, large="out/small") == 0
    one = read(here / "same/route.json")["benchmarks"]["even"]
    q = 1 - 0.025 ** (1 / 30)
    informative, none, impossible = one["routers"]["estimator"]
    p = informative["share"][0]
    assert 0 < informative["share"][1] < p < informative["share"][2] < 1
    # A question that a router of share p sends right: (1 - p) · (1 - 0) above random; or p · (0 + 1).
    assert informative["gain"] == pytest.approx([0.0, -q * max(p, 1 - p), q * max(p, 1 - p)])
    assert informative["saved"] == pytest.approx([0.0, 0.0, q])
    exact = binomtest(0, 30).proportion_ci(0.95, method="exact")
    assert none["share"] == pytest.approx([0.0, exact.low, exact.high])
    assert none["clopper_pearson"] == ["share", "saved", "gain"]
    # By definition: no pass rate is above 1, and one model alone is no router.
    for point, share in ((impossible, 0.0), (one["large"], 0.0), (one["small"], 1.0)):
        assert point["share"] == [share] * 3
        assert point["gain"] == [0.0] * 3
    printed = capsys.readouterr().out
    assert "[1.000, 1.000]" not in printed
    assert "[0.000, 0.000]" not in printed
    assert (
        "even: all questions alike in sent to small, cost saved, above random at some thresholds" in printed
    )


def test_models_of_the_same_name_are_told_apart(here, capsys, tiny_policy):
    name = read(here / "out/small/results.json")["model"]["name"]
    assert cascade("--cost-ratio", "2", "--run-dir", "itself", large="out/small") == 0
    assert f"{name} (small) or {name} (large) on sums" in capsys.readouterr().out
    shutil.copytree(here / "out/small", here / "twin")
    assert cascade("--cost-ratio", "2", "--run-dir", "twins", large="twin") == 0
    assert f"{name} (small) or {name} (twin) on sums" in capsys.readouterr().out
    assert (here / "twins/route.md").read_text().startswith(f"# {name} (small) or {name} (twin) on sums")


@pytest.mark.parametrize(
    ("arguments", "sides", "complaint"),
    [
        (["--tau", "0.3,1.5"], {}, "argument --tau: 1.5 is no pass rate: every tau lies between 0 and 1"),
        (["--tau", "half"], {}, "argument --tau: expected numbers with commas, as 0.3,0.5; found 'half'"),
        (["--cost-ratio", "0"], {}, "argument --cost-ratio: expected a positive number, found 0"),
        ([], {"run": "out"}, "--estimator out: not a training run (recipe.yaml is missing)"),
        ([], {"run": "young"}, "--estimator young: the run has no checkpoint that holds its estimator"),
        ([], {"run": "even"}, "--estimator even: estimator uniform predicts nothing about a text"),
        ([], {"large": "fewer"}, "even: --small was asked 30 problems and --large 9, 9 of them the same"),
        ([], {"large": "other"}, "--small and --large were evaluated on different suites: sums and other"),
        ([], {"large": "half"}, "--small and --large have different benchmarks: even, exact and even"),
        ([], {"large": "judged"}, "even: --small and --large were judged by different rewards"),
        ([], {"large": "old"}, "--large larger: its active parameters are not known, so neither is its cost"),
        (["--suite", "math"], {}, "--suite math: the finished evaluation is of sums; leave --suite out"),
        ([], {"small": "larger", "large": "larger"}, "--suite is missing"),
        ([], {"small": "lost"}, "lost/problems/even.parquet: missing"),
    ],
)
def test_bad_input_is_told_in_one_line(here, capsys, arguments, sides, complaint):
    refused_inputs(here)
    assert cascade(*arguments, **sides) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


def refused_inputs(here: Path) -> None:
    """Evaluations and runs that do not fit, made from those that do."""
    if (here / "young").is_dir():
        return
    for name in ("young", "even"):
        shutil.copytree(here / "run", here / name)
    shutil.rmtree(here / "young/checkpoints")
    recipe = yaml.safe_load((here / "run/recipe.yaml").read_text())
    (here / "even/recipe.yaml").write_text(
        yaml.safe_dump(recipe | {"estimator": {"type": "uniform"}, "selection": {"type": "uniform"}})
    )
    changes = {
        "fewer": lambda d: d["benchmarks"]["even"].update(each=d["benchmarks"]["even"]["each"][:9]),
        "other": lambda d: d["suite"].update(name="other"),
        "half": lambda d: d["benchmarks"].pop("exact"),
        "judged": lambda d: d["suite"].update(reward={"type": "exact"}),
        "old": lambda d: d["model"].pop("active_parameters"),
        "lost": lambda d: None,
    }
    for name, change in changes.items():
        shutil.copytree(here / "out/large", here / name, ignore=shutil.ignore_patterns("problems"))
        document = read(here / name / "results.json")
        change(document)
        (here / name / "results.json").write_text(json.dumps(document))
