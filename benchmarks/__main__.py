"""``python -m benchmarks NAME …``: run one benchmark.

Every benchmark is a module with ``add_options(parser)`` and ``run(options, arguments)``, which returns the
exit status. Only the one that is asked for is imported. Errors and exit statuses are those of ``depo``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from depo.errors import BAD_INPUT, one_ending, report_failure, say

BENCHMARKS = {
    "selection": (
        "selection.command",
        "rollouts to the same accuracy: live RL, a small policy, paired seeds",
    ),
    "model": ("model.command", "ways of choosing prompts on a real language model, at equal rollouts"),
    "throughput": (
        "throughput.command",
        "samples/s, tokens/s, memory, start-up, beside TRL's GRPOTrainer",
    ),
    "trl": ("trl_picker", "TRL's GRPOTrainer with and without a Picker, at equal rollouts"),
    "replay_training_trace": ("replay_training_trace", "every estimator and selector on a recorded GRPO run"),
    "first_visit": ("first_visit", "what a prompt's text alone says before its first visit"),
    "policy_features": ("policy_features", "what the prefill probe of a prompt adds to its text"),
    "routing_replay": ("routing_replay", "routing replay and telemetry: mismatch mended, time taken"),
    "copy_policy": ("copy_policy", "make the tiny policy with long answers that routing_replay reads"),
    "vllm_engine": ("vllm_engine", "a real vLLM engine beside the trainer: syncs, mismatch, cost"),
    "learner_memory": ("learner_memory", "memory of a pass: logits whole and in chunks"),
    "weight_sync": ("weight_sync", "seconds that bring a mixture of experts to a vLLM engine"),
    "report": ("report", "render Markdown and plots from the JSON files of earlier benchmarks"),
}
"""Name → module in this package, and what it measures."""


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str) -> NoReturn:
        say(f"error: {message} (see {self.prog} --help)")
        sys.exit(BAD_INPUT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    own_process = arguments is None
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = Parser(
        prog="python -m benchmarks",
        description="Measure what selection saves, how fast the loop is, and more. See docs/benchmarks.md.",
    )
    commands = parser.add_subparsers(dest="benchmark", required=True, metavar="NAME", parser_class=Parser)
    asked = next((word for word in arguments if word in BENCHMARKS), None)
    with one_ending(for_good=own_process) as ended_by:
        try:
            for name, (place, about) in BENCHMARKS.items():
                own = commands.add_parser(
                    name, help=about, formatter_class=argparse.RawDescriptionHelpFormatter
                )
                if name == asked:
                    module = import_module(f"benchmarks.{place}")
                    own.description = module.__doc__
                    module.add_options(own)
            options = parser.parse_args(arguments)
            return module.run(options, arguments)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the outermost frame: all is reported
            return report_failure(error, None, ended_by)


if __name__ == "__main__":
    sys.exit(main())
