"""What all blocks of a recipe share."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION: Final = 1

TABLE_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]

BelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]

PositiveFloat = Annotated[float, Field(gt=0.0)]

NonNegativeFloat = Annotated[float, Field(ge=0.0)]


class Block(BaseModel):
    """Base of every block: unknown keys are errors, fields are documented by the string below them."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
