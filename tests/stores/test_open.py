"""A URL chooses the store; libraries of stores that were not chosen are not imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from ouroboros.domain.errors import InvalidInput
from ouroboros.stores.blobs.files import FileBlobs
from ouroboros.stores.blobs.memory import MemoryBlobs
from ouroboros.stores.metadata.memory import MemoryMetadata
from ouroboros.stores.metadata.sql import SqlMetadata
from ouroboros.stores.open import open_blobs, open_metadata


def test_each_scheme_opens_its_store(tmp_path: Path) -> None:
    assert isinstance(open_metadata("memory:"), MemoryMetadata)
    assert isinstance(open_blobs("memory:"), MemoryBlobs)
    assert isinstance(open_blobs(f"file://{tmp_path}/blobs"), FileBlobs)
    metadata = open_metadata(f"sqlite:///{tmp_path}/metadata.db")
    metadata.close()
    assert isinstance(metadata, SqlMetadata)
    assert (tmp_path / "metadata.db").is_file()
    assert (tmp_path / "blobs").is_dir()


def test_a_path_with_special_characters_is_used_unchanged(tmp_path: Path) -> None:
    folder = tmp_path / "what? 50%25 & #1"
    open_metadata(f"sqlite:///{folder}/m.db").close()
    open_blobs(f"file://{folder}/blobs")
    assert sorted(p.name for p in folder.iterdir() if not p.name.startswith("m.db-")) == [
        "blobs",
        "m.db",
    ]


@pytest.mark.parametrize(
    "url", ["redis://user:hunter2@host/0", "sqlite:///", "folder", "", "file:relative"]
)
def test_the_error_for_an_unknown_url_lists_the_known_forms_and_no_password(url: str) -> None:
    for opened, known in ((open_metadata, "sqlite:///PATH"), (open_blobs, "file:///PATH")):
        with pytest.raises(InvalidInput) as caught:
            opened(url)
        assert known in caught.value.hint
        assert "memory:" in caught.value.hint
        assert "hunter2" not in str(caught.value)


def test_only_the_chosen_store_is_imported() -> None:
    code = (
        "import sys; from ouroboros.stores.open import open_blobs, open_metadata\n"
        "open_metadata('memory:'); open_blobs('memory:'); print('sqlalchemy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
