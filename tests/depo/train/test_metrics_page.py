"""docs/metrics.md names every key of metrics.jsonl, and none that no code makes."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[3]
ROWS = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "metrics.md").read_text(), flags=re.MULTILINE)
KEYS = [key for row in ROWS for key in re.findall(r"`([^`]+)`", row)]


def told(key: str) -> bool:
    """Capitals in the page stand for any name."""
    return any(re.fullmatch(re.sub("[A-Z]+", ".+", re.escape(one)), key) for one in KEYS)


def keys_of(file: Path) -> set[str]:
    return {key for line in file.read_text().splitlines() for key in json.loads(line)}


def test_every_key_of_a_run_is_on_the_page(finished: Path) -> None:
    keys = keys_of(finished / "metrics.jsonl") | keys_of(Path(__file__).with_name("quickstart_metrics.jsonl"))
    assert len(keys) > 60
    assert sorted(key for key in keys if not told(key)) == []


def test_every_key_on_the_page_is_made_by_the_code() -> None:
    files = [file for room in ("depo", "estimators") for file in (ROOT / room).rglob("*.py")]
    code = "\n".join(file.read_text() for file in files)

    def made(key: str) -> bool:
        leaf = re.sub(r"_p\d+$", "_p", key.split("/")[-1])
        return leaf.isupper() or bool(re.search(rf'["/]{leaf}["{{]|\b{leaf}=|phase\("{leaf}"\)', code))

    assert [key for key in KEYS if not made(key)] == []


def test_names_of_trl_are_in_its_source() -> None:
    """Of the last column but one, in the tables that have six."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `.*?\|.*?\|.*?\|.*?\| `(.+?)`.*?\|.*?\|$", page, flags=re.MULTILINE)
    code = "\n".join(
        (Path(str(find_spec(package).origin)).parent / file).read_text()
        for package, file in (("trl", "trainer/grpo_trainer.py"), ("transformers", "trainer.py"))
    )
    assert len(rows) > 10
    assert [name for name in rows if f'"{name}"' not in code] == []


def test_no_key_is_told_twice() -> None:
    assert len(KEYS) == len(set(KEYS))
