"""The program is killed in the middle of its work: nothing that it acknowledged is lost."""

import json
import random
import time
from pathlib import Path

import httpx2
import pytest

from tests.server.test_serve import environment, start_program

__all__ = ["environment"]

ROWS = "\n".join(
    json.dumps({"prompt": f"{word} number {n}", "completion": answer})
    for n in range(8)
    for word, answer in (("parcel", "shipping"), ("invoice", "billing"))
)


class Acknowledged:
    """What the server has said it has: to be looked for after every kill."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.jobs: list[str] = []
        self.tickets: list[str] = []

    def work(self, http: httpx2.Client, base: str, number: int, steps: int) -> None:
        """Upload, train, ask and judge, until `steps` requests are acknowledged."""
        requests = iter(range(steps))
        for _ in requests:
            data = {"purpose": "fine-tune"}
            file = http.post("/v1/files", data=data, files={"file": ROWS.encode()}).json()
            self.paths.append(f"/v1/files/{file['id']}/content")
            if next(requests, None) is None:
                return
            body = {"model": base, "training_file": file["id"], "suffix": f"a{number}"}
            job = http.post("/v1/fine_tuning/jobs", json=body).json()
            self.jobs.append(job["id"])
            if next(requests, None) is None:
                return
            chat = http.post(
                "/v1/chat/completions",
                json={
                    "model": "judged",
                    "messages": [{"role": "user", "content": f"question {number}"}],
                    "max_tokens": 4,
                    "temperature": 0,
                    "store": True,
                },
            ).json()
            self.paths.append(f"/v1/chat/completions/{chat['id']}")
            if next(requests, None) is None:
                return
            judgement = {"completion_id": chat["id"], "correction": f"answer {number}"}
            ticket = http.post("/v1/feedback", json=judgement).json()
            self.tickets.append(ticket["id"])
            return

    def check(self, http: httpx2.Client) -> None:
        """Everything is there, whatever state it is in."""
        for path in self.paths:
            assert http.get(path).status_code == 200, path
        for job in self.jobs:
            assert http.get(f"/v1/fine_tuning/jobs/{job}").status_code == 200
        for ticket in self.tickets:
            assert http.get(f"/v1/feedback/{ticket}").status_code == 200


@pytest.fixture
def acknowledged() -> Acknowledged:
    return Acknowledged()


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_what_was_acknowledged_outlives_kills(tmp_path: Path, environment, acknowledged, kills):
    draw = random.Random(7)
    for number in range(kills):
        with (
            start_program(tmp_path, environment) as (program, url),
            httpx2.Client(base_url=url, timeout=120) as http,
        ):
            acknowledged.check(http)
            base = http.get("/v1/models").json()["data"][0]["id"]
            if number == 0:
                assert http.post("/v1/adapters", json={"name": "judged"}).status_code == 201
            acknowledged.work(http, base, number, steps=2 + draw.randrange(3))
            time.sleep(draw.random() * 0.5)  # not to wait for anything: the moment of the kill
            program.kill()
    with (
        start_program(tmp_path, environment) as (_, url),
        httpx2.Client(base_url=url, timeout=120) as http,
    ):
        acknowledged.check(http)
        for id in acknowledged.tickets:
            text = http.get(f"/v1/feedback/{id}/events").text
            last = [line for line in text.splitlines() if line.startswith("data: ")][-1]
            assert json.loads(last[6:])["status"] in ("learned", "not_learned"), last
        for id in acknowledged.jobs:
            while (job := http.get(f"/v1/fine_tuning/jobs/{id}").json())["finished_at"] is None:
                time.sleep(0.05)
            assert job["status"] == "succeeded", job
        assert len(acknowledged.jobs) == kills
        lineages = [http.get(f"/v1/adapters/a{n}/versions").json()["data"] for n in range(kills)]
        assert [len(versions) for versions in lineages] == [2] * kills
