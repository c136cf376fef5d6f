"""adapter_config.json: what is understood, what is refused by name."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.errors import InvalidAdapter
from ouroboros.lora.peft_config import PeftLoraConfig, read_peft_config, write_peft_config

FACTS = PeftLoraConfig(
    rank=8,
    alpha=16.0,
    use_rslora=True,
    base_name="toy",
    target_modules=("q_proj",),
    ranks={"model.layers.1.self_attn.q_proj": 4},
    alphas={"model.layers.1.self_attn.q_proj": 12.5},
)


def document(**changes: Any) -> bytes:
    plain = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "toy",
        "r": 8,
        "lora_alpha": 16,
        "target_modules": ["q_proj"],
    }
    return json.dumps({**plain, **changes}).encode()


def test_what_is_written_is_read(base: BaseModel):
    assert read_peft_config(write_peft_config(FACTS, base)) == FACTS


def test_equal_facts_give_equal_bytes(base: BaseModel):
    assert write_peft_config(FACTS, base) == write_peft_config(FACTS, base)


def test_a_whole_alpha_is_written_as_an_integer(base: BaseModel):
    assert json.loads(write_peft_config(FACTS, base))["lora_alpha"] == 16


@pytest.mark.parametrize(
    "option",
    [
        {"use_dora": True},
        {"bias": "lora_only"},
        {"lora_bias": True},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [1]},
        {"layer_replication": [[0, 2]]},
        {"target_parameters": ["experts.down_proj"]},
        {"use_qalora": True},
        {"alora_invocation_tokens": "<|assistant|>"},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": ["gaussian"]},
        {"init_lora_weights": 7},
        {"peft_type": "IA3"},
        {"peft_type": ["LORA"]},
        {"peft_type": None},
        {"task_type": "SEQ_CLS"},
        {"custom_code": "print(1)"},
        {"megatron_config": {"a": 1}},
        {"auto_mapping": {"base_model_class": "system", "parent_library": "os"}},
        {"auto_mapping": {"base_model_class": "X", "parent_library": "transformers.models.x.y\n.os"}},
        {"auto_mapping": ["os"]},
    ],
)
def test_what_would_change_the_weights_meaning_is_refused_by_name(option: dict[str, Any]):
    with pytest.raises(InvalidAdapter, match=next(iter(option))):
        read_peft_config(document(**option))


@pytest.mark.parametrize(
    "option",
    [
        {"r": 0},
        {"r": 257},
        {"r": True},
        {"r": 8.0},
        {"r": None},
        {"lora_alpha": 0},
        {"lora_alpha": "16"},
        {"lora_alpha": 1e300},
        {"use_rslora": 1},
        {"base_model_name_or_path": 7},
        {"target_modules": None},
        {"target_modules": [1]},
        {"target_modules": []},
        {"rank_pattern": ["q_proj"]},
        {"rank_pattern": {"q_proj": 0}},
        {"rank_pattern": {"(?=a)": 4}},
        {"alpha_pattern": {"q_proj": -1}},
        {"alpha_pattern": {"a**": 4}},
    ],
)
def test_senseless_values_are_refused(option: dict[str, Any]):
    with pytest.raises(InvalidAdapter, match=next(iter(option))):
        read_peft_config(document(**option))


@pytest.mark.parametrize("option", ["use_dora", "modules_to_save", "an_option_of_tomorrow"])
@pytest.mark.parametrize("off", [None, False, [], {}])
def test_options_that_are_off_do_not_matter(option: str, off: object):
    assert read_peft_config(document(**{option: off})).rank == 8


def test_the_mapping_that_peft_writes_for_a_model_of_transformers_does_not_matter():
    mapping = {
        "base_model_class": "LlamaForCausalLM",
        "parent_library": "transformers.models.llama.modeling_llama",
    }
    assert read_peft_config(document(auto_mapping=mapping)).rank == 8


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"LORA"', b'{"r": 1, "r": 2}', b"\xff"])
def test_unsound_json_is_refused(raw: bytes):
    with pytest.raises(InvalidAdapter, match=r"adapter_config\.json"):
        read_peft_config(raw)


def test_a_huge_file_is_refused():
    with pytest.raises(InvalidAdapter, match="1 MiB"):
        read_peft_config(b" " * ((1 << 20) + 1))


@pytest.mark.parametrize("pattern", ["q_proj", "^q_proj", r"self_attn\.q_proj", "attn.q_proj$"])
def test_patterns_are_looked_up_as_names(pattern: str):
    facts = read_peft_config(document(rank_pattern={pattern: 2}, alpha_pattern={pattern: 3}))
    path = "q_proj" if pattern.startswith("^") else "model.attn.self_attn.q_proj"
    if pattern == "attn.q_proj$":
        path = "model.attn.q_proj"
    assert facts.rank_of(path) == 2
    assert facts.scale_of(path) == 1.5
    assert facts.rank_of("model.v_proj") == 8


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
KEYS = [*json.loads(document()), "rank_pattern", "alpha_pattern", "use_rslora", "bias", "use_dora"]


@given(st.dictionaries(st.sampled_from(KEYS) | st.text(), ANYTHING, min_size=1, max_size=3))
@settings(max_examples=500, deadline=None)
def test_whatever_stands_in_a_config_it_is_read_or_refused(changes: dict[str, Any]):
    try:
        facts = read_peft_config(document(**changes))
    except InvalidAdapter as error:
        assert error.hint
    else:
        assert 1 <= facts.rank_of("model.layers.0.q_proj") <= 256
        assert facts.scale_of("model.layers.0.q_proj") > 0
