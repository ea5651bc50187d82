"""What all blocks of a recipe share."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION: Final = 1
TABLE_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
BelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]


class Block(BaseModel):
    """Base of every block: unknown keys are errors, fields are documented by the string below them."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Plugin(Block):
    """What a package registers under the entry-point group ``group``."""

    group: ClassVar[str]
    type: Literal["plugin"] = "plugin"
    name: str
    """Name of the entry point."""
    options: dict[str, Any] = {}
    """What it takes as keywords."""
