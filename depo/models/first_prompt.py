"""One prompt as the policy is given it, or why it cannot be given any: for a dry run.

transformers imports torch wherever it finds it, which takes longer than all else that a dry run does. So this
happens in a process of its own, from which torch is hidden. Importing this module imports nothing heavy.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Iterable
from itertools import accumulate

from depo.errors import WIDTH, UserError
from depo.recipe.checks import TOKENIZER_FILES
from depo.recipe.keys import parse_yaml
from depo.recipe.loading import dump_recipe
from depo.recipe.model_shape import config_directory, is_path
from depo.recipe.schema import PretrainedPolicy, Recipe

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from depo.models.first_prompt import main; main()"


def first_prompt(recipe: Recipe) -> list[str]:
    """Lines that show a prompt, or say why there is none to show. Raises UserError where the run would: a
    tokenizer that cannot be used, no chat template, or one that refuses the messages."""
    policy = recipe.policy
    if not isinstance(policy, PretrainedPolicy):
        from depo.data.preview import sample_problem

        return [f"a prompt as the policy is given it: {sample_problem(recipe.data.train).text!r}"]
    directory = config_directory(policy.model, policy.revision)
    if directory is None or not any((directory / name).is_file() for name in TOKENIZER_FILES):
        revision = f" --revision {policy.revision}" if policy.revision else ""
        fetch = "" if is_path(policy.model) else f"; to fetch it: hf download {policy.model}{revision}"
        return [f"policy.model: tokenizer and chat template are unknown: {policy.model} is not here{fetch}"]
    if policy.trust_remote_code:
        return [
            "policy.trust_remote_code: a dry run executes no code of a model, so its prompts are not shown"
        ]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        input=dump_recipe(recipe),
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
    )
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return [f"policy.model: its tokenizer could not be tried without torch ({why})"]
    told = json.loads(done.stdout.splitlines()[-1])
    if "error" in told:
        raise UserError(told["error"])
    tokens, longest = told["tokens"], recipe.data.max_prompt_tokens
    long = f", more than data.max_prompt_tokens {longest}: the run leaves it out" if tokens > longest else ""
    return [f"a prompt as the policy is given it, {tokens:,} tokens{long}:", f"  {in_one_line(told['text'])}"]


def main() -> None:
    """In that process: read the recipe, print the prompt's text and length, or the run's error, as JSON."""
    from depo.data.preview import sample_problem
    from depo.data.prompts import encode
    from depo.models.tokenizer import load_tokenizer

    recipe = Recipe.model_validate(parse_yaml(sys.stdin.read(), "recipe"))
    assert isinstance(recipe.policy, PretrainedPolicy)
    try:
        tokenizer = load_tokenizer(recipe.policy)
        (ids,) = encode([sample_problem(recipe.data.train)], recipe.data, tokenizer, "data.train")
    except UserError as error:
        print(json.dumps({"error": str(error)}))
    else:
        print(json.dumps({"text": tokenizer.decode(ids), "tokens": len(ids)}))


def in_one_line(text: str, columns: int = WIDTH - 2) -> str:
    """A text as Python writes it, its middle left out where it is too long. East Asian characters are two
    columns wide."""
    shown = repr(text)

    def fitting(characters: Iterable[str], room: int) -> int:
        widths = (1 + (unicodedata.east_asian_width(character) in "WF") for character in characters)
        return sum(used <= room for used in accumulate(widths))

    if fitting(shown, columns) == len(shown):
        return shown
    head, tail = (fitting(part, (columns - 3) // 2) for part in (shown, reversed(shown)))
    return f"{shown[:head]} … {shown[-tail:]}"
