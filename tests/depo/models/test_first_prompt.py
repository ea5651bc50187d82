"""What a dry run tells of prompts and tokenizer: as a user calls it, with a real tokenizer."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny_run import run_depo
from transformers import AutoTokenizer

from depo.models.first_prompt import in_one_line

CHAT = "{% for turn in messages %}{{ turn['content'] }}{% endfor %}="


def with_template(workdir: Path, tiny_policy: Path, template: str | None) -> None:
    """``tiny.yaml`` now asks a policy of that chat template, and not in raw text."""
    policy = shutil.copytree(tiny_policy, workdir / "policy")
    if template is not None:
        (policy / "chat_template.jinja").write_text(template)
    recipe = yaml.safe_load((workdir / "tiny.yaml").read_text())
    recipe["policy"]["model"] = "policy"
    recipe["data"] |= {"raw": False, "template": "1+{question}"}
    (workdir / "tiny.yaml").write_text(yaml.safe_dump(recipe))


def test_a_dry_run_counts_the_data_and_shows_a_prompt_as_the_policy_is_given_it(
    workdir: Path, tiny_policy: Path
) -> None:
    with_template(workdir, tiny_policy, CHAT)
    done = run_depo("train", "tiny.yaml", "--dry-run", cwd=workdir)
    assert done.returncode == 0, done.stderr
    tokenizer = AutoTokenizer.from_pretrained(workdir / "policy")
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "1+0+0="}], return_dict=False)
    assert f"a prompt as the policy is given it, {len(ids)} tokens:\n  '1+0+0=='\n" in done.stdout
    assert "data: sums.jsonl: 110 prompts to train on, 10 held out" in done.stdout


def test_it_needs_neither_torch_nor_transformers_in_its_own_process(workdir: Path, tiny_policy: Path) -> None:
    with_template(workdir, tiny_policy, CHAT)
    program = (
        "import sys; from depo.cli import main; status = main(['train', 'tiny.yaml', '--dry-run']); "
        "print([name for name in ('torch', 'transformers', 'ray') if name in sys.modules]); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=workdir
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (None, "data.raw: the policy's tokenizer has no chat template; set data.raw: true"),
        ("{{ raise_exception('no user, please') }}", "(user): no user, please"),
    ],
)
def test_a_policy_that_cannot_be_asked_is_refused_in_one_line(
    template: str | None, told: str, workdir: Path, tiny_policy: Path
) -> None:
    with_template(workdir, tiny_policy, template)
    done = run_depo("train", "tiny.yaml", "--dry-run", cwd=workdir)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: data.")
    assert told in line


def test_a_tokenizer_that_is_not_here_is_unknown_and_a_command_fetches_it(workdir: Path) -> None:
    done = run_depo("train", "tiny.yaml", "policy.model=no/such", "--dry-run", cwd=workdir)
    assert done.returncode == 0, done.stderr
    assert "policy.model: tokenizer and chat template are unknown" in done.stdout
    assert "to fetch it: hf download no/such\n" in done.stdout


@pytest.mark.parametrize("text", ["short", "long " * 100, "很长" * 100, "mixed 很长 " * 30])
def test_a_prompt_is_cut_in_the_middle_to_the_width_of_the_console(text: str) -> None:
    shown = in_one_line(text, 60)
    columns = sum(2 if character in "很长" else 1 for character in shown)
    assert columns <= 60
    if text == "short":
        assert shown == "'short'"
    else:
        assert columns > 54
        head, tail = shown.split(" … ")
        assert repr(text).startswith(head)
        assert repr(text).endswith(tail)
