"""New weights into a running vLLM worker: the method that vLLM mixes into its worker class.

vLLM loads this by name (``worker_extension_cls``) in every worker process and ``collective_rpc`` calls
it there. Two things that vLLM packs at start-up do not follow a reload on CPUs, although the reload
reports success:

- an expert kernel that exists already counts as up to date and keeps the weights it was packed with, so
  it is dropped first and the reload builds it anew, unless no experts came: then it is put back;
- a tied ``lm_head`` shares its parameter with the embedding and is therefore skipped when layers are
  processed again, so its packed copy is made anew afterwards.

On GPUs neither is packed apart from its parameters: kernels read the parameters in place, and dropping
them would break captured CUDA graphs. There this is ``reload_weights`` alone: measured with vLLM 0.24 on an
H200, compiled and with CUDA graphs, five different policies in a row (benchmarks/results/vllm_engine.md).

A directory may hold whole blocks of the policy alone (``depo.models.export``): vLLM's layers keep what they
had where nothing comes. That is measured with its CPU build 0.31; of 0.24 it has been read, not run.

The parity probe after each sync (``depo.rollout.parity``) is what protects a run elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# What vLLM calls the module that owns the experts' weights: by class name, because its home has moved
# between versions.
EXPERTS_CLASS = "RoutedExperts"


class WeightSyncExtension:
    """Mixed into vLLM's worker class; names carry the project's so that they collide with nothing there."""

    device: Any
    model_runner: Any

    def depo_load_directory(self, directory: str) -> None:
        """Serve the policy that ``save_pretrained`` wrote to ``directory``; raises what vLLM raises."""
        if self.device.type != "cpu":
            self.model_runner.reload_weights(weights_path=directory)
            return
        model = self.model_runner.get_model()
        with packed_anew(model):
            self.model_runner.reload_weights(weights_path=directory)
        repack_output_head(model)


@contextmanager
def packed_anew(model: Any) -> Iterator[None]:
    """Drop the expert kernels, which hold packed copies, so that a reload inside packs the new weights; those
    of layers that got none come back."""
    methods = [module.quant_method for module in model.modules() if type(module).__name__ == EXPERTS_CLASS]
    kernels = [method.moe_kernel for method in methods]
    for method in methods:
        method.moe_kernel = None
    try:
        yield
    finally:
        for method, kernel in zip(methods, kernels, strict=True):
            if method.moe_kernel is None:
                method.moe_kernel = kernel


def repack_output_head(model: Any) -> None:
    """Pack the output head again from the parameter it shares with the embedding."""
    head = getattr(model, "lm_head", None)
    method = getattr(head, "quant_method", None)
    if method is not None:
        method.process_weights_after_loading(head)
