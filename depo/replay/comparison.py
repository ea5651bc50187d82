"""Everything a replay was asked for: each estimator with full feedback, each with each selector censored.

Estimators and selectors are named with their options, ``NAME:key=value,key=value``, values as in YAML:
``mopps:discount=0.9``, ``mine:sizes=[1,2]``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from statistics import fmean
from time import perf_counter
from typing import Any, get_args

import numpy as np
from pydantic import TypeAdapter, ValidationError

from depo import estimators
from depo.errors import UserError
from depo.estimators.base import Estimator
from depo.recipe import schema
from depo.recipe.keys import parse_yaml
from depo.replay.censored import censored_feedback, picks_per_step
from depo.replay.full import Quality, differences, full_feedback, full_quality, smoother
from depo.replay.trace import Trace, true_rates
from depo.report.statistics import SHARE, resample_prompts, t_interval

KEY = re.compile(r"(^|,)\s*([A-Za-z_]\w*)=")


@dataclass(frozen=True, slots=True)
class Spec:
    """``label`` is how it was written, and its name in tables and files."""

    label: str
    name: str
    options: Mapping[str, Any]


def parse_spec(text: str, flag: str) -> Spec:
    """Raises UserError when the options are not ``key=value,key=value``."""
    name, colon, rest = text.partition(":")
    if not name or (colon and not KEY.match(rest)):
        raise UserError(f"{flag} {text}: expected NAME or NAME:key=value,key=value")
    options = parse_yaml("{" + KEY.sub(r"\1 \2: ", rest) + "}", f"{flag} {text}") if colon else {}
    return Spec(text, name, options)


def parse_where(texts: list[str]) -> dict[str, str]:
    """Column → value out of ``column=value,column=value``. Raises UserError otherwise."""
    pairs = [pair.partition("=") for text in texts for pair in text.split(",")]
    for name, equals, value in pairs:
        if not (name and equals and value):
            raise UserError(f"--where {name}{equals}{value}: expected COLUMN=VALUE")
    return {name: value for name, _, value in pairs}


def build_estimator(spec: Spec) -> Estimator:
    """A fresh estimator. Raises UserError for an unknown name, or options that it does not take."""
    try:
        return estimators.build({"type": spec.name, **spec.options})
    except (ValueError, TypeError) as error:
        raise UserError(f"--estimator {spec.label}: {' '.join(str(error).split())}") from error


def selection_block(spec: Spec, prompts: int, audit: float) -> schema.Selection:
    """The recipe's ``selection`` block for a replay over ``prompts`` prompts: one round a step, all prompts
    as candidates, no warm-up, whatever the options say on top. Raises UserError for a selector or an option
    that recipes do not know."""
    blocks = {block.model_fields["type"].default: block for block in get_args(get_args(schema.Selection)[0])}
    if spec.name not in blocks:
        raise UserError(
            f"--selector {spec.label}: no selector is called {spec.name!r}; known: {', '.join(blocks)}"
        )
    settings = {"audit": audit, "min_window": 0, "candidates": prompts}
    known = {name: value for name, value in settings.items() if name in blocks[spec.name].model_fields}
    try:
        return TypeAdapter(schema.Selection).validate_python({"type": spec.name, **known, **spec.options})
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(str(part) for part in first["loc"][1:2])  # then which of several types
        raise UserError(f"--selector {spec.label}: {where}: {first['msg']}") from error


ORACLE = "oracle"

SMOOTHER = "smoother (sees the future)"

SHARES = ("effective_ratio", "starvation", "never_visited")
"""Figures whose interval cannot leave [0, 1]."""


@dataclass(frozen=True)
class Settings:
    group_size: int
    budget: float
    audit: float
    seeds: int
    seed: int
    resamples: int
    batch: int | None = None


@dataclass(frozen=True)
class Comparison:
    """``full`` by estimator label; ``censored`` by (estimator, selector) label, empty where a trace cannot
    answer other picks; ``reference`` is the smoother's."""

    full: dict[str, dict[str, Any]]
    reference: dict[str, Any] | None
    differences: list[dict[str, Any]]
    censored: dict[tuple[str, str], dict[str, Any]]


PILOT_STEPS = 4


def expected_seconds(
    graded: Trace, pool: Trace, estimators: Sequence[Spec], selectors: int, settings: Settings
) -> float:
    """How long ``compare`` will take, by the first steps of each estimator. The first of all is counted once:
    there the texts are read."""
    steps = graded.trials_NT.shape[1]
    replays = selectors * settings.seeds if censors(pool) else 0
    total = 0.0
    for spec in estimators:
        if spec.name == ORACLE:  # it only looks up
            continue
        walls = []
        for pilot in sorted({1, min(PILOT_STEPS, steps)}):
            started = perf_counter()
            full_feedback(
                graded.first(pilot), partial(build_estimator, spec), settings.group_size, batch=settings.batch
            )
            walls.append(perf_counter() - started)
        later = (walls[-1] - walls[0]) / max(min(PILOT_STEPS, steps) - 1, 1)
        total += (1 + replays) * (walls[0] + max(later, 0.0) * (steps - 1))
    return total


def censors(pool: Trace) -> bool:
    """Whether the trace can answer the picks of any selector, at more than one step."""
    return pool.offers_all and pool.trials_NT.shape[1] > 1


def compare(
    graded: Trace,
    pool: Trace,
    estimators: Sequence[Spec],
    selectors: Sequence[Spec],
    settings: Settings,
    say: Callable[[str], None] = lambda line: None,
) -> Comparison:
    """Full feedback on ``graded``, censored feedback on ``pool`` (the split's prompts).

    Raises UserError for an estimator or selector that does not exist, before anything is replayed, and for
    a trace that has nothing to grade.
    """
    if not graded.graded_NT.any():
        raise UserError(
            f"{graded.source}: the split holds nothing to grade (of a run: groups drawn uniformly)"
        )
    for spec in estimators:
        build_estimator(spec)
        if spec.name == ORACLE and np.isnan(true_rates(graded)[graded.recorded_NT]).any():
            raise UserError(
                f"--estimator {spec.label}: takes a prompt's rate from its other visits, and some have none"
            )
    blocks = {spec.label: selection_block(spec, len(pool.prompts), settings.audit) for spec in selectors}
    seconds = expected_seconds(graded, pool, estimators, len(selectors), settings)
    say(f"this takes about {timedelta(seconds=max(round(seconds), 1))} (h:mm:ss)")
    weights_RN = resample_prompts(len(graded.prompts), settings.resamples, settings.seed)
    qualities: dict[str, Quality] = {}
    for spec in estimators:
        predictions, seconds = full_feedback(
            graded,
            partial(build_estimator, spec),
            settings.group_size,
            spec.name == ORACLE,
            settings.batch,
            settings.seed,
        )
        qualities[spec.label] = full_quality(predictions, weights_RN)
        qualities[spec.label].figures["estimator_seconds_per_step"] = seconds
        say(f"{spec.label}: full feedback")
    future = smoother(graded, settings.group_size)
    reference = None if future is None else full_quality(future, weights_RN)
    pairs = qualities if reference is None else {**qualities, SMOOTHER: reference}
    censored: dict[tuple[str, str], dict[str, Any]] = {}
    if censors(pool):
        for spec in estimators:
            for label, block in blocks.items():
                replays = [
                    censored_feedback(
                        pool,
                        partial(build_estimator, spec),
                        block,
                        settings.budget,
                        settings.group_size,
                        seed,
                        spec.name == ORACLE,
                    )
                    for seed in range(settings.seed, settings.seed + settings.seeds)
                ]
                picks = picks_per_step(settings.budget, len(pool.prompts))
                censored[spec.label, label] = {"picks_per_step": picks, **over_seeds(replays)}
                say(f"{spec.label} + {label}: censored feedback, {settings.seeds} seeds")
    return Comparison(
        full={label: quality.figures for label, quality in qualities.items()},
        reference=None if reference is None else reference.figures,
        differences=differences(pairs),
        censored=censored,
    )


def over_seeds(replays: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Mean of each figure, and under ``intervals`` its 95 % interval (Student's t) where two seeds or more
    define it. Seeds share the trace: the interval covers the draws of selection, not the choice of prompts.
    """
    figures: dict[str, Any] = {"seeds": len(replays)}
    intervals: dict[str, list[float] | None] = {}
    for name in replays[0]:
        values = [replay[name] for replay in replays if not math.isnan(replay[name])]
        figures[name] = fmean(values) if values else math.nan
        intervals[name] = None
        if len(values) > 1:
            found = t_interval(values)
            low, high = SHARE if name in SHARES else (-math.inf, math.inf)
            intervals[name] = [max(found.low, low), min(found.high, high)]
    return figures | {"intervals": intervals}
