"""Finding adapters, from outside: a fake backend that counts words, real stores."""

import pytest

from ouroboros.domain.data import Message, TrainingExample
from ouroboros.domain.errors import InvalidConfig, InvalidExample, InvalidName
from ouroboros.domain.names import AdapterId
from ouroboros.engine import AdapterLearningEngine
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import open_blobs, open_metadata
from ouroboros.testing.backend import FakeBackend

PARCELS = [
    TrainingExample(text, "parcel")
    for text in ("where is my parcel", "my parcel is late", "the parcel never came", "lost parcel")
]
MUSIC = [
    TrainingExample(text, "music")
    for text in ("play some jazz music", "play a song", "play loud music", "stop the music please")
]


@pytest.fixture
def opened(tmp_path):
    def engine(backend=None) -> AdapterLearningEngine:
        registry = Registry(
            open_metadata(f"sqlite:///{tmp_path}/metadata.db"), open_blobs(f"file://{tmp_path}/blobs")
        )
        return AdapterLearningEngine(backend or FakeBackend(), registry)

    return engine


@pytest.fixture
async def engine(opened):
    async with opened() as engine:
        for name, examples in (("tickets", PARCELS), ("player", MUSIC)):
            (await engine.create_adapter(name)).unwrap()
            (await engine.train_adapter(name, examples)).unwrap()
        yield engine


@pytest.fixture
def count_centroids(tmp_path):
    """Which portraits the store holds, and of how many classes."""

    def read() -> dict[str, int]:
        store = open_metadata(f"sqlite:///{tmp_path}/metadata.db")
        counts = {r.key: r.value["count"] for r in store.scan("sketches")}
        store.close()
        return counts

    return read


async def names(engine, text, k=5):
    return [f.adapter.name for f in (await engine.find_adapters(text, k)).unwrap()]


async def test_the_adapter_that_learned_the_like_comes_first(engine):
    assert await names(engine, "is my parcel lost") == ["tickets", "player"]
    assert await names(engine, "play music", k=1) == ["player"]


async def test_auto_asks_the_adapter_that_knows(engine):
    answer = (await engine.generate_with_adapter("my parcel is late", "auto")).unwrap()
    assert (answer.text, answer.version) == ("parcel", "tickets@2")
    assert answer.route.adapter == AdapterId("tickets")
    assert answer.route.sure


async def test_auto_leaves_a_strange_prompt_to_the_base_and_says_so(engine):
    answer = (await engine.generate_with_adapter("integrate x squared", "auto")).unwrap()
    assert (answer.text, answer.version) == ("integrate x squared", None)
    assert not answer.route.sure


async def test_a_streamed_answer_says_who_gave_it_too(engine):
    pieces = [p.unwrap() async for p in engine.stream_with_adapter("my parcel is late", "auto")]
    assert pieces[-1].generation.version == "tickets@2"
    assert pieces[-1].generation.route.sure


async def test_auto_in_an_empty_store_is_the_base(opened):
    async with opened() as engine:
        answer = (await engine.generate_with_adapter("hello", "auto")).unwrap()
        assert (answer.version, answer.route) == (None, None)


async def test_all_that_the_user_says_in_a_conversation_counts(engine):
    talk = (
        Message("user", "play some jazz music"),
        Message("assistant", "parcel parcel parcel"),
        Message("user", "louder"),
    )
    assert await names(engine, talk, k=1) == ["player"]


async def test_an_adapter_that_learned_nothing_is_found_by_its_words_and_never_chosen(engine):
    (await engine.create_adapter("invoices")).unwrap()
    (await engine.create_adapter("a7", description="questions about invoices and money")).unwrap()
    matches = (await engine.find_adapters("invoices", 2)).unwrap()
    assert {f.adapter.name for f in matches} == {"invoices", "a7"}
    assert [f.sure for f in matches if f.adapter.name == "invoices"] == [False]


async def test_a_description_is_enough_to_be_chosen(engine):
    (await engine.create_adapter("a7", description="invoices and refunds")).unwrap()
    matches = (await engine.find_adapters("refunds and invoices", 1)).unwrap()
    assert matches[0].adapter.name == "a7"
    assert matches[0].sure


async def test_what_is_learned_since_and_what_is_deleted_is_seen_at_once(engine):
    assert await names(engine, "translate this sentence", k=1) != ["french"]
    (await engine.create_adapter("french")).unwrap()
    more = [TrainingExample(f"translate this {w}", "oui") for w in ("text", "sentence", "word")]
    (await engine.train_adapter("french", more)).unwrap()
    assert await names(engine, "translate this sentence", k=1) == ["french"]
    (await engine.delete_adapter("french")).unwrap()
    assert "french" not in await names(engine, "translate this sentence")


async def test_portraits_are_kept_across_runs_and_drawn_anew_for_a_new_head(opened, engine, counting):
    await names(engine, "parcel")
    async with opened(counting) as restarted:
        assert await names(restarted, "my parcel", k=1) == ["tickets"]
        assert counting.embedded == 1
        await restarted.train_adapter("tickets", [TrainingExample("broken screen", "hardware")])
        assert await names(restarted, "a broken screen", k=1) == ["tickets"]
        assert counting.embedded > 6


async def test_a_deleted_adapter_leaves_no_portrait(engine, tmp_path):
    await names(engine, "parcel")
    (await engine.delete_adapter("tickets")).unwrap()
    store = open_metadata(f"sqlite:///{tmp_path}/metadata.db")
    assert [r.key for r in store.scan("sketches")] == ["player"]
    store.close()


async def test_what_is_forgotten_leaves_no_portrait(engine, count_centroids):
    (
        await engine.train_adapter("tickets", [TrainingExample("my zyzzyva is broken", "insects")])
    ).unwrap()
    assert (await engine.find_adapters("zyzzyva", 1)).unwrap()[0].similarity > 0.4
    assert count_centroids() == {"player": 1, "tickets": 2}
    (await engine.forget_events("tickets", 2)).unwrap()
    assert count_centroids() == {"player": 1}
    assert (await engine.find_adapters("zyzzyva", 1)).unwrap()[0].similarity < 0.1
    assert count_centroids() == {"player": 1, "tickets": 1}


async def test_a_portrait_drawn_while_its_rows_are_forgotten_is_not_kept(
    opened, engine, count_centroids
):
    class Meanwhile(FakeBackend):
        async def embed(self, texts):
            if "lost parcel" in texts:
                (await engine.forget_events("tickets", 1)).unwrap()
            return await super().embed(texts)

    async with opened(Meanwhile()) as finding:
        assert await names(finding, "parcel")
    assert count_centroids() == {"player": 1}


@pytest.mark.parametrize(
    ("text", "k", "error"),
    [
        ("", 3, InvalidExample),
        ("  ", 3, InvalidExample),
        ("hi", 0, InvalidConfig),
        ((), 1, InvalidExample),
    ],
)
async def test_bad_questions_are_refused(engine, text, k, error):
    assert isinstance((await engine.find_adapters(text, k)).error, error)


async def test_no_adapter_may_be_called_auto(engine):
    assert isinstance((await engine.create_adapter("auto")).error, InvalidName)
    assert isinstance((await engine.create_adapter("x", description=" ")).error, InvalidExample)
