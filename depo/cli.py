# PYTHON_ARGCOMPLETE_OK
"""The command line: ``depo train RECIPE [key=value ...]``, ``depo eval MODEL_OR_RUN``, ``depo route``,
``depo replay TRACE``, ``depo simulate RECIPE``, ``depo report RUN``, ``depo verify FILE``, ``depo upcycle
DENSE OUT``, ``depo fetch NAME DIR``, ``depo init FILE``, ``depo probe MODEL DATA``, ``depo watch RUN``,
``depo recipes`` and ``depo doctor``.

Each command is a module with ``add_options(commands)`` and ``run(options, arguments)``, which returns the
exit status. Importing these modules imports neither torch nor Ray: what needs them is imported by ``run``.

Exit status 0: done; 2: bad input, one line that names file and key; 1: anything else; 130: interrupted;
143: terminated (SIGTERM); 129: the terminal is gone (SIGHUP).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import depo.doctor
import depo.evaluation.cascade.command
import depo.evaluation.command
import depo.evaluation.verify
import depo.init
import depo.models.fetch
import depo.moe.upcycle.command
import depo.page.command
import depo.probe.command
import depo.recipe.command
import depo.replay.command
import depo.run
import depo.simulate.command
import depo.watch
from depo.errors import BAD_INPUT, one_ending, report_failure, say
from depo.files import check_run_dir
from depo.report.provenance import DISTRIBUTION, installed_version

COMMANDS = {
    "train": depo.run,
    "eval": depo.evaluation.command,
    "route": depo.evaluation.cascade.command,
    "replay": depo.replay.command,
    "simulate": depo.simulate.command,
    "report": depo.page.command,
    "watch": depo.watch,
    "verify": depo.evaluation.verify,
    "upcycle": depo.moe.upcycle.command,
    "fetch": depo.models.fetch,
    "init": depo.init,
    "probe": depo.probe.command,
    "recipes": depo.recipe.command,
    "doctor": depo.doctor,
}


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str) -> NoReturn:
        say(f"error: {message} (see {self.prog} --help)")
        sys.exit(BAD_INPUT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    own_process = arguments is None
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = parse(arguments)
    with one_ending(for_good=own_process) as ended_by:
        try:
            if hasattr(options, "run_dir"):
                check_run_dir(options.run_dir, options.resume)
            return COMMANDS[options.command].run(options, arguments)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the outermost frame: all is reported
            run_dir = options.run_dir if options.command == "train" else None
            return report_failure(error, run_dir, ended_by)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parsed options. ``overrides``, where a command has them, may stand before, between and after the
    flags."""
    version = installed_version(DISTRIBUTION) or "(not installed)"
    parser = Parser(
        prog="depo", description="RL post-training that asks which prompts are worth rolling out."
    )
    parser.add_argument("--version", action="version", version=f"depo {version}")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    for module in COMMANDS.values():
        module.add_options(commands)
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what could come next
        import argcomplete

        argcomplete.autocomplete(parser)
    options, rest = parser.parse_known_args(arguments)
    takes_more = hasattr(options, "overrides")
    if unknown := [text for text in rest if text.startswith("-") or not takes_more]:
        commands.choices[options.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    if takes_more:
        options.overrides = [*options.overrides, *rest]
    return options
