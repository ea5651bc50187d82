"""Several runs side by side: a row a run, and the differences by seed of runs that share one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from depo.page.run_data import RunData
from depo.recipe.loading import differences, shown
from depo.report.document import Block, Number, Table, Text
from depo.report.statistics import t_interval

HEAD = ("held-out", "uniform prompts", "rollouts used", "saved", "s a step")
FORMS = (".3f", ".3f", ",.0f", ",.0f", ".3g")


def comparison(runs: Sequence[RunData]) -> list[Block]:
    """A difference is that to the first run's arm, where an arm is what `name_arms` says; with several seeds
    it is the mean over them, with Student's t interval."""
    arms = name_arms(runs)
    rows: list[list[Text]] = []
    names: dict[str, str] = {}
    by_arm: dict[str, dict[int, Sequence[float | None]]] = {}
    for run, arm in zip(runs, arms, strict=True):
        seed = run.recipe.seed if run.recipe else None
        names.setdefault(arm, run.name)
        if seed is not None:
            by_arm.setdefault(arm, {})[seed] = run.figures
        about: list[Text] = [
            run.name,
            arm,
            "?" if seed is None else str(seed),
            Number(run.rows[-1]["step"], ","),
        ]
        rows.append([*about, *map(Number, run.figures, FORMS)])
    blocks: list[Block] = [Table(["run", "what differs", "seed", "steps", *HEAD], rows)]
    base, *others = by_arm or [""]
    paired: list[list[Text]] = []
    for arm in others:
        seeds = by_arm[base].keys() & by_arm[arm].keys()
        cells = [
            difference([(by_arm[base][seed][i], by_arm[arm][seed][i]) for seed in seeds], f"+{form}")
            for i, form in enumerate(FORMS)
        ]
        paired += [[names[arm], Number(len(seeds), ","), *cells]] if seeds else []
    if paired:
        said = f"Against {names[base]} and runs that are set like it, paired by seed [95 % over seeds]:"
        blocks.append(Table(["runs like", "seeds", *HEAD], paired, said))
    return blocks


def difference(pairs: Sequence[tuple[float | None, float | None]], form: str) -> Number:
    known = [new - old for old, new in pairs if old is not None and new is not None]
    if not known:
        return Number(None)
    found = t_interval(known)
    return Number(found.mean, form, found.low, found.high)


def name_arms(runs: Sequence[RunData]) -> list[str]:
    """What each run has in the keys of the recipe in which two runs of one seed differ."""
    recipes = [run.recipe.model_dump(mode="json") if run.recipe else {} for run in runs]
    first: dict[int | None, dict[str, Any]] = {}
    keys: dict[str, None] = {}
    for recipe in recipes:
        other = first.setdefault(recipe.get("seed"), recipe)
        keys |= dict.fromkeys(key for key in differences(other, recipe) if key not in ("name", "steps"))
    return [", ".join(f"{key}={value_at(recipe, key)}" for key in keys) or "–" for recipe in recipes]


def value_at(recipe: Mapping[str, Any], key: str) -> str:
    value: Any = recipe
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return shown(value["type"] if isinstance(value, dict) and "type" in value else value)
