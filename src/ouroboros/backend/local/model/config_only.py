"""A base as a value from its config.json alone: no weights are read, downloaded or allocated."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ouroboros.domain.base_model import BaseModel, Fingerprint
from ouroboros.domain.errors import ModelError
from ouroboros.lora.inject import linear_shapes
from ouroboros.models.folder_check import check_config_file
from ouroboros.models.limits import check_config
from ouroboros.models.resolve import resolve_model

_NO_DIGEST = "0" * 64
"""Stands for the digests of files that are not read; it is as long as one."""


def describe_base(name: str) -> BaseModel:
    """The layers of `name` ("starter", a folder or a hub id). Its fingerprint stands for none.

    Raises `ModelError` if there is no configuration of a causal language model.
    """
    source = resolve_model(name)
    model = build_meta_model(source)
    text_config = model.config.get_text_config()
    return BaseModel(
        name=Path(name).name if Path(name).exists() else name,
        fingerprint=Fingerprint(_NO_DIGEST, _NO_DIGEST, _NO_DIGEST, _NO_DIGEST, text_config.vocab_size),
        architecture=text_config.model_type,
        width=text_config.hidden_size,
        layers=text_config.num_hidden_layers,
        context=getattr(text_config, "max_position_embeddings", None) or 0,
        parameters=model.num_parameters(),
        linears=linear_shapes(model),
        heads=text_config.num_attention_heads,
    )


def build_meta_model(source: str) -> PreTrainedModel:
    """A model whose weights have shapes and nothing else. Raises `ModelError` like `describe_base`."""
    if (Path(source) / "config.json").is_file():
        check_config_file(Path(source))
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        check_config(config.to_dict(), source)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{source!r} has no configuration of a causal language model.",
            hint="Give a folder with its config.json, or a hub id.",
        ) from error
