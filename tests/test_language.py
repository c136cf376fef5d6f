"""Names say what they hold and what they do: a variable is a noun, a function a verb with its noun.

`language_allow_list.txt` holds the names that still break the rules, one `path name` a line. The list
can only get shorter: a new offence fails here, and so does a line whose offence has gone. Drop such
lines with `python tests/test_language.py`.
"""

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOW_LIST = Path(__file__).with_name("language_allow_list.txt")
FOLDERS = ("src", "tests", "benchmarks", "examples")

VAGUE = set(
    """again asked begun found given gone got heard held kept left made own said taken taught there
    told""".split()
)
"""Words that never name a value or a function: they say that something happened, not what it is."""

PARTICIPLES = VAGUE | set(
    """apart beside besides brought built but chosen cut done drawn forgotten hung known laid lost meant
    met near seen sent shown spoken spread stood thought together went whole within
    without worn written""".split()
)
"""Irregular participles and adverbs that do not name a function, beside all in -ed, -en and -ly."""

VERBS_AND_NOUNS = set(
    """apply assembly embed feed flatten lengthen listen multiply need open reply seed shorten
    supply tighten token widen""".split()
)
"""Words with such an ending that are verbs or nouns."""

NAMED_FOR_A_VALUE = {"property", "cached_property", "fixture"}
"""Decorators of functions that are used as values: `task.finished`, the fixture `trained`."""


def assigned_names(tree: ast.AST) -> Iterator[str]:
    """Yields the name of every variable, parameter and caught exception."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.name


def function_names(tree: ast.AST) -> Iterator[str]:
    """Yields the name of every function that is called with parentheses."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = {
                part.attr if isinstance(part, ast.Attribute) else part.id
                for decorator in node.decorator_list
                for part in ast.walk(decorator)
                if isinstance(part, ast.Attribute | ast.Name)
            }
            if not decorators & NAMED_FOR_A_VALUE:
                yield node.name


def is_bare_participle(name: str) -> bool:
    """Whether a function's name is one participle or adverb, without a verb or a noun."""
    word = name.strip("_")
    if word in VERBS_AND_NOUNS or "_" in word or name.startswith("__"):
        return False
    return word in PARTICIPLES or word.endswith(("ed", "en", "ly"))


def offences(source: str) -> set[str]:
    """Returns the names in a file's text that break the rules; a function's has parentheses."""
    tree = ast.parse(source)
    vague = {name for name in assigned_names(tree) if name.strip("_") in VAGUE}
    return vague | {f"{name}()" for name in function_names(tree) if is_bare_participle(name)}


def all_offences() -> set[str]:
    """Returns `path name` for every offence in the repository."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return {
        f"{path.relative_to(ROOT).as_posix()} {name}"
        for path in paths
        for name in offences(path.read_text())
    }


def allow_list() -> set[str]:
    return set(ALLOW_LIST.read_text().splitlines())


def test_no_new_name_is_vague():
    assert sorted(all_offences() - allow_list()) == [], "name the value or the action (docs/glossary.md)"


def test_the_allow_list_holds_no_name_that_is_gone():
    assert sorted(allow_list() - all_offences()) == [], "run: python tests/test_language.py"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("found = 1", {"found"}),
        ("for _said in x: pass", {"_said"}),
        ("def load(told, *left): pass", {"told", "left"}),
        ("rows = [own for own in x]", {"own"}),
        ("if (kept := 1): pass", {"kept"}),
        ("def planned(): pass", {"planned()"}),
        ("async def _gently(): pass", {"_gently()"}),
        ("class A:\n    def taught(self): pass", {"taught()"}),
        ("found_rows = own_rows = 1", set()),
        ("def apply(): pass\ndef open_store(): pass\ndef load_trained(): pass", set()),
        ("class A:\n    @property\n    def finished(self): pass", set()),
        ("import pytest\n@pytest.fixture(scope='module')\ndef trained(): pass", set()),
    ],
)
def test_the_rules(source, expected):
    assert offences(source) == expected


def repeated_class_names(sources: Iterable[str]) -> set[str]:
    """Returns the names that two or more classes in these files have."""
    counts = Counter(
        node.name
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef)
    )
    return {name for name, count in counts.items() if count > 1}


@pytest.mark.parametrize("folder", ["src", "benchmarks"])
def test_no_two_classes_share_a_name(folder):
    assert repeated_class_names(path.read_text() for path in (ROOT / folder).rglob("*.py")) == set()


def test_no_benchmark_class_has_the_name_of_one_of_ours():
    def class_names(folder: str) -> set[str]:
        trees = (ast.parse(path.read_text()) for path in (ROOT / folder).rglob("*.py"))
        return {n.name for tree in trees for n in ast.walk(tree) if isinstance(n, ast.ClassDef)}

    assert class_names("src") & class_names("benchmarks") == set()


def test_a_repeated_class_name_is_seen():
    assert repeated_class_names(["class A: pass\nclass B: pass", "class A: pass"]) == {"A"}


if __name__ == "__main__":
    ALLOW_LIST.write_text("".join(f"{line}\n" for line in sorted(allow_list() & all_offences())))
