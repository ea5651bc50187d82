"""Whether something can be written where the user wants it."""

from __future__ import annotations

from pathlib import Path

import pytest

from depo.errors import UserError
from depo.files import check_place


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
