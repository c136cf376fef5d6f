"""Tiny random models of real architectures, as Hugging Face folders, for tests without downloads."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

_TOKENIZER_TEXT = (
    "the parcel has not arrived yet, where is it? ",
    "please play some music in the kitchen and set an alarm for seven. ",
    "I was charged twice for one order; what should I do? 0123456789 ",
)
_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPECIAL_TOKENS = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
_WIDTH, _LAYERS, _HEADS, _CONTEXT = 64, 2, 4, 256

_LLAMA_LIKE: dict[str, Any] = {
    "hidden_size": _WIDTH,
    "intermediate_size": 96,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": _HEADS,
    "num_key_value_heads": 2,
    "max_position_embeddings": _CONTEXT,
}
_GPT_LIKE: dict[str, Any] = {
    "n_embd": _WIDTH,
    "n_layer": _LAYERS,
    "n_head": _HEADS,
    "n_positions": _CONTEXT,
}
_SHAPES: dict[str, dict[str, Any]] = {
    "llama": _LLAMA_LIKE,
    "mistral": _LLAMA_LIKE,
    "mixtral": _LLAMA_LIKE,
    "qwen2": _LLAMA_LIKE,
    "qwen3": {**_LLAMA_LIKE, "head_dim": 16},
    "qwen3_moe": {
        **_LLAMA_LIKE,
        "head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
    },
    "gemma": {**_LLAMA_LIKE, "head_dim": 16},
    "gemma2": {**_LLAMA_LIKE, "head_dim": 16, "sliding_window": 16},
    "gemma3_text": {**_LLAMA_LIKE, "head_dim": 16, "sliding_window": 16},
    "phi": _LLAMA_LIKE,
    "phi3": _LLAMA_LIKE,
    "stablelm": _LLAMA_LIKE,
    "starcoder2": {**_LLAMA_LIKE, "sliding_window": 16},
    "olmo": _LLAMA_LIKE,
    "olmo2": _LLAMA_LIKE,
    "granite": {**_LLAMA_LIKE, "logits_scaling": 8.0},
    "cohere": _LLAMA_LIKE,
    "cohere2": {**_LLAMA_LIKE, "sliding_window": 16},
    "smollm3": _LLAMA_LIKE,
    "gpt2": _GPT_LIKE,
    "gpt_bigcode": _GPT_LIKE,
    "gpt_neo": {
        "hidden_size": _WIDTH,
        "num_layers": _LAYERS,
        "num_heads": _HEADS,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 16,
        "max_position_embeddings": _CONTEXT,
    },
    "codegen": {**_GPT_LIKE, "rotary_dim": 8, "n_ctx": _CONTEXT},
    "mpt": {"d_model": _WIDTH, "n_layers": _LAYERS, "n_heads": _HEADS, "max_seq_len": _CONTEXT},
    "gptj": {**_GPT_LIKE, "rotary_dim": 8},
    "gpt_neox": {k: v for k, v in _LLAMA_LIKE.items() if k != "num_key_value_heads"},
    "opt": {
        "hidden_size": _WIDTH,
        "ffn_dim": 96,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "max_position_embeddings": _CONTEXT,
        "word_embed_proj_dim": _WIDTH,
    },
    "bloom": {"hidden_size": _WIDTH, "n_layer": _LAYERS, "n_head": _HEADS},
    "falcon": {
        "hidden_size": _WIDTH,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "alibi": False,
    },
}

ARCHITECTURES = tuple(_SHAPES)
"""The model types that `tiny_model` can build."""


def tiny_model(
    folder: Path, architecture: str = "llama", *, seed: int = 0, chat: bool = True, **changes: Any
) -> Path:
    """Write a random model of a few thousand weights and its tokenizer to `folder`, and return `folder`.

    `changes` override the architecture's config. Without `chat` the tokenizer has no chat template. The
    weights have a large variance, so that outputs differ clearly from token to token.
    """
    tokenizer = _train_tokenizer(chat)
    config = AutoConfig.for_model(
        architecture,
        **{
            **_SHAPES[architecture],
            "vocab_size": len(tokenizer),
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **changes,
        },
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for weight in model.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _train_tokenizer(chat: bool) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text round-trips."""
    tokenizer_model = Tokenizer(models.BPE())
    tokenizer_model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer_model.decoder = decoders.ByteLevel()
    tokenizer_model.train_from_iterator(
        _TOKENIZER_TEXT,
        trainers.BpeTrainer(
            vocab_size=320,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=list(_SPECIAL_TOKENS),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer_model, eos_token="<|end|>", pad_token="<|pad|>"
    )
    if chat:
        tokenizer.chat_template = _TEMPLATE
    return tokenizer
