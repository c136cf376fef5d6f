"""What is not imported: the program answers at once when no model is needed."""

import json

import pytest

PROBE = """
import json, sys
from ouroboros.cli.main import main
sys.argv = ["ouroboros", *json.loads(sys.argv[1])]
try:
    main()
except SystemExit:
    pass
engine = ("ouroboros.engine", "ouroboros.registry", "numpy", "pydantic")
heavy = ("torch", "transformers", "rich", "sqlalchemy", *engine)
print("\\n" + json.dumps([name for name in heavy if name in sys.modules]))
"""

ENGINE = {"ouroboros.engine", "ouroboros.registry", "numpy", "pydantic"}
"""What the first verb that opens the store imports."""


def list_heavy_imports(python, arguments: list[str]) -> list[str]:
    """Returns which of the heavy modules a command imports."""
    return json.loads(python("-c", PROBE, json.dumps(arguments)).stdout.splitlines()[-1])


def test_importing_the_package_imports_nothing_heavy(python):
    probe = (
        "import ouroboros, sys; print({'torch', 'transformers', 'pydantic', 'rich'} & set(sys.modules))"
    )
    assert python("-c", probe).stdout == "set()\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["list"],
        ["--version"],
        ["doctor"],
        ["help", "train"],
        ["version"],
    ],
)
def test_words_alone_import_nothing_heavy(python, arguments):
    assert set(list_heavy_imports(python, arguments)) <= ENGINE


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["--version"], ["help", "train"]]
)
def test_help_does_not_import_the_engine(python, arguments):
    assert list_heavy_imports(python, arguments) == []


def test_reading_the_store_imports_no_torch(python, ouroboros):
    assert ouroboros("create", "tickets").returncode == 0
    for arguments in (["list"], ["show", "tickets"], ["delete", "tickets"]):
        assert set(list_heavy_imports(python, arguments)) - ENGINE == {"sqlalchemy"}
