"""Memory that a pass takes for logits of a large vocabulary: whole, and in chunks as the learner does.

Log-probabilities of so many tokens from their hidden states, forward and backward, in float32. Tensors are on
torch's meta device, where they have a size and no memory: their bytes are counted as they come and go. So any
size takes seconds. The hidden size is small: only logits are to weigh.

    python -m benchmarks learner_memory
"""

from __future__ import annotations

import argparse
import weakref
from collections.abc import Sequence
from typing import Any

from depo.errors import DONE, say
from depo.recipe.schema.learner import CHUNK_LOGITS
from depo.report.provenance import package_versions

GIB = 2**30


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=16)


def peak(tokens: int, vocabulary: int, hidden: int, chunk_logits: int) -> int:
    """The most bytes that tensors made on the way hold at once, results included."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from depo.learner.logprobs import chunked_logprobs

    held: dict[int, int] = {}
    most = 0

    class Counted(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal most
            found = func(*args, **(kwargs or {}))
            for tensor in found if isinstance(found, tuple | list) else [found]:
                storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
                if storage is not None and storage._cdata not in held:
                    held[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, held.pop, storage._cdata)
            most = max(most, sum(held.values()))
            return found

    with torch.device("meta"):
        head = torch.nn.Linear(hidden, vocabulary, bias=False)
        states_MH = torch.zeros(tokens, hidden, requires_grad=True)
        targets_M = torch.zeros(tokens, dtype=torch.long)
    with Counted():
        logprobs_M, _ = chunked_logprobs(head, states_MH, targets_M, 1.0, chunk_logits)
        logprobs_M.sum().backward()
    return most


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    sizes = options.tokens, options.vocabulary, options.hidden
    logits = 4 * options.tokens * options.vocabulary
    say(f"python -m benchmarks {' '.join(arguments)}")
    say(", ".join(f"{name} {version}" for name, version in package_versions().items()))
    say(f"{options.tokens:,} tokens, vocabulary {options.vocabulary:,}: logits {logits / GIB:.2f} GiB")
    say(f"whole: {peak(*sizes, options.tokens * options.vocabulary) / GIB:.2f} GiB")
    say(f"in chunks of {CHUNK_LOGITS:,} logits: {peak(*sizes, CHUNK_LOGITS) / GIB:.2f} GiB")
    return DONE
