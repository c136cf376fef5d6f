"""The page in a real browser, on the bundled starter model: what people do with it and what they see."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from ouroboros.backend.local import LocalBackend
from ouroboros.data.examples import read_examples
from ouroboros.domain.config import TrainingConfig
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.engine import AdapterLearningEngine
from tests.server.running import RunningServer, run_server

ROWS = Path(__file__).parents[3] / "examples/data/tickets/train.jsonl"
HOSTILE = (
    '<img src=x onerror="document.title=1"><script>document.title=2</script></textarea>\u202e{{7*7}}'
)

VIEWS = (
    "adapters",
    "adapters/tickets",
    "adapters/tickets?tab=events",
    "adapters/tickets?tab=pins",
    "adapters/tickets?tab=about",
    "adapters/tickets/compare/1/2",
    "adapters/nobody",
    "playground?a=tickets&b=starter",
    "train",
    "feedback",
    "activity",
)


def open_starter() -> LocalBackend:
    return LocalBackend.open("starter", threads=1)


async def teach_tickets(engine: AdapterLearningEngine) -> None:
    """An adapter with a training, a correction and a pin, and with texts that try to be HTML."""
    (await engine.create_adapter("tickets", description=HOSTILE)).unwrap()
    rows = read_examples(ROWS)[:24]
    (await engine.train_adapter("tickets", rows, TrainingConfig(epochs=2, batch_size=8))).unwrap()
    correction = FeedbackSignal.user_correction(HOSTILE)
    lesson = engine.learn_from_feedback(HOSTILE, "x", correction, "tickets", user=HOSTILE)
    (await lesson).unwrap()
    (await engine.pin_answers("tickets", [TrainingExample(f"pinned {HOSTILE}", HOSTILE)])).unwrap()


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with run_server(open_starter, prepare=teach_tickets) as running:
        yield running


def wait_for_view(page: Page) -> None:
    expect(page.locator("h1")).to_have_count(1)
    expect(page.locator(".skeleton")).to_have_count(0)


def test_the_first_ten_minutes_of_a_new_user(open_page, tmp_path):
    with run_server(open_starter) as server:
        page = open_page(f"{server.url}/", expected=("ERR_",))  # the server stops first
        # 1. An empty store says what to do. Create an adapter.
        expect(page.get_by_text("No adapters yet")).to_be_visible()
        page.get_by_role("button", name="Create an adapter").click()
        page.get_by_label("Name", exact=False).first.fill("tickets")
        page.get_by_role("dialog").get_by_role("button", name="Create").click()
        expect(page.get_by_role("heading", name="tickets")).to_be_visible()
        # 2. Train it on a file; the loss is drawn while it runs.
        page.get_by_role("link", name="Train", exact=True).last.click()
        file = tmp_path / "rows.jsonl"
        file.write_text("\n".join(ROWS.read_text().splitlines()[:24]))
        page.locator("input[type=file]").set_input_files(file)
        expect(page.get_by_text("24 in 24 rows")).to_be_visible()
        page.get_by_role("button", name="Start training").click()
        expect(page.locator(".chart .line").first).to_be_visible()
        expect(page.get_by_text("succeeded", exact=True)).to_be_visible()
        # 3. Ask it, and fix the answer.
        page.get_by_role("link", name="Ask it").click()
        page.get_by_label("Message").fill("Where is my parcel?")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Fix this").click()
        page.get_by_label("The right answer").fill("bazaar")
        page.get_by_role("button", name="Teach this").click()
        # 4. See what that changed.
        expect(page.get_by_text("Learned as tickets@3")).to_be_visible()
        learned = server.engine.generate_with_adapter("Where is my parcel?", "tickets@3")
        expect(page.locator(".outcome")).to_contain_text(server.call(learned).unwrap().text)
        # 5. Undo it: the version before is served again, and the timeline says so.
        page.get_by_role("button", name="Undo, serve @2 again").click()
        page.get_by_role("link", name="See the timeline").click()
        expect(page.get_by_text("@2 is served")).to_be_visible()
        expect(page.get_by_text("Rolled back")).to_be_visible()
        assert server.call(server.engine.get_adapter("tickets")).unwrap().head == 2


@pytest.mark.parametrize("path", VIEWS)
def test_every_view_opens_by_its_address_and_again(server, open_page, path):
    page = open_page(f"{server.url}/{path}", expected=("404 (Not Found)",))
    wait_for_view(page)
    title = page.title()
    page.reload()
    wait_for_view(page)
    assert page.title() == title
    assert title.endswith("· Ouroboros")


def test_back_and_forward_show_the_views_before(server, open_page):
    page = open_page(f"{server.url}/adapters")
    page.get_by_role("link", name="tickets", exact=True).click()
    expect(page.get_by_role("heading", name="tickets")).to_be_visible()
    page.get_by_role("link", name="What it was taught").click()
    expect(page.get_by_text("24 examples")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="Timeline")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="Adapters")).to_be_visible()
    page.go_forward()
    expect(page.get_by_role("heading", name="Timeline")).to_be_visible()


def test_a_text_that_looks_like_html_stays_text(server, open_page):
    for path in ("adapters", "adapters/tickets?tab=events", "adapters/tickets?tab=pins", "feedback"):
        page = open_page(f"{server.url}/{path}")
        expect(page.get_by_text(HOSTILE).first).to_be_visible()
        assert page.locator("main img, main script").count() == 0
        assert page.title().endswith("· Ouroboros")
    page = open_page(f"{server.url}/playground?a=tickets")
    page.get_by_label("Message").fill(HOSTILE)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Fix this").click()
    expect(page.get_by_text(HOSTILE).first).to_be_visible()
    assert page.locator("main img, main script").count() == 0


@pytest.mark.parametrize("path", VIEWS)
def test_nothing_is_wider_than_a_small_phone(server, open_page, path):
    page = open_page(f"{server.url}/{path}", width=360, expected=("404 (Not Found)",))
    wait_for_view(page)
    if "compare" in path:
        expect(page.get_by_text("right before")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 360)])
def test_axe_finds_nothing(server, open_page, axe, scheme, width):
    for path in VIEWS:
        page = open_page(
            f"{server.url}/{path}",
            width=width,
            color_scheme=scheme,
            reduced_motion="reduce",
            expected=("404 (Not Found)",),
        )
        wait_for_view(page)
        page.evaluate(axe)
        results = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        problems = [
            f"{path}: {violation['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
            for violation in results["violations"]
            for node in violation["nodes"]
        ]
        assert problems == [], "\n".join(problems)
        page.close()


def test_it_can_be_used_by_keyboard_alone(server, open_page):
    page = open_page(f"{server.url}/adapters")
    wait_for_view(page)
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to content")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.textContent.trim()"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", reached[-1]
        if reached[-1] == "tickets":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="tickets")).to_be_visible()
    page.goto(f"{server.url}/adapters")
    page.get_by_role("button", name="New adapter").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_two_tabs_agree(server, open_page):
    one, two = [open_page(f"{server.url}/adapters/tickets") for _ in range(2)]
    expect(two.get_by_text("@3 is served")).to_be_visible()
    one.get_by_role("button", name="Serve this: version 2").click()
    expect(two.get_by_text("@2 is served")).to_be_visible()
    one.get_by_role("button", name="Undo").click()
    expect(two.get_by_text("@3 is served")).to_be_visible()


def test_a_group_of_answers_is_measured_for_every_version(server, open_page):
    page = open_page(f"{server.url}/adapters/tickets")
    page.get_by_role("button", name="Measure every group").click()
    expect(page.get_by_role("rowheader", name="all probes")).to_be_visible()


def test_wrong_rows_are_shown_before_anything_is_trained(server, open_page, tmp_path):
    file = tmp_path / "rows.jsonl"
    good = json.dumps({"prompt": "a", "completion": HOSTILE})
    file.write_text(f"{good}\nno json\n{good}\n")
    page = open_page(f"{server.url}/train")
    page.locator("input[type=file]").set_input_files(file)
    expect(page.get_by_role("cell", name="line 2")).to_be_visible()
    expect(page.get_by_role("button", name="Start training")).to_be_disabled()


PAINT = """() => new Promise((resolve) => new PerformanceObserver((list) =>
    resolve(list.getEntries().at(-1).startTime)
).observe({type: "largest-contentful-paint", buffered: true}))"""

TRANSFERRED = """() => performance.getEntriesByType("resource")
    .concat(performance.getEntriesByType("navigation"))
    .reduce((sum, entry) => sum + entry.transferSize, 0)"""


def test_the_first_view_loads_little(server, open_page):
    """Prints what docs/page.md states: the milliseconds depend on the machine and are not tested."""
    page = open_page(f"{server.url}/adapters")
    wait_for_view(page)
    expect(page.get_by_role("link", name="tickets", exact=True)).to_be_visible()
    size, milliseconds = page.evaluate(TRANSFERRED), page.evaluate(PAINT)
    print(f"first view: {size / 1000:.0f} kB, largest paint after {milliseconds:.0f} ms")
    assert 10_000 < size < 150_000
