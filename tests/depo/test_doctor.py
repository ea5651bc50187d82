"""``depo doctor``: what it calls a problem, and its exit status."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from depo import doctor
from depo.cli import main
from depo.errors import FAILED


def test_a_small_shared_memory_is_a_note_with_the_flag_for_docker() -> None:
    """64 MiB is what Docker gives."""
    note = doctor.shared_memory(64 * 2**20)
    assert (note.level, "0.06 GiB" in note.text, "--shm-size" in note.text) == ("note", True, True)
    assert doctor.shared_memory(0).level == "note"
    assert doctor.shared_memory(8 * 2**30).level == "ok"


def test_too_little_memory_or_disk_is_a_problem(tmp_path: Path) -> None:
    assert doctor.machine(2**30).level == "problem"
    assert doctor.machine(2**33).level == "ok"
    assert doctor.disk(tmp_path / "runs", 2**29).level == "problem"
    assert doctor.disk(tmp_path / "runs", 2**33).text == f"8.0 GiB free for {tmp_path}/runs"
    (tmp_path / "file").touch()
    assert "is a file" in doctor.disk(tmp_path / "file" / "runs").text


def test_the_hub_is_asked_only_online_and_never_when_variables_say_offline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(address: str, timeout: float) -> None:
        raise OSError(f"asked for {address}")

    monkeypatch.setattr(doctor, "urlopen", refuse)
    assert doctor.hub(False, {}).level == "ok"
    asked = doctor.hub(True, {"HF_ENDPOINT": "https://mirror.example"})
    assert (asked.level, "asked for https://mirror.example" in asked.text) == ("note", True)
    for online in (False, True):
        assert "by HF_HUB_OFFLINE" in doctor.hub(online, {"HF_HUB_OFFLINE": "1"}).text


def test_vllm_is_compared_with_the_releases_that_were_tried() -> None:
    levels = {version: doctor.vllm({"vllm": version}).level for version in ("0.24.0", "0.24.3", "0.25.0")}
    assert levels == {"0.24.0": "ok", "0.24.3": "ok", "0.25.0": "note"}
    assert doctor.vllm({"vllm": None}).text.startswith("not installed")


class Refusing:
    """A finder that lets nobody import ``name``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, *rest: object) -> None:
        if name == self.name:
            raise ModuleNotFoundError(f"No module named {name!r}")


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Refusing("ray"), *sys.meta_path])


def test_packages_that_are_missing_or_too_old_are_named_with_the_command() -> None:
    numpy = importlib.metadata.version("numpy")
    wrong, *_ = doctor.packages(["numpy>=999", "no-such-package>=1", "pyyaml>=1"])
    assert wrong.level == "problem"
    assert wrong.text.startswith(f"numpy {numpy} needs >=999; no-such-package is missing, needs >=1: pip ")


@pytest.mark.usefixtures("without_ray")
def test_a_package_that_cannot_be_imported_is_a_problem_and_exit_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "free_memory", lambda: 2**34)
    assert main(["doctor", "--runs", str(tmp_path)]) == FAILED
    lines = capsys.readouterr().out.splitlines()
    (problem,) = [line for line in lines if line.startswith("problem")]
    assert problem.split()[1] == "ray"
    assert "No module named 'ray'" in problem
    assert {line.split()[0] for line in lines} <= {"ok", "note", "problem"}
    for about in (
        "machine",
        "disk",
        "/dev/shm",
        "hub",
        "Python",
        "vLLM",
        "optional",
        "torch",
        "GPU",
    ):
        assert any(about in line[:30] for line in lines), about


def test_an_optional_package_that_is_hidden_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "gguf", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refusing("gguf"), *sys.meta_path])
    note = doctor.optional()
    assert note.level == "note"
    assert "gguf" in note.text.partition("as you need")[2]
