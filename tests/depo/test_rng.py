"""The same numbers on every machine of a kind, whatever its cores."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from depo.report.provenance import usable_cores

BELIEFS = """
import hashlib, sys
import numpy as np
from depo.rng import one_thread_for_numpy
from depo.estimators.base import Candidate, Context, Observation
from depo.estimators.hybrid import HybridEstimator

if sys.argv[1] == "pinned":
    one_thread_for_numpy()
rng, estimator = np.random.default_rng(0), HybridEstimator()
features = rng.normal(size=(500, 130)).astype(np.float32)
told = hashlib.sha256()
for step in range(1, 8):
    context, rows = Context(2, step), rng.permutation(500)[:300]
    texts = [f"{row}+{row * 7 % 100}=" for row in rows]
    seen = [Candidate(str(row), text, features=features[row]) for row, text in zip(rows, texts)]
    told.update(estimator.predict(seen, context).mean.tobytes())
    made = [
        Observation(str(row), text, int(rng.integers(0, 3)), 2, step, features=features[row])
        for row, text in zip(rows[:128], texts)
    ]
    estimator.observe(made, context)
print(told.hexdigest())
"""


def beliefs(how: str, threads: int) -> str:
    environment = os.environ | {"OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", BELIEFS, how]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


@pytest.mark.skipif(usable_cores() < 2, reason="NumPy has one thread here in any case")
def test_beliefs_do_not_depend_on_how_many_threads_numpy_might_have() -> None:
    assert beliefs("pinned", threads=2) == beliefs("pinned", threads=1) == beliefs("free", threads=1)
    if beliefs("free", threads=2) == beliefs("free", threads=1):
        pytest.skip("NumPy's sums come out alike on this machine, so nothing was seen")
