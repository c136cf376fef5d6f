"""The JSON behind the views: what each shows, to whom, and how a file is read before a training."""

import httpx2
import pytest

from ouroboros.domain.data import TrainingExample
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.server.keys import create_key
from ouroboros.testing.backend import FakeBackend
from tests.server.running import run_server

QUESTION = [{"role": "user", "content": "where is my parcel?"}]


async def create_adapters(engine):
    for name in ("tickets", "shop/eu"):
        (await engine.create_adapter(name, description=f"Knows {name}.")).unwrap()
        rows = [TrainingExample("where is my parcel?", "shipping")]
        (await engine.train_adapter(name, rows)).unwrap()


@pytest.fixture
def server():
    with run_server(FakeBackend, prepare=create_adapters) as running:
        yield running


@pytest.fixture
def http(server):
    with httpx2.Client(base_url=server.url, timeout=60) as client:
        yield client


def correct(server, name="tickets", text="delivery"):
    """One correction, learned by the adapter."""
    signal = FeedbackSignal.user_correction(text)
    learn = server.engine.learn_from_feedback("and my letter?", "shipping", signal, name, user="ann")
    return server.call(learn).unwrap()


def test_the_overview_has_a_row_for_each_adapter(server, http):
    correct(server)
    overview = http.get("/v1/overview").json()
    assert overview["base"]["name"] == "fake"
    assert [row["id"] for row in overview["data"]] == ["shop/eu", "tickets"]
    tickets = overview["data"][1]
    assert (tickets["head"], tickets["versions"], tickets["pending"]) == (3, 3, 0)
    assert tickets["description"] == "Knows tickets."
    assert tickets["judged"] == {"good": 0, "bad": 1, "trend": ""}
    first = http.get("/v1/overview", params={"limit": 1}).json()
    assert (first["last_id"], first["has_more"]) == ("shop/eu", True)
    second = http.get("/v1/overview", params={"after": first["last_id"]}).json()
    assert [row["id"] for row in second["data"]] == ["tickets"]


def test_what_is_unchanged_is_not_sent_again(server, http):
    overview = http.get("/v1/overview")
    known = {"if-none-match": overview.headers["etag"]}
    assert http.get("/v1/overview", headers=known).status_code == 304
    correct(server)
    assert http.get("/v1/overview", headers=known).status_code == 200


def test_the_timeline_has_versions_with_numbers_and_the_rollbacks(server, http):
    correct(server)
    http.post("/v1/adapters/tickets/rollback", json={"version": 2})
    timeline = http.get("/v1/adapters/tickets/timeline").json()
    kinds = [(v["number"], v["kind"], v["served"]) for v in timeline["versions"]]
    assert kinds == [(1, "created", False), (2, "trained", True), (3, "corrected", False)]
    assert [(m["before"], m["after"]) for m in timeline["moves"]] == [(3, 2)]
    corrected = timeline["versions"][2]
    assert corrected["lessons"][0]["learned"]
    assert {check["name"] for check in corrected["checks"]} >= {"finite", "drift"}
    assert corrected["accuracy"]["rows"] == 1
    assert corrected["accuracy"]["low"] <= corrected["accuracy"]["high"]
    assert http.get("/v1/adapters/shop%2Feu/timeline").json()["adapter"]["id"] == "shop/eu"
    assert http.get("/v1/adapters/nobody/timeline").status_code == 404


def test_events_have_their_texts_and_the_versions_that_learned_them(server, http):
    correct(server)
    events = http.get("/v1/adapters/tickets/events").json()["data"]
    assert [(e["kind"], e["versions"]) for e in events] == [("examples", [2]), ("feedback", [3])]
    assert events[0]["examples"][0]["output"] == "shipping"
    judgement = events[1]
    assert (judgement["answer"], judgement["text"], judgement["user"]) == ("shipping", "delivery", "ann")
    assert (judgement["learned"], judgement["version"], judgement["pending"]) == (True, 3, False)
    page = http.get("/v1/adapters/tickets/events", params={"limit": 1}).json()
    assert page["has_more"]
    after = {"after": page["data"][-1]["event"]}
    assert http.get("/v1/adapters/tickets/events", params=after).json()["data"] == [judgement]
    judgements = http.get("/v1/judgements").json()["data"]
    assert judgements == [judgement]
    assert http.get("/v1/judgements", params={"adapter": "shop/eu"}).json()["data"] == []


def test_activity_says_what_waits_and_counts_requests(server, http):
    job = server.call(server.engine.submit_training("tickets", [TrainingExample("a", "b")])).unwrap()
    activity = http.get("/v1/activity").json()
    assert [(t["id"], t["state"]) for t in activity["trainings"]] == [(job.id, "queued")]
    assert activity["answers"] == {"active": 0, "limit": 256}
    http.get("/v1/adapters/nobody")
    statuses = http.get("/v1/activity").json()["metrics"]["statuses"]
    assert statuses["4xx"] == 1
    assert http.get("/v1/keys").json()["data"] == []


def test_a_file_is_read_line_by_line_before_it_is_trained_on(http):
    lines = [
        b'\xef\xbb\xbf{"prompt": "a", "completion": "b"}',
        b"",
        b"not json",
        b'{"prompt": "a", "completion": "b"}',
        b'{"prompt": "a"}',
        b'{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}',
        b'{"prompt": "\xff", "completion": "b"}',
    ]
    files = {"file": ("rows.jsonl", b"\r\n".join(lines))}
    preview = http.post("/v1/training/preview", files=files).json()
    assert (preview["kind"], preview["rows"], preview["examples"]) == ("examples", 6, 3)
    assert [row["row"] for row in preview["wrong"]] == ["line 3", "line 5", "line 7"]
    assert all(row["message"] and row["hint"] for row in preview["wrong"])
    assert preview["duplicates"] == 1
    assert preview["outputs"][0] == {"output": "b", "rows": 2}
    assert preview["steps"] > 0
    assert 0 < preview["bytes"] <= 10 * 2**20
    assert preview["seconds"] is None
    further = http.post("/v1/training/preview", files=files, params={"adapter": "tickets"}).json()
    assert further["seconds"] >= 0


def test_preferences_are_recognised(http):
    pair = (
        b'{"input": {"messages": [{"role": "user", "content": "x"}]},'
        b' "preferred_output": [{"role": "assistant", "content": "good"}],'
        b' "non_preferred_output": [{"role": "assistant", "content": "bad"}]}'
    )
    preview = http.post("/v1/training/preview", files={"file": ("pairs.jsonl", pair)}).json()
    assert (preview["kind"], preview["examples"], preview["wrong"]) == ("preferences", 1, [])
    assert preview["sample"] == [{"prompt": "x", "output": "good"}]
    empty = http.post("/v1/training/preview", files={"file": ("none.jsonl", b"")}).json()
    assert (empty["examples"], empty["wrong_count"]) == (0, 0)


def test_a_key_sees_its_adapters_and_the_texts_of_its_own_tenant():
    with (
        run_server(FakeBackend, prepare=create_adapters, keyless=False) as server,
        httpx2.Client(base_url=server.url, timeout=60) as http,
    ):
        scopes = ("read", "generate", "feedback")
        keys = [
            create_key(server.service.records, name, tenant=name, scopes=scopes, adapters=("shop/*",))[0]
            for name in ("one", "two")
        ]
        one, two = [{"authorization": f"Bearer {key}"} for key in keys]
        assert [a["id"] for a in http.get("/v1/overview", headers=one).json()["data"]] == ["shop/eu"]
        for path in ("timeline", "events", "probes"):
            assert http.get(f"/v1/adapters/tickets/{path}", headers=one).status_code == 404
        # The examples came by the command line, the judgement from the tenant "one".
        body = {"messages": QUESTION, "answer": "no", "adapter": "shop/eu", "correction": "secret"}
        ticket = http.post("/v1/feedback", json=body, headers=one).json()
        with http.stream("GET", f"/v1/feedback/{ticket['id']}/events", headers=one) as stream:
            list(stream.iter_lines())
        shown = http.get("/v1/adapters/shop%2Feu/events", headers=one).json()["data"]
        assert [event["hidden"] for event in shown] == [True, False]
        assert shown[1]["ticket"] == ticket["id"]
        for path in ("/v1/adapters/shop%2Feu/events", "/v1/judgements", "/v1/adapters/shop%2Feu/probes"):
            seen = http.get(path, headers=two).text
            assert "secret" not in seen
            assert "where is my parcel?" not in seen
        assert http.get("/v1/keys", headers=one).status_code == 403
        assert http.get("/v1/events").status_code == 401
