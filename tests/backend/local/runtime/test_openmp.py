"""PyTorch's threads wait as they are told, by us or by the user, and nobody else hears of it."""

import os
import subprocess
import sys

import pytest

from ouroboros.backend.local.runtime.openmp import SPIN_COUNT, _uses_gnu_openmp

SHOW = "import os{first}; import ouroboros.backend.local; print(*sorted(os.environ))"


def run_python(first: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """A program that loads the backend; OpenMP tells its settings on stderr."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    return subprocess.run(
        [sys.executable, "-c", SHOW.format(first=first)],
        env={**plain, "OMP_DISPLAY_ENV": "VERBOSE", **environment},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.skipif(not _uses_gnu_openmp(), reason="torch brings another OpenMP")
def test_threads_spin_a_little_and_then_sleep():
    done = run_python()
    assert "OMP_WAIT_POLICY = 'ACTIVE'" in done.stderr
    assert f"GOMP_SPINCOUNT = '{SPIN_COUNT}'" in done.stderr


def test_programs_that_are_started_do_not_have_the_settings():
    assert not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(run_python().stdout.split())


@pytest.mark.skipif(not _uses_gnu_openmp(), reason="torch brings another OpenMP")
def test_what_the_user_set_stays():
    done = run_python(OMP_WAIT_POLICY="PASSIVE")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr
    assert "OMP_WAIT_POLICY" in done.stdout.split()


def test_torch_that_is_loaded_already_is_left_alone():
    done = run_python(first=", torch")
    assert "OMP_WAIT_POLICY = 'ACTIVE'" not in done.stderr


PASS = """
import torch
from ouroboros.backend.local import LocalBackend
from ouroboros.backend.local.runtime import threads
threads.SMALL_LAYER_PRODUCTS = 0.0
backend = LocalBackend.open({folder!r}, dtype="float32", threads=2)
runtime = backend._runtime
runtime.threads.set_for_pass(runtime.base, 4096)
print(torch.get_num_threads())
"""


@pytest.mark.parametrize(("first", "expected"), [("", "2"), ("import torch", "1")])
def test_operations_use_one_thread_where_torch_was_imported_first(tiny, first, expected):
    """Nobody limits how long OpenMP's threads spin then."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    imports = f"{first}\nimport ouroboros.backend.local\n"
    done = subprocess.run(
        [sys.executable, "-c", imports + PASS.format(folder=str(tiny))],
        env=plain,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [expected]
