"""What ``depo bench selection --help`` promises is what the default plan is."""

from __future__ import annotations

import pytest

from depo.bench.selection.arms import PRIMARY
from depo.bench.selection.command import SEEDS
from depo.bench.selection.recipes import USUAL_PROMPTS, horizon_of
from depo.cli import main


def test_help_tells_how_long_the_default_takes(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "selection", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"{len(PRIMARY) * len(SEEDS)} runs of {horizon_of(USUAL_PROMPTS):,} rollouts" in text
    assert f"{len(SEEDS)} warm starts" in text
    assert "less than two hours on 2 cores" in text
