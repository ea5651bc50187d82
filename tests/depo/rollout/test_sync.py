"""What a sync hands over. A real learner's actor in this process; the engine only notes what it is given."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open

from depo.learner.learner import PolicyLearner
from depo.recipe.schema import PretrainedPolicy, Recipe
from depo.rollout.engine import WeightSyncError, WeightUpdate
from depo.rollout.parity import ParityProbe
from depo.rollout.weights import DirectorySync
from depo.workers.learner import LearnerActor


class Notes:
    """Serves whatever it is told to: it answers with the learner's own scores."""

    def __init__(self, learner: PolicyLearner) -> None:
        self.learner = learner
        self.names: set[str] = set()
        self.loading: set[int] = set()
        self.nodes: dict[str, str] = {}
        self.off = 0.0

    def load_weights(self, update: WeightUpdate) -> int:
        assert update.directory is not None
        for path in Path(update.directory).glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                self.names |= set(file.keys())
        return update.version

    def offer(self, update: WeightUpdate) -> set[int]:
        return self.loading | {update.version}

    def score_each(self, sequences):
        return {"engine": [row + self.off for row in self.learner.score(sequences)]}


@pytest.mark.parametrize("lora", [{"rank": 2, "targets": ["q_proj"]}, None])
def test_with_lora_only_adapted_blocks_are_handed_over_and_without_it_everything(
    lora: dict | None, tiny_policy: Path, tmp_path: Path
) -> None:
    policy = {"type": "pretrained", "model": str(tiny_policy), "dtype": "float32", "lora": lora}
    recipe = {"name": "tiny", "steps": 1, "policy": policy, "data": {"train": "sums.jsonl"}}
    actor = LearnerActor(Recipe.model_validate(recipe | {"learner": {"device": "cpu"}}))
    actor.start(PretrainedPolicy.model_validate(policy))
    learner = actor.learner
    engine = Notes(learner)
    probe = ParityProbe([((2, 3), (4, 5))], 1e-3)
    shared, run_dir = tmp_path / "shared", tmp_path / "run"
    # What an earlier process of this run left when it was killed within a sync.
    left = DirectorySync(learner, engine, probe, shared, run_dir, seed=0, say=print).shelves.home.directory
    (left / "1" / "deeper").mkdir(parents=True)
    sync = DirectorySync(learner, engine, probe, shared, run_dir, seed=0, say=print)
    metrics = sync.serve(sync.publish(1))
    assert metrics["parity/mean_abs"] == 0
    (kept,) = left.iterdir()  # what is served, for an engine that has to be replaced
    assert metrics["sync/bytes"] == sum(file.stat().st_size for file in kept.iterdir())
    sync.serve(sync.publish(2))
    assert list(left.iterdir()) != [kept]
    assert len(list(left.iterdir())) == 1
    # Offered: a directory stays for as long as an engine loads from it, and the newest for whoever comes.
    engine.loading = {3}
    assert "parity/mean_abs" not in sync.offer(sync.publish(3))
    scores = learner.score(sync.sequences)
    engine.proof.prove("an engine", 3, scores)
    assert sync.offer(sync.publish(4)).items() >= {"parity/mean_abs": 0, "parity/max_abs": 0}.items()
    assert len(list(left.iterdir())) == 2
    with pytest.raises(WeightSyncError, match=r"an engine \(given policy version 3\) does not serve"):
        engine.proof.prove("an engine", 3, [row + 1 for row in scores])
    engine.loading = set()
    sync.offer(sync.publish(5))
    assert [directory.name.partition("-")[0] for directory in left.iterdir()] == ["5"]
    sync.close()
    with safe_open(tiny_policy / "model.safetensors", "pt") as file:
        everything = set(file.keys())
    assert engine.names == {name for name in everything if lora is None or ".self_attn." in name}
    assert list(shared.iterdir()) == []
