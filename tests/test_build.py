"""The composition root: what is made, and when."""

from contextlib import closing

import pytest

from ouroboros.build import open_engine, open_sync_engine, store_exists
from ouroboros.domain.errors import InvalidConfig, ModelError
from ouroboros.domain.result import Err
from ouroboros.settings import Settings
from ouroboros.stores.open import open_metadata


async def test_the_model_is_loaded_by_the_first_verb_that_needs_it(tmp_path):
    settings = Settings(store=str(tmp_path / "store"), model=str(tmp_path / "absent"))
    async with open_engine(settings) as engine:
        assert (await engine.list_adapters()).unwrap() == []
        created = await engine.create_adapter("tickets")
        assert isinstance(created, Err)
        assert isinstance(created.error, ModelError)
        assert (await engine.list_adapters()).unwrap() == []


async def test_a_store_outlives_its_engine(tmp_path, tiny):
    settings = Settings(store=str(tmp_path / "store"), model=str(tiny))
    assert not store_exists(settings)
    async with open_engine(settings) as engine:
        (await engine.create_adapter("tickets")).unwrap()
    assert store_exists(settings)
    async with open_engine(settings) as engine:
        assert [a.id.name for a in (await engine.list_adapters()).unwrap()] == ["tickets"]


def test_a_store_in_qdrant_finds_adapters_there(collection, tmp_path, tiny):
    with open_sync_engine(store=str(tmp_path), metadata=collection, model=str(tiny)) as engine:
        engine.create_adapter("tickets", description="where is my parcel").unwrap()
        assert [f.adapter.name for f in engine.find_adapters("my parcel", 3).unwrap()] == ["tickets"]
    with closing(open_metadata(collection)) as metadata:
        assert "adapters" in metadata.collections()
        assert "sketches" not in metadata.collections()
    assert not (tmp_path / "metadata.db").exists()


def test_memory_is_forgotten(tiny):
    settings = Settings(store="memory:", model=str(tiny))
    for _ in range(2):
        with open_sync_engine(settings) as engine:
            assert engine.list_adapters().unwrap() == []
            engine.create_adapter("tickets").unwrap()


def test_single_settings_can_be_given(tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_sync_engine(store="./mine", model=str(tiny)) as engine:
        assert engine.base().unwrap().architecture == "llama"
    assert (tmp_path / "mine" / "metadata.db").is_file()


def test_settings_are_given_once():
    with pytest.raises(InvalidConfig, match="Both"):
        open_engine(Settings(store="memory:"), model="starter")


def test_home_is_where_a_tilde_points(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with open_sync_engine(Settings(store="~/store")):
        assert (tmp_path / "store" / "metadata.db").is_file()
