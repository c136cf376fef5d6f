"""Bounds on what a config.json may state, checked before anything is built by it."""

from typing import Any

from ouroboros.domain.errors import ModelError

LIMITS = {
    1_000: "num_hidden_layers n_layer n_layers num_layers num_decoder_layers num_hidden_groups",
    10_000: "num_attention_heads num_key_value_heads n_head num_heads n_heads num_experts"
    " num_local_experts n_routed_experts",
    1 << 18: "hidden_size n_embd d_model head_dim dim embedding_size word_embed_proj_dim",
    1 << 21: "intermediate_size moe_intermediate_size ffn_dim n_inner d_ff ffn_hidden_size",
    1 << 23: "vocab_size",
    1 << 28: "max_position_embeddings n_positions n_ctx",
}
"""The most that a size may be, by the names that configurations give it. The largest public models have
126 layers, a width of 18,432 and a million tokens."""

_MOST = {name: most for most, names in LIMITS.items() for name in names.split()}
_DEPTH = 4


def check_config(config: dict[str, Any], where: str) -> None:
    """Raise `ModelError` where a size is of the wrong kind, below 1, or beyond what any model has."""
    _check(config, where, 0)


def _check(config: dict[str, Any], where: str, depth: int) -> None:
    for key, value in config.items():
        if key in _MOST and value is not None:
            _check_size(key, value, where)
        elif isinstance(value, dict) and key.endswith("_config") and depth < _DEPTH:
            _check(value, where, depth + 1)


def _check_size(key: str, value: Any, where: str) -> None:
    # Some configurations state one number per layer.
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, bool) or not isinstance(number, int) or number < 0 or number > _MOST[key]:
            raise ModelError(
                f"The configuration of {where} states {key} as {str(number)[:40]};"
                f" whole numbers up to {_MOST[key]:,} are accepted.",
                hint="Fetch the model again; this configuration is damaged or not a real one.",
            )
