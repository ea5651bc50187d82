"""A small `qwen3_moe` with a character tokenizer, built from scratch.

Small enough to be trained in a minute on a laptop, yet the same architecture, router included, as the
mixture-of-experts policies this project is about. What is written is an ordinary Hugging Face directory.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

from depo.files import follow_umask
from depo.recipe.schema import TinyMoePolicy
from depo.rng import seed64
from depo.toy import written

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
CHARACTERS = "0123456789+-*="
WRITTEN = CHARACTERS + "".join(c for c in written.CHARACTERS if c not in CHARACTERS)


def build(policy: TinyMoePolicy, directory: Path, seed: int, attempt: int = 0) -> None:
    """Write model and tokenizer to ``directory``, weights drawn from ``seed`` and ``attempt``.

    Both load with ``AutoModelForCausalLM`` and ``AutoTokenizer``, without custom code.
    """
    tokenizer = character_tokenizer(
        policy.max_positions, WRITTEN if policy.warm_start.written else CHARACTERS
    )
    config = model_config(policy, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed64(seed, "tiny_moe", index=attempt))
        model = Qwen3MoeForCausalLM(config)
    # Nothing but the end token: sampling is the engine's business.
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    follow_umask(directory)


def character_tokenizer(max_length: int, characters: str = CHARACTERS) -> PreTrainedTokenizerFast:
    """One token a character; decoding puts them together again without spaces."""
    vocabulary = {token: i for i, token in enumerate([PAD, EOS, UNKNOWN, *characters])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = Split(Regex("."), behavior="isolated")
    tokenizer.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def model_config(policy: TinyMoePolicy, tokenizer: PreTrainedTokenizerFast) -> Qwen3MoeConfig:
    """The architecture; the load-balancing loss is off, as everywhere in this project unless asked for."""
    return Qwen3MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=policy.hidden_size,
        intermediate_size=policy.expert_size
        * policy.experts_per_token,  # of dense layers, of which it has none
        num_hidden_layers=policy.layers,
        num_attention_heads=policy.heads,
        num_key_value_heads=policy.kv_heads,
        head_dim=policy.hidden_size // policy.heads,
        moe_intermediate_size=policy.expert_size,
        num_experts=policy.experts,
        num_experts_per_tok=policy.experts_per_token,
        norm_topk_prob=True,
        initializer_range=policy.init_std,
        router_aux_loss_coef=0.0,
        max_position_embeddings=policy.max_positions,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype=policy.dtype,
    )
