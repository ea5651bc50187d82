"""What a recipe asks for beyond its schema: files that must be there, what not every model has, and settings
that do nothing.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from depo import plugins
from depo.errors import UserError
from depo.files import MANIFEST, broken_seal
from depo.recipe.errors import Sources
from depo.recipe.model_shape import HUB_ID, config_directory, find_config, is_path, positions
from depo.recipe.schema import (
    TABLE_SUFFIXES,
    Block,
    FileSource,
    GspoLoss,
    HubSource,
    Plugin,
    PluginReward,
    PretrainedPolicy,
    Recipe,
    RewardSpec,
    Source,
    TrackerSpec,
)
from depo.recipe.schema.evaluation import Suite
from depo.recipe.schema.reward import plain_rewards
from depo.reward.registry import build

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")


def check_inputs(recipe: Recipe, sources: Sources | None = None, *, fetched: bool = True) -> None:
    """Raise UserError, one line per problem, unless everything local that ``recipe`` names is usable.

    ``sources`` (of ``read_recipe``) says for each key where it was written. ``fetched`` false: the policy's
    directory may be made later.
    """
    where = sources or Sources("recipe", {})
    problems = source_problems("data.train", recipe.data.train)
    problems |= reward_problems("reward", recipe.reward)
    for index, eval_set in enumerate(recipe.evaluation.sets):
        problems |= source_problems(f"evaluation.sets.{index}.source", eval_set.source)
        if eval_set.reward is not None:
            problems |= reward_problems(f"evaluation.sets.{index}.reward", eval_set.reward)
    if isinstance(recipe.policy, PretrainedPolicy) and (fetched or missing_model(recipe) is None):
        problems |= model_problems(recipe, recipe.policy)
    problems |= plugin_problems(recipe)
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


def plugin_problems(value: Any, key: str = "") -> dict[str, str]:
    """Which plugins in a block (or what is below one) are not there, by key: their packages are imported to
    know. Rewards are told by ``reward_problems``."""
    inside = f"{key}.name"
    if isinstance(value, TrackerSpec) and value.name in value.extras:
        there = find_spec(value.name) is not None
        return {} if there else {inside: f'{value.name} is missing; pip install "depo-rl[{value.name}]"'}
    if isinstance(value, Plugin | TrackerSpec):
        return {} if isinstance(value, PluginReward) else unregistered(inside, value.group, value.name)
    if isinstance(value, Block):
        children: Iterable[tuple[Any, Any]] = value
    elif isinstance(value, list):
        children = enumerate(value)
    elif isinstance(value, dict):
        children = value.items()
    else:
        return {}
    problems: dict[str, str] = {}
    for name, child in children:
        problems |= plugin_problems(child, f"{key}.{name}" if key else str(name))
    return problems


def unregistered(key: str, group: str, name: str) -> dict[str, str]:
    try:
        plugins.load(group, {}, name)
    except ValueError as error:
        return {key: str(error)}
    return {}


def _similar(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (and no directory {path.parent})"
    names = [file.name for file in path.parent.iterdir() if file.suffix in TABLE_SUFFIXES]
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""


def uncached(recipe: Recipe, suite: Suite | None) -> list[str]:
    """A line for each hub data set that was never loaded here: what a dry run cannot know of it."""
    sources = [("data.train", recipe.data.train)]
    sources += [(f"evaluation.sets.{i}.source", one.source) for i, one in enumerate(recipe.evaluation.sets)]
    if suite is not None:
        sources += [(f"benchmarks.{name}.source", one.source) for name, one in suite.benchmarks.items()]
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    cache = Path(os.environ.get("HF_DATASETS_CACHE") or f"{home}/datasets").expanduser()
    prepared = cache.glob("*/*/*/*/dataset_info.json")  # ORGANISATION___name/subset/version/hash
    here = [(path.parts[-5].lower().replace("_", ""), path.parts[-4]) for path in prepared]
    lines = []
    for key, source in sources:
        if not isinstance(source, HubSource):
            continue
        name = source.id.lower().replace("/", "").replace("_", "")
        if any(name == known and source.subset in (None, subset) for known, subset in here):
            continue
        asked = {"name": source.subset, "split": source.split, "revision": source.revision}
        options = "".join(f", {name}={value!r}" for name, value in asked.items() if value)
        lines.append(
            f"{key}: columns and rows of {source.label} are unknown, it is not in the cache; to fetch it: "
            f'python -c "import datasets; datasets.load_dataset({source.id!r}{options})"'
        )
    return lines


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


def missing_model(recipe: Recipe) -> str | None:
    """A line on a policy's directory that is not there yet, and how to get one; None: nothing is missing."""
    policy = recipe.policy
    if not isinstance(policy, PretrainedPolicy) or not is_path(policy.model) or Path(policy.model).exists():
        return None
    return f"policy.model: {no_directory(Path(policy.model))}; the run needs it"


def no_directory(model: Path) -> str:
    return f"no such directory: {model} (depo fetch smollm2 {model} puts a small model there)"


def directory_problem(directory: Path) -> str | None:
    """Why a directory is not a model in Hugging Face format with its tokenizer."""
    if not directory.exists():
        return no_directory(directory)
    if not directory.is_dir():
        return f"{directory} is a file; name a directory in Hugging Face format"
    if not (directory / "config.json").is_file():
        return f"{directory} has no config.json; name a directory in Hugging Face format"
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        return f"{directory} has no tokenizer (none of {', '.join(TOKENIZER_FILES)})"
    if not any(any(directory.glob(pattern)) for pattern in WEIGHT_FILES):
        return f"{directory} has no weights (neither {' nor '.join(WEIGHT_FILES)})"
    if problem := next(filter(None, map(weights_problem, sorted(directory.glob("*.safetensors")))), None):
        return problem
    return unlike_written(directory)


def unlike_written(directory: Path) -> str | None:
    """What is wrong with a policy that a run wrote, by the manifest in it (beside it in checkpoints and
    best/)."""
    for place, part in ((directory, ""), (directory.parent, directory.name)):
        if (place / MANIFEST).is_file() and (problem := broken_seal(place, part)):
            return (
                f"{directory} is damaged: {problem}; take another policy of the run, or remove "
                f"{place / MANIFEST} if you changed it yourself"
            )
    return None


def weights_problem(path: Path) -> str | None:
    """Why a file is not whole: safetensors begin with the header's length and the header, which says where in
    the rest each tensor ends."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            left = path.stat().st_size - 8 - length
            header = json.loads(file.read(length) if length <= 100_000_000 else "")
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return f"{path} is damaged: it has no header of safetensors; fetch it again"
    whole = max(ends, default=0)
    return None if left == whole else f"{path} is cut: {left:,} of {whole:,} bytes of weights; fetch it again"


Key = tuple[str, ...]


def demands(recipe: Recipe) -> list[Key]:
    """Keys that some models cannot serve: an adapter's targets, and what only a mixture of experts has. None
    for the tiny policy, a known mixture that is built to the recipe."""
    policy, learner = recipe.policy, recipe.learner
    if not isinstance(policy, PretrainedPolicy):
        return []
    asked = {
        ("policy", "lora"): policy.lora is not None,
        ("policy", "router"): policy.router is not None,
        ("learner", "load_balancing_coef"): learner.load_balancing_coef > 0,
        ("learner", "routing_replay"): learner.routing_replay != "none",
    }
    return [key for key, is_asked in asked.items() if is_asked]


def unchecked(recipe: Recipe) -> str | None:
    """The line that says which demands a dry run cannot check, and why; None where it can check them all."""
    policy, asked = recipe.policy, demands(recipe)
    if not asked or not isinstance(policy, PretrainedPolicy):
        return None
    config = find_config(policy.model, policy.revision)
    if config is None:
        reason = "its config.json is not at hand"
    elif policy.trust_remote_code and "auto_map" in config:
        reason = "it is built by code of its own, which a dry run does not execute"
    else:
        return None
    keys = ", ".join(".".join(key) for key in asked)
    return f"not checked against {policy.model}: {keys} ({reason}); the run checks before its first step"


def directory_of(policy: PretrainedPolicy) -> str:
    """Where the config.json is that ``unchecked`` found."""
    directory = config_directory(policy.model, policy.revision)
    assert directory is not None
    return str(directory)


TOKEN_SCALE = 0.05
"""A clip range from here on is meant for single tokens; a sequence's ratio moves by 1e-4 to 1e-3."""


def notes(recipe: Recipe) -> list[str]:
    """One line each, beginning with the key."""
    learner, router = recipe.learner, recipe.policy.router
    found = []
    if learner.routing_replay == "r2" and one_step(recipe):
        found.append(
            "learner.routing_replay: r2 does nothing with one optimizer step a batch, which has no "
            "old-policy pass; set learner.minibatches to 2 or more, or take r3"
        )
    if isinstance(learner.loss, GspoLoss):
        found += of_gspo(learner.loss, one_step(recipe))
    if recipe.rollout.max_off_policy_steps:
        found += of_overlap(recipe)
    if learner.load_balancing_coef > 0 and router == "frozen":
        found.append(
            "learner.load_balancing_coef: the routers cannot follow it, policy.router is frozen; what it "
            "moves are the layers before them"
        )
    return found


def of_overlap(recipe: Recipe) -> list[str]:
    found = []
    if recipe.learner.correction.type == "none":
        found.append(
            "learner.correction: none takes what an older policy wrote for the present one's; with "
            "rollout.max_off_policy_steps take tis, mis or icepop"
        )
    if recipe.selection.prefill_probe and recipe.selection.refill:
        found.append(
            "selection.prefill_probe: refill rounds ask the learner about their candidates, and wait for its "
            "update; to overlap with them as well, set it to false, or selection.refill to false"
        )
    return found


def of_gspo(loss: GspoLoss, one_step: bool) -> list[str]:
    found = []
    if one_step:
        found.append(
            "learner.loss: gspo is grpo with one optimizer step a batch, for all ratios are 1; set "
            "learner.minibatches to 2 or more"
        )
    ranges = {"clip_low": loss.clip_low, "clip_high": loss.clip_high}
    return found + [
        f"learner.loss.{name}: {value:g} is a range for single tokens; gspo's ratio is that of whole "
        "sequences, moves by thousandths (its paper clips at 3e-4 and 4e-4), and is not clipped then"
        for name, value in ranges.items()
        if value >= TOKEN_SCALE
    ]


def one_step(recipe: Recipe) -> bool:
    """Whether current and old log-probabilities are the same numbers in every pass."""
    policy, learner = recipe.policy, recipe.learner
    dropout = policy.lora.dropout if isinstance(policy, PretrainedPolicy) and policy.lora else 0.0
    return learner.epochs == 1 and learner.minibatches == 1 and dropout == 0.0
