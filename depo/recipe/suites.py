"""Evaluation suites: found by name or path, read and checked like recipes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depo.errors import UserError
from depo.recipe import loading
from depo.recipe.checks import plugin_problems, raise_all, reward_problems, source_problems
from depo.recipe.errors import Sources
from depo.recipe.keys import (
    COMMAND_LINE,
    Override,
    Shape,
    dump_yaml,
)
from depo.recipe.loading import read_keys, validated
from depo.recipe.schema import Evaluation, FileSource, HubSource
from depo.recipe.schema.evaluation import Suite

ROOT = Shape({"": Suite})
FOLDER, SHIPPED = loading.FOLDER / "eval", loading.SHIPPED / "eval"
"""Suites of the working directory, and those that come with the package."""


@dataclass(frozen=True, slots=True)
class Asked:
    """How a suite is asked for: what a message about it calls its overrides and its data directory."""

    overrides: str = COMMAND_LINE
    data_dir: str = "--data-dir"


BY_OPTIONS = Asked()
BY_RECIPE = Asked("evaluation.suite_overrides", "evaluation.suite_data")


def find_suite(name: str, where: str = "--suite") -> Path:
    """The file of a suite: a path to a YAML file, or a name in recipes/eval. Raises UserError listing what
    there is; ``where`` says who asked."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise UserError(f"{where} {name}: no such file")
        return path
    for folder in (FOLDER, SHIPPED):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = known_suites()
    raise UserError(
        f"{where} {name}: no such suite; {meant(name, known)}known: {', '.join(known)}; or name a YAML file"
    )


def meant(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}? " if near else ""


def known_suites() -> list[str]:
    return sorted({file.stem for folder in (FOLDER, SHIPPED) for file in folder.glob("*.yaml")})


def load_suite(
    name: str,
    overrides: Sequence[str] = (),
    data_dir: Path | None = None,
    only: Sequence[str] | None = None,
) -> Suite:
    """A suite by name or path with ``key=value`` overrides on top, its hub sources replaced by the files in
    ``data_dir`` if there is one; ``only`` these of its benchmarks. Raises UserError, one line a problem."""
    return read_suite(find_suite(name), overrides, data_dir, only)


def recipe_suite(evaluation: Evaluation) -> Suite | None:
    """The suite that a recipe evaluates during training; None when it names none."""
    if evaluation.suite is None:
        return None
    path = find_suite(evaluation.suite, "evaluation.suite")
    return read_suite(path, evaluation.suite_overrides, evaluation.suite_data, asked=BY_RECIPE)


def read_suite(
    path: Path,
    overrides: Sequence[str] = (),
    data_dir: Path | None = None,
    only: Sequence[str] | None = None,
    asked: Asked = BY_OPTIONS,
) -> Suite:
    """The suite in ``path``; its local files are there, and its rewards can be built. Raises UserError, one
    line a problem."""
    suite, sources = parse_suite(path, overrides, asked)
    suite = restricted(suite, only)
    if data_dir is not None:
        suite = with_local_files(suite, data_dir, path, asked)
    check_inputs(suite, sources)
    return suite


def restricted(suite: Suite, only: Sequence[str] | None) -> Suite:
    """The suite with ``only`` these benchmarks, all for None. Raises UserError for one it does not have."""
    if only is None:
        return suite
    for name in only:
        if name not in suite.benchmarks:
            raise UserError(
                f"--only {name}: not in suite {suite.name}, which has {', '.join(suite.benchmarks)}"
            )
    chosen = {name: benchmark for name, benchmark in suite.benchmarks.items() if name in only}
    return suite.model_copy(update={"benchmarks": chosen})


def parse_suite(
    path: Path, overrides: Sequence[str] = (), asked: Asked = BY_OPTIONS
) -> tuple[Suite, Sources]:
    """The suite in ``path`` with ``overrides`` on top, and where each key was written."""
    sources = read_keys(path, overrides, ROOT, asked.overrides)
    check_benchmark_names(sources.raw.get("benchmarks"), sources.overrides, path)
    return validated(Suite, sources), sources


def check_benchmark_names(known: Any, overrides: Sequence[Override], path: Path) -> None:
    """Raise UserError for an override inside of a benchmark that is neither in the file nor made by another
    override, which would have to say where its problems come from."""
    if not isinstance(known, dict) or any(override.key == ("benchmarks",) for override in overrides):
        return
    made = {override.key[1] for override in overrides if override.key[0] == "benchmarks" and makes(override)}
    for override in overrides:
        if override.key[0] != "benchmarks" or override.key[1] in known or override.key[1] in made:
            continue
        name = override.key[1]
        raise UserError(
            f"{override.origin}: benchmarks.{name}: no such benchmark; {meant(name, known)}{path} has "
            f"{', '.join(known)}; a new one needs benchmarks.{name}.source=FILE.jsonl"
        )


def makes(override: Override) -> bool:
    """Whether an override of a benchmark can make a new one: all of it, or its source."""
    return len(override.key) == 2 or override.key[2:] in (("source",), ("source", "type"))


def with_local_files(suite: Suite, data_dir: Path, path: Path, asked: Asked) -> Suite:
    """Hub sources replaced by their copies in ``data_dir``; files and generated problems stay."""
    if not data_dir.is_dir():
        raise UserError(f"{asked.data_dir} {data_dir}: no such directory")
    benchmarks = {}
    for name, benchmark in suite.benchmarks.items():
        if isinstance(benchmark.source, HubSource):
            if benchmark.local is None:
                raise UserError(
                    f"{path}: benchmarks.{name}.local: missing, so {asked.data_dir} has no file for it; "
                    f"name one: benchmarks.{name}.source=FILE.jsonl"
                )
            local = benchmark.local
            source = FileSource(
                path=data_dir / local.path,
                columns=local.columns,
                where=local.where,
                limit=benchmark.source.limit,
            )
            benchmark = benchmark.from_data_dir(source)
        benchmarks[name] = benchmark
    return suite.model_copy(update={"benchmarks": benchmarks})


def check_inputs(suite: Suite, sources: Sources) -> None:
    """Raise UserError, one line a problem, for local files that cannot be used and rewards that cannot be
    built."""
    problems = plugin_problems(suite)
    for name, benchmark in suite.benchmarks.items():
        problems |= source_problems(f"benchmarks.{name}.{benchmark.key}", benchmark.source)
        problems |= reward_problems(*suite.judge(name))
    raise_all(problems, sources)


def dump_suite(suite: Suite) -> str:
    """YAML with every key written out, which ``read_suite`` reads back equal."""
    return dump_yaml(suite.model_dump(mode="json"))
