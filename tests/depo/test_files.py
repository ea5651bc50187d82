"""Whether something can be written where the user wants it, and how it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from depo.errors import UserError
from depo.files import check_place, directory_aside, file_aside, read_json, write_json


def test_a_place_that_is_there_or_can_be_made_is_accepted_and_not_made(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.json").write_text("{}")
    for place in ("there.json", "new.json", "new/deeper/out.json", "."):
        check_place(Path(place), "--json")
    assert [path.name for path in tmp_path.iterdir()] == ["there.json"]


def test_nothing_lies_below_a_file(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"--run-dir .*/file/a/b: file is a file, so nothing can lie below it"
    ):
        check_place(tmp_path / "file/a/b", "--run-dir")


def test_a_directory_that_may_not_be_written_to_is_told(tmp_path: Path, monkeypatch):
    # Root may write everywhere, and tests may run as root.
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(UserError, match=f"no permission to write to {tmp_path}$"):
        check_place(tmp_path / "new/out.json", "--json")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc: this is not Linux")
def test_a_directory_that_only_looks_writable_is_told():
    with pytest.raises(UserError, match=r"--run-dir /proc/x: (nothing can be made in|no permission)"):
        check_place(Path("/proc/x"), "--run-dir")


@pytest.mark.parametrize("make", [file_aside, directory_aside])
def test_what_is_written_aside_takes_its_place_whole_or_not_at_all(make, tmp_path: Path):
    path = tmp_path / "new/place"

    def write(text: str) -> None:
        with make(path) as aside:
            assert aside.parent == path.parent
            (aside / "file" if make is directory_aside else aside).write_text(text)
            if text == "broken":
                raise RuntimeError(text)

    def content() -> list[str]:
        return [file.read_text() for file in sorted(path.parent.rglob("*")) if file.is_file()]

    with pytest.raises(RuntimeError):
        write("broken")
    assert content() == []
    write("first")
    with pytest.raises(RuntimeError):
        write("broken")
    assert content() == ["first"]
    write("second")
    assert content() == ["second"]
    assert [one.name for one in path.parent.iterdir()] == ["place"], "nothing is left aside"


def test_a_directory_that_a_kill_left_aside_is_written_afresh(tmp_path: Path):
    left = tmp_path / ".place.partial"
    left.mkdir()
    (left / "old").touch()
    with directory_aside(tmp_path / "place") as aside:
        (aside / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["place", "new"]


def test_json_has_no_numbers_that_are_not_finite(tmp_path: Path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert read_json(tmp_path / "a.json") == {"a": 1}
