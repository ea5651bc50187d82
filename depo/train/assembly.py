"""Assemble a run: policy, prompts, estimator, engines, in the order they need each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from depo import estimators
from depo.data import LoadedData, RunPrompts, load_data, load_prompts
from depo.errors import UserError
from depo.estimators.base import Estimator
from depo.evaluation.answers import MATH, vote_rule
from depo.evaluation.evaluator import Evaluator, Task, Verdicts, exact_pass_rates, requests_of
from depo.evaluation.in_training import TrainingEvaluation, training_suite
from depo.evaluation.verify import gold_line
from depo.files import read_json, sha256, write_json
from depo.learner.advantages import Advantages, build_advantages
from depo.models.tokenizer import load_tokenizer
from depo.recipe.schema import FileSource, OracleEstimator, PretrainedPolicy, Recipe, RewardSpec
from depo.reward import VerifierPool
from depo.reward.base import Reward
from depo.rollout.calls import Calls
from depo.rollout.engine import RolloutEngine, Sampling
from depo.rollout.parity import ParityProbe, choose_sequences, default_tolerance
from depo.rollout.weights import DirectorySync, SharedWeights, WeightSync
from depo.selection import Ledger, PromptPool, Selector, build_selector
from depo.selection.selector import PrefillProbe
from depo.trackers.console import Console
from depo.trackers.tracker import open_trackers
from depo.train.alarms import Alarms
from depo.train.best import BestPolicy, check_measure
from depo.train.state import Run
from depo.types import Prompt
from depo.workers.cluster import cpus_in_cluster, gpus_in_cluster, learner_gpus
from depo.workers.learner import ColocatedEngine, PolicyFacts, RemoteLearner

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


SOURCE_FILE = "data_source.json"
"""In a run directory: which file its problems were read from, and its SHA-256."""


def assemble(
    recipe: Recipe,
    run_dir: Path,
    policy: PretrainedPolicy,
    prompts: RunPrompts | None,
    estimator: Estimator,
    reward: VerifierPool,
    console: Console,
    stack: ExitStack,
) -> Run:
    """All parts of a run, ready for its first step. ``policy`` is what it starts from; ``prompts`` None: read
    them from the recipe's source. What needs ending is registered with ``stack``.

    Raises UserError when the recipe asks for something that is not there.
    """
    calls = Calls(recipe.resources.call_timeout, partial(console.say, always=True))
    learner = RemoteLearner(recipe, calls)
    stack.callback(learner.close)
    tokenizer = load_tokenizer(policy)
    prompts = prompts or loaded_prompts(recipe, run_dir, tokenizer, console)
    train, heldout = prompts.train, prompts.heldout
    facts = learner.start(policy)
    console.say(
        f"policy: {facts.parameters:,} parameters, {facts.trainable:,} trained, on {facts.device}; "
        f"pool: {len(train):,} prompts; held out: {len(heldout):,}"
    )
    if facts.layout_note is not None:
        console.say(f"learner: {facts.layout_note}")
    if vote_rule(recipe.reward) == MATH:
        gold_line([prompt.reference for prompt in train], reward, console.say)
    pool = PromptPool(train, recipe.seed)
    lost: deque[tuple[int, int]] = deque()
    engine, weight_sync = make_engine(recipe, run_dir, policy, facts, pool, learner, console, calls, lost)
    stack.callback(engine.close)
    stack.callback(weight_sync.close)

    evaluator = TrainingEvaluation(
        recipe.evaluation,
        Task("heldout", heldout, reward),
        benchmarks(recipe, tokenizer, reward, console, stack),
        engine=engine,
        scorer=learner,
        tokenizer=tokenizer,
        max_new_tokens=recipe.rollout.max_new_tokens,
        seed=recipe.seed,
        parts=prompts.parts,
        suite=training_suite(recipe, tokenizer, console.say, stack),
        counted=console.counted,
    )
    check_measure(recipe.evaluation, evaluator.measures)
    trained_on = {prompt.key for prompt in train}
    for name, problems in evaluator.problems():
        shared = sum(problem.key in trained_on for problem in problems)
        if shared:
            console.say(
                f"warning: {name}: {shared:,} of its {len(problems):,} problems are in the training pool "
                "too: its accuracy is partly of what was trained on",
                always=True,
            )
    trackers = open_trackers(recipe.tracking, run_dir, partial(console.say, always=True))
    for tracker in trackers:
        stack.callback(tracker.close)
    by_signal = recipe.graded_on == "pass_rate"
    ledger = Ledger(recipe.batch.group_size, by_signal, recipe.learner.epochs)
    return Run(
        recipe=recipe,
        directory=run_dir,
        pool=pool,
        estimator=estimator,
        selector=make_selector(recipe, learner, tokenizer, ledger, engine, reward),
        ledger=ledger,
        reward=reward,
        advantages=make_advantages(recipe),
        learner=learner,
        engine=engine,
        weight_sync=weight_sync,
        evaluator=evaluator,
        best=BestPolicy(recipe.evaluation, run_dir / "best", learner.export),
        tokenizer=tokenizer,
        console=console,
        alarms=Alarms(partial(console.say, always=True), recipe, run_dir),
        trackers=trackers,
        lost=lost,
    )


def loaded_prompts(
    recipe: Recipe, run_dir: Path, tokenizer: PreTrainedTokenizerBase, console: Console
) -> RunPrompts:
    """Prompts from the recipe's source; or what an earlier start stored."""
    path = recipe.data.train.path if isinstance(recipe.data.train, FileSource) else None
    digest = sha256(path) if path is not None and path.is_file() else None
    noted = run_dir / SOURCE_FILE
    stored = RunPrompts.stored(run_dir)
    if stored is not None:
        if digest is not None and noted.is_file() and read_json(noted)["sha256"] != digest:
            console.say(
                f"warning: data.train: {path} has changed since the run began; the run goes on with the "
                "problems and answers that it began with",
                always=True,
            )
        return stored
    loaded: LoadedData = load_data(recipe.data, tokenizer, recipe.seed)
    console.say(f"data: {loaded.report}")
    prompts = RunPrompts(loaded.train, loaded.heldout)
    prompts.store(run_dir)
    if digest is not None:
        write_json(noted, {"path": str(path), "sha256": digest})
    return prompts


def make_engine(
    recipe: Recipe,
    run_dir: Path,
    policy: PretrainedPolicy,
    facts: PolicyFacts,
    pool: PromptPool,
    learner: RemoteLearner,
    console: Console,
    calls: Calls,
    lost: deque[tuple[int, int]],
) -> tuple[RolloutEngine, WeightSync]:
    """The recipe's rollout engine and the way weights get there."""
    if recipe.rollout.engine == "transformers":
        colocated = ColocatedEngine(learner)
        return colocated, SharedWeights(colocated)
    from depo.rollout.vllm.pool import VllmPool

    vllm = recipe.rollout.vllm
    context = vllm.max_model_len or recipe.context_length
    engine = VllmPool(
        recipe.rollout,
        policy.model,
        dtype=policy.dtype,
        context_length=recipe.context_length,
        eos_token_ids=facts.eos_token_ids,
        threads=recipe.resources.threads,
        num_gpus_per_worker=vllm.tensor_parallel if gpus_in_cluster() else 0,
        revision=policy.revision,
        trust_remote_code=policy.trust_remote_code,
        seed=recipe.seed,
        routed_layers=facts.routed_layers if recipe.learner.routing_replay == "r3" else (),
        calls=calls,
        lost=lambda seed, tokens: lost.append((seed, tokens)),
    )
    probe = ParityProbe(
        choose_sequences(pool.prompts, facts.vocab_size, recipe.seed, longest=context - 1),
        vllm.parity_tolerance or default_tolerance(policy.dtype, mixture=bool(facts.routed_layers)),
    )
    return engine, DirectorySync(learner, engine, probe, vllm.sync_dir, run_dir, recipe.seed, console.say)


def check_cluster(recipe: Recipe) -> None:
    """Raise UserError where the Ray cluster cannot do what the recipe asks for."""
    check_routes_are_returned(recipe)
    check_ranks_have_places(recipe)
    check_gpus_suffice(recipe)


def check_routes_are_returned(recipe: Recipe) -> None:
    """Raise UserError where the recipe replays an engine's routes and that engine cannot return them."""
    r3 = recipe.learner.routing_replay == "r3"
    if r3 and recipe.rollout.engine == "vllm" and not gpus_in_cluster():
        raise UserError(
            "learner.routing_replay r3: vLLM returns routed experts on GPUs only, and the Ray cluster has "
            "none; use r2, or rollout.engine transformers"
        )


def check_ranks_have_places(recipe: Recipe) -> None:
    """Raise UserError for more ranks than the Ray cluster has GPUs, or CPUs where it has none."""
    ranks, gpus = recipe.learner.ranks, gpus_in_cluster()
    if ranks == 1:
        return
    kind, places = "GPU", gpus
    if not gpus or recipe.learner.device == "cpu":
        kind, places = "CPU", cpus_in_cluster()
    elif recipe.resources.learner_gpus == 0:
        raise UserError(
            "resources.learner_gpus: 0 lets the learner share one GPU with an engine, but learner.ranks "
            f"{ranks} needs one for each rank; leave it out, or set learner.ranks=1"
        )
    if ranks > places:
        raise UserError(
            f"learner.ranks: {ranks} ranks need a {kind} each, but the Ray cluster has {places}; set "
            f"learner.ranks={max(places, 1)} or less"
        )


def check_gpus_suffice(recipe: Recipe) -> None:
    """Raise UserError where learner and engines reserve more GPUs than the Ray cluster has: Ray would let
    those wait that find no place, and say nothing."""
    vllm, gpus = recipe.rollout.vllm, gpus_in_cluster()
    if recipe.rollout.engine != "vllm" or not gpus:
        return
    learner = recipe.learner.ranks * learner_gpus(recipe, gpus)
    engines = vllm.workers * vllm.tensor_parallel
    if learner + engines <= gpus:
        return
    remedy = "use fewer or smaller engines"
    if recipe.learner.ranks > 1:
        remedy += " or fewer learner.ranks"
    elif engines <= gpus:
        remedy = (
            "let the learner share a GPU with an engine: resources.learner_gpus=0 and a smaller "
            f"rollout.vllm.gpu_memory_utilization (now {vllm.gpu_memory_utilization:g}), such as 0.3"
        )
    raise UserError(
        f"rollout.vllm: the learner reserves {learner} GPUs (resources.learner_gpus) and the engines "
        f"{engines} (rollout.vllm.workers {vllm.workers} x tensor_parallel {vllm.tensor_parallel}), but the "
        f"Ray cluster has {gpus}; {remedy}"
    )


def benchmarks(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    reward: VerifierPool,
    console: Console,
    stack: ExitStack,
) -> list[Task]:
    """The recipe's evaluation sets, loaded; one with a reward of its own gets verifiers of its own."""
    loaded = []
    for i, benchmark in enumerate(recipe.evaluation.sets):
        where = f"evaluation.sets.{i}.source"
        prompts, report = load_prompts(benchmark.source, recipe.data, tokenizer, where)
        console.say(f"evaluation set {benchmark.name}: {report}")
        own = reward
        if benchmark.reward is not None:
            own = verifier(f"evaluation.sets.{i}.reward", benchmark.reward, recipe, stack)
        loaded.append(Task(benchmark.name, prompts, own))
    return loaded


def build_estimator(recipe: Recipe) -> Estimator:
    with user_errors("estimator"):
        return estimators.build(recipe.estimator.model_dump())


def make_advantages(recipe: Recipe) -> Advantages:
    with user_errors("learner.baseline"):
        return build_advantages(recipe.learner.advantages)


def make_selector(
    recipe: Recipe,
    learner: RemoteLearner,
    tokenizer: PreTrainedTokenizerBase,
    ledger: Ledger,
    engine: RolloutEngine,
    reward: Reward,
) -> Selector:
    """The recipe's selector, with the means to ask the policy what the recipe wants to know of candidates."""

    def counted_probe(prompts: Sequence[Prompt]) -> np.ndarray:
        ledger.record_probe(prompts)
        return learner.prompt_features(prompts)

    def pass_rates(prompts: Sequence[Prompt]) -> np.ndarray:
        assert isinstance(oracle, OracleEstimator)
        if not oracle.samples:
            return exact_pass_rates(prompts, learner, tokenizer)[:, None]
        sampling = Sampling(1.0, recipe.rollout.max_new_tokens)
        evaluator = Evaluator([Task("oracle", prompts, reward)], tokenizer, sampling)
        rows = evaluator.rows(requests_of(prompts, oracle.samples, recipe.seed), engine)
        return np.nan_to_num(Verdicts.of(rows).accuracy_N)[:, None]

    oracle = recipe.estimator
    prefill_probe: PrefillProbe | None = None
    if recipe.selection.prefill_probe:
        prefill_probe = counted_probe
    elif isinstance(oracle, OracleEstimator) and oracle.live:
        prefill_probe = pass_rates
    with user_errors("selection"):
        return build_selector(
            recipe.selection.spec | {"graded_on": recipe.graded_on},
            recipe.batch.prompts,
            recipe.seed,
            prefill_probe,
        )


def verifier(key: str, reward: RewardSpec, recipe: Recipe, stack: ExitStack) -> VerifierPool:
    """Verification workers for a reward. Raises UserError naming ``key`` when it cannot be built."""
    with user_errors(key):
        pool = stack.enter_context(VerifierPool(reward.model_dump(), **recipe.verification.model_dump()))
    pool.start()  # what a worker imports loads while the policy does
    return pool


@contextmanager
def user_errors(key: str) -> Iterator[None]:
    """``estimators`` and ``reward`` know no recipes and raise ValueError: say which block it came from."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{key}: {error}") from error
