"""What adapters of a base could look like under the size limit, by arithmetic alone."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.config import ALL_LINEAR, AUTO, AdapterConfig
from ouroboros.domain.errors import InvalidConfig, TooLarge
from ouroboros.domain.weights import MAX_BYTES, Precision
from ouroboros.lora.size import check_size, largest_rank, predicted_size
from ouroboros.lora.targets import query_value, select


@dataclass(frozen=True, slots=True)
class SizeOption:
    """One way to adapt a base: `size` bytes at the rank asked for; the largest rank that fits, or 0."""

    targets: str
    layers: int
    precision: Precision
    size: int
    largest_rank: int

    @property
    def fits(self) -> bool:
        return self.size <= MAX_BYTES


def list_size_options(base: BaseModel, rank: int) -> tuple[SizeOption, ...]:
    """Sizes for query and value alone and for all linear layers, in every precision."""
    found = []
    for targets in (AUTO, ALL_LINEAR) if query_value(base) else (ALL_LINEAR,):
        shapes = select(base, AdapterConfig(target_modules=targets))
        for precision in Precision:
            size = predicted_size(base, shapes, rank, precision)
            most = largest_rank(base, shapes, precision)
            found.append(SizeOption(targets, len(shapes), precision, size, most))
    return tuple(found)


def resolve_config(base: BaseModel, config: AdapterConfig) -> AdapterConfig:
    """`config` with what "auto" comes to: as it is, int8 or int4, whichever fits first.

    Unchanged where it names a precision itself, and where nothing fits.
    """
    if config.precision != AUTO:
        return config
    tried = (config, *(replace(config, precision=p.value) for p in (Precision.INT8, Precision.INT4)))
    return next((candidate for candidate in tried if _fits(base, candidate)), config)


def shrink_to_limit(base: BaseModel, config: AdapterConfig) -> AdapterConfig:
    """`config` with the least change that fits: none, int8, int4, lower rank, query and value alone.

    Quantising comes first: it costs less than the rank that the same bytes would buy. Raises `TooLarge`
    if nothing fits.
    """
    for candidate in _ever_smaller(base, config):
        if _fits(base, candidate):
            return candidate
    raise TooLarge(
        f"No adapter on {config.target_modules} of {base.name} stays within {MAX_BYTES:,} bytes.",
        hint="Adapt fewer modules.",
    )


def _ever_smaller(base: BaseModel, config: AdapterConfig) -> Iterator[AdapterConfig]:
    yield config
    yield replace(config, precision=Precision.INT8.value)
    smallest = replace(config, precision=Precision.INT4.value)
    yield smallest
    narrow = (replace(smallest, target_modules=AUTO),) if query_value(base) else ()
    for candidate in (smallest, *narrow):
        rank = largest_rank(base, select(base, candidate), Precision.INT4)
        if rank:
            yield replace(candidate, rank=min(rank, config.rank))


def _fits(base: BaseModel, config: AdapterConfig) -> bool:
    try:
        check_size(base, config)
    except (TooLarge, InvalidConfig):  # or too odd for int4
        return False
    return True
