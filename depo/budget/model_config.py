"""A model's config.json, read without transformers: from its directory or from the local cache of the hub."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from depo.errors import UserError

HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
"""``organisation/name``, or a bare name for the hub's oldest models."""


def is_path(model: str) -> bool:
    """Whether ``policy.model`` names a local directory rather than a model of the hub."""
    if model.startswith(("/", "./", "../", "~")) or model in (".", ".."):
        return True
    path = Path(model)
    return path.exists() or (path.parent.exists() and not HUB_ID.match(model))


def find_config(model: str, revision: str | None = None) -> dict[str, Any] | None:
    """The text model's configuration, or None where it is not at hand (a hub model never downloaded).

    Never touches the network. Raises UserError for a file that is not JSON.
    """
    directory = config_directory(model, revision)
    if directory is None:
        return None
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"policy.model: {path} is not readable JSON ({error})") from error
    if not isinstance(config, dict):
        raise UserError(f"policy.model: {path} must hold a JSON object")
    return config.get("text_config", config)


def positions(config: Mapping[str, Any]) -> int | None:
    """Longest sequence, in tokens, that the model takes: ``max_position_embeddings``, or what scaled rotary
    embeddings make of the length it was trained on, if that is more. None: the configuration does not say."""
    found = config.get("max_position_embeddings")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    trained, factor = rope.get("original_max_position_embeddings"), rope.get("factor")
    if isinstance(trained, int) and isinstance(factor, int | float):
        return max(found or 0, int(trained * factor))
    return found if isinstance(found, int) else None


def config_directory(model: str, revision: str | None = None) -> Path | None:
    """The local directory that holds the model's config.json, None where there is none."""
    directory = Path(model) if is_path(model) else cached_snapshot(model, revision)
    return directory if directory is not None and (directory / "config.json").is_file() else None


def cached_snapshot(model: str, revision: str | None = None) -> Path | None:
    """Where the hub's cache keeps a model, if it does (layout: huggingface_hub, "Understand caching")."""
    repository = hub_cache() / ("models--" + model.replace("/", "--"))
    ref = repository / "refs" / (revision or "main")
    commit = ref.read_text().strip() if ref.is_file() else revision
    snapshot = repository / "snapshots" / commit if commit else None
    return snapshot if snapshot is not None and snapshot.is_dir() else None


def hub_cache() -> Path:
    """The hub's cache directory, by the same environment variables as huggingface_hub."""
    if cache := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(cache).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "hub"
