"""Where prompts come from, and how they are prepared."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from depo.recipe.schema.block import (
    TABLE_SUFFIXES,
    Block,
    Count,
    CountOrZero,
    Few,
    Fraction,
    Plugin,
    Seed,
    Tokens,
)


class Columns(Block):
    """Which columns of a table hold what. A dot descends into a struct: ``reward_model.ground_truth``."""

    prompt: str | None = None
    """Problem text, or a list of chat messages (also as JSON in a text). Found by name (prompt, question,
    problem) when null."""
    answer: str | None = None
    """Gold answer. Found by name (answer, ground_truth, reward_model.ground_truth) when null."""
    prior: str | None = None
    """A pass rate in [0, 1] that the data set brings along, if any."""
    question_pattern: str | None = None
    """Regular expression whose group 1 is the problem, for prompts that wrap it in instructions of their own.
    Rows where it is not found are dropped and counted."""

    @field_validator("question_pattern")
    @classmethod
    def has_one_group(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                groups = re.compile(value).groups
            except re.error as error:
                raise ValueError(f"is not a regular expression: {error}") from error
            if groups != 1:
                raise ValueError(f"must have one group, the problem; found {groups}")
        return value


class FileSource(Block):
    """A local table: .jsonl, .json, .parquet or .csv."""

    type: Literal["file"] = "file"
    path: Annotated[Path, AfterValidator(Path.expanduser)]
    """The table; ~ is the home directory."""
    columns: Columns = Columns()
    """Which columns hold what."""
    where: dict[str, str] = {}
    """Keep only the rows whose columns, as text, hold these values: ``{lang: sw}``."""
    limit: Count | None = None
    """Use the first rows only, of those that ``where`` keeps."""

    @property
    def label(self) -> str:
        """What reports call a source."""
        return self.path.name


class HubSource(Block):
    """A data set of the Hugging Face hub, read with `datasets`."""

    type: Literal["hub"] = "hub"
    id: str
    """ORGANISATION/NAME on the hub."""
    subset: str | None = None
    """Configuration of the data set; null: its default."""
    split: str = "train"
    """Which split is read."""
    revision: str | None = None
    """Branch, tag or commit; null: the default branch."""
    columns: Columns = Columns()
    """Which columns hold what."""
    where: dict[str, str] = {}
    """Keep only the rows whose columns, as text, hold these values."""
    limit: Count | None = None
    """Use the first rows only, of those that ``where`` keeps; null: all."""

    @property
    def label(self) -> str:
        return self.id if self.subset is None else f"{self.id} ({self.subset})"


class ReasoningGymSource(Block):
    """Procedurally generated tasks of the `reasoning_gym` package, verified by its own scorers."""

    type: Literal["reasoning_gym"] = "reasoning_gym"
    tasks: list[str] = Field(min_length=1)
    """Names of reasoning_gym data sets, e.g. basic_arithmetic, gcd."""
    size: Count = 1000
    """Problems per task."""
    seed: Seed = 0
    """Another seed makes other problems."""

    @property
    def label(self) -> str:
        return f"reasoning_gym {', '.join(self.tasks)}"


class ArithmeticSource(Block):
    """Generated sums, differences and products whose difficulty is graded by their number of digits."""

    type: Literal["arithmetic"] = "arithmetic"
    phrasing: Literal["digits", "words", "columns"] = "digits"
    """``digits``: "12+7="; ``words``: "What is twelve plus seven?"; ``columns``: "b1+0a2+7="."""
    operations: list[Literal["+", "-", "*"]] = Field(default=["+"], min_length=1)
    """Sums (+), differences (-), products (*)."""
    digits: list[Few] = Field(default=[1, 2, 3], min_length=1)
    """Operand lengths to draw from, one operand length a problem."""
    carries: Literal["any", "even"] = "any"
    """``even``: of each length as many sums without a carry as with one, two and so on."""
    size: Count = 1000
    """Distinct problems to generate (fewer when the family is smaller)."""
    seed: Seed = 0
    """Another seed draws other problems."""

    @property
    def label(self) -> str:
        return f"arithmetic in {self.phrasing}"


class PluginSource(Plugin):
    """A source registered by a package under the entry-point group ``depo.sources``: a function of this block
    and its key in the recipe that yields (problem, gold answer, prior pass rate)."""

    group = "depo.sources"
    options: dict[str, Any] = {}
    """For the function to read, as ``source.options``."""

    @property
    def label(self) -> str:
        return self.name


def source_from_shorthand(value: Any) -> Any:
    """A bare string is a file when it ends like a table or exists, else a hub id."""
    if not isinstance(value, str):
        return value
    if value.endswith(TABLE_SUFFIXES) or Path(value).exists():
        return {"type": "file", "path": value}
    return {"type": "hub", "id": value}


Source = Annotated[
    FileSource | HubSource | ReasoningGymSource | ArithmeticSource | PluginSource,
    Field(discriminator="type"),
    BeforeValidator(source_from_shorthand),
]


def holds_question(template: str) -> str:
    if "{question}" not in template:
        raise ValueError("must contain {question}")
    return template


Template = Annotated[str, AfterValidator(holds_question)]


class Grading(Block):
    """Compose pool and held-out set by *measured* pass rates of the initial policy.

    Only for generated data with one exact answer. The shares must add up to 1.
    """

    samples: CountOrZero = 0
    """Completions by which a pass rate is measured (temperature 1); 0: none, but the probability of the gold
    answer under teacher forcing, where the answer is the whole completion."""

    mastered: Fraction = 0.25
    """Share of mastered problems in pool and held-out set."""
    learnable: Fraction = 0.25
    """Share of learnable problems."""
    impossible: Fraction = 0.5
    """Share of impossible problems."""
    mastered_above: Fraction = 0.7
    """Pass rate from which a problem counts as mastered."""
    learnable_between: tuple[Fraction, Fraction] = (0.02, 0.35)
    """Pass rates of the learnable middle. What lies between the classes is left out."""
    impossible_below: Fraction = 0.01
    """Pass rate under which a problem counts as impossible."""
    pool: Count = 1000
    """Prompts in the training pool."""
    heldout: Count = 400
    """Held-out prompts, composed like the pool."""

    @model_validator(mode="after")
    def shares_add_up(self) -> Self:
        total = self.mastered + self.learnable + self.impossible
        if abs(total - 1) > 1e-9:
            raise ValueError(f"mastered + learnable + impossible must be 1, found {total:g}")
        low, high = self.learnable_between
        if not self.impossible_below <= low < high <= self.mastered_above:
            raise ValueError(
                "the classes must not overlap: impossible_below <= learnable_between[0] < "
                f"learnable_between[1] <= mastered_above, found {self.impossible_below:g}, {low:g}, "
                f"{high:g}, {self.mastered_above:g}"
            )
        return self


class Data(Block):
    """Where prompts come from and how they are put to the policy."""

    train: Source
    """Where the prompts come from. Text alone is a file or a hub id."""
    heldout: CountOrZero | Fraction = 0
    """Prompts set aside from ``train`` for evaluation: a count, or a share when below 1."""
    grade: Grading | None = None
    """Compose pool and held-out set by measured difficulty (generated data only)."""
    template: Template = "{question}"
    """Wrapped around the problem text (the last turn of chat messages) before the chat template; must contain
    {question}."""
    system: str | None = None
    """System message, if any; chat messages that bring their own keep it."""
    raw: bool = False
    """Give the text to the policy as it is, without chat template. Control tokens that stand in it count;
    in a chat, what a problem writes like one (<|im_end|>) is text."""
    max_prompt_tokens: Tokens = 1024
    """Longer prompts are dropped and counted."""
