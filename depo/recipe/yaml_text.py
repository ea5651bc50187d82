"""YAML as recipes use it: duplicate keys are errors, and 1e-5 is a number.

YAML 1.1, which PyYAML implements, reads ``1e-5`` as text because it lacks a dot; a learning rate written that
way would be a string. Both directions know the wider float, so that what is dumped loads back equal.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from depo.errors import UserError

FLOAT_TAG = "tag:yaml.org,2002:float"
# A mantissa with or without dot, then an exponent with or without sign (YAML 1.2, core schema, 10.3.2).
EXPONENT_FLOAT = re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")
FLOAT_STARTS = list("-+.0123456789")


class RecipeLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key == "<<":
                continue
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice (first in line {seen[key]})", key_node.start_mark
                )
            seen[key] = line
        return super().construct_mapping(node, deep)


class RecipeDumper(yaml.SafeDumper):
    """SafeDumper that quotes text RecipeLoader would read as a number."""


RecipeLoader.add_implicit_resolver(FLOAT_TAG, EXPONENT_FLOAT, FLOAT_STARTS)
RecipeDumper.add_implicit_resolver(FLOAT_TAG, EXPONENT_FLOAT, FLOAT_STARTS)


def parse_yaml(text: str, name: str) -> Any:
    """The value of a YAML document; ``name`` (a file, or the command line) opens the error message.

    Raises UserError with one line, ``name:line: what is wrong``, for a syntax error or a duplicate key.
    """
    try:
        return yaml.load(text, RecipeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = name if mark is None else f"{name}:{mark.line + 1}"
        problem = error.problem or error.context or "not YAML"
        raise UserError(f"{where}: not valid YAML: {' '.join(problem.split())}") from error
    except (yaml.YAMLError, ValueError) as error:
        first_line = str(error).splitlines()[0]
        raise UserError(f"{name}: not valid YAML: {first_line}") from error


def dump_yaml(value: Any) -> str:
    """Block-style YAML in the given key order, which ``parse_yaml`` reads back equal."""
    return yaml.dump(value, Dumper=RecipeDumper, sort_keys=False, allow_unicode=True, width=100)
