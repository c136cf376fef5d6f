"""Rules for the form of answers."""

import json
import re

import pytest

from ouroboros.data.rules import AnswerRule, list_broken_rules, read_rules
from ouroboros.domain.data import Message
from ouroboros.domain.errors import InvalidFile

SIGNED = AnswerRule("sign with the team", "The team$")
TICKET = AnswerRule("name the ticket", r"ticket is {copied}\.", "LH-[0-9]{4}|C\\+\\+")


def test_an_answer_keeps_the_rules_whose_patterns_match():
    rules = [SIGNED, TICKET]
    assert list_broken_rules(rules, "LH-1234 is late", "Your ticket is LH-1234.\nThe team\n") == []
    assert list_broken_rules(rules, "LH-1234 is late", "Your ticket is LH-9.\nThe team") == [TICKET]
    assert list_broken_rules(rules, "LH-1234 is late", "") == rules


def test_what_is_copied_stands_for_itself_and_not_for_an_expression():
    assert TICKET.holds("about C++", "Your ticket is C++.")
    assert not TICKET.holds("about C++", "Your ticket is CCC.")


def test_a_rule_holds_where_there_is_nothing_to_copy():
    assert TICKET.holds("no number", "anything")


def test_what_is_copied_comes_from_the_last_message():
    prompt = (Message("user", "LH-1111"), Message("assistant", "Yes?"), Message("user", "LH-2222"))
    assert TICKET.holds(prompt, "Your ticket is LH-2222.")


def test_a_file_is_read_in_its_order(tmp_path):
    file = tmp_path / "rules.json"
    file.write_text(
        '[{"rule": "b", "pattern": "x"}, {"rule": "a", "pattern": "{copied}", "copied": "y"}]'
    )
    assert read_rules(file) == [AnswerRule("b", "x"), AnswerRule("a", "{copied}", "y")]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("not json", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("{}", "has no rules"),
        ("[]", "has no rules"),
        ('["x"]', "rule 1 is not an object"),
        ('[{"rule": "a", "pattern": "x"}, {"rule": "a"}]', "rule 2 is not an object"),
        ('[{"rule": "a", "pattern": 7}]', "rule 1 is not an object"),
        ('[{"rule": "a", "pattern": "x", "patern": "y"}]', "rule 1 is not an object"),
        ('[{"rule": "the end", "pattern": "("}]', "rule 1 ('the end') is not valid"),
        (json.dumps([{"rule": "a", "pattern": "x", "copied": "["}]), "rule 1 ('a') is not valid"),
    ],
)
def test_a_file_that_is_not_a_list_of_rules_is_refused(tmp_path, content, problem):
    file = tmp_path / "rules.json"
    file.write_text(content)
    with pytest.raises(InvalidFile, match=re.escape(problem)):
        read_rules(file)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InvalidFile, match="cannot be read"):
        read_rules(tmp_path / "none.json")
