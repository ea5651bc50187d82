"""A replay as JSON: {"trace": …, "settings": …, "estimators": {NAME: {"full": …, "censored": …}}}.

NAME is the estimator as it was written on the command line; with several selectors "ESTIMATOR+SELECTOR", each
with the estimator's full feedback again. Figures that are undefined are null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from depo.replay.comparison import Comparison
from depo.replay.trace import Trace


def document(
    trace: Trace, comparison: Comparison, selectors: Sequence[str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The JSON value. ``trace`` is what was graded; the smoother, a property of the trace, stands there."""
    return clean(
        {
            "trace": {
                "source": trace.source,
                "kind": trace.kind,
                "prompts": int(trace.graded_NT.any(axis=1).sum()),
                "steps": int(trace.trials_NT.shape[1]),
                "graded": int(trace.graded_NT.sum()),
                "notes": list(trace.notes),
                "smoother": comparison.reference,
            },
            "settings": dict(settings),
            "estimators": {
                label if len(selectors) == 1 else f"{label}+{selector}": {
                    "full": {**figures, "differences": against(comparison, label)},
                    "censored": comparison.censored.get((label, selector)),
                }
                for label, figures in comparison.full.items()
                for selector in selectors
            },
        }
    )


def against(comparison: Comparison, label: str) -> dict[str, Any]:
    """This estimator minus each other one, and the smoother."""
    found: dict[str, Any] = {}
    for pair in comparison.differences:
        values = {name: pair[name] for name in ("auroc", "auroc_interval", "brier", "brier_interval")}
        if pair["estimator"] == label:
            found[pair["minus"]] = values
        elif pair["minus"] == label:
            found[pair["estimator"]] = {name: negative(value) for name, value in values.items()}
    return found


def negative(value: float | list[float] | None) -> float | list[float] | None:
    if isinstance(value, list):
        return [0.0 - value[1], 0.0 - value[0]]
    return None if value is None else 0.0 - value


def clean(value: Any) -> Any:
    """The same with null for numbers that are not finite: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {name: clean(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [clean(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(value: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
