"""The documentation matches the program: errors, verbs, options, files and class names."""

import re
from argparse import Namespace
from pathlib import Path

import pytest

from docs.make_cli import PAGE, page
from ouroboros.cli.main import GROUPS
from ouroboros.cli.parser import build_parser
from ouroboros.domain.errors import STATUS
from ouroboros.domain.limits import LIMITS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]


def test_the_table_of_errors_is_the_programs():
    rows = re.findall(
        r"^\| `(\w+)` \| (\d+) \| (\d+) \|", (DOCS / "errors.md").read_text(), re.MULTILINE
    )
    assert {code: (int(http), int(exit)) for code, exit, http in rows} == STATUS


def test_the_table_of_limits_is_the_programs():
    rows = re.findall(r"^\| (.+?) \| ([\d,]+) \|(.*)\|$", (DOCS / "limits.md").read_text(), re.MULTILINE)
    assert {what: (int(limit.replace(",", "")), unit.strip()) for what, limit, unit in rows} == LIMITS


def test_the_reference_of_the_command_line_is_up_to_date():
    assert PAGE.read_text() == page(), "run: python docs/make_cli.py"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_the_documentation_parse(path):
    parser = build_parser(GROUPS)
    for line in re.findall(r"^(?:\$ )?ouroboros ([^#\n]*)", path.read_text(), re.MULTILINE):
        words = [w.strip("'\"") for w in re.findall(r"'[^']*'|\"[^\"]*\"|\S+", line.partition(" <")[0])]
        if words[0] not in ("VERB", "--help"):
            options, extras = parser.parse_known_args(words, Namespace())
            assert options.verb, line
            assert not extras, line


def test_the_architecture_names_files_that_exist():
    sources = ROOT / "src" / "ouroboros"
    for path in re.findall(r"`((?:\w+/)+\w+(?:\.py)?)`", (ROOT / "ARCHITECTURE.md").read_text()):
        assert any((folder / path).exists() for folder in (sources, sources / "backend" / "local")), path


def test_the_glossary_names_classes_that_exist():
    code = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    names = re.findall(r"`([A-Z]\w+)[`.]", (DOCS / "glossary.md").read_text())
    classes = [name for name in names if len(name) > 1]
    assert classes
    assert [name for name in classes if f"\nclass {name}" not in code] == []
