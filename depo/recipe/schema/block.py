"""What all blocks of a recipe share, and the numbers that they hold.

A boolean is no number. Bounds leave room for whatever somebody may mean; beyond them is a slip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

SCHEMA_VERSION: Final = 1
TABLE_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")


@dataclass(frozen=True)
class AtMost:
    """An upper bound, and why more can only be a slip."""

    le: float
    why: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.checked, handler(source))

    def checked(self, value: Any) -> Any:
        if value is not None and value > self.le:
            raise ValueError(f"must be at most {self.le:,.12g}, found {value:,.12g}: {self.why}")
        return value


Fraction = Annotated[float, Field(strict=True, ge=0.0, le=1.0)]
BelowOne = Annotated[float, Field(strict=True, ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(strict=True, ge=1e-30), AtMost(1e9, "this is no setting but a slip")]
NonNegative = Annotated[float, Field(strict=True, ge=0.0), AtMost(1e9, "this is no setting but a slip")]
Number = Annotated[float, Field(strict=True, ge=-1e9, le=1e9)]
Seconds = Annotated[float, Field(strict=True, ge=0.001), AtMost(1e7, "that is 116 days")]
TemperatureOrZero = Annotated[float, Field(strict=True, ge=0), AtMost(100, "that is a uniform draw")]
Temperature = Annotated[TemperatureOrZero, Field(ge=0.001)]
Seed = Annotated[int, Field(strict=True), AtMost(2**63 - 1, "a seed has 63 bits")]
Count = Annotated[int, Field(strict=True, ge=1), AtMost(10**9, "no run or table is so long")]
CountOrZero = Annotated[int, Field(strict=True, ge=0), AtMost(10**9, "no run or table is so long")]
Many = Annotated[int, Field(strict=True, ge=1), AtMost(10**6, "no batch and no test is so large")]
Few = Annotated[int, Field(strict=True, ge=1), AtMost(10_000, "more do not fit into a step or a model")]
FewOrZero = Annotated[int, Field(strict=True, ge=0), AtMost(10_000, "more do not fit into a step or a model")]
Tokens = Annotated[int, Field(strict=True, ge=1), AtMost(10**7, "no model takes so many tokens")]
Width = Annotated[int, Field(strict=True, ge=1), AtMost(2**20, "no layer is so wide")]
Processes = Annotated[int, Field(strict=True, ge=1), AtMost(4096, "no machine runs so many at once")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$", max_length=100)]
"""What names a directory; a file system takes 255 bytes, and a time is added."""


class Block(BaseModel):
    """Base of every block: unknown keys are errors, fields are documented by the string below them."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @classmethod
    def written_out(cls, value: Any) -> Any:
        """What a recipe's shorthand for this block, if it has one, stands for."""
        return value


class Plugin(Block):
    """What a package registers under the entry-point group ``group``."""

    group: ClassVar[str]
    type: Literal["plugin"] = "plugin"
    name: str
    """Name of the entry point."""
    options: dict[str, Any] = {}
    """What it takes as keywords."""
