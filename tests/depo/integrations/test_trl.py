"""The bridge to TRL, with TRL's own trainers on a tiny model."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trl_world import G, Seen, Told, picker, rows, trainer

from depo.files import load_state
from depo.integrations.trl import DifficultySampling, above, prompt_text
from depo.selection import Picker


def by_group(values: list[Any]) -> list[list[Any]]:
    assert len(values) % G == 0
    return [values[i : i + G] for i in range(0, len(values), G)]


def groups(one: list[int]) -> list[int]:
    """The row of each group of a batch; G of the same in a row, and none twice."""
    found = [set(group) for group in by_group(one)]
    assert all(len(group) == 1 for group in found)
    distinct = [group.pop() for group in found]
    assert len(set(distinct)) == len(distinct)
    return distinct


def test_zero_variance_groups_become_fewer_and_the_log_says_so(tmp_path: Path):
    from trl import GRPOTrainer

    def share(log: list[dict[str, Any]]) -> float:
        return float(np.mean([row["frac_reward_zero_std"] for row in log[6:-1]]))

    config = {"max_steps": 16}
    plain = trainer(tmp_path, Seen(), kind=GRPOTrainer, config=config)
    plain.train()
    picked = trainer(tmp_path, Seen(), config=config, picker=picker())
    picked.train()
    log = picked.state.log_history
    assert share(plain.state.log_history) > 0.6
    assert share(log) < 0.35
    # TRL's own figure for the same, and its own count of steps.
    assert [row["zero_variance_share"] for row in log[:-1]] == [
        row["frac_reward_zero_std"] for row in log[:-1]
    ]
    assert log[-1]["generated/rollouts"] == 16 * 8 * G
    assert log[-1]["saved"] > 0
    assert picked.train_dataset.num_rows == 90
    assert [row["epoch"] for row in log[:-1]] == [row["epoch"] for row in plain.state.log_history[:-1]]
    assert [row["learning_rate"] for row in log[:-1]] == [
        row["learning_rate"] for row in plain.state.log_history[:-1]
    ]


def test_each_generation_is_one_pick_however_often_it_is_used(tmp_path: Path):
    """Two iterations over completions that last two steps: what the picker is told is what was rewarded."""
    seen, one = Seen(), Told(rows()["prompt"], group_size=G, min_window=0)
    config = {
        "max_steps": 4,
        "gradient_accumulation_steps": 2,
        "num_iterations": 2,
        "steps_per_generation": 2,
    }
    trainer(tmp_path, seen, config=config, picker=one).train()
    assert len(seen.rows) == one.step == 2
    assert [len(groups(batch)) for batch in seen.rows] == [16, 16]
    right = [
        [row, sum(rewards), G]
        for batch, values in zip(seen.rows, seen.rewards, strict=True)
        for row, rewards in zip(groups(batch), by_group(values), strict=True)
    ]
    assert [told[:3] for told in one.told] == right
    assert all(told[3] >= G and told[4] == 0 for told in one.told)


@pytest.mark.parametrize("repeat", [1, 2])
def test_a_resumed_run_picks_as_one_that_was_never_stopped(tmp_path: Path, repeat: int):
    config = {"max_steps": 6, "num_iterations": repeat, "save_strategy": "steps", "save_steps": 2}
    whole, rest = Seen(), Seen()
    uninterrupted = trainer(tmp_path / "whole", whole, config=config, picker=picker())
    uninterrupted.train()
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    assert load_state(checkpoint / "picker").values["step"] == 2 // repeat
    resumed = trainer(tmp_path / "rest", rest, config=config, picker=picker())
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert rest.rows == whole.rows[2 // repeat :]
    assert rest.rewards == whole.rewards[2 // repeat :]  # completions too
    assert resumed.picker.metrics() == uninterrupted.picker.metrics()


def test_a_resume_within_a_generation_goes_on_with_the_next_pick(tmp_path: Path):
    """TRL generates anew there, for it keeps no completions; their outcomes are known already."""
    config = {"max_steps": 4, "num_iterations": 2, "save_strategy": "steps", "save_steps": 1}
    whole, rest = Seen(), Seen()
    trainer(tmp_path / "whole", whole, config=config, picker=picker()).train()
    resumed = trainer(tmp_path / "rest", rest, config=config, picker=picker())
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    assert rest.rows[0] == whole.rows[1]
    assert resumed.picker.metrics()["picker/unasked"] == 0


def test_a_checkpoint_without_a_picker_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    from trl import GRPOTrainer

    config = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    trainer(tmp_path, Seen(), kind=GRPOTrainer, config=config).train()
    resumed = trainer(tmp_path, Seen(), config=config, picker=picker())
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert "checkpoint-1 holds no picker" in caplog.text
    assert resumed.picker.step == 1


def test_process_0_decides_for_all_and_hears_of_all(tmp_path: Path):
    """Two processes; of three groups, one is generated on both. Process 1 has no picker at all."""
    script = Path(__file__).parents[1] / "trl_world.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((tmp_path / f"seen_{process}.json").read_text()) for process in (0, 1))
    rewarded = []
    for batch, values in zip(
        zip(first["rows"], second["rows"], strict=True),
        zip(first["rewards"], second["rewards"], strict=True),
        strict=True,
    ):
        assert [len(half) for half in batch] == [6, 6]
        for row, rewards in zip(groups([*chain(*batch)]), by_group([*chain(*values)]), strict=True):
            rewarded.append([row, sum(rewards), G])
    assert len(rewarded) == 9
    assert [told[:3] for told in first["told"]] == rewarded
    assert second["told"] == []
    assert first["log"][-1]["generated/rollouts"] == 36


def test_lora_trains_the_adapter_on_picked_prompts(tmp_path: Path):
    from peft import LoraConfig

    seen = Seen()
    lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    one = trainer(tmp_path, seen, picker=picker(), peft_config=lora, config={"max_steps": 3})
    before = {name: weight.detach().clone() for name, weight in one.model.named_parameters()}
    one.train()
    moved = {name for name, weight in one.model.named_parameters() if not weight.equal(before[name])}
    assert moved
    assert all("lora" in name for name in moved)
    assert one.picker.metrics()["generated/rollouts"] == 3 * 8 * G
    assert [len(groups(batch)) for batch in seen.rows] == [8, 8, 8]


def test_rloo_has_the_same_hooks(tmp_path: Path):
    from trl import RLOOConfig, RLOOTrainer

    class Rloo(DifficultySampling, RLOOTrainer):
        pass

    seen, one = Seen(), Told(rows()["prompt"], group_size=G)
    trainer(
        tmp_path, seen, kind=Rloo, args=RLOOConfig, config={"max_steps": 2, "beta": 0.0}, picker=one
    ).train()
    assert [told[:2] for told in one.told] == [
        [row, sum(rewards)]
        for batch, values in zip(seen.rows, seen.rewards, strict=True)
        for row, rewards in zip(groups(batch), by_group(values), strict=True)
    ]


def test_evaluation_leaves_the_picker_alone(tmp_path: Path):
    seen, one = Seen(), Told(rows()["prompt"], group_size=G)
    here = trainer(tmp_path, seen, picker=one, config={"max_steps": 1, "per_device_eval_batch_size": 8 * G})
    here.train()
    metrics = here.evaluate(eval_dataset=rows(16))
    assert len(one.told) == 8
    assert len(seen.rows) == 3
    assert "eval_saved" not in metrics


def test_which_reward_says_correct_is_chosen_and_none_is_no_verdict(tmp_path: Path):
    def brevity(completions: list[str], **_: Any) -> list[float]:
        return [0.9] * len(completions)

    def judge(row: list[int], **_: Any) -> list[float | None]:
        return [None if place % 2 else (0.3 if place % 4 else 0.1) for place in range(len(row))]

    one = Told(rows()["prompt"], group_size=G)
    config = {"max_steps": 1}
    trainer(tmp_path, [brevity, judge], config=config, picker=one, correct="judge", correct_above=0.2).train()
    assert [told[1:3] + told[4:] for told in one.told] == [[1, 2, 2]] * 8
    by_default = Told(rows()["prompt"], group_size=G)
    trainer(tmp_path, [brevity, judge], config=config, picker=by_default).train()
    assert [told[1:3] for told in by_default.told] == [[G, G]] * 8
    both = Told(rows()["prompt"], group_size=G)
    together = lambda rewards_NF: np.where(np.isnan(rewards_NF[:, 1]), 0.0, 1.0)  # noqa: E731
    trainer(tmp_path, [brevity, judge], config=config, picker=both, correct=together).train()
    assert [told[1:3] for told in both.told] == [[2, G]] * 8


def test_above_counts_no_verdict_as_neither():
    found = above(["one", "two"], "two", 0.5)(np.array([[0, 0.6], [1, 0.5], [1, math.nan]]))
    np.testing.assert_array_equal(found, [1, 0, math.nan])


def test_without_a_picker_there_is_one_of_the_data_set(tmp_path: Path):
    one = trainer(tmp_path, Seen(), config={"seed": 3})
    assert len(one.picker) == 90
    assert one.picker.group_size == G
    assert one.picker.pool.seed == 3


def test_conversations_are_read_as_their_texts():
    parts = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]
    assert prompt_text(talk) == "Be brief.\nWhat is this?"
    assert prompt_text("1+1=") == "1+1="


def of_another_kind() -> dict[str, Any]:
    from trl import SFTTrainer

    class Wrong(DifficultySampling, SFTTrainer):
        pass

    return {"kind": Wrong}


def streamed() -> dict[str, Any]:
    return {"data": rows().to_iterable_dataset()}


def test_rewards_are_no_verdicts(tmp_path: Path):
    one = trainer(tmp_path, Seen(), picker=picker(), correct=lambda rewards_NF: rewards_NF[:, 0] / 2)
    with pytest.raises(ValueError, match=r"correct: expected 32 verdicts 1, 0 or NaN.*0\.5"):
        one.train()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"picker": Picker(["a"] * 90, group_size=8)}, "group_size 8, but num_generations is 4"),
        ({"picker": Picker(["a"] * 89, group_size=G)}, "89 prompts, but train_dataset has 90 rows"),
        ({"correct": "jugde"}, "no reward function is called 'jugde'; there are odd"),
        ({"correct": 1}, "no reward function has place 1; there are 1"),
        ({"n": 7}, "7 rows, but a generation batch has 8 prompts"),
        (streamed, "a streamed data set has none"),
        (of_another_kind, "Wrong: no _generate_and_score_completions, _calculate_rewards in the trainer"),
    ],
)
def test_what_does_not_fit_the_trainer_is_told(
    tmp_path: Path, options: dict[str, Any] | Callable[[], dict[str, Any]], complaint: str
):
    with pytest.raises(ValueError, match=complaint):
        trainer(tmp_path, Seen(), **(options() if callable(options) else options))


def test_the_lines_of_the_docs_train(tmp_path: Path):
    """With names as the page has them; the model is read from a directory, with its tokenizer."""
    page = (Path(__file__).parents[3] / "docs" / "trl.md").read_text()
    lines = page.split("```python\n")[1].split("```")[0]
    made = trainer(tmp_path / "made", Seen(), config={"max_steps": 2})
    made.save_model(str(tmp_path / "model"))
    names = {"model": str(tmp_path / "model"), "dataset": rows(), "reward": Seen(), "args": made.args}
    exec(lines, names)
    assert names["trainer"].state.global_step == 2
    assert names["picker"].step == 2
