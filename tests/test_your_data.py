"""docs/your-data.md: its files, as they stand there, are a recipe that loads and a reward that judges."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from depo import reward
from depo.recipe.loading import load_recipe
from depo.recipe.schema import FileSource

PAGE = (Path(__file__).parents[1] / "docs" / "your-data.md").read_text()
FILES = {"problems.csv": "csv", "my_rewards.py": "python", "tickets.yaml": "yaml"}


def test_the_files_of_the_page_work_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, language in FILES.items():
        (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("tickets.yaml")
    source = recipe.data.train
    assert isinstance(source, FileSource)
    header, *rows = source.path.read_text().splitlines()
    assert header.split(",") == [source.columns.prompt, source.columns.answer]
    assert len(rows) > recipe.data.heldout
    judge = reward.build(recipe.reward.model_dump())
    right, wrong = judge.score(
        [reward.Sample(text, "billing", 3, "stop", 32) for text in (" Billing.", "Shipping.")]
    )
    assert (right.value, right.correct) == (1.2, True)
    assert (wrong.value, wrong.correct) == (0.2, False)
