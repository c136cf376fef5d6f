"""Plans under the size limit."""

from collections.abc import Callable

import pytest

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.config import AUTO, AdapterConfig
from ouroboros.domain.errors import TooLarge
from ouroboros.domain.weights import MAX_BYTES, Precision
from ouroboros.lora.planning import list_size_options, resolve_config, shrink_to_limit
from ouroboros.lora.size import check_size

BaseOf = Callable[..., BaseModel]


@pytest.fixture
def large(base_of: BaseOf) -> BaseModel:
    """Layers of a 7-billion-parameter model."""
    return base_of({f"self_attn.{n}_proj": (4096, 4096) for n in "qkvo"}, layers=32)


def test_the_table_says_what_fits_in_which_precision(large: BaseModel):
    table = {(p.targets, p.precision): p for p in list_size_options(large, 16)}
    assert len(table) == 2 * len(Precision)
    assert [table["auto", p].fits for p in Precision] == [False, False, True, True]
    assert not any(table["all-linear", p].fits for p in list(Precision)[:3])
    for row in table.values():
        assert row.fits == (row.size <= MAX_BYTES) == (row.largest_rank >= 16)


def test_without_known_queries_only_all_layers_are_planned(base_of: BaseOf):
    assert {p.targets for p in list_size_options(base_of({"in_proj": (8, 8)}), 8)} == {"all-linear"}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (AdapterConfig(rank=8), AdapterConfig(rank=8)),
        (AdapterConfig(rank=16), AdapterConfig(rank=16, precision="int8")),
        (AdapterConfig(rank=32), AdapterConfig(rank=32, precision="int4")),
        (AdapterConfig(rank=64), AdapterConfig(rank=35, precision="int4")),
    ],
)
def test_what_is_too_large_is_quantised_before_its_rank_is_cut(
    large: BaseModel, config: AdapterConfig, expected: AdapterConfig
):
    shrunk = shrink_to_limit(large, config)
    assert shrunk == expected
    check_size(large, shrunk)


@pytest.mark.parametrize(("rank", "precision"), [(8, "auto"), (16, "int8"), (32, "int4"), (64, "auto")])
def test_auto_comes_to_the_first_precision_that_fits(large: BaseModel, rank: int, precision: str):
    """At rank 64 none does: it stays, and is refused as it was asked for."""
    assert resolve_config(large, AdapterConfig(rank=rank)).precision == precision


def test_a_precision_that_was_named_stays(large: BaseModel):
    config = AdapterConfig(rank=16, precision="bfloat16")
    assert resolve_config(large, config) == config


def test_odd_widths_do_not_come_to_int4(base_of: BaseOf):
    odd = base_of({"mixer": (99_999, 99_999)}, layers=9)
    assert resolve_config(odd, AdapterConfig(rank=8, target_modules="mixer")).precision == AUTO


def test_fewer_layers_are_the_last_resort(base_of: BaseOf):
    widths = {"q_proj": (4096, 4096), "v_proj": (4096, 4096), "mlp.up": (1_000_000, 1_000_000)}
    huge = base_of(widths, layers=60)
    shrunk = shrink_to_limit(huge, AdapterConfig(target_modules="all-linear"))
    assert (shrunk.target_modules, shrunk.precision, shrunk.rank) == ("auto", "int4", 8)


def test_nothing_fits_at_all(base_of: BaseOf):
    with pytest.raises(TooLarge):
        shrink_to_limit(
            base_of({"mixer": (1_000_000, 1_000_000)}, 99), AdapterConfig(target_modules="mixer")
        )
