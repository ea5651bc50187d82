"""Load a policy's tokenizer, and tell what cannot be loaded of a model: no torch of its own.

Whatever cannot be loaded is bad input: one line that names the key of the recipe.
"""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from depo.errors import UserError
from depo.recipe.checks import weights_problem
from depo.recipe.model_shape import find_config
from depo.recipe.schema import PretrainedPolicy

KEY = "policy.model"

VOCABULARY_FILES = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json")


def load_tokenizer(policy: PretrainedPolicy, key: str = KEY) -> PreTrainedTokenizerBase:
    """The policy's tokenizer, with a padding token (the end token where it brings none).

    Raises UserError, beginning with ``key``, when there is none, when it has no end token, and when it has
    tokens that the model has not.
    """
    check_source(policy.model, key)
    directory = Path(policy.model)
    if directory.is_dir() and not any(any(directory.glob(pattern)) for pattern in VOCABULARY_FILES):
        # transformers would make up an empty vocabulary
        raise UserError(
            f"{key}: {policy.model} has no tokenizer (expected tokenizer.json beside config.json)"
        )
    tokenizer = from_pretrained(AutoTokenizer, policy, key)
    if tokenizer.eos_token is None:
        raise UserError(f"{key}: the tokenizer of {policy.model} has no end-of-sequence token (eos_token)")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    rows = (find_config(policy.model, policy.revision) or {}).get("vocab_size")
    token, largest = max(tokenizer.get_vocab().items(), key=itemgetter(1))
    if isinstance(rows, int) and largest >= rows:
        raise UserError(
            f"{key}: the tokenizer of {policy.model} has token {largest} ({token!r}), but the embedding has "
            f"only {rows} rows (vocab_size in config.json): the two do not belong together"
        )
    return tokenizer


def check_source(source: str, key: str = KEY) -> None:
    """Raise UserError for a directory that is missing or holds no model."""
    directory = Path(source)
    if directory.is_dir():
        if not (directory / "config.json").is_file():
            raise UserError(f"{key}: directory {source} holds no config.json (expected Hugging Face format)")
    elif directory.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
        raise UserError(f"{key}: directory {source} does not exist")


def from_pretrained(loader: Any, policy: PretrainedPolicy, key: str = KEY, **options: Any) -> Any:
    """``loader.from_pretrained`` whose failures to find or read a model are the user's to know."""
    try:
        return loader.from_pretrained(
            policy.model, revision=policy.revision, trust_remote_code=policy.trust_remote_code, **options
        )
    except (OSError, ValueError, SafetensorError) as error:
        what = f"cannot load directory {policy.model}"
        if not Path(policy.model).is_dir():
            what = f"there is no directory {policy.model}, and as a hub id it cannot be loaded"
        damaged = map(weights_problem, sorted(Path(policy.model).glob("*.safetensors")))
        raise UserError(f"{key}: {what}: {next(filter(None, damaged), first_line(error))}") from error


def first_line(error: Exception) -> str:
    """The essence of a transformers error."""
    if "scaled_dot_product_attention" in str(error):
        return "transformers has no sdpa attention for this architecture, and depo uses no other"
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
