"""Health, readiness, errors and the checks before every handler."""

import socket

import httpx2
import pytest

from ouroboros.server.service import Limits
from ouroboros.testing.backend import FakeBackend
from tests.server.running import run_server

CHAT = {"model": "tickets", "messages": [{"role": "user", "content": "play"}]}


def test_health_and_readiness(http, server):
    assert http.get("/health").json() == {"status": "ok"}
    ready = http.get("/ready")
    assert ready.status_code == 200
    assert ready.json()["checks"] == {"draining": "ok", "model": "ok", "store": "ok"}


def test_request_ids_are_taken_over_if_they_are_harmless(http):
    assert http.get("/health", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    odd = http.get("/health", headers={"x-request-id": "a b"}).headers["x-request-id"]
    assert odd.startswith("req_")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("PUT", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/models/..%2F..%2Fetc", 404, "model_not_found"),
        ("GET", "/v1/models/a%00b", 404, "model_not_found"),
        ("GET", "/v1/chat/completions/nope", 404, "not_found"),
        ("GET", "/v1/chat/completions?limit=0", 400, "invalid_value"),
    ],
)
def test_every_error_has_openai_s_form(http, method, path, status, code):
    answer = http.request(method, path)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["code"] == code
    assert set(error) == {"message", "type", "param", "code"}
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"model": NaN}', "application/json", 400),
        (b"{}", "text/plain", 400),
        (b"\xff\xfe", "application/json", 400),
        (b'{"model": "tickets", "messages": []}', "application/json", 400),
        (b"x" * (8 * 2**20 + 1), "application/json", 413),
    ],
)
def test_a_bad_body_is_the_caller_s_error(http, body, kind, status):
    answer = http.post("/v1/chat/completions", content=body, headers={"content-type": kind})
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "", "127.0.0.1.evil.example"])
def test_without_keys_only_this_machine_s_names_are_answered(http, host):
    answer = http.get("/v1/models", headers={"host": host})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden_host")
    assert http.get("/v1/models", headers={"host": "localhost:1234"}).status_code == 200


def test_without_keys_pages_of_other_sites_change_nothing(http):
    foreign = http.post("/v1/chat/completions", json=CHAT, headers={"origin": "https://evil.example"})
    assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "forbidden_origin")
    null = http.post("/v1/chat/completions", json=CHAT, headers={"origin": "null"})
    assert null.status_code == 403
    local = http.post(
        "/v1/chat/completions",
        json=CHAT | {"max_tokens": 1},
        headers={"origin": "http://localhost:3000"},
    )
    assert local.status_code == 200


def test_a_full_queue_is_429_with_the_time_to_wait():
    with (
        run_server(FakeBackend, limits=Limits(requests=2)) as server,
        httpx2.Client(base_url=server.url, timeout=60) as http,
    ):
        body = {"model": "fake", "messages": CHAT["messages"], "n": 3}
        answer = http.post("/v1/chat/completions", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.headers["x-should-retry"] == "true"
        assert http.post("/v1/chat/completions", json=body | {"n": 2}).status_code == 200


def test_a_body_that_stops_coming_is_given_up():
    with (
        run_server(FakeBackend, limits=Limits(body_seconds=0.05)) as server,
        socket.create_connection(("127.0.0.1", server.port)) as connection,
    ):
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_leaves_frees_its_place(http, server):
    long = CHAT | {"model": "tickets@1", "stream": True, "temperature": 0}
    with http.stream("POST", "/v1/chat/completions", json=long) as stream:
        next(stream.iter_lines())
    server.call(server.service.idle.wait())
    assert server.service.active == 0


def test_metrics_count_requests_tokens_and_active_answers_without_names():
    with (
        run_server(FakeBackend) as server,
        httpx2.Client(base_url=server.url, timeout=60) as http,
    ):
        body = {"model": "fake", "messages": CHAT["messages"]}
        usage = http.post("/v1/chat/completions", json=body).json()["usage"]
        http.post("/v1/chat/completions", json=body | {"stream": True})
        http.get("/v1/models/secret-name")
        http.request("INVENTED", "/v1/models")
        text = http.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values['ouroboros_requests_total{method="POST",status="200"}'] == "2"
    assert values['ouroboros_requests_total{method="GET",status="404"}'] == "1"
    assert values['ouroboros_requests_total{method="OTHER",status="405"}'] == "1"
    assert values['ouroboros_request_seconds_bucket{le="+Inf"}'] == "4"
    assert values['ouroboros_tokens_total{kind="prompt"}'] == str(2 * usage["prompt_tokens"])
    assert values['ouroboros_tokens_total{kind="completion"}'] == str(2 * usage["completion_tokens"])
    assert values["ouroboros_answers_active"] == values["vllm:num_requests_running"] == "0"
    assert "secret-name" not in text


def test_the_audit_log_says_who_changed_what(http):
    assert http.post("/v1/adapters", json={"name": "audited"}).status_code == 201
    assert http.delete("/v1/adapters/audited").status_code == 200
    actions = [(e["actor"], e["action"], e["target"]) for e in http.get("/v1/audit").json()["data"]]
    assert actions[:2] == [
        ("local", "adapter.delete", "audited"),
        ("local", "adapter.create", "audited"),
    ]
