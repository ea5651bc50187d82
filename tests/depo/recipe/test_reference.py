"""The recipe reference names every key of the schema, and docs/recipe.md is what it prints now."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from depo.recipe.reference import reference
from depo.recipe.schema import Recipe
from depo.recipe.schema.evaluation import Suite

PAGE = reference()


@pytest.mark.parametrize("root", [Recipe, Suite])
def test_every_key_of_every_block_has_a_row_with_its_meaning(root) -> None:
    schema = root.model_json_schema()  # pydantic's own walk through the blocks
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    for block in [schema, *schema["$defs"].values()]:
        for key, field in block["properties"].items():
            if key == "type":
                continue
            meaning = " ".join(field.get("description", "").replace("``", "`").replace("|", r"\|").split())
            assert any(row.startswith(f"| `{key}` |") and row.endswith(f"{meaning} |") for row in rows), key


def test_alternatives_of_a_block_have_a_section_each_and_links_lead_to_them() -> None:
    headings = re.findall(r"^#+ (.+)$", PAGE, re.M)
    assert len(set(headings)) == len(headings)
    assert {"selection: thompson", "estimator: mopps", "learner.loss: gspo"} <= set(headings)
    anchors = {re.sub(r"[:.,]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = set(re.findall(r"\]\(#([^)]+)\)", PAGE))
    assert links
    assert links <= anchors


def test_types_bounds_and_defaults_are_those_that_the_schema_enforces() -> None:
    sections = dict(re.findall(r"^#+ (.+)\n((?:(?!#+ ).*\n)+)", PAGE, re.M))
    assert (
        "| `group_size` | integer in [1, 1e4] | `8` | Rollouts per group; 1 needs learner.baseline belief; "
        "2 in the recommended method. |"
    ) in sections["batch"]
    assert "| `audit` | number in [0, 1] | `0.05` |" in sections["selection: uniform"]
    assert "| `betas` | [number in [0, 1), number in [0, 1)] | `[0.9, 0.999]` |" in sections["learner"]
    assert "| `model` | text | required |" in sections["policy: pretrained"]


def test_the_page_in_docs_is_up_to_date_and_printed_without_torch() -> None:
    script = (
        "import runpy, sys; runpy.run_module('depo.recipe.reference', run_name='__main__'); "
        "assert 'torch' not in sys.modules"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    docs = Path(__file__).parents[3] / "docs/recipe.md"
    assert docs.read_text(encoding="utf-8") == printed, (
        "run: python -m depo.recipe.reference > docs/recipe.md"
    )
