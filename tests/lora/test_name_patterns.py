"""Keys of rank_pattern and alpha_pattern fit paths exactly as in PEFT, in bounded time."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from ouroboros.domain.errors import InvalidAdapter
from ouroboros.lora.name_patterns import PatternTable

PATHS = [
    f"model.layers.{n}.{block}" for n in (0, 1, 11) for block in ("self_attn.q_proj", "mlp.up_proj")
]
PATHS += ["q_proj", "lm_head", "model.q_proj", "model.layers.1.self_attn.qq_proj"]


@pytest.mark.parametrize(
    "keys",
    [
        ["q_proj"],
        ["^q_proj"],
        ["^model.layers.0.self_attn.q_proj"],
        [r"^model\.layers\.0\.self_attn\.q_proj$"],
        ["q_proj", "layers.1.self_attn.q_proj"],
        ["layers.1.self_attn.q_proj", "q_proj"],
        [r"model.layers.\d+.self_attn.q_proj"],
        [r"layers\.(0|1)\..*", ".*"],
        [".*q_proj"],
        ["(q|up)_proj"],
        ["^(model.)?q_proj"],
        [r"layers\.1{2}\.mlp\..*", r"layers\.[0-9]\.mlp\.up_proj", "up_proj"],
        ["self_attn", "mlp"],
        ["attn.q_proj"],
        ["[^q]_proj", "q?q_proj"],
        [r"\w+_proj$"],
        ["a|b", "lm_head|q_proj"],
        ["(?:lm)_head"],
        ["q_proj", ".*q_proj", "^q_proj"],
    ],
)
def test_the_first_key_that_fits_is_the_one_that_peft_takes(keys):
    table = PatternTable("alpha_pattern", {key: key for key in keys})
    assert [table.find(path, path) for path in PATHS] == [get_pattern_key(keys, path) for path in PATHS]


_ATOMS = st.sampled_from(["a", "b", r"\.", "(.)", "[ab]", "[^a]", r"\w", r"\d", "1", "^", "$", ""])


def _combine(inner):
    return st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{0,}", "*?"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
    )


@given(st.recursive(_ATOMS, _combine, max_leaves=6), st.text("ab1.", max_size=6))
def test_expressions_fit_as_in_pythons_re(pattern, path):
    expected = re.match(rf"(.*\.)?({pattern})$", path) is not None
    assert (PatternTable("alpha_pattern", {pattern: True}).find(path, False)) is expected


@pytest.mark.parametrize(
    "key",
    [
        "(?=a)b",
        r"(a)\1",
        "a**",
        "a{2}{3}",
        "a++",
        "(a",
        "a)",
        "[a",
        "[b-a]",
        "*a",
        r"\b",
        "a\\",
        "(" * 40 + ")" * 40,
        "((((a{90}){90}){90}){90})",
        "((((){90}){90}){90}){90}",
        "a{101}",
        "[" + "a" * 3000 + "]",
    ],
)
def test_expressions_that_are_not_regular_or_too_large_are_refused_by_name(key):
    with pytest.raises(InvalidAdapter, match=r"alpha_pattern.*not supported"):
        PatternTable("alpha_pattern", {key: 1})


@pytest.mark.parametrize(
    "table",
    [
        {"(a*)*b": 1},
        {"(.*)*(.*)*(.*)*(.*)*x": 1},
        {"(a|a)*" * 9: 1},
        {"(.*a)" + ".{90}" * 10: 1},
        {f"(.*[ab]{{{n}}})+x": 1 for n in range(90)},
        {f"{'x' * 20}{n}": 1 for n in range(40_000)},
        {f".{'x' * 9}{n}.*y": 1 for n in range(3_000)},
    ],
)
def test_a_hostile_table_costs_a_second_at_most(table):
    paths = [f"model.{'ab' * 60}.{n}" for n in range(500)]
    start = time.process_time()
    try:
        patterns = PatternTable("alpha_pattern", table)
        assert {patterns.find(path, 0) for path in paths} <= {0, 1}
    except InvalidAdapter as error:
        assert "alpha_pattern" in error.message
    assert time.process_time() - start < 5.0  # an idle machine takes about half a second
