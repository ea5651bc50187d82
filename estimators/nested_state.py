"""The state of an estimator that is made of parts: one `State`, in which each part keeps a prefix."""

from __future__ import annotations

from collections.abc import Mapping

from estimators.base import State


def joined(own: State, parts: Mapping[str, State]) -> State:
    """``own`` with every part's version, values and arrays added under ``NAME/…``."""
    values, arrays = dict(own.values), dict(own.arrays)
    for name, state in parts.items():
        values[f"{name}/schema_version"] = state.schema_version
        values |= {f"{name}/{key}": value for key, value in state.values.items()}
        arrays |= {f"{name}/{key}": array for key, array in state.arrays.items()}
    return State(own.schema_version, values, arrays)


def part(state: State, name: str) -> State:
    """The part stored under ``name``. Raises ValueError when there is none."""
    prefix = f"{name}/"
    if f"{prefix}schema_version" not in state.values:
        raise ValueError(f"state holds no part {name!r}")
    values = {
        key.removeprefix(prefix): value for key, value in state.values.items() if key.startswith(prefix)
    }
    arrays = {
        key.removeprefix(prefix): array for key, array in state.arrays.items() if key.startswith(prefix)
    }
    return State(int(str(values.pop("schema_version"))), values, arrays)
