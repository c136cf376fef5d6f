"""Event keys are stored, so each is the same in every release: the digest of a text frozen here."""

from dataclasses import dataclass
from enum import Enum
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ouroboros
from ouroboros.domain.names import VersionRef
from ouroboros.learning.feedback.signals import event_key, feedback_event

turn, signals = ouroboros.Message, ouroboros.FeedbackSignal
KINDS = type(signals.success().kind)

FROZEN = {
    "correction": (
        ("where is my parcel?", "billing", signals.user_correction("delivery"), None, "tickets@3"),
        "5d3048a6c79711d674b6d170004632cb6285ab21989204911d2fc4b8958e0070",
    ),
    "success": (
        ("hello", "hi", signals.success(), "ann", "tickets@1"),
        "1a7181dfee66d3c976815114f2bd8a73eeefad4351b63b7197a81e6969d28e78",
    ),
    "success of a tenth": (
        ("hello", "hi", signals.success(0.1), "ann", "tickets@1"),
        "7c3247cbdcddd2d35fe8d36b45fcfa01af861c419ebdf254b810957f349c2130",
    ),
    "failure of the head": (
        ("hello", "hi", signals.failure(), "ann", "tickets@head"),
        "55463a0c7fc9c7f505d6fd06f7d08dc901b052d7d51a254f5e1cc388e2d6634d",
    ),
    "failure of minus zero": (
        ("hello", "hi", signals.failure(-0.0), None, "tickets@1"),
        "634d9c550763b012237377122a79d6618e59182adb4c315a7bc16058f1c04b62",
    ),
    "failure of a tiny score": (
        ("hello", "hi", signals.failure(-1e-17), None, "tickets@1"),
        "08a68828d77969bb4267ee0a97708299db71b796283c468b5586f9e74bbe029f",
    ),
    "preference": (
        ("hello", "hi", signals.preference(1 / 3), None, "tickets@2"),
        "05ba3a8bef92c40a0d6ef632b8bf85ca7af4725e1f91b613b8177cd220beec61",
    ),
    "preference pair": (
        ("hello", "hi", signals.preference_pair("good day", "yo"), "eve", "tickets@2"),
        "a7110804c27a18200534dd75c59d7215e694394fe5a83f74dcd3bb40a726a78f",
    ),
    "critique": (
        ("hello", "hi", signals.critique("too short"), "eve", "tickets@2"),
        "f0cc7b55cfe07d8e60fe21605186dbc8ef184e0166f5ef5279685de2e47b5f90",
    ),
    "unicode": (
        (
            "Où est mon colis ? 日本語 🐍",
            "naïve",
            signals.user_correction("façade — “quotes”"),
            "Zoë",
            "коробки@12",
        ),
        "9b195f8f03327ac6ed6aafb932eb928dfe58ad02a155fc4ae5cfdc28a4601bba",
    ),
    "invisible characters": (
        (
            "a\u200bb\u00a0c\ufeff\u2028d",
            "x\x7f\x00",
            signals.critique("\x1b[0m\u202e"),
            "\u00ad",
            "t@1",
        ),
        "28d9d7ce7f19004b69537836185d2063abdd26384e138a2c8c109c4eab616325",
    ),
    "quotes": (
        (
            "it's",
            'say "hi"',
            signals.user_correction('it\'s "both" and \\ back'),
            "o'neil",
            "o'clock@1",
        ),
        "0e38096e574082c974d792a6a9ad3e82a91e690433171b98080d46aaaa86d4a9",
    ),
    "newlines and tabs": (
        ("one\ntwo\r\n", "\tthree", signals.user_correction("four\n"), "a\nb", "tickets@1"),
        "67548dc666cec2b8d5ec344c9c937f00979dbc56fa9a8d1dd04663ce3a065fbf",
    ),
    "surrogate escapes": (
        ("\udc80 bad", "\ud83d", signals.critique("\udfff"), "\udcff", "tickets@1"),
        "4ba3379032627264bf6451205cd946a3f67ad4f141cf9fd5eb1d3d2da6c52f26",
    ),
    "empty texts": (
        ("", "", signals.user_correction(""), "", "t@head"),
        "706b42c116106ba5a34434a5aa3fb8732295e4037b3d5abef0527c8d250e5a8e",
    ),
    "one turn": (
        ((turn("user", "hi"),), "hello", signals.success(), None, "tickets@1"),
        "db5132f9a3f730882b0f040e9be0dbad76a637a5ecd588d4ee3a8dcc533574cd",
    ),
    "conversation": (
        (
            (
                turn("system", "Be brief."),
                turn("user", "it's\n“me”"),
                turn("assistant", "Hi"),
                turn("user", "\udc80 日本"),
            ),
            "yes",
            signals.failure(-0.25),
            "ann",
            "tickets@4",
        ),
        "098bb2018eb7725971ea11dd040405a648e9bc32bdfca8b9344c6373f4c2f58e",
    ),
    "list of turns": (
        (
            [turn("user", "hi"), turn("assistant", "a"), turn("user", "b")],
            "hello",
            signals.success(),
            None,
            "tickets@1",
        ),
        "beb6ccb6c61b82098d8d81e3c0137212656b3ad6cbdc9d159413a465cef5a94e",
    ),
    "list of one turn": (
        ([turn("user", "hi")], "hello", signals.success(), None, "tickets@1"),
        "26be4172106f95a88d02eca6bb0ae4a80e8eb65329458243e74beb155dd026c2",
    ),
    "no turns": (
        ((), "hello", signals.success(), None, "tickets@1"),
        "015f56ce68eff5e642767ea2161f220e9605f8d362e6aab1420c8950ed7d504f",
    ),
    "score that is not a number": (
        ("hello", "hi", signals.success(float("nan")), None, "tickets@1"),
        "d865c487fa417ccf36ff9d00b02d3a6cb607189f013d396747ee74e9bec904cc",
    ),
    "score that is an integer": (
        ("hello", "hi", signals(KINDS("success"), score=1), None, "tickets@1"),
        "11435c0405f9f5840784f2beefdcc29e0a88093b111eb50c80b9bc0b1c8c89c4",
    ),
    "kind given as text": (
        ("hello", "hi", signals("success", score=1.0), None, "tickets@1"),  # type: ignore[arg-type]
        "ef4dcafb5a86f6cf6174236a35107dc1da9c2229a9ec2259ac41026721a4ea90",
    ),
    "every field of a signal": (
        ("hello", "hi", signals(KINDS("preference"), 0.5, "a", "b"), "ann", "tickets@1"),
        "dd5c994aad5ccf1949a173d4b75e58ab5b6eff8a51dd9a285633979b77601346",
    ),
    "missing prompt": (
        (None, "hi", signals.success(), None, "tickets@1"),
        "f613ca58b6979e000db77716127a08fb5b990e262f07fe1aee556a4bc242bebc",
    ),
    "turns that are no messages": (
        ((("user", "hi"),), "hi", signals.success(), None, "tickets@1"),
        "a27468dfafd47d72f6b836c77ac62c196751e8dea322c945af504e17c7d4eaa8",
    ),
}


@pytest.mark.parametrize(("values", "digest"), FROZEN.values(), ids=FROZEN)
def test_a_key_is_the_one_that_stores_hold(values, digest) -> None:
    assert event_key(*values) == f"said:{digest}"


def test_an_event_without_a_key_gets_this_one() -> None:
    (prompt, answer, signal, user, answered), digest = FROZEN["success"]
    event = feedback_event(prompt, answer, signal, VersionRef.parse(answered), user=user)
    assert event.key == f"said:{digest}"
    assert feedback_event(prompt, answer, signal, VersionRef.parse(answered), key="mine").key == "mine"


# The first release hashed the `repr` of these three classes, copied here as they were: their names and
# fields belong to the encoding. Do not rename them together with those of the program.


class FeedbackKind(str, Enum):
    CORRECTION = "correction"
    SUCCESS = "success"
    FAILURE = "failure"
    PREFERENCE = "preference"
    PREFERENCE_PAIR = "preference_pair"
    CRITIQUE = "critique"


@dataclass(frozen=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True)
class FeedbackSignal:
    kind: FeedbackKind
    score: float | None
    text: str | None
    rejected: str | None


TEXTS = st.text(st.characters(), max_size=20)
TURNS = st.lists(st.tuples(TEXTS, TEXTS), max_size=3)


@given(
    prompt=st.one_of(TEXTS, TURNS, TURNS.map(tuple)),
    answer=TEXTS,
    kind=st.sampled_from(FeedbackKind),
    score=st.none() | st.floats() | st.integers(),
    text=st.none() | TEXTS,
    rejected=st.none() | TEXTS,
    user=st.none() | TEXTS,
    answered=TEXTS,
)
def test_the_encoding_is_that_of_the_first_release(
    prompt, answer, kind, score, text, rejected, user, answered
) -> None:
    given_prompt = first_prompt = prompt
    if not isinstance(prompt, str):
        given_prompt = type(prompt)(turn(*texts) for texts in prompt)
        first_prompt = type(prompt)(Message(*texts) for texts in prompt)
    signal = signals(KINDS(kind.value), score, text, rejected)
    first_signal = FeedbackSignal(kind, score, text, rejected)
    first_text = repr((first_prompt, answer, first_signal, user, answered))
    digest = sha256(first_text.encode(errors="replace")).hexdigest()
    assert event_key(given_prompt, answer, signal, user, answered) == f"said:{digest}"
