"""Draws versions and their ancestry as a self-contained SVG."""

from collections.abc import Collection, Sequence
from html import escape

from ouroboros.cli import describe
from ouroboros.domain.names import VersionRef
from ouroboros.domain.records import Version

COLUMN, ROW, WIDTH, HEIGHT, MARGIN = 230, 74, 190, 50, 24
_STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.small { font-size: 11px; fill: #59636e }
rect { fill: #f6f8fa; stroke: #818b98; stroke-width: 1 }
.head rect { fill: #ddf4ff; stroke: #0969da; stroke-width: 2 }
path { fill: none; stroke: #818b98; stroke-width: 1.5; marker-end: url(#arrow) }
"""
_ARROW = (
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7"'
    ' orient="auto"><path d="M0 0 8 4 0 8z" style="fill:#818b98;stroke:none;marker-end:none"/>'
    "</marker></defs>"
)


def draw_lineage(versions: Sequence[Version], heads: Collection[VersionRef]) -> str:
    """Draws versions, parents first, from left to right, with arrows from parents to children.

    Each version stands to the right of its parents; a branch gets a new row. Heads are blue.
    """
    places = assign_places(versions)
    width = 2 * MARGIN + max(x for x, _ in places.values()) * COLUMN + WIDTH
    height = 2 * MARGIN + max(y for _, y in places.values()) * ROW + HEIGHT
    arrows = [draw_arrow(places[p], places[v.ref]) for v in versions for p in v.parents if p in places]
    boxes = [draw_box(v, places[v.ref], v.ref in heads) for v in versions]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}">\n<style>{_STYLE}</style>{_ARROW}\n'
        f'<rect width="{width}" height="{height}" style="fill:#fff;stroke:none"/>\n'
        + "\n".join([*arrows, *boxes])
        + "\n</svg>\n"
    )


def assign_places(versions: Sequence[Version]) -> dict[VersionRef, tuple[int, int]]:
    """Assigns a column and a row: a first child continues its parent's row, others open a new one."""
    places: dict[VersionRef, tuple[int, int]] = {}
    ends: dict[int, VersionRef] = {}
    for version in versions:
        parents = [p for p in version.parents if p in places]
        column = 1 + max((places[p][0] for p in parents), default=-1)
        parent_rows = (places[p][1] for p in parents if ends.get(places[p][1]) == p)
        row = next(parent_rows, len(ends))
        places[version.ref] = column, row
        ends[row] = version.ref
    return places


def draw_box(version: Version, place: tuple[int, int], head: bool) -> str:
    """Draws a version as an SVG box; a head is marked."""
    x, y = corner(place)
    how = version.cause if len(version.cause) <= 26 else f"{version.cause[:25]}…"
    events = describe.events(version)
    note = f"{how}, {events}" if events and len(how) < 16 else how
    return (
        f"<g{' class=' + chr(34) + 'head' + chr(34) if head else ''}>"
        f"<title>{escape(f'{version.ref}: {describe.origin(version)}')}</title>"
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
        f'<text x="{x + 10}" y="{y + 20}">{escape(shorten(str(version.ref)))}</text>'
        f'<text class="small" x="{x + 10}" y="{y + 38}">{escape(note)}</text></g>'
    )


def draw_arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    """Draws an arrow from one box's right side to another's left side, bending in the last gap only."""
    (x1, y1), (x2, y2) = corner(start), corner(end)
    x1, y1, y2 = x1 + WIDTH, y1 + HEIGHT // 2, y2 + HEIGHT // 2
    turn = x2 - (COLUMN - WIDTH)
    bend = (turn + x2) // 2
    return f'<path d="M{x1} {y1}H{turn}C{bend} {y1} {bend} {y2} {x2} {y2}"/>'


def corner(place: tuple[int, int]) -> tuple[int, int]:
    """Returns the x and y of the upper left corner of a box, in pixels."""
    return MARGIN + place[0] * COLUMN, MARGIN + place[1] * ROW


def shorten(text: str) -> str:
    """Shortens a version's name from the left, because the number is at the end."""
    return text if len(text) <= 24 else f"…{text[-23:]}"
