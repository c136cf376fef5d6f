"""Shows a training's progress: a bar on a terminal, about ten lines in a log."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ouroboros.cli.output import Output, write_note
from ouroboros.domain.training import OnProgress, TrainingProgress


@contextmanager
def training_progress(out: Output) -> Iterator[OnProgress]:
    """Yields a callback to pass to a training as `on_progress`."""
    if not out.live:
        yield with_notes(out.note, print_line)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("training"),
        BarColumn(bar_width=30),
        TextColumn("step {task.completed:.0f}/{task.total:.0f}  {task.fields[figures]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=None, start=False, visible=False, figures="")

        def show(now: TrainingProgress) -> None:
            bar.update(
                task, completed=now.step, total=now.steps, visible=True, figures=format_figures(now)
            )

        yield with_notes(bar.console.print, show)


def with_notes(print_note: Callable[[str], None], show: OnProgress) -> OnProgress:
    """Returns a callback that shows progress and prints each note of the training once."""
    printed: set[str] = set()

    def report(now: TrainingProgress) -> None:
        if now.note and now.note not in printed:
            printed.add(now.note)
            print_note(f"Note: {now.note}")
        show(now)

    return report


def print_line(now: TrainingProgress) -> None:
    """Prints the first step, the last, and about ten between."""
    every = max(1, now.steps // 10)
    if now.step == 1 or now.step % every == 0 or now.step == now.steps:
        write_note(f"step {now.step}/{now.steps}  {format_figures(now)}\n")


def format_figures(now: TrainingProgress) -> str:
    """Formats the loss, the speed and the remaining time."""
    rate = now.tokens / max(now.seconds, 1e-9)
    return f"loss {now.loss:.3f}  {rate:,.0f} tokens/s  {format_clock(now.seconds_left)} left"


def format_clock(seconds: float) -> str:
    """Formats a duration: 0:07, 12:30 or 1:02:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
