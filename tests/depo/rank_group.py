"""A group of ranks that lives for many tests."""

from __future__ import annotations

import socket
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

import torch

from depo.learner.ranks import Ranks

WAIT = 120.0


class RankGroup:
    """``call(function, …)`` runs ``function(ranks, …)`` in all processes and gives back their results."""

    def __init__(self, count: int, timeout: float = 60.0) -> None:
        context = get_context("fork")  # torch and transformers are imported already, and that takes longest
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self.pipes, self.processes = [], []
        for rank in range(count):
            ours, theirs = context.Pipe()
            arguments = theirs, address, rank, count, timeout
            self.processes.append(context.Process(target=serve, args=arguments, daemon=True))
            self.pipes.append(ours)
            self.processes[-1].start()

    def call(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        for pipe in self.pipes:
            pipe.send((function, arguments))
        results = []
        for rank, pipe in enumerate(self.pipes):
            assert pipe.poll(WAIT), f"rank {rank} gives no answer"
            result = pipe.recv()
            assert not isinstance(result, Failure), f"rank {rank}: {result}"
            results.append(result)
        return results

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


class Failure(str):
    """A traceback."""


def serve(pipe: Any, address: str, rank: int, count: int, timeout: float) -> None:
    torch.set_num_threads(1)
    ranks = Ranks.join(address, rank, count, "cpu", timeout)
    while True:
        function, arguments = pipe.recv()
        try:
            pipe.send(function(ranks, *arguments))
        except Exception:  # noqa: BLE001 - the test raises it
            pipe.send(Failure(traceback.format_exc()))
