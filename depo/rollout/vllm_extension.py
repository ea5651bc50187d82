"""New weights into a running vLLM worker: the method that vLLM mixes into its worker class.

vLLM loads this by name (``worker_extension_cls``) in every worker process and ``collective_rpc`` calls
it there. Two things that vLLM packs at start-up do not follow a reload on CPUs, although the reload
reports success:

- an expert kernel that exists already counts as up to date and keeps the weights it was packed with, so
  it is dropped first and the reload builds it anew;
- a tied ``lm_head`` shares its parameter with the embedding and is therefore skipped when layers are
  processed again, so its packed copy is made anew afterwards.

On GPUs neither is packed apart from its parameters: kernels read the parameters in place, and dropping
them would break captured CUDA graphs. There this is ``reload_weights`` alone: measured with vLLM 0.24 on an
H200, compiled and with CUDA graphs, five different policies in a row (benchmarks/results/vllm_engine.md). The
parity probe after each sync (``depo.rollout.probe``) is what protects a run elsewhere.
"""

from __future__ import annotations

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
        on_cpu = self.device.type == "cpu"
        model = self.model_runner.get_model()
        if on_cpu:
            forget_packed_experts(model)
        self.model_runner.reload_weights(weights_path=directory)
        if on_cpu:
            repack_output_head(model)


def forget_packed_experts(model: Any) -> None:
    """Drop the expert kernels, which hold packed copies, so that the reload packs the new weights."""
    for module in model.modules():
        if type(module).__name__ == EXPERTS_CLASS:
            module.quant_method.moe_kernel = None


def repack_output_head(model: Any) -> None:
    """Pack the output head again from the parameter it shares with the embedding."""
    head = getattr(model, "lm_head", None)
    method = getattr(head, "quant_method", None)
    if method is not None:
        method.process_weights_after_loading(head)
