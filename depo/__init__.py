"""RL post-training that asks a difficulty estimator which prompts are worth rolling out."""

import sys
from pathlib import Path

# The two libraries beside this package, from there: `python -m`, Ray's workers and notebooks look into the
# working directory first, and would find a user's own reward.py or estimators.py.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
try:
    import estimators
    import reward
finally:
    del sys.path[0]

__all__ = ["estimators", "reward"]
