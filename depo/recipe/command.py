"""``depo recipes``: the recipes that come with the package, and the schema by which an editor checks one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from depo.errors import DONE, fitted
from depo.recipe.loading import SHIPPED
from depo.recipe.schema import Recipe


def add_options(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "recipes",
        help="list the shipped recipes",
        description="List the shipped recipes. Reads their first lines and writes nothing.",
        epilog="example, for editors: depo recipes --schema > recipe.schema.json, and as a recipe's first "
        "line # yaml-language-server: $schema=recipe.schema.json",
    )
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of recipes instead")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    if options.schema:
        print(json.dumps(schema(), indent=1))
        return DONE
    for file in sorted(SHIPPED.glob("*.yaml")):
        print(fitted(f"{file.stem:<12} {first_sentence(file)}"))
    return DONE


def first_sentence(file: Path) -> str:
    """Of the comment at a recipe's head, without the command that may stand before it."""
    head = takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
    lines = [line.lstrip("# ") for line in head if not line.startswith("# depo ")]
    return " ".join(" ".join(lines).split()).partition(". ")[0].rstrip(".") + "."


def schema() -> dict[str, Any]:
    """JSON schema of a recipe file, shorthands included: the name of a type, or a list of trackers, for a
    block. It knows no types that packages register, nor what several keys demand of each other."""
    found = Recipe.model_json_schema()
    found["required"].remove("name")  # the file's own name stands in
    found["$defs"]["Tracking"] = {"anyOf": [{"type": ["array", "string"]}, found["$defs"]["Tracking"]]}
    loosen(found)
    return found


def loosen(node: Any) -> None:
    """Where one of several blocks may stand, the name of its type may, too; and without a type the default's
    keys, which only depo can tell."""
    if isinstance(node, dict):
        if "discriminator" in node:
            del node["discriminator"]
            node["anyOf"] = [{"type": "string"}, *node.pop("oneOf")]
        for inner in node.values():
            loosen(inner)
    elif isinstance(node, list):
        for inner in node:
            loosen(inner)
