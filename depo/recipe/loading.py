"""Recipes: a YAML file plus overrides in, a validated `depo.recipe.schema.Recipe` out; and back to YAML.

    recipe = load_recipe("recipes/math.yaml", ["steps=5", "learner.loss=gspo", "data.train=problems.jsonl"])

Overrides are described in ``depo.recipe.overrides``. Paths in a recipe are relative to the working directory.
Importing this module costs no torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from depo.errors import UserError
from depo.files import write_text
from depo.recipe.errors import Sources, error_lines
from depo.recipe.overrides import apply_overrides, dump_yaml, parse_override, parse_yaml
from depo.recipe.schema import Recipe
from depo.report.provenance import package_versions, source_commit


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in ``path`` with ``overrides`` (``key=value``) on top.

    Raises UserError with one line per problem, each naming the file (or the command line) and the key.
    """
    return read_recipe(path, overrides)[0]


def read_recipe(path: Path | str, overrides: Sequence[str] = ()) -> tuple[Recipe, Sources]:
    """Like ``load_recipe``, and where each key was written, for later messages about them."""
    path = Path(path)
    raw = parse_yaml(_read_text(path), str(path))
    if not isinstance(raw, dict):
        raise UserError(
            f"{path}: must hold keys and values, found {'nothing' if raw is None else type(raw).__name__}"
        )
    parsed = tuple(parse_override(text) for text in overrides)
    sources = Sources(str(path), raw, parsed)
    try:
        return Recipe.model_validate(apply_overrides(raw, parsed)), sources
    except ValidationError as error:
        raise UserError("\n".join(error_lines(error, sources))) from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except IsADirectoryError as error:
        hint = f"; did you mean {path / 'recipe.yaml'}?" if (path / "recipe.yaml").is_file() else ""
        raise UserError(f"{path}: is a directory, not a recipe file{hint}") from error
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such recipe file{_similar_files(path)}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _similar_files(path: Path) -> str:
    """Recipes whose names resemble a missing one's, beside it and in recipes/."""
    found = {file for folder in (path.parent, Path("recipes")) for file in folder.glob("*.y*ml")}
    by_stem = {file.stem: file for file in sorted(found)}
    near = difflib.get_close_matches(path.stem, by_stem, n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(str(by_stem[stem]) for stem in near)}?" if near else ""


def dump_recipe(recipe: Recipe) -> str:
    """YAML with every key written out, which ``load_recipe`` reads back equal."""
    return dump_yaml(recipe.model_dump(mode="json"))


def write_resolved(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe as a file that ``depo train`` accepts, versions and commit as comments."""
    versions = "\n".join(f"#   {name}: {version}" for name, version in package_versions().items())
    commit = source_commit() or "unknown"
    header = (
        f"# Resolved recipe. Run it again: depo train {path}\n# commit: {commit}\n# versions:\n{versions}\n"
    )
    write_text(path, header + dump_recipe(recipe))
