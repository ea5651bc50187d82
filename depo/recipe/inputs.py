"""Checks that need more than the recipe: data sets, model directory, context length, rewards. Run before
anything is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from depo.budget.model_config import HUB_ID, find_config, is_path, positions
from depo.config import TABLE_SUFFIXES, FileSource, PretrainedPolicy, Recipe, RewardSpec, Source
from depo.config.reward import plain_rewards
from depo.errors import UserError
from depo.recipe.errors import Sources
from reward.registry import build

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")


def check_inputs(recipe: Recipe, sources: Sources | None = None) -> None:
    """Raise UserError, one line per problem, unless everything local that ``recipe`` names is usable.

    ``sources`` (of ``read_recipe``) says for each key where it was written.
    """
    where = sources or Sources("recipe", {})
    problems = source_problems("data.train", recipe.data.train)
    problems |= reward_problems("reward", recipe.reward)
    for index, eval_set in enumerate(recipe.evaluation.sets):
        problems |= source_problems(f"evaluation.sets.{index}.source", eval_set.source)
        if eval_set.reward is not None:
            problems |= reward_problems(f"evaluation.sets.{index}.reward", eval_set.reward)
    if isinstance(recipe.policy, PretrainedPolicy):
        problems |= model_problems(recipe, recipe.policy)
    raise_all(problems, where)


def raise_all(problems: Mapping[str, str], where: Sources) -> None:
    """Raise UserError, one line per problem; they stand by key."""
    if problems:
        lines = [
            f"{where.of_message(tuple(key.split('.')), problem)}: {key}: {problem}"
            for key, problem in problems.items()
        ]
        raise UserError("\n".join(lines))


def source_problems(key: str, source: Source) -> dict[str, str]:
    """What is wrong with a data source, by key; only files can be checked without a network."""
    if not isinstance(source, FileSource):
        return {}
    path, key = source.path, f"{key}.path"
    if path.is_dir():
        return {key: f"{path} is a directory; name a file in it"}
    if path.suffix not in TABLE_SUFFIXES:
        return {key: f"{path} must end in {', '.join(TABLE_SUFFIXES)}"}
    if not path.exists():
        return {key: f"no such file: {path}{_similar(path)}"}
    if path.stat().st_size == 0:
        return {key: f"{path} is empty"}
    return {}


def reward_problems(key: str, reward: RewardSpec) -> dict[str, str]:
    """Why a reward cannot be built, by key: a pattern that does not compile, a function that is not there."""
    problems = {}
    for part_key, part in plain_rewards(key, reward):
        try:
            build(part.model_dump())
        except ValueError as error:
            problems[part_key] = str(error)
    return problems


def _similar(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (and no directory {path.parent})"
    names = [file.name for file in path.parent.iterdir() if file.suffix in TABLE_SUFFIXES]
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""


def model_problems(recipe: Recipe, policy: PretrainedPolicy) -> dict[str, str]:
    """What is wrong with the policy's model, by key."""
    model = policy.model
    if not is_path(model):
        if not HUB_ID.match(model):
            return {"policy.model": f"{model!r} is neither a directory nor a hub id (organisation/name)"}
    elif problem := directory_problem(Path(model)):
        return {"policy.model": problem}
    config = find_config(model, policy.revision)
    limit = None if config is None else positions(config)
    if limit is not None and recipe.context_length > limit:
        return {
            "data.max_prompt_tokens": f"with rollout.max_new_tokens it makes {recipe.context_length} tokens, "
            f"more than the {limit} positions of policy.model {model} (max_position_embeddings)"
        }
    return {}


def directory_problem(directory: Path) -> str | None:
    """Why a directory is not a model in Hugging Face format with its tokenizer."""
    if not directory.exists():
        return f"no such directory: {directory} (depo fetch smollm2 {directory} puts a small model there)"
    if not directory.is_dir():
        return f"{directory} is a file; name a directory in Hugging Face format"
    if not (directory / "config.json").is_file():
        return f"{directory} has no config.json; name a directory in Hugging Face format"
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        return f"{directory} has no tokenizer (none of {', '.join(TOKENIZER_FILES)})"
    if not any(any(directory.glob(pattern)) for pattern in WEIGHT_FILES):
        return f"{directory} has no weights (neither {' nor '.join(WEIGHT_FILES)})"
    return None
