"""Adapter configs that fit the size limit on a base, by arithmetic alone."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.config import ALL_LINEAR, AUTO, AdapterConfig
from ouroboros.domain.errors import InvalidConfig, TooLarge
from ouroboros.domain.weights import MAX_BYTES, Precision
from ouroboros.lora.size import check_size, largest_rank, predicted_size
from ouroboros.lora.targets import query_value_names, select_layers


@dataclass(frozen=True, slots=True)
class SizeOption:
    """One way to adapt a base: its size in bytes at a rank, and the largest rank that fits (or 0)."""

    targets: str
    layers: int
    precision: Precision
    size: int
    largest_rank: int

    @property
    def fits(self) -> bool:
        """Whether an adapter of this configuration is within the size limit."""
        return self.size <= MAX_BYTES


def list_size_options(base: BaseModel, rank: int) -> tuple[SizeOption, ...]:
    """List the sizes for query and value layers and for all linear layers, in every precision."""
    options = []
    for targets in (AUTO, ALL_LINEAR) if query_value_names(base) else (ALL_LINEAR,):
        shapes = select_layers(base, AdapterConfig(target_modules=targets))
        for precision in Precision:
            size = predicted_size(base, shapes, rank, precision)
            max_rank = largest_rank(base, shapes, precision)
            options.append(SizeOption(targets, len(shapes), precision, size, max_rank))
    return tuple(options)


def resolve_config(base: BaseModel, config: AdapterConfig) -> AdapterConfig:
    """Resolve precision "auto": unchanged, int8 or int4, whichever fits first.

    A config that names a precision, or fits in none, is returned unchanged.
    """
    if config.precision != AUTO:
        return config
    candidates = (
        config,
        *(replace(config, precision=p.value) for p in (Precision.INT8, Precision.INT4)),
    )
    return next((candidate for candidate in candidates if _fits(base, candidate)), config)


def shrink_to_limit(base: BaseModel, config: AdapterConfig) -> AdapterConfig:
    """Return the first config that fits: unchanged, int8, int4, a lower rank, query and value layers
    only.

    Quantisation comes first, because it costs less accuracy than giving up rank for the same bytes.
    Raises `TooLarge` if nothing fits.
    """
    for candidate in _shrinking_candidates(base, config):
        if _fits(base, candidate):
            return candidate
    raise TooLarge(
        f"No adapter on {config.target_modules} of {base.name} stays within {MAX_BYTES:,} bytes.",
        hint="Adapt fewer modules.",
    )


def _shrinking_candidates(base: BaseModel, config: AdapterConfig) -> Iterator[AdapterConfig]:
    yield config
    yield replace(config, precision=Precision.INT8.value)
    smallest = replace(config, precision=Precision.INT4.value)
    yield smallest
    narrower = (replace(smallest, target_modules=AUTO),) if query_value_names(base) else ()
    for candidate in (smallest, *narrower):
        rank = largest_rank(base, select_layers(base, candidate), Precision.INT4)
        if rank:
            yield replace(candidate, rank=min(rank, config.rank))


def _fits(base: BaseModel, config: AdapterConfig) -> bool:
    try:
        check_size(base, config)
    except (TooLarge, InvalidConfig):  # or an odd width, which int4 cannot store
        return False
    return True
