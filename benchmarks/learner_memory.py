"""Memory that a pass takes for logits of a large vocabulary: whole, and in chunks as the learner does.

Log-probabilities and entropies of so many tokens, forward and backward, in a process of its own for each way;
the peak is what its resident memory grows by. The hidden size is small: only logits are to weigh. Whole
logits are measured on fewer tokens and scaled.

    python -m benchmarks learner_memory
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Sequence

from depo.errors import DONE, say
from depo.recipe.schema.learner import CHUNK_LOGITS
from depo.report.provenance import package_versions

GIB = 2**30


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=16)
    parser.add_argument(
        "--whole-tokens", type=int, default=512, help="tokens on which whole logits are measured"
    )


def resident() -> int:
    """The most that this process had resident so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def growth(tokens: int, vocabulary: int, hidden: int, chunk_logits: int) -> tuple[int, float]:
    """Bytes that the peak grows by, and seconds."""
    import torch

    from depo.learner.logprobs import chunked_logprobs

    torch.manual_seed(0)
    head = torch.nn.Linear(hidden, vocabulary, bias=False)
    states = torch.randn(tokens, hidden, requires_grad=True)
    targets = torch.randint(vocabulary, (tokens,))
    chunked_logprobs(head, states[:2], targets[:2], 1.0)[0].sum().backward()  # what libraries take at first
    before, started = resident(), time.perf_counter()
    chunked_logprobs(head, states, targets, 1.0, chunk_logits)[0].sum().backward()
    return resident() - before, time.perf_counter() - started


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    whole_tokens = min(options.whole_tokens, options.tokens)
    sizes = options.vocabulary, options.hidden
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        whole, _ = pool.apply(growth, (whole_tokens, *sizes, whole_tokens * options.vocabulary))
        chunked, seconds = pool.apply(growth, (options.tokens, *sizes, CHUNK_LOGITS))
    logits = 4 * options.tokens * options.vocabulary
    scaled = whole * options.tokens / whole_tokens
    say(f"python -m benchmarks {' '.join(arguments)}")
    say(", ".join(f"{name} {version}" for name, version in package_versions().items()))
    say(f"{options.tokens:,} tokens, vocabulary {options.vocabulary:,}: logits {logits / GIB:.2f} GiB")
    say(f"whole: {whole / GIB:.2f} GiB for {whole_tokens:,} tokens, which makes {scaled / GIB:.1f} GiB")
    say(f"in chunks: {chunked / GIB:.2f} GiB, {chunked / (4 * CHUNK_LOGITS):.1f} chunks; {seconds:.0f} s")
    return DONE
