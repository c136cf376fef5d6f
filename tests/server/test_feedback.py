"""Feedback by completion id: durable, learned once, answered by tickets, unlearned."""

import json

import httpx2
import pytest

from ouroboros.stores.open import open_blobs, open_metadata
from ouroboros.testing.backend import FakeBackend
from tests.server.running import run_server

QUESTION = [{"role": "user", "content": "where is my parcel?"}]


async def create_adapter(engine):
    (await engine.create_adapter("tickets")).unwrap()


@pytest.fixture
def fake():
    with (
        run_server(FakeBackend, prepare=create_adapter) as server,
        httpx2.Client(base_url=server.url, timeout=60) as http,
    ):
        yield server, http


def ask(http, model="tickets", **body):
    chat = http.post("/v1/chat/completions", json={"model": model, "messages": QUESTION, **body})
    return chat.json()


def give(http, headers=None, **body):
    return http.post("/v1/feedback", json=body, headers=headers or {})


def follow(http, id):
    """The ticket's events up to its end."""
    text = http.get(f"/v1/feedback/{id}/events").text
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


def test_a_correction_is_accepted_at_once_and_learned(fake):
    _, http = fake
    chat = ask(http)
    answer = give(http, completion_id=chat["id"], correction="shipping", user="ann")
    assert answer.status_code == 202
    ticket = answer.json()
    assert answer.headers["location"] == f"/v1/feedback/{ticket['id']}"
    assert ticket["status"] in ("pending", "learned")
    final = follow(http, ticket["id"])[-1]
    assert (final["status"], final["version"]) == ("learned", "tickets@2")
    assert http.get(f"/v1/feedback/{ticket['id']}").json() == final
    assert ask(http)["choices"][0]["message"]["content"] == "shipping"
    listed = http.get("/v1/feedback", params={"adapter": "tickets"}).json()["data"]
    assert [t["id"] for t in listed] == [ticket["id"]]


@pytest.mark.parametrize(
    ("judgement", "kind"),
    [
        ({"rating": "up"}, "success"),
        ({"rating": "down"}, "failure"),
        ({"score": 0.5}, "success"),
        ({"score": -0.5}, "failure"),
        ({"critique": "too long"}, "critique"),
        ({"chosen": "a", "rejected": "b"}, "preference_pair"),
    ],
)
def test_every_judgement_becomes_its_signal(fake, judgement, kind):
    _, http = fake
    ticket = give(http, completion_id=ask(http)["id"], **judgement).json()
    assert ticket["kind"] == kind
    assert follow(http, ticket["id"])[-1]["lesson"]


def test_one_completion_is_preferred_over_another(fake):
    _, http = fake
    before = ask(http)
    correction = give(http, completion_id=before["id"], correction="shipping").json()
    follow(http, correction["id"])
    after = ask(http)
    ticket = give(http, completion_id=after["id"], preferred_over=before["id"]).json()
    assert ticket["kind"] == "preference_pair"
    other = http.post(
        "/v1/chat/completions",
        json={"model": "tickets", "messages": [{"role": "user", "content": "hello"}]},
    ).json()
    refused = give(http, completion_id=after["id"], preferred_over=other["id"])
    assert refused.json()["error"]["param"] == "preferred_over"


def test_the_same_feedback_is_one_event(fake):
    _server, http = fake
    body = {"completion_id": ask(http)["id"], "correction": "shipping"}
    first, repeat = give(http, **body).json(), give(http, **body).json()
    assert (first["id"], first["event"]) == (repeat["id"], repeat["event"])
    keyed = give(http, {"idempotency-key": "k"}, **body).json()
    assert give(http, {"idempotency-key": "k"}, **body).json()["id"] == keyed["id"]
    reused = give(http, {"idempotency-key": "k"}, **{**body, "correction": "billing"})
    assert reused.json()["error"]["code"] == "idempotency_key_reused"


def test_what_is_unlearned_is_not_answered_any_more(fake):
    _server, http = fake
    ticket = give(http, completion_id=ask(http)["id"], correction="shipping").json()
    follow(http, ticket["id"])
    assert http.delete(f"/v1/feedback/{ticket['id']}").json()["deleted"]
    assert ask(http)["choices"][0]["message"]["content"] != "shipping"
    assert http.get(f"/v1/feedback/{ticket['id']}").json()["status"] == "forgotten"
    assert http.delete(f"/v1/feedback/{ticket['id']}").status_code == 200
    repeat = give(http, completion_id=ticket["completion_id"], correction="shipping")
    assert (repeat.status_code, repeat.json()["error"]["code"]) == (409, "forgotten")


def test_an_answer_of_the_base_teaches_the_adapter_that_is_named(fake):
    _, http = fake
    chat = ask(http, "fake")
    nameless = give(http, completion_id=chat["id"], correction="shipping")
    assert nameless.json()["error"]["param"] == "adapter"
    named = give(http, completion_id=chat["id"], correction="shipping", adapter="tickets").json()
    assert follow(http, named["id"])[-1]["status"] == "learned"


def test_a_completion_that_was_not_kept_needs_its_prompt_and_answer(fake):
    _, http = fake
    chat = ask(http, store=False)
    missing = give(http, completion_id=chat["id"], rating="up")
    assert (missing.status_code, missing.json()["error"]["param"]) == (404, "completion_id")
    whole = give(http, messages=QUESTION, answer="hm", adapter="tickets", correction="shipping")
    assert whole.status_code == 202
    assert follow(http, whole.json()["id"])[-1]["status"] == "learned"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"rating": "up", "score": 1}, 400),
        ({"chosen": "a"}, 400),
        ({"rating": "sideways"}, 400),
        ({"score": 2}, 400),
        ({"rating": "up", "choice": 1}, 400),
        ({"correction": " "}, 400),
        ({"rating": "up", "adapter": "nobody"}, 404),
        ({"rating": "up", "nonsense": 1}, 400),
    ],
)
def test_feedback_that_cannot_be_learned_is_refused(fake, body, status):
    _, http = fake
    answer = give(http, completion_id=ask(http)["id"], **body)
    assert answer.status_code == status
    assert http.get("/v1/feedback").json()["data"] == []


def test_completions_and_tickets_outlive_the_server(tmp_path):
    def stores():
        metadata = open_metadata(f"sqlite:///{tmp_path / 'metadata.db'}")
        return metadata, open_blobs(f"file://{tmp_path / 'blobs'}")

    with (
        run_server(FakeBackend, *stores(), prepare=create_adapter) as server,
        httpx2.Client(base_url=server.url, timeout=60) as http,
    ):
        chat = ask(http)
        early = give(http, completion_id=chat["id"], critique="fine").json()
    with (
        run_server(FakeBackend, *stores()) as server,
        httpx2.Client(base_url=server.url, timeout=60) as http,
    ):
        assert give(http, completion_id=chat["id"], critique="fine").json()["id"] == early["id"]
        late = give(http, completion_id=chat["id"], correction="shipping").json()
        assert follow(http, late["id"])[-1]["status"] == "learned"
        assert follow(http, early["id"])[-1]["lesson"]
