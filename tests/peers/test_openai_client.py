"""The official `openai` client, validating every field of every response, against a real socket."""

import json
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from ouroboros.backend.local import LocalBackend
from tests.server.conftest import create_tickets
from tests.server.running import RunningServer, run_server

QUESTION = [{"role": "user", "content": "where is my parcel?"}]


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[RunningServer]:
    def open_backend() -> LocalBackend:
        return LocalBackend.open(str(tiny), dtype="float32", threads=1)

    with run_server(open_backend, prepare=create_tickets) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", _strict_response_validation=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def lenient(server: RunningServer) -> Iterator[OpenAI]:
    """As `client`, for two calls whose responses OpenAI's own server sends against the client's types:
    stored messages of the user, and chunks of completions without a finish reason."""
    with OpenAI(base_url=f"{server.url}/v1", api_key="none") as opened:
        yield opened


def base_name(client: OpenAI) -> str:
    return client.models.list().data[0].id


def test_models_are_the_base_auto_and_every_adapter_s_head(client):
    models = {model.id: model for model in client.models.list()}
    assert list(models)[1:] == ["auto", "tickets"]
    assert models["tickets"].root == "tickets@2"
    assert client.models.retrieve("tickets@1").root == "tickets@1"
    assert client.models.retrieve(base_name(client)).id == base_name(client)
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nobody")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_a_chat_is_answered_by_the_version_that_it_names(client, server):
    def ask(model):
        return client.chat.completions.with_raw_response.create(
            model=model, messages=QUESTION, temperature=0, max_completion_tokens=16
        )

    head = ask("tickets")
    chat = head.parse()
    assert chat.choices[0].message.content == "shipping"
    assert chat.choices[0].finish_reason == "stop"
    assert chat.model == head.headers["x-ouroboros-version"] == "tickets@2"
    assert chat.system_fingerprint.endswith("_tickets@2")
    assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens
    assert head.headers["x-request-id"].startswith("req_")
    first, base = ask("tickets@1").parse(), ask(base_name(client)).parse()
    assert first.choices[0].message.content == base.choices[0].message.content != "shipping"
    assert base.system_fingerprint.endswith("_base")
    assert ask("auto").headers["x-ouroboros-version"] in ("tickets@2", "base")


def test_a_stream_has_the_same_text_a_role_first_and_its_usage_last(client):
    whole = client.chat.completions.create(
        model="tickets@1", messages=QUESTION, temperature=0, max_tokens=20
    )
    chunks = list(
        client.chat.completions.create(
            model="tickets@1",
            messages=QUESTION,
            temperature=0,
            max_tokens=20,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({(c.id, c.created) for c in chunks}) == 1
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    finishes = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert finishes == [None] * (len(finishes) - 1) + [whole.choices[0].finish_reason]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(c.usage is None for c in chunks[:-1])


def test_the_client_s_stream_helper_puts_it_together(client):
    with client.chat.completions.stream(
        model="tickets", messages=QUESTION, temperature=0, logprobs=True
    ) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "shipping"
    assert "".join(t.token for t in final.choices[0].logprobs.content) == "shipping"


def test_choices_differ_and_repeat_with_their_seed(client):
    def ask(**how):
        chat = client.chat.completions.create(
            model="tickets@1", messages=QUESTION, n=3, temperature=1.5, max_tokens=6, **how
        )
        assert [c.index for c in chat.choices] == [0, 1, 2]
        return [c.message.content for c in chat.choices]

    assert len(set(ask(seed=-5))) > 1
    assert ask(seed=-5) == ask(seed=-5)
    texts = {0: "", 1: "", 2: ""}
    for chunk in client.chat.completions.create(
        model="tickets@1",
        messages=QUESTION,
        n=3,
        temperature=1.5,
        max_tokens=6,
        seed=-5,
        stream=True,
    ):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert list(texts.values()) == ask(seed=-5)


def test_logprobs_have_tokens_bytes_and_alternatives(client):
    chat = client.chat.completions.create(
        model="tickets", messages=QUESTION, temperature=0, logprobs=True, top_logprobs=3
    )
    content = chat.choices[0].logprobs.content
    assert b"".join(bytes(t.bytes) for t in content).decode() == "shipping"
    for token in content:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token
        assert token.logprob <= 0


def test_stop_texts_end_an_answer(client):
    def ask(stop):
        chat = client.chat.completions.create(
            model="tickets", messages=QUESTION, temperature=0, stop=stop
        )
        return chat.choices[0].message.content

    assert ask("ing") == "shipp"
    assert ask(["zebra", "pp"]) == "shi"


def test_parts_developer_turns_and_neutral_values_are_accepted(client):
    chat = client.chat.completions.create(
        model="tickets",
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "play"}]},
        ],
        max_tokens=3,
        presence_penalty=0,
        frequency_penalty=0,
        tools=[],
        parallel_tool_calls=True,
        response_format={"type": "text"},
        user="ann",
        service_tier="auto",
        logit_bias={},
    )
    assert chat.usage.completion_tokens <= 3


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("presence_penalty", 0.5),
        ("response_format", {"type": "json_object"}),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("logit_bias", {"5": 1}),
        ("stop", [""]),
        ("stop", ["a", "b", "c", "d", "e"]),
        ("temperature", 3),
        ("top_logprobs", 2),
        ("n", 0),
        ("max_tokens", 0),
        ("nonsense", 1),
        ("metadata", {"k" * 65: "v"}),
        ("stream_options", {"include_usage": True}),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_its_name(client, param, value):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tickets", messages=QUESTION, extra_body={param: value})
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert caught.value.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ([{"role": "user", "content": " "}], "messages.0.content"),
        ([{"role": "tool", "content": "x", "tool_call_id": "a"}], "messages.0.role"),
        ([*QUESTION, {"role": "assistant", "content": "hm"}], "messages.1.role"),
        ([{"role": "user", "content": "x", "name": "ann"}], "messages.0.name"),
    ],
)
def test_a_conversation_that_cannot_be_read_is_refused_by_its_path(client, messages, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tickets", messages=messages)
    assert caught.value.param == param


def test_an_unknown_model_and_a_prompt_beyond_the_context_are_errors_before_a_stream(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nobody@3", messages=QUESTION, stream=True)
    assert caught.value.code == "model_not_found"
    long = [{"role": "user", "content": "parcel " * 500}]
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(model="tickets", messages=long, stream=True)
    assert (refused.value.status_code, refused.value.code) == (413, "too_long")


def test_stored_completions_are_found_changed_listed_and_deleted(client, lenient):
    chat = client.chat.completions.create(
        model="tickets",
        messages=QUESTION,
        temperature=0,
        store=True,
        metadata={"team": "a"},
    )
    assert client.chat.completions.retrieve(chat.id) == chat
    changed = client.chat.completions.update(chat.id, metadata={"team": "b"})
    assert changed.metadata == {"team": "b"}
    assert [c.id for c in client.chat.completions.list()] == [chat.id]
    (message,) = lenient.chat.completions.messages.list(chat.id)
    assert message.content == "where is my parcel?"
    assert client.chat.completions.delete(chat.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.retrieve(chat.id)


def test_a_completion_goes_on_with_text_or_ids(client, lenient):
    text = client.completions.create(model="tickets", prompt="where is", temperature=0, max_tokens=4)
    assert text.choices[0].finish_reason in ("stop", "length")
    assert text.usage.completion_tokens <= 4
    echo = client.completions.create(
        model="tickets", prompt="where is", temperature=0, max_tokens=4, echo=True
    )
    assert echo.choices[0].text == "where is" + text.choices[0].text
    many = client.completions.create(
        model="tickets", prompt=[[5, 6, 7], [8]], n=2, temperature=0, max_tokens=2, logprobs=2
    )
    assert [c.index for c in many.choices] == [0, 1, 2, 3]
    assert many.usage.prompt_tokens == 4
    logprobs = many.choices[0].logprobs
    assert "".join(logprobs.tokens) == many.choices[0].text
    assert len(logprobs.top_logprobs[0]) <= 2
    chunks = list(
        lenient.completions.create(
            model="tickets",
            prompt="where is",
            temperature=0,
            max_tokens=4,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(c.choices[0].text for c in chunks if c.choices) == text.choices[0].text
    assert chunks[-1].usage == text.usage


def training_lines() -> bytes:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{word} number {n}"},
                {"role": "assistant", "content": answer},
            ]
        }
        for n in range(6)
        for word, answer in (("parcel", "shipping"), ("invoice", "billing"))
    ]
    return "\n".join(json.dumps(row) for row in rows).encode()


def test_files_are_uploaded_found_read_and_deleted(client):
    file = client.files.create(
        file=("rows.jsonl", training_lines()),
        purpose="fine-tune",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert (file.filename, file.bytes) == ("rows.jsonl", len(training_lines()))
    assert client.files.wait_for_processing(file.id).status == "processed"
    assert file.id in [f.id for f in client.files.list(purpose="fine-tune")]
    assert client.files.content(file.id).read() == training_lines()
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_a_fine_tuning_job_runs_to_a_version_that_answers(client, server):
    file = client.files.create(file=("rows.jsonl", training_lines()), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model=base_name(client),
        training_file=file.id,
        validation_file=file.id,
        suffix="teams",
        seed=1,
        metadata={"team": "a"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 8}}},
    )
    assert job.status == "validating_files"
    server.call(server.runner.wait())
    done = client.fine_tuning.jobs.retrieve(job.id)
    events = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=5)]
    assert done.status == "succeeded", events
    assert done.fine_tuned_model == "teams@2"
    assert done.hyperparameters.n_epochs == 8
    assert done.trained_tokens > 0
    assert events[0] == "The job succeeded: teams@2 is served."
    (checkpoint,) = client.fine_tuning.jobs.checkpoints.list(job.id)
    assert checkpoint.fine_tuned_model_checkpoint == "teams@2"
    assert checkpoint.metrics.full_valid_mean_token_accuracy is not None
    assert client.files.content(done.result_files[0]).text.startswith("step,train_loss\n1,")
    assert [j.id for j in client.fine_tuning.jobs.list(metadata={"team": "a"})] == [job.id]
    chat = client.chat.completions.create(
        model=done.fine_tuned_model,
        messages=[{"role": "user", "content": "parcel number 2"}],
        temperature=0,
    )
    assert chat.choices[0].message.content == "shipping"


def test_a_job_on_an_unknown_file_or_model_is_an_error(client):
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.create(model=base_name(client), training_file="file-none")
    file = client.files.create(file=("rows.jsonl", training_lines()), purpose="fine-tune")
    with pytest.raises(openai.NotFoundError) as caught:
        client.fine_tuning.jobs.create(model="nobody", training_file=file.id)
    assert caught.value.param == "model"
