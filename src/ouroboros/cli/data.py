"""`ouroboros data check FILE ...`."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.data.reader import ParsedData, describe_ignored, read_data
from ouroboros.data.report import (
    ConflictingRows,
    TokenLengths,
    find_conflicts,
    find_duplicates,
    measure_tokens,
)
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import InvalidFile
from ouroboros.settings import Settings

NAME = "data"
HELP = "check files of examples or judgements: what is understood, and what cannot be learned"
EXAMPLES = """\
  ouroboros data check train.jsonl
  ouroboros data check train.csv more.parquet --model Qwen/Qwen3-0.6B
  ouroboros data check ./folder --json

Lengths are counted with the tokenizer of --model. The exit code is 2 if a row cannot be learned."""

_SHOWN = 20
"""Rows, groups and conflicts that are listed for people; --json has all."""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("action", choices=("check",), help="what to do")
    parser.add_argument(
        "files", metavar="FILE", type=Path, nargs="+", help="files or folders of rows; - reads stdin"
    )


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    # 1. Read everything, and compare the rows with each other.
    data = read_data(options.files)
    duplicates, conflicts = find_duplicates(data), find_conflicts(data)
    # 2. Measure what was understood with the model's tokenizer; its weights are not needed.
    tokens, context = None, 0
    if data.rows:
        with out.waiting(f"Counting tokens with the tokenizer of {settings.model}"):
            from ouroboros.backend.local.model.tokenizer_only import load_tokenizer

            tokenizer = load_tokenizer(settings.model)
            context = tokenizer.context
            tokens = measure_tokens(data, tokenizer.count_pair, context)
    # 3. Report, and fail if a training would.
    out.result(
        data_json(data, duplicates, conflicts)
        | {"tokens": tokens and asdict(tokens) | {"model": settings.model, "context": context}},
        *format_counts(data),
        *format_tokens(tokens, settings.model, context),
        *format_duplicates(duplicates),
        *format_conflicts(conflicts),
        *([describe_ignored(data.ignored)] if data.ignored else []),
        *format_refused(data),
    )
    wrong = len(data.refused) + (len(tokens.too_long) + len(tokens.refused) if tokens else 0)
    if wrong or not data.rows:
        raise InvalidFile(
            f"{describe.count(wrong, 'row')} of {count_rows(data):,} cannot be learned."
            if wrong
            else f"{data.name} has no rows.",
            hint="Mend them or leave them out; `train` takes all rows or none.",
        )
    is_example = all(isinstance(value, TrainingExample) for row in data.rows for value in row.values)
    names = [str(path) for path in options.files]
    out.next_step(*(("train", "NAME", *names) if is_example else ("feedback", "NAME", "--file", *names)))


def count_rows(data: ParsedData) -> int:
    """Counts the rows that can be learned."""
    return sum(data.kinds.values())


def data_json(
    data: ParsedData, duplicates: Sequence[tuple[str, ...]], conflicts: Sequence[ConflictingRows]
) -> dict[str, Any]:
    """Returns what was understood, repeated and refused, as JSON."""
    values = [value for row in data.rows for value in row.values]
    examples = sum(isinstance(value, TrainingExample) for value in values)
    return {
        "files": data.names,
        "kinds": dict(data.kinds),
        "rows": count_rows(data),
        "formats": dict(data.formats),
        "examples": examples,
        "judgements": len(values) - examples,
        "ignored": dict(data.ignored),
        "refused": [asdict(row) for row in data.refused],
        "duplicates": [list(locations) for locations in duplicates],
        "conflicts": [asdict(conflict) for conflict in conflicts],
    }


def format_counts(data: ParsedData) -> list[str]:
    """Formats how many rows, examples and judgements each format gave."""
    kinds = "; ".join(f"{count:,} rows of {kind}" for kind, count in data.kinds.items())
    lines = [f"{data.name}: {kinds or 'no rows'}."]
    values = dict.fromkeys(data.formats, 0)
    nouns = dict.fromkeys(data.formats, "judgement")
    for row in data.rows:
        values[row.format] += len(row.values)
        if isinstance(row.values[0], TrainingExample):
            nouns[row.format] = "example"
    for row_format, rows in data.formats.items():
        count = describe.count(values[row_format], nouns[row_format])
        lines.append(f"  {row_format}: {describe.count(rows, 'row')}, {count}")
    return lines


def format_tokens(tokens: TokenLengths | None, model: str, context: int) -> list[str]:
    """Formats the lengths in tokens, and the rows that are too long for the model's context."""
    if tokens is None:
        return []
    lines = [
        f"Tokens, prompt and answer: {tokens.shortest:,} to {tokens.longest:,},"
        f" median {tokens.median:,}, {tokens.total:,} in all. The context of {model} holds {context:,}."
    ]
    if tokens.too_long:
        lines.append(f"Too long for it: {_list_some(tokens.too_long)}.")
    return lines + [f"  {place}: {reason}" for place, reason in tokens.refused[:_SHOWN]]


def format_duplicates(duplicates: Sequence[tuple[str, ...]]) -> list[str]:
    """Formats the groups of rows that repeat each other."""
    if not duplicates:
        return []
    extra = sum(len(locations) - 1 for locations in duplicates)
    groups = [", ".join(locations[:5]) for locations in duplicates]
    return [f"{describe.count(extra, 'row')} repeat others: {_list_some(groups, '; ')}."]


def format_conflicts(conflicts: Sequence[ConflictingRows]) -> list[str]:
    """Formats the prompts that have several answers, with their places."""
    if not conflicts:
        return []
    lines = [f"{describe.count(len(conflicts), 'prompt')} with answers that contradict each other:"]
    for conflict in conflicts[:_SHOWN]:
        answers = " | ".join(_shorten(answer) for answer in conflict.answers[:5])
        lines.append(f"  {_list_some(conflict.locations)}: {_shorten(conflict.prompt)} -> {answers}")
    return lines + _count_more(len(conflicts))


def format_refused(data: ParsedData) -> list[str]:
    """Formats the rows that cannot be learned, each with the reason."""
    if not data.refused:
        return []
    lines = [f"{describe.count(len(data.refused), 'row')} cannot be learned:"]
    lines += [f"  {row.location}: {row.reason} {row.hint}" for row in data.refused[:_SHOWN]]
    return lines + _count_more(len(data.refused))


def _count_more(count: int) -> list[str]:
    return [f"  and {count - _SHOWN:,} more; --json lists all"] if count > _SHOWN else []


def _list_some(names: Sequence[str], separator: str = ", ") -> str:
    return separator.join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return f"{line[:60]}..." if len(line) > 63 else line
