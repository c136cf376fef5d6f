"""Take pictures of the page from the real program: `make screenshots`, or with `MODEL=starter`.

A store is filled as its users would fill it: a training, corrections, a pin, a rollback. Then a server
serves it, and Chromium takes a picture of each view, light and dark, wide and narrow. All pictures go to
.setup/screenshots; those of the documentation go to docs/images, small enough for a repository.
"""

import argparse
import asyncio
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from ouroboros.build import open_engine
from ouroboros.data.examples import read_examples
from ouroboros.domain.config import TrainingConfig
from ouroboros.domain.feedback import FeedbackSignal

ROOT = Path(__file__).parents[1]
DATA = ROOT / "examples/data"
PICTURES = ROOT / ".setup/screenshots"
IMAGES = ROOT / "docs/images"
MAX_BYTES = 150_000

VIEWS = {
    "adapters": "adapters",
    "adapter": "adapters/tickets",
    "events": "adapters/tickets?tab=events",
    "pins": "adapters/tickets?tab=pins",
    "compare": "adapters/tickets/compare/1/2",
    "playground": "playground?a=tickets",
    "train": "train",
    "feedback": "feedback",
    "activity": "activity",
}
IN_DOCUMENTATION = ("adapter-light-1440", "playground-light-1440", "adapters-dark-360")


async def fill_store(store: Path, model: str) -> None:
    """Teach two adapters, correct the first one's wrong answers, pin one, and roll back once."""
    async with open_engine(store=str(store), model=model) as engine:
        held_out = read_examples(DATA / "tickets/heldout.jsonl")[:30]
        for name, words in (
            ("tickets", "Sends a customer's message to one of five teams"),
            ("reviews", "Says whether a review is good or bad"),
        ):
            (await engine.create_adapter(name, description=words)).unwrap()
            rows = read_examples(DATA / name / "train.jsonl")[: 100 if name == "tickets" else 40]
            config = TrainingConfig.auto(len(rows), epochs=4 if name == "tickets" else 2)
            (await engine.train_adapter(name, rows, config)).unwrap()
            print(f"{name} has learned {len(rows)} examples.", flush=True)
        answers = (await engine.evaluate_adapter("tickets", held_out)).unwrap().answers
        wrong = [(row, a) for row, a in zip(held_out, answers, strict=True) if a != row.output][:3]
        for row, answer in wrong:
            fix = FeedbackSignal.user_correction(row.output)
            taught = engine.learn_from_feedback(row.input, answer, fix, "tickets", user="ann")
            (await taught).unwrap()
        (await engine.pin_answers("tickets", held_out[:2])).unwrap()
        head = (await engine.get_adapter("tickets")).unwrap().head
        (await engine.rollback_adapter(f"tickets@{head - 1}")).unwrap()
        (await engine.rollback_adapter(f"tickets@{head}")).unwrap()


def take_pictures(url: str, views: Collection[str]) -> None:
    """A picture of each of `views` in each scheme and width."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for scheme in ("light", "dark"):
            for width, height in ((1440, 900), (360, 740)):
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                page.set_default_timeout(120_000)
                for name, path in VIEWS.items():
                    if name not in views:
                        continue
                    print(f"{name}, {scheme}, {width}", flush=True)
                    page.goto(f"{url}/{path}")
                    prepare_view(page, name)
                    page.screenshot(path=PICTURES / f"{name}-{scheme}-{width}.png")
                page.close()
        browser.close()


def prepare_view(page: Page, name: str) -> None:
    """Wait until a view is complete, and bring it into the state that its picture shows."""
    page.locator("h1").wait_for()
    match name:
        case "adapter":
            page.get_by_role("button", name="Measure every group").click()
            page.get_by_role("rowheader", name="all probes").wait_for()
        case "events":
            page.locator(".timeline").wait_for()
        case "compare":
            page.get_by_text("right before").wait_for()
        case "playground":
            page.get_by_label("Message").fill("Can you give Julia the rights to change prices?")
            page.keyboard.press("Enter")
            page.get_by_role("button", name="Fix this").click()
            if (page.viewport_size or {}).get("width") == 1440:
                show_correction(page)
        case "train":
            page.locator("input[type=file]").set_input_files(DATA / "commands/train.jsonl")
            page.get_by_role("button", name="Start training").wait_for()


def show_correction(page: Page) -> None:
    """Correct the answer, and wait until it is shown what that changed."""
    answer = page.get_by_label("The right answer")
    answer.fill("wrench" if answer.input_value().strip() == "keys" else "keys")
    page.get_by_role("button", name="Teach this").click()
    page.get_by_text("What changed").wait_for()
    page.locator(".outcome ins").filter(has_not_text="asking again").wait_for()


def save_image(name: str) -> None:
    """A picture for the documentation: with fewer colours, so that it is small."""
    with Image.open(PICTURES / f"{name}.png") as picture:
        packed = io.BytesIO()
        picture.convert("RGB").quantize(128).save(packed, "PNG", optimize=True)
    if len(packed.getvalue()) > MAX_BYTES:
        raise SystemExit(f"{name}.png has {len(packed.getvalue()):,} bytes, more than {MAX_BYTES:,}.")
    (IMAGES / f"page-{name}.png").write_bytes(packed.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("views", nargs="*", metavar="VIEW", help=f"of {', '.join(VIEWS)} (all)")
    options = parser.parse_args()
    PICTURES.mkdir(parents=True, exist_ok=True)
    IMAGES.mkdir(exist_ok=True)
    store = ROOT / ".setup" / f"screenshots-{Path(options.model).name}"
    if not store.exists():  # filled once: remove the folder to fill it anew
        unfinished = store.with_suffix(".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        asyncio.run(fill_store(unfinished, options.model))
        unfinished.rename(store)
    command = [sys.executable, "-m", "ouroboros", "serve", "--json", "--port", "0"]
    command += ["--store", str(store), "--model", options.model]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as program:
        try:
            assert program.stdout is not None
            lines = [program.stdout.readline() for _ in range(4)]
            take_pictures(json.loads("".join(lines))["url"], options.views or tuple(VIEWS))
        finally:
            program.terminate()
    for name in IN_DOCUMENTATION:
        if not options.views or name.split("-")[0] in options.views:
            save_image(name)
    print(f"The pictures are in {PICTURES}.")


if __name__ == "__main__":
    main()
