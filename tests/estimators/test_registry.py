import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from depo import estimators
from depo.estimators import BUILT_IN, GROUP
from depo.estimators.baselines import UniformEstimator
from depo.estimators.mopps import MoppsEstimator


def test_builds_what_the_recipe_block_says() -> None:
    assert isinstance(estimators.build({"type": "uniform"}), UniformEstimator)
    spec = {"type": "mopps", "prior_successes": 2.0, "prior_failures": 1.0, "discount": 0.25}
    built = estimators.build(spec)
    assert isinstance(built, MoppsEstimator)
    assert (built.prior_successes, built.prior_failures, built.discount) == (2.0, 1.0, 0.25)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no estimator is called 'moops'; known: .*mopps.*uniform"):
        estimators.build({"type": "plugin", "name": "moops", "options": {}})


def test_option_the_estimator_does_not_take_is_an_error_naming_it() -> None:
    with pytest.raises(ValueError, match=r"'mopps' does not take these options.*discout"):
        estimators.build({"type": "plugin", "name": "mopps", "options": {"discout": 0.5}})


@pytest.fixture
def plugin_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on the path as pip would leave it: a module and the metadata of its distribution."""
    (tmp_path / "coin_estimator.py").write_text(
        "from depo.estimators.mopps import MoppsEstimator\n"
        "def coin(weight: float):\n"
        "    return MoppsEstimator(weight, weight)\n"
    )
    info = tmp_path / "coin_estimator-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: coin-estimator\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{GROUP}]\n"
        "coin = coin_estimator:coin\nbroken = coin_estimator:missing\nmopps = coin_estimator:coin\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("plugin_site")
def test_installed_package_registers_by_entry_point() -> None:
    built = estimators.build({"type": "plugin", "name": "coin", "options": {"weight": 3.0}})
    assert isinstance(built, MoppsEstimator)
    assert built.prior_successes == 3.0


@pytest.mark.usefixtures("plugin_site")
def test_plugin_whose_code_is_missing_is_an_error_naming_it() -> None:
    with pytest.raises(ValueError, match="'broken': coin_estimator:missing cannot be loaded"):
        estimators.build({"type": "plugin", "name": "broken", "options": {}})


@pytest.mark.usefixtures("plugin_site")
def test_package_cannot_silently_take_a_built_in_name() -> None:
    with pytest.raises(ValueError, match="'mopps' is registered more than once"):
        estimators.build({"type": "mopps"})


def test_project_metadata_registers_exactly_the_built_in_table() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][GROUP] == BUILT_IN


def test_package_needs_nothing_but_numpy() -> None:
    code = (
        "import sys; from depo import estimators; estimators.build({'type': 'mopps'})\n"
        "heavy = {'torch', 'transformers', 'ray', 'depo.reward', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
