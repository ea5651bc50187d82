"""Text to measure a mixture on and to repair it with: the user's passages, the dense model's own, or ours."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from depo.errors import UserError
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
    stops = model.generation_config.eos_token_id
    stops = {*(stops if isinstance(stops, list) else [stops]), tokenizer.eos_token_id} - {None}
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
