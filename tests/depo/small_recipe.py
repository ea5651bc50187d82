"""The smallest recipe there is, and the lines that a broken one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from depo.errors import UserError
from depo.recipe.loading import load_recipe

MINIMAL = """\
name: small
steps: 3
policy: {type: pretrained, model: organisation/model}
data: {train: organisation/problems}
"""


def written(directory: Path, text: str = MINIMAL) -> Path:
    path = directory / "small.yaml"
    path.write_text(text)
    return path


def problems(directory: Path, text: str, *overrides: str) -> list[str]:
    """Lines of the error for a recipe, its file's path shortened to FILE."""
    path = written(directory, text)
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides)
    return [line.replace(str(path), "FILE") for line in str(caught.value).splitlines()]


def weighted(*parts: str) -> str:
    return f"{{type: weighted, parts: [{', '.join(parts)}]}}"
