"""What a probe's verdicts tell, as JSON values.

N prompts, R resamples, G group size, n verdicts of a prompt, c of them right.

*Zero variance.* A group of G ≤ n rollouts, drawn from the n without replacement, is all right or all wrong
with probability [C(c, G) + C(n − c, G)] / C(n, G): the U-statistic, unbiased for p^G + (1 − p)^G. For G > n
the pass rates are taken to be Beta(a, b), fitted to the counts by maximum likelihood (beta-binomial).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import betaln

from depo.estimators.moments import beta_outcomes
from depo.evaluation.answers import Votes, vote_rule
from depo.evaluation.evaluator import Row
from depo.evaluation.measures import pass_at_k_each
from depo.probe.command import NAME
from depo.recipe.schema.evaluation import Suite
from depo.report.statistics import SHARE, all_alike, estimate, limits, limits_of_equals, resample_weights
from depo.types import Prompt

SIZES = (4, 8, 16)
ENOUGH = 0.9  # share of the prompts that must have G verdicts; the others are left out
FITS = 200
PARTS = 5  # of the pass rates between never and always
FEWEST_VOTES, MAJORITY = 3, 0.5
"""Of a prompt that was never answered rightly: so many completions, and so large a share, agree."""
SHOWN, LONGEST = 2, 240  # examples of a kind; characters of a text


def probe_figures(
    document: Mapping[str, Any], suite: Suite, prompts: Sequence[Prompt], rows: Sequence[Row]
) -> dict[str, Any]:
    """``document``: of the evaluation that asked; ``rows``: its samples."""
    found = document["benchmarks"][NAME]
    n_N = np.array([one["n"] for one in found["each"]])
    c_N = np.array([one["correct"] for one in found["each"]])
    weights_RN = resample_weights(len(n_N), suite.resamples, suite.seed, NAME)
    return {
        "kind": NAME,
        "model": document["model"],
        "suite": document["suite"],
        "rows": found["rows"],
        "prompts": len(n_N),
        "samples": found["samples"],
        "unscorable": found["unscorable"],
        **{name: found[name] for name in ("avg", "truncated", "unparseable", "mean_tokens", "tokens")},
        "histogram": histogram(n_N, c_N),
        "zero_variance": [zero_variance(n_N, c_N, size, weights_RN) for size in SIZES],
        "examples": {
            "truncated": examples(prompts, [row for row in rows if row["finish_reason"] == "length"]),
            "unparseable": examples(
                prompts, [row for row in rows if row["unparseable"] and row["finish_reason"] != "length"]
            ),
        },
        "suspects": suspects(prompts, rows, suite),
        "provenance": document["provenance"],
    }


def histogram(n_N: np.ndarray, c_N: np.ndarray) -> list[list[Any]]:
    """[pass rates, prompts], never and always apart; prompts without a verdict are left out."""
    rate_N = c_N[n_N > 0] / n_N[n_N > 0]
    between = rate_N[(rate_N > 0) & (rate_N < 1)]
    counts, edges = np.histogram(between, PARTS, (0, 1))
    labels = [f"{low:.0%} to {high:.0%}" for low, high in pairwise(edges)]
    ends = [["never right", int((rate_N == 0).sum())]], [["always right", int((rate_N == 1).sum())]]
    return [*ends[0], *([label, int(count)] for label, count in zip(labels, counts, strict=True)), *ends[1]]


def zero_variance(n_N: np.ndarray, c_N: np.ndarray, size: int, weights_RN: np.ndarray) -> dict[str, Any]:
    """Expected share of groups of ``size`` that are all right or all wrong, as [share, low, high], ``by``
    which estimate; for the Beta, ``fit`` is [a, b] and ``check`` its share at the median n beside the
    unbiased one."""
    if (n_N >= size).mean() >= ENOUGH:
        values_N = all_alike_chance(n_N, c_N, size)
        return {"group_size": size, "share": estimate(values_N, weights_RN), "by": "counts"}
    if not n_N.any():
        return {"group_size": size, "share": [None, None, None], "by": "none"}
    fit = beta_fit(n_N, c_N, np.ones(len(n_N)))
    share = beta_share(fit, size)
    if all_alike(c_N[n_N > 0] / n_N[n_N > 0]):
        interval: Sequence[float | None] = limits_of_equals(share, int((n_N > 0).sum()), SHARE)
    else:
        interval = limits(np.array([beta_share(beta_fit(n_N, c_N, w), size) for w in weights_RN[:FITS]]))
    middle = max(1, int(np.median(n_N)))
    check = [middle, beta_share(fit, middle), estimate(all_alike_chance(n_N, c_N, middle), weights_RN)[0]]
    return {"group_size": size, "share": [share, *interval], "by": "beta", "fit": fit, "check": check}


def all_alike_chance(n_N: np.ndarray, c_N: np.ndarray, size: int) -> np.ndarray:
    """The U-statistic of each prompt (N,), NaN where it has fewer verdicts than ``size``. A group is not all
    wrong with probability pass@G."""
    return 2 - pass_at_k_each(n_N, c_N, size) - pass_at_k_each(n_N, n_N - c_N, size)


def beta_fit(n_N: np.ndarray, c_N: np.ndarray, weight_N: np.ndarray) -> list[float]:
    """[a, b] of largest beta-binomial likelihood."""
    pairs, where_N = np.unique(np.stack([c_N, n_N - c_N]), axis=1, return_inverse=True)
    weight = np.bincount(where_N.ravel(), weights=weight_N)
    right, wrong = pairs

    def cost(logs: np.ndarray) -> float:
        a, b = np.exp(logs)
        return -float(weight @ (betaln(a + right, b + wrong) - betaln(a, b)))

    found = minimize(cost, [-0.7, -0.7], method="L-BFGS-B", bounds=[(-7, 7), (-7, 7)])
    return [float(value) for value in np.exp(found.x)]


def beta_share(fit: Sequence[float], size: int) -> float:
    a, b = fit
    informative, _, _ = beta_outcomes(np.array([a]), np.array([b]), size)
    return float(1 - informative[0])


def examples(prompts: Sequence[Prompt], rows: Sequence[Row]) -> list[dict[str, str]]:
    """The ends of a few completions, of as many prompts."""
    asked = {prompt.key: prompt for prompt in prompts}
    first = {row["key"]: row for row in reversed(rows)}
    return [
        {"key": key, "question": asked[key].text[:LONGEST], "end": row["completion"][-LONGEST:]}
        for key, row in list(first.items())[-SHOWN:]
    ]


def suspects(prompts: Sequence[Prompt], rows: Sequence[Row], suite: Suite) -> list[dict[str, Any]] | None:
    """Prompts that were never answered rightly, but mostly alike: answer, votes, n; most agreed first. None
    where the reward knows no answers that could be compared."""
    rule = vote_rule(suite.judge(NAME)[1])
    if rule is None:
        return None
    by_key: dict[str, list[Row]] = {}
    for row in rows:
        if row["correct"] is not None:
            by_key.setdefault(row["key"], []).append(row)
    never = {key: some for key, some in by_key.items() if not any(row["correct"] for row in some)}
    with Votes(suite.verification) as votes:
        answers = votes.answers(rule, never)
    found = []
    for prompt in prompts:
        n = len(never.get(prompt.key, ()))
        answer, count = next(iter(answers.get(prompt.key, {}).items()), ("", 0))
        if count >= max(FEWEST_VOTES, MAJORITY * n):
            asked = {"key": prompt.key, "question": prompt.text[:LONGEST], "gold": prompt.reference}
            found.append(asked | {"answer": answer, "votes": count, "n": n})
    return sorted(found, key=lambda one: one["votes"] / one["n"], reverse=True)
