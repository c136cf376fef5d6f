"""Names to layers."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.config import AdapterConfig
from ouroboros.domain.errors import UnknownTarget
from ouroboros.lora.targets import attention_layers, select_layers, shortest_names, target_modules_for


def select_paths(base: BaseModel, targets: str | tuple[str, ...]) -> list[str]:
    return [s.path for s in select_layers(base, AdapterConfig(target_modules=targets))]


def test_names_mean_the_last_part_of_a_path_in_the_bases_order(base: BaseModel):
    assert select_paths(base, "v_proj, q_proj") == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.v_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.self_attn.v_proj",
    ]


def test_longer_names_end_the_path_at_a_dot(base: BaseModel):
    assert select_paths(base, ("1.mlp.up_proj",)) == ["model.layers.1.mlp.up_proj"]
    with pytest.raises(UnknownTarget):
        select_paths(base, ("attn.q_proj",))


def test_all_linear_is_every_layer(base: BaseModel):
    assert select_paths(base, "all-linear") == [s.path for s in base.linears]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("q_proj", "k_proj", "v_proj"), {"q_proj", "v_proj"}),
        (("qkv_proj", "o_proj"), {"qkv_proj"}),
        (("query_key_value", "dense"), {"query_key_value"}),
        (("c_attn", "c_proj", "c_fc"), {"c_attn"}),
        (("Wqkv", "out_proj"), {"Wqkv"}),
        (("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"), {"q_b_proj", "kv_b_proj"}),
    ],
)
def test_auto_finds_query_and_value_whatever_they_are_called(
    base_of: Callable[..., BaseModel], names: tuple[str, ...], expected: set[str]
):
    base = base_of({f"attn.{name}": (8, 8) for name in names})
    assert {path.rpartition(".")[2] for path in select_paths(base, "auto")} == expected


def test_auto_on_an_architecture_without_attention_says_what_there_is(
    base_of: Callable[..., BaseModel],
):
    with pytest.raises(UnknownTarget, match="in_proj, x_proj"):
        select_paths(base_of({"mixer.in_proj": (8, 8), "mixer.x_proj": (8, 8)}), "auto")


def test_one_unknown_name_among_known_ones_is_refused_with_the_list(base: BaseModel):
    with pytest.raises(UnknownTarget, match=r"'c_attn' matches no .*q_proj, k_proj, v_proj"):
        select_paths(base, "q_proj,c_attn")


def test_shortest_names_are_layer_names_where_all_layers_of_that_name_are_meant(base: BaseModel):
    assert shortest_names(base, select_paths(base, "q_proj,v_proj")) == ("q_proj", "v_proj")


def test_shortest_names_are_paths_where_only_some_layers_are_meant(base: BaseModel):
    paths = ["model.layers.1.mlp.up_proj", *select_paths(base, "q_proj")]
    names = shortest_names(base, paths)
    assert names == ("q_proj", "model.layers.1.mlp.up_proj")
    assert set(select_paths(base, names)) == set(paths)


def test_all_layers_are_all_linear(base: BaseModel):
    assert target_modules_for(base, select_paths(base, "all-linear")) == "all-linear"
    assert target_modules_for(base, select_paths(base, "q_proj")) == ("q_proj",)


def test_attention_is_query_value_and_what_lies_beside_them(base: BaseModel):
    names = {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert attention_layers(base) == {s.path for s in base.linears if s.name in names}
    assert attention_layers(base) < {s.path for s in base.linears}


def test_a_base_whose_attention_nobody_knows_has_none(base: BaseModel):
    others = tuple(s for s in base.linears if "attn" not in s.path)
    assert attention_layers(replace(base, linears=others)) == frozenset()
