"""Recipes: a YAML file plus overrides in, a validated `depo.recipe.schema.Recipe` out; and back to YAML.

    recipe = load_recipe("recipes/math.yaml", ["steps=5", "learner.loss=gspo", "data.train=problems.jsonl"])
    recipe = load_recipe("math")    # shipped with the package

Paths in a recipe are relative to the working directory. Also what a resumed run may change of the recipe that
it was begun with.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from depo.errors import UserError
from depo.files import write_text
from depo.recipe.errors import Sources, error_lines
from depo.recipe.keys import (
    COMMAND_LINE,
    MAX_BYTES,
    ROOT,
    Shape,
    apply_overrides,
    dump_yaml,
    parse_override,
    parse_yaml,
)
from depo.recipe.schema import Block, Recipe
from depo.report.provenance import package_versions, source_commit

RESUME_MAY_CHANGE = {
    "steps",
    "max_rollouts",
    "checkpoint",
    "evaluation",
    "guards",
    "tracking",
    "resources",
    "verification",
    "learner.tokens_per_microbatch",
    "learner.packing",
    "learner.ranks",
    "policy.gradient_checkpointing",
    "rollout.transformers.batch_size",
    "rollout.vllm",
}
BUT_NOT = {"rollout.vllm.max_model_len"}
"""What a resumed run may set anew: none of it changes what a step computes, but for its rounding and the
learning-rate schedule, which spans ``steps``. Where memory ran out, these are the keys that help."""

FOLDER = Path("recipes")
SHIPPED = Path(__file__).resolve().parent / "shipped"
"""The recipes that come with the package, wherever the command is run; suites are in eval/."""

AnyBlock = TypeVar("AnyBlock", bound=Block)


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in ``path`` (a file, or a name in recipes/) with ``overrides`` (``key=value``) on top.

    Raises UserError with one line per problem, each naming the file (or the command line) and the key.
    """
    return read_recipe(path, overrides)[0]


def read_recipe(path: Path | str, overrides: Sequence[str] = ()) -> tuple[Recipe, Sources]:
    """Like ``load_recipe``, and where each key was written, for later messages about them. A recipe without
    ``name`` is named as its file."""
    sources = read_keys(find_recipe(path), overrides)
    stem = Path(sources.name).stem
    if re.fullmatch(r"[A-Za-z0-9._-]{1,100}", stem):
        sources.raw.setdefault("name", stem)
    return validated(Recipe, sources), sources


def find_recipe(name: Path | str) -> Path:
    """The file of a recipe: a path, or a name in recipes/, here or shipped. Raises UserError for a name that
    is neither."""
    path = Path(name)
    if len(path.parts) != 1 or path.suffix in (".yaml", ".yml") or path.exists():
        return path
    for folder in (FOLDER, SHIPPED):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = known_recipes()
    near = difflib.get_close_matches(path.name, known, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"no such recipe: {name}; {meant}known: {', '.join(known)}; or name a YAML file")


def known_recipes() -> list[str]:
    return sorted({file.stem for folder in (FOLDER, SHIPPED) for file in folder.glob("*.yaml")})


def completed_recipe(prefix: str, **asked: Any) -> list[str]:
    """What a shell offers where a command takes a recipe: names and YAML files."""
    from argcomplete.completers import FilesCompleter

    return [*known_recipes(), *FilesCompleter(("yaml", "yml"))(prefix, **asked)]


def read_keys(
    path: Path, overrides: Sequence[str], root: Shape = ROOT, origin: str = COMMAND_LINE
) -> Sources:
    """What a recipe's or suite's file says and what overrides it, not validated; ``origin``: where these were
    typed. Raises UserError."""
    raw = parse_yaml(_read_text(path), str(path))
    if not isinstance(raw, dict):
        raise UserError(
            f"{path}: must hold keys and values, found {'nothing' if raw is None else type(raw).__name__}"
        )
    return Sources(str(path), raw, tuple(parse_override(text, origin) for text in overrides), root)


def validated(model: type[AnyBlock], sources: Sources) -> AnyBlock:
    """Raises UserError with one line per problem."""
    try:
        return model.model_validate(apply_overrides(sources.raw, sources.overrides, sources.root))
    except ValidationError as error:
        raise UserError("\n".join(error_lines(error, sources))) from error


def _read_text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(MAX_BYTES + 1)  # parse_yaml refuses it then
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
    found = {file for folder in (path.parent, FOLDER) for file in folder.glob("*.y*ml")}
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


def changes_on_resume(recipe: Recipe, run_dir: Path) -> list[str]:
    """What ``recipe`` sets otherwise than the run was begun with, a line each. Raises UserError where there
    is no run, or where a change would make another run of it."""
    stored = run_dir / "recipe.yaml"
    if not stored.exists():
        raise UserError(f"--run-dir {run_dir}: no run to resume here (recipe.yaml is missing)")
    before = load_recipe(stored)
    changed = differences(before.model_dump(mode="json"), recipe.model_dump(mode="json"))
    refused = {key: change for key, change in changed.items() if not may_change(key)}
    if refused:
        values = {key: change.rpartition(" → ")[2] for key, change in refused.items()}
        new = " ".join(
            f"{key}={'VALUE' if value.endswith('…') else shlex.quote(value)}" for key, value in values.items()
        )
        raise UserError(
            f"--resume: {', '.join(refused.values())} (in {stored} → now); a resumed run may only change "
            f"{', '.join(sorted(RESUME_MAY_CHANGE))} (not {', '.join(BUT_NOT)})\n"
            f"leave {', '.join(refused)} out, or begin another run with it: "
            f"depo train {shlex.quote(str(stored))} {new}"
        )
    told = [f"changed on resume: {change}" for change in changed.values()]
    if "steps" in changed and recipe.learner.schedule != "constant":
        told.append(
            f"warning: the {recipe.learner.schedule} learning rate spans all steps: it is now that of a run "
            f"of {recipe.steps} steps"
        )
    return told


def may_change(key: str) -> bool:
    """Whether a dotted key is, or lies in, what a resumed run may set anew."""
    return key not in BUT_NOT and any(f"{key}.".startswith(f"{allowed}.") for allowed in RESUME_MAY_CHANGE)


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted key → "key old → new" of all that differs; lists and blocks of different type as a whole."""
    found: dict[str, str] = {}
    for key in {**before, **now}:
        old, new, name = before.get(key), now.get(key), f"{prefix}{key}"
        if isinstance(old, dict) and isinstance(new, dict) and old.get("type") == new.get("type"):
            found |= differences(old, new, f"{name}.")
        elif old != new:
            found[name] = f"{name} {shown(old)} → {shown(new)}"
    return found


def shown(value: Any) -> str:
    """As a recipe would say it, cut where it gets long."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
