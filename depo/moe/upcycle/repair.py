"""How far a mixture is from the dense model it was made of, and its repair: a short distillation.

With some experts silent and some of their dimensions drawn anew, a mixture speaks gibberish. A short
training of experts and routers alone, towards the parent's next-token distributions (forward KL at
temperature 1, every position), brings it back; attention, norms and embeddings stay the parent's. The text
for both is the user's, the dense model's own, or ours.

T tokens of a passage, V vocabulary.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from depo.errors import UserError
from depo.models.loading import end_tokens
from depo.rng import seed64

PASSAGES = (
    "A bakery sells bread for three euros and cakes for twelve. On Saturday it sold forty loaves and nine "
    "cakes. The bread brought in 40 x 3 = 120 euros, the cakes 9 x 12 = 108, so the day's takings were 228.",
    "Water boils at a lower temperature on a mountain, because the air above it weighs less. That is why "
    "beans take longer to cook in a village high up than in a harbour town.",
    "To prove that the square root of two is irrational, suppose it were a fraction in lowest terms. Then "
    "the numerator squared is even, so the numerator is even, and then the denominator is even as well.",
    "def mean(values):\n    if not values:\n        raise ValueError('no values')\n"
    "    return sum(values) / len(values)\n",
    "The ferry left at half past six. Nobody on deck spoke; they watched the lights of the town grow small "
    "and the gulls follow the wake until it was too dark to see either.",
    "Plants take in carbon dioxide through small openings in their leaves. In dry weather they close them, "
    "which saves water but slows growth. Cacti open theirs only at night.",
)

QUESTIONS = (
    "What is 17 plus 25? Explain your steps.",
    "Why is the sky blue?",
    "A train travels 180 kilometres in three hours. How fast is it?",
    "Write a short story about a lighthouse.",
    "How do I reverse a list in Python?",
    "Name three causes of the French Revolution.",
    "Solve for x: 3x + 7 = 22.",
    "Summarise how a bicycle stays upright.",
    "What should I cook with rice, beans and tomatoes?",
    "Translate to French: The library opens at nine.",
    "If half of a number is 14, what is a third of that number plus 2?",
    "Explain the difference between weather and climate.",
)

GENERATED_TOGETHER = 32  # sequences


def encode(texts: list[str], tokenizer: PreTrainedTokenizerBase, length: int) -> list[Tensor]:
    """Token ids (T,) of each text, at most ``length`` of them; texts of one token are left out."""
    encoded = [tokenizer(text, truncation=True, max_length=length)["input_ids"] for text in texts]
    return [torch.tensor(ids) for ids in encoded if len(ids) > 1]


def read_passages(path: Path) -> list[str]:
    """Passages of a .jsonl file (key "text") or of a text file, where blank lines part them."""
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"depo upcycle: --text {path}: cannot be read ({error})") from error
    if path.suffix == ".jsonl":
        try:
            # Not splitlines: a JSON string may hold what Unicode calls a line separator.
            texts = [json.loads(line)["text"] for line in content.split("\n") if line.strip()]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f'depo upcycle: --text {path}: every line must be a JSON object with the key "text" ({error})'
            ) from error
    else:
        texts = re.split(r"\n\s*\n", content)
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            raise UserError(
                f'depo upcycle: --text {path}: the "text" of object {number} is no text: {text!r}'
            )
    passages = [text.strip() for text in texts if text.strip()]
    if not passages:
        raise UserError(f"depo upcycle: --text {path}: holds no text")
    return passages


@torch.no_grad()
def generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, count: int, length: int, seed: int
) -> list[Tensor]:
    """``count`` answers of the model to our questions, sampled at temperature 1, questions included: token
    ids (T,) with T ≤ ``length``, which has to have room for them (``check_room``). What the model says itself
    is the text on which to imitate it."""
    prompts = [question_ids(QUESTIONS[i % len(QUESTIONS)], tokenizer) for i in range(count)]
    stops = end_tokens(model.generation_config, tokenizer)
    sequences = []
    for start in range(0, count, GENERATED_TOGETHER):
        part = prompts[start : start + GENERATED_TOGETHER]
        width = max(map(len, part))
        pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in part], device=model.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in part], device=model.device)
        with torch.random.fork_rng(devices=seeded()):
            torch.manual_seed(seed64(seed, "upcycle_text", index=start))
            out = model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=True,
                temperature=1.0,
                top_p=1.0,
                top_k=0,
                max_new_tokens=length - width,
                pad_token_id=pad,
            )
        for prompt, row in zip(part, out[:, width:].tolist(), strict=True):
            end = next((i + 1 for i, token in enumerate(row) if token in stops), len(row))
            sequences.append(torch.tensor(prompt + row[:end]))
    return sequences


def seeded() -> list[int]:
    """Devices whose state ``torch.random.fork_rng`` has to put back, beside the CPU's: ``torch.manual_seed``
    sets them all, wherever is drawn."""
    return list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []


def check_room(tokenizer: PreTrainedTokenizerBase, length: int) -> None:
    """Raise UserError when sequences of ``length`` tokens hold a question and nothing after it."""
    longest = max(len(question_ids(question, tokenizer)) for question in QUESTIONS)
    if longest >= length:
        raise UserError(
            f"depo upcycle: --repair-length {length} leaves no room for answers; questions take up to "
            f"{longest} tokens"
        )


def question_ids(question: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """By the chat template where there is one."""
    if tokenizer.chat_template is None:
        return tokenizer(question)["input_ids"]
    messages = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Means over all positions unless stated; logits as they are, KL in nats."""

    tokens: int
    logit_error_max: float
    logit_error_mean: float
    kl: float
    """KL(dense ‖ mixture) of the next-token distributions."""
    kl_max: float
    same_top_token: float
    """Share of positions with the same most likely token."""


@torch.no_grad()
def fidelity(dense: PreTrainedModel, moe: PreTrainedModel, passages: Sequence[Tensor]) -> Fidelity:
    """Compare the two, which are on one device, on passages of token ids (T,), each alone."""
    errors, divergences, agreements = [], [], []
    for tokens_T in passages:
        tokens_1T = tokens_T.unsqueeze(0).to(dense.device)
        dense_TV = dense(input_ids=tokens_1T).logits[0].double()
        moe_TV = moe(input_ids=tokens_1T).logits[0].double()
        errors.append((dense_TV - moe_TV).abs())
        divergences.append(kl_divergence(dense_TV, moe_TV))
        agreements.append(dense_TV.argmax(-1) == moe_TV.argmax(-1))
    kl_M = torch.cat(divergences)
    return Fidelity(
        tokens=len(kl_M),
        logit_error_max=max(float(error.max()) for error in errors),
        logit_error_mean=sum(float(error.sum()) for error in errors) / sum(error.numel() for error in errors),
        kl=float(kl_M.mean()),
        kl_max=float(kl_M.max()),
        same_top_token=float(torch.cat(agreements).double().mean()),
    )


def kl_divergence(target_logits: Tensor, logits: Tensor) -> Tensor:
    """KL(target ‖ other) in nats over the last dimension, one number for each position."""
    target = target_logits.log_softmax(-1)
    return (target.exp() * (target - logits.log_softmax(-1))).sum(-1)


WARMUP = 0.1  # share of the steps


def pad(sequences: list[Tensor]) -> dict[str, Tensor]:
    """Right-padded ``input_ids`` and ``attention_mask`` (B, T)."""
    input_ids = nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    mask = torch.arange(input_ids.shape[1]) < lengths.unsqueeze(1)
    return {"input_ids": input_ids, "attention_mask": mask.long()}


class Distillation(Trainer):
    """transformers' Trainer towards a parent's distributions instead of towards labels."""

    def __init__(self, parent: PreTrainedModel, **settings: Any) -> None:
        super().__init__(**settings)
        self.parent = parent

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Tensor:
        """Mean KL(parent ‖ model) of the batch's real positions, in nats."""
        with torch.no_grad():
            wanted_BTV = self.parent(**inputs).logits
        kl_BT = kl_divergence(wanted_BTV, model(**inputs).logits)
        mask_BT = inputs["attention_mask"].bool()
        return kl_BT[mask_BT].mean()


class Progress(TrainerCallback):
    """One line now and then."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" in logs:
            self.say(f"repair step {state.global_step} of {state.max_steps}: KL {float(logs['loss']):.3g}")


def repair(
    moe: PreTrainedModel,
    parent: PreTrainedModel,
    sequences: Sequence[Tensor],
    *,
    steps: int,
    lr: float,
    batch: int,
    seed: int,
    say: Callable[[str], None],
) -> None:
    """Train experts and routers of ``moe`` in place for ``steps`` steps of ``batch`` sequences, where it and
    ``parent`` are."""
    device = moe.device
    for name, parameter in moe.named_parameters():
        parameter.requires_grad_(".mlp." in name)
    forked = torch.random.fork_rng(devices=seeded())
    with tempfile.TemporaryDirectory(prefix="depo-repair-") as scratch, forked:
        settings = TrainingArguments(
            output_dir=scratch,
            max_steps=steps,
            per_device_train_batch_size=batch,
            learning_rate=lr,
            lr_scheduler_type="cosine",
            warmup_steps=round(WARMUP * steps),
            seed=seed64(seed, "repair") % 2**32,  # numpy takes no larger one
            use_cpu=device.type == "cpu",
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_steps=max(1, steps // 10),
            report_to="none",
            disable_tqdm=True,
        )
        settings._n_gpu = min(1, settings.n_gpu)  # of several GPUs the Trainer would use all, by threads
        trainer = Distillation(
            parent,
            model=moe,
            args=settings,
            train_dataset=list(sequences),
            data_collator=pad,
            callbacks=[Progress(say)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    moe.requires_grad_(True).eval()
