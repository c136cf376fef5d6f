"""Fine-tuning jobs through crashes, restarts, pauses and refusals."""

import asyncio
import io
import json
import threading
from dataclasses import replace

import httpx2
import pytest

from ouroboros.stores.open import open_blobs, open_metadata
from ouroboros.testing.backend import FakeBackend
from tests.server.running import RunningServer, run_server

ROWS = [
    {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]}
    for n in range(8)
]


class SlowBackend(FakeBackend):
    """Waits in the middle of its first training until it is let on or cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()

    async def train(self, job, on_progress=None, cancel=None):
        if not self.reached.is_set() and cancel is not None:
            self.reached.set()
            while not cancel.cancelled:
                await asyncio.sleep(0)
            cancel.raise_if_cancelled()
        return await super().train(job, on_progress, cancel)


class StuckBackend(FakeBackend):
    """Learns nothing from any training."""

    async def train(self, job, on_progress=None, cancel=None):
        outcome = await super().train(job, on_progress, cancel)
        return replace(outcome, files=job.start)


def lines(rows: list) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def upload(http: httpx2.Client, rows: list, name: str = "rows.jsonl") -> str:
    files = {"file": (name, io.BytesIO(lines(rows)))}
    return http.post("/v1/files", data={"purpose": "fine-tune"}, files=files).json()["id"]


def create(http: httpx2.Client, **body) -> httpx2.Response:
    headers = body.pop("headers", {})
    return http.post("/v1/fine_tuning/jobs", json={"model": "fake", **body}, headers=headers)


def finish(server: RunningServer, http: httpx2.Client, id: str) -> dict:
    """The job once nothing runs any more."""
    server.call(server.runner.wait())
    return http.get(f"/v1/fine_tuning/jobs/{id}").json()


def messages(http: httpx2.Client, id: str) -> list[str]:
    events = http.get(f"/v1/fine_tuning/jobs/{id}/events?limit=1000").json()["data"]
    return [event["message"] for event in reversed(events)]


@pytest.fixture(scope="module")
def fake():
    with run_server(FakeBackend) as server, httpx2.Client(base_url=server.url, timeout=60) as http:
        yield server, http


def test_a_job_makes_an_adapter_and_its_record_stays(fake):
    server, http = fake
    job = create(http, training_file=upload(http, ROWS), suffix="a", metadata={"k": "v"}).json()
    assert job["status"] == "validating_files"
    done = finish(server, http, job["id"])
    assert (done["status"], done["fine_tuned_model"], done["error"]) == ("succeeded", "a@2", None)
    assert done["hyperparameters"]["batch_size"] == 8
    (file,) = done["result_files"]
    assert http.get(f"/v1/files/{file}/content").text.startswith("step,train_loss\n")
    (checkpoint,) = http.get(f"/v1/fine_tuning/jobs/{job['id']}/checkpoints").json()["data"]
    assert checkpoint["fine_tuned_model_checkpoint"] == "a@2"
    texts = messages(http, job["id"])
    assert texts[0] == "Validating the training file."
    assert texts[-1] == "The job succeeded: a@2 is served."
    listed = http.get("/v1/fine_tuning/jobs", params={"metadata[k]": "v"}).json()["data"]
    assert [j["id"] for j in listed] == [job["id"]]
    assert http.get("/v1/fine_tuning/jobs", params={"metadata[k]": "w"}).json()["data"] == []


def test_an_adapter_is_trained_further_by_its_name(fake):
    server, http = fake
    file = upload(http, ROWS)
    first = create(http, training_file=file, suffix="further").json()
    finish(server, http, first["id"])
    second = create(http, model="further", training_file=upload(http, ROWS[:3])).json()
    assert finish(server, http, second["id"])["fine_tuned_model"] == "further@3"
    clash = create(http, training_file=upload(http, ROWS[:2]), suffix="further")
    assert (clash.status_code, clash.json()["error"]["param"]) == (409, "suffix")
    assert clash.headers["x-should-retry"] == "false"


def test_a_repeated_request_is_the_same_job(fake):
    server, http = fake
    file = upload(http, ROWS)
    first = create(http, training_file=file, suffix="repeated").json()
    assert create(http, training_file=file, suffix="repeated").json()["id"] == first["id"]
    keyed = create(http, training_file=file, suffix="keyed", headers={"idempotency-key": "x"})
    repeat = create(http, training_file=file, suffix="keyed", headers={"idempotency-key": "x"})
    assert keyed.json()["id"] == repeat.json()["id"]
    other = create(http, training_file=file, suffix="other", headers={"idempotency-key": "x"})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
    server.call(server.runner.wait())


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"messages": []}], "line 1"),
        ([*ROWS, {"nonsense": 1}], "line 9"),
        ([], "no examples"),
    ],
)
def test_a_bad_file_fails_the_job_and_makes_no_adapter(fake, rows, words):
    server, http = fake
    job = create(http, training_file=upload(http, rows, "../../etc\n/x.jsonl"), suffix="bad").json()
    done = finish(server, http, job["id"])
    assert (done["status"], done["error"]["code"]) == ("failed", "invalid_training_file")
    assert done["error"]["param"] == "training_file"
    assert words in done["error"]["message"]
    assert http.get("/v1/models/bad").status_code == 404


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"training_file": "file-none"}, None),
        ({"method": {"type": "reinforcement"}}, "method.type"),
        ({"integrations": [{"type": "wandb"}]}, "integrations"),
        ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2}}}}, "method.dpo"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"n_epochs": 3}, "n_epochs"),
    ],
)
def test_what_a_job_cannot_do_is_refused_by_its_name(fake, body, param):
    _, http = fake
    answer = create(http, **{"training_file": upload(http, ROWS), **body})
    assert answer.status_code in (400, 404)
    assert (answer.json()["error"]["param"] or "").startswith(param or "")


def test_a_paused_job_is_queued_and_goes_on(tmp_path):
    backend = SlowBackend()
    with (
        run_server(lambda: backend) as server,
        httpx2.Client(base_url=server.url, timeout=60) as http,
    ):
        job = create(http, training_file=upload(http, ROWS), suffix="a").json()
        assert backend.reached.wait(60)
        paused = http.post(f"/v1/fine_tuning/jobs/{job['id']}/pause").json()
        assert paused["status"] == "queued"
        assert "The job is paused. POST its /resume to go on." in messages(http, job["id"])
        http.post(f"/v1/fine_tuning/jobs/{job['id']}/resume")
        assert finish(server, http, job["id"])["fine_tuned_model"] == "a@2"
        late = http.post(f"/v1/fine_tuning/jobs/{job['id']}/pause")
        assert (late.status_code, late.json()["error"]["code"]) == (400, "invalid_state")


def test_a_cancelled_job_leaves_its_adapter_as_it_was():
    backend = SlowBackend()
    with (
        run_server(lambda: backend) as server,
        httpx2.Client(base_url=server.url, timeout=60) as http,
    ):
        job = create(http, training_file=upload(http, ROWS), suffix="a").json()
        assert backend.reached.wait(60)
        cancelled = http.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel").json()
        assert (cancelled["status"], cancelled["fine_tuned_model"]) == ("cancelled", None)
        assert http.get("/v1/models/a").json()["root"] == "a@1"
        assert server.call(server.engine.list_jobs()).unwrap() == []


def test_a_job_that_the_gate_refuses_fails_with_its_verdict_and_its_candidate_can_be_asked():
    with (
        run_server(StuckBackend) as server,
        httpx2.Client(base_url=server.url, timeout=60) as http,
    ):
        job = create(http, training_file=upload(http, ROWS), suffix="a").json()
        done = finish(server, http, job["id"])
        assert (done["status"], done["error"]["code"]) == ("failed", "refused")
        events = http.get(f"/v1/fine_tuning/jobs/{job['id']}/events").json()["data"]
        (verdict,) = [event for event in events if event["level"] == "warn"]
        assert verdict["data"]["version"] == "a@2"
        assert verdict["data"]["failed_checks"]
        (checkpoint,) = http.get(f"/v1/fine_tuning/jobs/{job['id']}/checkpoints").json()["data"]
        candidate = checkpoint["fine_tuned_model_checkpoint"]
        assert candidate == "a@2"
        chat = {"model": candidate, "messages": [{"role": "user", "content": "q1"}]}
        answer = http.post("/v1/chat/completions", json=chat)
        assert answer.headers["x-ouroboros-version"] == "a@2"
        assert http.get("/v1/models/a").json()["root"] == "a@1"


def test_a_job_goes_on_when_the_server_starts_again(tmp_path):
    stores = [
        open_metadata(f"sqlite:///{tmp_path / 'metadata.db'}"),
        open_blobs(f"file://{tmp_path / 'blobs'}"),
    ]
    backend = SlowBackend()
    with (
        run_server(lambda: backend, *stores) as server,
        httpx2.Client(base_url=server.url, timeout=60) as http,
    ):
        job = create(http, training_file=upload(http, ROWS), suffix="a").json()
        assert backend.reached.wait(60)
    stores = [
        open_metadata(f"sqlite:///{tmp_path / 'metadata.db'}"),
        open_blobs(f"file://{tmp_path / 'blobs'}"),
    ]
    with (
        run_server(FakeBackend, *stores) as server,
        httpx2.Client(base_url=server.url, timeout=60) as http,
    ):
        server.call(server.warm.wait())
        done = finish(server, http, job["id"])
        assert (done["status"], done["fine_tuned_model"]) == ("succeeded", "a@2")
        assert "The server stops. The job goes on when it starts again." in messages(http, job["id"])


def test_pairs_are_learned_once_each(fake):
    server, http = fake
    pairs = [
        {
            "input": {"messages": [{"role": "user", "content": f"q{n}"}], "tools": []},
            "preferred_output": [{"role": "assistant", "content": f"good {n}"}],
            "non_preferred_output": [{"role": "assistant", "content": f"bad {n}"}],
        }
        for n in range(3)
    ]
    method = {"type": "dpo", "dpo": {"hyperparameters": {"beta": "auto"}}}
    job = create(http, training_file=upload(http, pairs), suffix="pairs", method=method).json()
    done = finish(server, http, job["id"])
    assert (done["status"], done["error"]) == ("succeeded", None)
    assert "3 of 3 pairs were learned." in messages(http, job["id"])
    chat = {"model": "pairs", "messages": [{"role": "user", "content": "q1"}]}
    answer = http.post("/v1/chat/completions", json=chat).json()
    assert answer["choices"][0]["message"]["content"] == "good 1"


def test_files_expire_and_are_deleted(fake):
    server, http = fake
    file = upload(http, ROWS)
    assert http.get(f"/v1/files/{file}/content").content == lines(ROWS)
    assert http.delete(f"/v1/files/{file}").json()["deleted"]
    assert http.get(f"/v1/files/{file}/content").status_code == 404
    short = http.post(
        "/v1/files",
        data={
            "purpose": "fine-tune",
            "expires_after[anchor]": "created_at",
            "expires_after[seconds]": "3600",
        },
        files={"file": b"{}"},
    ).json()
    assert short["expires_at"] == short["created_at"] + 3600
    change = server.service.records.files.change
    change(short["id"], lambda record: {**record, "expires_at": 1})
    assert http.get(f"/v1/files/{short['id']}").status_code == 404
    wrong = http.post("/v1/files", data={"purpose": "x"}, files={"file": b"{}"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "purpose")
