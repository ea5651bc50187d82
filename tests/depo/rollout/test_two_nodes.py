"""A cluster of two nodes: weights travel to the second, and its loss costs what its engines had under way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from depo.workers.cluster import STARTS, TOO_SLOW

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]

PROGRAM = Path(__file__).parents[1] / "two_nodes.py"


@pytest.fixture(scope="module")
def story() -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, PROGRAM]
    for _ in range(STARTS):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if TOO_SLOW not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    (told,) = (line for line in done.stdout.splitlines() if line.startswith("{"))  # Ray prints there, too
    return json.loads(told)


def test_each_node_has_an_engine_and_a_directory_of_its_own_with_the_same_weights(story) -> None:
    """The engines assert what they read; the probe has compared what they serve."""
    assert story["on the first"] == [[False, True]] * 2
    assert story["directories"] == 2
    assert story["versions kept"] == [1, 1], "what was served before is gone on both"
    assert story["metrics"]["sync/copies"] == 1
    assert story["metrics"]["sync/bytes"] == 150_000 * 8
    assert 0 < story["metrics"]["sync/carry_seconds"] < story["metrics"]["sync/seconds"]
    assert any("through Ray to 1 other node;" in line for line in story["said"])


def test_without_a_place_for_another_engine_the_run_goes_on_with_the_one_that_is_left(story) -> None:
    assert story["all rollouts"]
    assert story["versions"] == [1]
    assert story["engines left"]
    assert len(story["lost"]) == 4, "as many as an engine decodes together"
    said = " ".join(story["said"])
    assert "died during 'generating'" in said
    assert "no place in the Ray cluster after 6 s: needs 1 GPU, and it has 0 of 1 GPUs free" in said
    assert "The run goes on with 1 engine" in said
    assert story["metrics later"]["sync/copies"] == 0


def test_where_there_is_a_place_the_lost_engine_is_made_again_on_the_first_node(story) -> None:
    assert story["replaced on the first"]


def test_ranks_that_find_no_place_are_told_what_the_cluster_lacks(story) -> None:
    fits, refused = story["refusals"]
    assert fits == ""
    assert refused == (
        "the learner: no place in the Ray cluster after 6 s: needs 3 places of 1 CPU, and it has 1 of 1 CPUs "
        "free (by node: 1 + 0); add nodes, or set learner.ranks lower"
    )


def test_nothing_is_left_in_shared_memory(story) -> None:
    """Of the node that was killed, the next run there sweeps it away."""
    assert story["left"] == []
