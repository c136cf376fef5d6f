"""A base's tokenizer without its weights, to measure texts before anything is loaded."""

from pathlib import Path

from transformers import AutoTokenizer, GenerationConfig

from ouroboros.backend.local.model.config_only import build_meta_model
from ouroboros.backend.local.model.load import context_length
from ouroboros.backend.local.model.tokenizer import ChatTokenizer
from ouroboros.domain.errors import ModelError
from ouroboros.models.resolve import resolve_model


def load_tokenizer(name: str) -> ChatTokenizer:
    """The tokenizer of `name` ("starter", a folder or a hub id), which knows the model's context.

    Raises `ModelError` if there is no configuration of a causal language model, or no tokenizer.
    """
    source = resolve_model(name)
    model = build_meta_model(source)
    generation = model.generation_config
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        if (Path(source) / "generation_config.json").is_file():
            generation = GenerationConfig.from_pretrained(source)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            f"The tokenizer of {name!r} cannot be loaded.", hint="Give a folder with it, or a hub id."
        ) from error
    end_ids = generation.eos_token_id if generation else None
    end_ids = [end_ids] if isinstance(end_ids, int) else list(end_ids or [])
    return ChatTokenizer(tokenizer, end_ids, context_length(model))
