"""One vLLM engine in one Ray actor: completions to make go in, a look at a time, and finished rollouts out.

How this differs from serving with vLLM:

- the engine runs inside the actor's process, which drives it step by step;
- every sample is a request of its own with its own seed, drawn from the full distribution;
- nothing is taken from the model's ``generation_config.json``: a ``top_k`` there, as many chat models
  have, would make the recorded log-probabilities those of another distribution;
- the recorded log-probabilities are "processed" ones: those of the distribution at the sampling
  temperature.

Importing this module needs neither vLLM nor torch; the actor imports them when it starts.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from depo.report.provenance import usable_cores
from depo.rollout.engine import Look, Sampling, WeightSyncError, WeightUpdate
from depo.rollout.schedule import Sample
from depo.types import Request, Rollout

EXTENSION = "depo.rollout.vllm.extension.WeightSyncExtension"

GIB = 1024**3

LOOK_SECONDS = 0.25
"""Of work between two looks. What has ended is told by then, and what is new is begun."""

Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """What one engine is started with. ``model`` is a directory or hub id; ``max_model_len`` in tokens;
    ``eos_token_ids`` end a completion, and no others do. ``enforce_eager`` None means eager on CPUs and
    compiled on GPUs. ``routed_layers``: decoder layers whose routes are returned; needs a GPU."""

    model: str
    dtype: Dtype
    max_model_len: int
    eos_token_ids: tuple[int, ...]
    revision: str | None = None
    trust_remote_code: bool = False
    max_num_seqs: int = 256
    enforce_eager: bool | None = None
    tensor_parallel: int = 1
    gpu_memory_utilization: float = 0.9
    cpu_kv_cache_gib: float = 1.0
    seed: int = 0
    routed_layers: tuple[int, ...] = ()


def worker_environment(threads: int | None) -> dict[str, str]:
    """Environment variables an engine's process must start with; those the user has set win.

    ``threads`` are the CPU threads of one engine (None: as many as this process may use); without the
    variable Ray would give the actor a single thread. Threads that spin while they wait starve each other
    as soon as anything else needs a core, so they sleep: five times the throughput, measured on two busy
    cores.
    """
    variables = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "PYTHONWARNINGS": "ignore::FutureWarning",
    }
    variables = {name: os.environ.get(name, value) for name, value in variables.items()}
    variables["OMP_NUM_THREADS"] = str(threads or usable_cores())
    return variables


class VllmWorker:
    """The actor's class; plain, so that it can also be used in process. See ``actor_class``."""

    def __init__(self, options: VllmOptions) -> None:
        # vLLM sets its logger up while it is imported, after the first warnings.
        logging.getLogger("vllm").setLevel(os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"))
        from vllm import LLM
        from vllm.platforms import current_platform

        on_cpu = current_platform.is_cpu()
        memory: dict[str, Any] = {"gpu_memory_utilization": options.gpu_memory_utilization}
        if on_cpu:
            memory = {"kv_cache_memory_bytes": int(options.cpu_kv_cache_gib * GIB)}
        routes = {"enable_return_routed_experts": True} if options.routed_layers else {}
        llm = LLM(
            model=options.model,
            revision=options.revision,
            trust_remote_code=options.trust_remote_code,
            dtype=options.dtype,
            max_model_len=options.max_model_len,
            max_num_seqs=options.max_num_seqs,
            enforce_eager=on_cpu if options.enforce_eager is None else options.enforce_eager,
            tensor_parallel_size=options.tensor_parallel,
            seed=options.seed,
            generation_config="vllm",  # vLLM's neutral defaults instead of the model's
            logprobs_mode="processed_logprobs",
            skip_tokenizer_init=True,  # token ids in, token ids out
            enable_prefix_caching=True,
            worker_extension_cls=EXTENSION,
            use_tqdm_on_load=False,
            **memory,
            **routes,
        )
        self.engine = llm.llm_engine
        self.options = options
        self.version = 0
        self.submitted = 0
        self.waiting: dict[str, tuple[str, int, int, int | None]] = {}
        """By vLLM's name of it: prompt key, index, seed and, for routes, tokens of the prompt."""
        self.ended, self.told = 0, 0  # tokens

    def ready(self) -> bool:
        """Answered once the engine is up."""
        return True

    def work(self, samples: Sequence[Sample], seconds: float = LOOK_SECONDS) -> Look:
        """Take these completions on and go on with all there are, for so many seconds or until they have
        ended."""
        for request, sampling in samples:
            (seed,) = request.seeds
            request_id = self.submit(request.prompt.token_ids, self.drawn(sampling, seed))
            prompt_tokens = len(request.prompt.token_ids) if sampling.routes else None
            self.waiting[request_id] = (request.prompt.key, request.first_index, seed, prompt_tokens)
        finished: list[Rollout] = []
        until = time.monotonic() + seconds
        for outputs in self.steps():
            finished += [
                self.rollout(output.outputs[0], *self.waiting.pop(output.request_id)) for output in outputs
            ]
            if time.monotonic() >= until:
                break
        self.ended += sum(len(rollout.token_ids) for rollout in finished)
        before, self.told = self.told, self.ended + self.under_way()
        return Look(finished, self.told - before, len(self.waiting))

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Look]:
        """Look by look until all have ended."""
        samples = [(one, sampling) for request in requests for one in request.single()]
        while (look := self.work(samples)).left:
            samples = []
            yield look
        yield look

    def drawn(self, sampling: Sampling, seed: int) -> Any:
        """vLLM's parameters for one sample from the full distribution at the sampling temperature."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            n=1,
            temperature=sampling.temperature,
            top_p=1.0,
            top_k=0,
            min_p=0.0,
            seed=seed,
            logprobs=0,  # of the sampled token only
            max_tokens=sampling.max_new_tokens,
            stop_token_ids=list(self.options.eos_token_ids),
            ignore_eos=True,  # the list above is the whole list
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def rollout(
        self, completion: Any, key: str, index: int, seed: int, prompt_tokens: int | None = None
    ) -> Rollout:
        """A finished completion of vLLM as a rollout; with routes when ``prompt_tokens`` is given."""
        if completion.finish_reason not in ("stop", "length"):
            raise RuntimeError(
                f"vLLM ended a completion with {completion.finish_reason!r}; known: stop, length"
            )
        tokens = list(completion.token_ids)
        logprobs = [entry[token].logprob for token, entry in zip(tokens, completion.logprobs, strict=True)]
        routes = None
        if prompt_tokens is not None:
            layers = self.options.routed_layers
            routes = from_vllm(completion.routed_experts, prompt_tokens, len(tokens), layers)
        return Rollout(
            key=key,
            index=index,
            seed=seed,
            token_ids=np.asarray(tokens, dtype=np.int32),
            logprobs=np.asarray(logprobs, dtype=np.float32),
            finish_reason=completion.finish_reason,
            policy_version=self.version,
            routes=routes,
        )

    def score(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[np.ndarray]:
        """Log-probabilities (temperature 1) of each (prompt ids, completion ids): arrays of (T,).

        vLLM scores a prompt while it generates one more token, so a sequence may have at most
        ``max_model_len − 1`` tokens; a longer one raises ValueError.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self.drop_queued()
        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            prompt_logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        rows: dict[str, int] = {}
        for row, (prompt_ids, completion_ids) in enumerate(sequences):
            length = len(prompt_ids) + len(completion_ids)
            if length >= self.options.max_model_len:
                raise ValueError(
                    f"sequence {row} has {length} tokens; this engine scores at most "
                    f"{self.options.max_model_len - 1} (its context length less one)"
                )
            rows[self.submit([*prompt_ids, *completion_ids], params)] = row
        scores: list[np.ndarray] = [np.empty(0, dtype=np.float32)] * len(rows)
        for outputs in self.steps():
            for output in outputs:
                row = rows[output.request_id]
                prompt_ids, completion_ids = sequences[row]
                entries = output.prompt_logprobs[len(prompt_ids) :]
                values = [entry[token].logprob for token, entry in zip(completion_ids, entries, strict=True)]
                scores[row] = np.asarray(values, dtype=np.float32)
        return scores

    def load_weights(self, update: WeightUpdate) -> int:
        """Serve the policy written to ``update.directory``; returns its version.

        Raises WeightSyncError when the directory holds no policy or vLLM cannot load it; the engine is
        then not usable any more, because some layers may hold new weights and others old ones.
        """
        directory = checked_directory(update)
        self.drop_queued()
        try:
            self.engine.collective_rpc("depo_load_directory", args=(str(directory),))
        except (KeyError, ValueError, RuntimeError, OSError, AttributeError, AssertionError) as error:
            raise WeightSyncError(
                f"vLLM could not load policy version {update.version} from {directory}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not self.engine.reset_prefix_cache():
            raise WeightSyncError(
                f"vLLM kept its prefix cache when policy version {update.version} was loaded: it would "
                "continue prompts with the keys and values of the old policy"
            )
        self.version = update.version
        return self.version

    def submit(self, token_ids: Sequence[int], params: Any) -> str:
        """Queue one request; returns its id."""
        request_id = str(self.submitted)
        self.submitted += 1
        self.engine.add_request(request_id, {"prompt_token_ids": list(token_ids)}, params)
        return request_id

    def steps(self) -> Iterator[list[Any]]:
        """Run the engine until it is idle, yielding what each step finished."""
        while self.engine.has_unfinished_requests():
            yield [output for output in self.engine.step() if output.finished]

    def under_way(self) -> int:
        """Tokens of the completions that have not ended. Queued requests are gone through too: not for every
        step."""
        states = self.engine.output_processor.request_states.values()
        return sum(state.detokenizer.num_output_tokens() for state in states)

    def drop_queued(self) -> None:
        """Abort whatever the engine has not finished: nobody waits for it any more."""
        unfinished = list(self.engine.output_processor.request_states)
        if unfinished:
            self.engine.abort_request(unfinished, internal=True)
        self.waiting, self.ended, self.told = {}, 0, 0


def checked_directory(update: WeightUpdate) -> Path:
    """The directory of an update, once it is sure that it holds a policy."""
    if update.directory is None:
        raise WeightSyncError(
            f"policy version {update.version} came without a directory; vLLM needs one to load it from"
        )
    directory = Path(update.directory)
    if not (directory / "config.json").is_file() or not any(directory.glob("*.safetensors")):
        raise WeightSyncError(
            f"{directory} holds no policy (config.json and *.safetensors) for version {update.version}; "
            "on several nodes rollout.vllm.sync_dir must be a directory that all of them see"
        )
    return directory


def actor_class() -> Any:
    """The Ray actor class around ``VllmWorker``."""
    import ray

    return ray.remote(VllmWorker)


def from_vllm(
    routed_experts: np.ndarray | None, prompt_tokens: int, tokens: int, layers: Sequence[int]
) -> np.ndarray:
    """vLLM's ``CompletionOutput.routed_experts`` as the record of a completion: (T − 1, L, K).

    vLLM gives (prompt + T − 1, hidden layers, K), dense layers included, prompt tokens first. ``layers`` are
    the decoder layers that have a router. Raises RuntimeError when it gave something else.
    """
    expected = prompt_tokens + tokens - 1
    if routed_experts is None:
        raise RuntimeError("vLLM returned no routed_experts; learner.routing_replay r3 needs them")
    fits = routed_experts.ndim == 3 and len(routed_experts) == expected
    if not fits or routed_experts.shape[1] <= max(layers):
        raise RuntimeError(
            f"vLLM returned routed_experts of shape {routed_experts.shape} for {prompt_tokens} prompt and "
            f"{tokens} completion tokens; expected ({expected}, {max(layers) + 1} layers or more, experts)"
        )
    return np.ascontiguousarray(routed_experts[prompt_tokens:, list(layers)])
