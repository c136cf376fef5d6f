"""The public names, pinned: changing them is a decision, not an accident."""

import ast
import inspect
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

import ouroboros
from ouroboros.domain import errors

PUBLIC = """
    Adapter AdapterConfig AdapterFiles AdapterId AdapterLearningEngine AlreadyExists Attempt
    BackendError BackupContents BaseMismatch BaseModel CancellationToken Cancelled Change Check
    CheckName ComparedAnswers Comparison Conflict Continuation Damage Erasure ErasureNote Err Evaluation
    Event ExampleRef ExamplesGiven Explanation ExportForm FeedbackGiven FeedbackKind FeedbackSignal
    Fingerprint GateCounts Generation GenerationChunk GenerationConfig HeadMoved InvalidAdapter
    InvalidConfig InvalidExample InvalidFile InvalidInput InvalidName Job JobState JournalEntry
    Lesson LinearShape MergeRecipe MergeReport MergeSpace MergeStrategy MergedFrom Message
    MissingExtra ModelError NotFound Ok OnProgress Origin OuroborosError OutOfMemory OutputError
    Performance Pinned Probe ProbeKind Prompt Rebuild RecordedFeedback Refused Remake Repair Result
    RouteMatch Settings ShrunkFiles StoreError StoreReport SyncEngine Ticket TokenLogprob TooLarge
    TooLong TrainingConfig TrainingExample TrainingFailed TrainingProgress TrainingReport UnknownTarget
    Unpinned UpdateConfig UsageCounts Verdict Version VersionRef open_engine open_sync_engine
    read_examples read_feedback
    shrink_to_limit
"""


def test_the_public_names_are_these():
    assert sorted(ouroboros.__all__) == sorted(PUBLIC.split())


ALIASES = {"Event", "OnProgress", "Prompt", "Result"}
"""Types without a docstring of their own."""


def test_every_public_name_exists_and_is_documented():
    for name in ouroboros.__all__:
        value = getattr(ouroboros, name)
        assert name in ALIASES or inspect.getdoc(value), name


def types_of_ours(annotation: object) -> Iterator[type]:
    """Yields every class of ouroboros that an annotation mentions, at any depth."""
    if isinstance(annotation, type) and annotation.__module__.startswith("ouroboros"):
        yield annotation
    parts = annotation if isinstance(annotation, list) else typing.get_args(annotation)
    for part in parts:
        yield from types_of_ours(part)


def annotations_of(value: object) -> Iterator[tuple[str, object]]:
    """Yields each parameter, result, field and property of a public function or class by its name."""
    if not isinstance(value, type):
        yield from typing.get_type_hints(inspect.unwrap(value)).items()  # type: ignore[arg-type]
        return
    fields = typing.get_type_hints(value)
    yield from ((name, hint) for name, hint in fields.items() if not name.startswith("_"))
    for name, member in inspect.getmembers(value):
        if name.startswith("_"):
            continue
        function = member.fget if isinstance(member, property) else member
        if inspect.isfunction(function) or inspect.ismethod(function):
            for parameter, hint in typing.get_type_hints(inspect.unwrap(function)).items():
                yield f"{name}.{parameter}", hint


@pytest.mark.parametrize("name", sorted(set(ouroboros.__all__) - ALIASES))
def test_all_types_that_a_public_name_mentions_are_public(name):
    public = {getattr(ouroboros, name) for name in set(ouroboros.__all__) - ALIASES}
    missing = {
        f"{where}: {kind.__module__}.{kind.__name__}"
        for where, hint in annotations_of(getattr(ouroboros, name))
        for kind in types_of_ours(hint)
        if kind not in public
    }
    assert not missing


def test_the_walk_finds_what_the_verbs_mention():
    hints = dict(annotations_of(ouroboros.AdapterLearningEngine))
    assert list(types_of_ours(hints["merge_adapters.return"])) == [ouroboros.MergeReport]
    assert ouroboros.GenerationChunk in types_of_ours(hints["stream_with_adapter.return"])
    assert list(types_of_ours(hints["train_adapter.on_progress"])) == [ouroboros.TrainingProgress]


def test_the_whole_tree_of_errors_is_public():
    tree = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.OuroborosError)
    }
    assert tree <= set(ouroboros.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Engine'"):
        ouroboros.Engine  # type: ignore[attr-defined]


SOURCE = Path(ouroboros.__file__).parent

VERB_FUNCTIONS = ("add_arguments", "run")
"""Functions of the modules in `cli` that `cli.parser.Verb` documents once for all verbs."""


def public_definitions(
    tree: ast.Module | ast.ClassDef,
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """Yields every public class, function and method of a file with its dotted name, but for tests."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name.startswith(("_", "test_")):
                continue
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                yield from ((f"{node.name}.{name}", inner) for name, inner in public_definitions(node))


def documented_in_protocols() -> set[str]:
    """Returns the methods that a protocol documents: its implementations need not say it again."""
    return {
        method.name
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and "Protocol" in map(ast.unparse, node.bases)
        for method in node.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(method)
    }


def list_undocumented(source: str, inherited: set[str]) -> list[str]:
    """Returns the public names in a file's text that have no docstring."""
    return [
        name
        for name, node in public_definitions(ast.parse(source))
        if not ast.get_docstring(node) and not ("." in name and node.name in inherited)
    ]


def test_every_public_name_in_a_file_has_a_docstring():
    inherited = documented_in_protocols()
    undocumented = [
        f"{path.relative_to(SOURCE)}: {name}"
        for path in sorted(SOURCE.rglob("*.py"))
        for name in list_undocumented(path.read_text(), inherited)
        if not (path.parent.name == "cli" and name in VERB_FUNCTIONS)
    ]
    assert not undocumented


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def load(): pass", ["load"]),
        ("def load(): 'Load it.'", []),
        ("class A:\n    def load(self): pass", ["A", "A.load"]),
        ("class A:\n    'One.'\n    def get(self): pass\n    def load(self): pass", ["A.load"]),
        ("def get(): pass", ["get"]),
        ("def _load(): pass\ndef test_load(): pass", []),
    ],
)
def test_the_search_for_undocumented_names(source, expected):
    assert list_undocumented(source, {"get"}) == expected
