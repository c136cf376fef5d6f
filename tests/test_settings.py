"""Settings: flags over environment over file over defaults; unknown names are refused by name."""

import re
from pathlib import Path

import pytest

from ouroboros.domain.errors import InvalidConfig, InvalidFile
from ouroboros.settings import CONFIG, NAMES, PREFIX, Settings

DOCUMENT = Path(__file__).parents[1] / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_without_any_setting_the_defaults_apply():
    assert Settings.load(environ={}) == Settings()


def test_flags_win_over_environment_over_file(tmp_path):
    (tmp_path / "ouroboros.toml").write_text('store = "file"\nmodel = "file"\ndtype = "float32"\n')
    environ = {"OUROBOROS_STORE": "environment", "OUROBOROS_MODEL": "environment", "PATH": "/bin"}
    settings = Settings.load({"store": "flag"}, environ=environ)
    assert (settings.store, settings.model, settings.dtype) == ("flag", "environment", "float32")


def test_the_file_can_be_named(tmp_path):
    (tmp_path / "my.toml").write_text("threads = 3\n")
    assert Settings.load(file=tmp_path / "my.toml", environ={}).threads == 3
    assert Settings.load(environ={CONFIG: "my.toml"}).threads == 3


def test_numbers_are_read_from_the_environment():
    assert Settings.load(environ={"OUROBOROS_THREADS": "2"}).threads == 2
    assert Settings.load(environ={"OUROBOROS_TOLERANCE": "0.1"}).tolerance == 0.1


def test_a_path_is_accepted_for_text(tmp_path):
    assert Settings.load({"store": tmp_path}, environ={}).store == str(tmp_path)


def test_an_empty_variable_is_ignored():
    assert Settings.load(environ={"OUROBOROS_STORE": ""}) == Settings()


def test_unknown_names_are_refused_with_the_nearest_known_one(tmp_path):
    with pytest.raises(InvalidConfig, match="Did you mean store"):
        Settings.load({"stroe": "x"}, environ={})
    with pytest.raises(InvalidConfig, match="Did you mean OUROBOROS_MODEL"):
        Settings.load(environ={"OUROBOROS_MODLE": "x"})
    (tmp_path / "ouroboros.toml").write_text("thread = 1\n")
    with pytest.raises(InvalidConfig, match=r"ouroboros\.toml.*Did you mean threads"):
        Settings.load(environ={})


@pytest.mark.parametrize(
    "overrides",
    [
        {"store": ""},
        {"store": 3},
        {"dtype": "int8"},
        {"device": "tpu"},
        {"threads": 0},
        {"tolerance": 1.5},
        {"threads": "two"},
    ],
)
def test_values_of_the_wrong_kind_are_refused(overrides):
    with pytest.raises(InvalidConfig):
        Settings.load(overrides, environ={})


def test_text_instead_of_a_number_is_refused():
    with pytest.raises(InvalidConfig, match="two"):
        Settings.load(environ={"OUROBOROS_THREADS": "two"})


def test_a_missing_or_malformed_file_is_named(tmp_path):
    with pytest.raises(InvalidFile, match=r"absent\.toml cannot be read"):
        Settings.load(file=Path("absent.toml"), environ={})
    (tmp_path / "bad.toml").write_text("store = \n")
    with pytest.raises(InvalidFile, match=r"bad\.toml is not a TOML file"):
        Settings.load(file=Path("bad.toml"), environ={})


def test_every_setting_is_documented():
    rows = set(re.findall(r"^\| `(\w+)` \|", DOCUMENT.read_text(), re.MULTILINE))
    assert rows == set(NAMES)
    for name in NAMES:
        assert f"`{PREFIX}{name.upper()}`" in DOCUMENT.read_text()


def test_the_repr_shows_no_password():
    settings = Settings(metadata="postgresql://ann:secret@host/db", blobs="s3://key:secret@bucket")
    assert "secret" not in repr(settings)
