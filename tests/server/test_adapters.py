"""Adapters over HTTP: versions, verdicts, undo, merges, pins, export; and what a key may see."""

import io
import zipfile

import httpx2
import pytest

from ouroboros.domain.data import TrainingExample
from ouroboros.server.keys import create_key
from ouroboros.testing.backend import FakeBackend
from tests.server.running import run_server

QUESTION = [{"role": "user", "content": "where is my parcel?"}]
RIGHT = {"messages": QUESTION, "output": "shipping"}


async def create_adapters(engine):
    for name, answer in (("tickets", "shipping"), ("shop/eu", "versand")):
        (await engine.create_adapter(name)).unwrap()
        rows = [TrainingExample("where is my parcel?", answer)]
        (await engine.train_adapter(name, rows)).unwrap()


@pytest.fixture
def http():
    with (
        run_server(FakeBackend, prepare=create_adapters) as server,
        httpx2.Client(base_url=server.url, timeout=60) as client,
    ):
        yield client


def ask(http, model, **more):
    body = {"model": model, "messages": QUESTION}
    return http.post("/v1/chat/completions", json=body, **more)


def test_an_adapter_is_created_described_listed_and_deleted(http):
    created = http.post("/v1/adapters", json={"name": "poems", "rank": 4, "description": "Verse."})
    assert created.status_code == 201
    assert (created.json()["root"], created.json()["config"]["rank"]) == ("poems@1", 4)
    assert http.get("/v1/adapters/poems").json() == created.json()
    names = [a["id"] for a in http.get("/v1/adapters").json()["data"]]
    assert names == ["poems", "shop/eu", "tickets"]
    first = http.get("/v1/adapters", params={"limit": 1}).json()
    assert (first["last_id"], first["has_more"]) == ("poems", True)
    rest = http.get("/v1/adapters", params={"after": "poems"}).json()["data"]
    assert [a["id"] for a in rest] == names[1:]
    clash = http.post("/v1/adapters", json={"name": "poems"})
    assert (clash.status_code, clash.headers["x-should-retry"]) == (409, "false")
    assert http.delete("/v1/adapters/poems").json()["deleted"]
    assert http.get("/v1/adapters/poems").status_code == 404


def test_versions_have_verdicts_and_any_of_them_can_be_served(http):
    versions = http.get("/v1/adapters/tickets/versions").json()["data"]
    assert [(v["id"], v["served"]) for v in versions] == [("tickets@1", False), ("tickets@2", True)]
    assert versions[1]["verdict"]
    verdict = http.get("/v1/adapters/tickets@2/verdict").json()
    assert verdict["promoted"]
    assert verdict["lines"]
    rolled = http.post("/v1/adapters/tickets/rollback", json={"version": 1}).json()
    assert rolled["root"] == "tickets@1"
    assert ask(http, "tickets").headers["x-ouroboros-version"] == "tickets@1"
    assert http.post("/v1/adapters/tickets/rollback", json={"version": 9}).status_code == 404


def test_a_name_with_a_slash_is_addressed_encoded(http):
    assert http.get("/v1/adapters/shop%2Feu").json()["id"] == "shop/eu"
    versions = http.get("/v1/adapters/shop%2Feu/versions").json()["data"]
    assert [v["id"] for v in versions] == ["shop/eu@1", "shop/eu@2"]
    answer = ask(http, "shop/eu")
    assert answer.json()["choices"][0]["message"]["content"] == "versand"
    assert http.get("/v1/models/shop%2Feu").json()["root"] == "shop/eu@2"


def test_two_versions_are_compared_and_evaluated(http):
    body = {"before": "tickets@1", "after": "tickets@2", "examples": [RIGHT]}
    diff = http.post("/v1/adapters/diff", json=body).json()
    (answer,) = diff["answers"]
    assert (answer["expected"], answer["after"]) == ("shipping", "shipping")
    scores = [
        http.post(f"/v1/adapters/{name}/evaluate", json={"examples": [RIGHT]}).json()["accuracy"]
        for name in ("tickets@1", "tickets@2")
    ]
    assert scores == [0.0, 1.0]


def test_adapters_are_merged_into_a_new_one(http):
    merged = http.post(
        "/v1/adapters/merge",
        json={"adapters": ["tickets", "tickets@1"], "name": "both", "anyway": True},
    )
    assert merged.status_code == 201, merged.text
    assert http.get("/v1/adapters/both/versions").json()["data"][0]["parents"] == [
        "tickets@2",
        "tickets@1",
    ]


def test_answers_are_pinned_and_let_go(http):
    pinned = http.post("/v1/adapters/tickets/pins", json={"examples": [RIGHT]}).json()["data"]
    assert [(p["messages"], p["output"]) for p in pinned] == [(QUESTION, "shipping")]
    assert http.get("/v1/adapters/tickets/pins").json()["data"] == pinned
    unpinned = http.post("/v1/adapters/tickets/unpin", json={"prompts": [QUESTION]})
    assert unpinned.json()["data"] == []


def test_what_an_event_taught_is_forgotten(http):
    (event,) = http.get("/v1/adapters/tickets/versions").json()["data"][1]["events"]
    erasure = http.post("/v1/adapters/tickets/forget", json={"events": [event]}).json()
    assert erasure["events"] == {"tickets": [event]}
    assert erasure["removed"] == ["tickets@2"]
    assert ask(http, "tickets").json()["choices"][0]["message"]["content"] != "shipping"


def test_a_version_is_exported_as_files(http):
    packed = http.get("/v1/adapters/tickets@2/export")
    with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
        assert "adapter_config.json" in archive.namelist()
    assert http.get("/v1/adapters/tickets/export", params={"form": "exe"}).status_code == 400


def test_the_nearest_adapters_are_found(http):
    matches = http.post("/v1/adapters/find", json={"text": "where is my parcel?", "k": 1}).json()
    assert matches["data"][0]["sure"] in (True, False)


def test_vllm_s_verbs_take_names_and_never_paths(http):
    load = {"lora_name": "tickets", "lora_path": "/etc"}
    answer = http.post("/v1/load_lora_adapter", json=load)
    assert answer.text == "Success: LoRA adapter 'tickets' added successfully."
    assert http.post("/v1/unload_lora_adapter", json={"lora_name": "tickets"}).status_code == 200
    for name in ("nobody", "../../etc/passwd", "a\0b"):
        assert http.post("/v1/load_lora_adapter", json={"lora_name": name}).status_code == 404


def test_a_key_sees_its_own_tenant_and_adapters_and_nothing_else():
    with (
        run_server(FakeBackend, prepare=create_adapters, keyless=False) as server,
        httpx2.Client(base_url=server.url, timeout=60) as http,
    ):
        records = server.service.records
        every, _ = create_key(records, "ann", scopes=("read", "generate", "feedback", "train"))
        shop, _ = create_key(
            records, "shop", tenant="shop", scopes=("read", "generate", "feedback"), adapters=("shop/*",)
        )
        expired, _ = create_key(records, "old", days=0)
        ann, bob, old = [{"authorization": f"Bearer {k}"} for k in (every, shop, expired)]
        # What a key may not see does not exist for it.
        assert [a["id"] for a in http.get("/v1/adapters", headers=bob).json()["data"]] == ["shop/eu"]
        ids = [m["id"] for m in http.get("/v1/models", headers=bob).json()["data"]]
        assert ids == ["fake", "auto", "shop/eu"]
        for path in ("/v1/adapters/tickets", "/v1/models/tickets", "/v1/adapters/tickets/versions"):
            assert http.get(path, headers=bob).status_code == 404
            assert http.get(path, headers=ann).status_code == 200
        hidden, unknown = ask(http, "tickets", headers=bob), ask(http, "nobody", headers=bob)
        assert hidden.status_code == unknown.status_code == 404
        assert (
            hidden.json()["error"]["message"].replace("tickets", "nobody")
            == (unknown.json()["error"]["message"])
        )
        assert ask(http, "shop/eu", headers=bob).status_code == 200
        # Records of one tenant do not exist for another.
        chat = ask(http, "tickets", headers=ann).json()
        judged = {"completion_id": chat["id"], "rating": "up"}
        assert http.post("/v1/feedback", json=judged, headers=bob).status_code == 404
        ticket = http.post("/v1/feedback", json=judged, headers=ann).json()
        assert http.get(f"/v1/feedback/{ticket['id']}", headers=bob).status_code == 404
        assert http.delete(f"/v1/feedback/{ticket['id']}", headers=bob).status_code == 404
        file = http.post(
            "/v1/files", data={"purpose": "fine-tune"}, files={"file": b"{}"}, headers=ann
        ).json()
        assert http.get(f"/v1/files/{file['id']}/content", headers=bob).status_code == 404
        assert http.get("/v1/files", headers=bob).json()["data"] == []
        # Scopes and expiry.
        refused = http.post("/v1/adapters", json={"name": "shop/us"}, headers=bob)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "missing_scope")
        assert http.delete("/v1/adapters/tickets", headers=ann).status_code == 403
        assert http.get("/v1/models", headers=old).json()["error"]["code"] == "expired_key"
        for wrong in ({}, {"authorization": "Basic x"}, {"authorization": "Bearer nonsense"}):
            assert http.get("/v1/models", headers=wrong).status_code == 401
        assert http.get("/health").status_code == 200
