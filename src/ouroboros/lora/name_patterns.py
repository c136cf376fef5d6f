r"""Match layers' paths against the keys of PEFT's `rank_pattern` and `alpha_pattern`.

PEFT matches each key as a regular expression, `(.*\.)?(KEY)$`, and takes the first one that fits: a name
fits every path that ends with it, and `^` ties a key to the beginning of a path. The keys come from
files of others, and Python's `re` can take years for a hostile one. So names are looked up here, and
expressions run as automata (Thompson, 1968) with a budget of steps.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from ouroboros.domain.errors import InvalidAdapter

T = TypeVar("T")

MAX_STATES = 2000
"""States of one expression's automaton."""

MAX_DEPTH = 30
"""Groups inside each other."""

MAX_REPEATS = 100
"""The largest count in braces."""

MAX_STEPS = 2_000_000
"""Characters that the expressions of a table may read together, counting other work in the same unit:
a tenth of a second. Ten expressions on all layers of a 70B model take a third of that."""

_NAME = re.compile(r"(\^?)((?:\w|\\[._-])+(?:\.(?:\w|\\[._-])+)*)\$?", re.ASCII)
"""A module's name, in which a point stands for itself, and not for any character as in an expression."""

_CATEGORIES = {"d": str.isdecimal, "w": lambda c: c.isalnum() or c == "_", "s": str.isspace}

Predicate: TypeAlias = Callable[[str], bool]


class PatternTable(Generic[T]):
    """Values by key, as PEFT looks them up. Raises `InvalidAdapter` for a key that is not understood."""

    def __init__(self, what: str, table: Mapping[str, T]) -> None:
        budget = _Budget(what)
        self._budget = budget
        self._ends: dict[str, tuple[int, T]] = {}
        self._paths: dict[str, tuple[int, T]] = {}
        self._expressions: list[tuple[int, T, _Automaton]] = []
        for order, (key, value) in enumerate(table.items()):
            name = _NAME.fullmatch(key)
            if name:
                names = self._paths if name[1] else self._ends
                names.setdefault(name[2].replace("\\", ""), (order, value))
            else:
                self._expressions.append((order, value, _Automaton(what, key, budget)))

    def find(self, path: str, default: T) -> T:
        """Return the value of the first key that fits a path."""
        candidates = [self._paths[path]] if path in self._paths else []
        start = 0
        while start >= 0:  # the path, and each part of it behind a point
            if path[start:] in self._ends:
                candidates.append(self._ends[path[start:]])
            start = path.find(".", start) + 1 or -1
        best = min(candidates, key=lambda c: c[0], default=None)
        for order, value, automaton in self._expressions:
            if best is not None and best[0] < order:
                break
            self._budget.spend(len(path) + 1)
            if automaton.fits(path):
                return value
        return default if best is None else best[1]


class _Budget:
    """Counts the work that one table costs. Raises `InvalidAdapter` when it is too much."""

    def __init__(self, what: str) -> None:
        self._what, self._steps = what, 0

    def spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise InvalidAdapter(
                f"The keys of {self._what} take too long to match.", hint="Write the names out."
            )


# --- expressions as trees ---------------------------------------------------------------------------


class _Character(NamedTuple):
    accepts: Predicate


class _Anchor(NamedTuple):
    at_start: bool


class _Sequence(NamedTuple):
    items: tuple["_Node", ...]


class _Choice(NamedTuple):
    options: tuple["_Node", ...]


class _Repeat(NamedTuple):
    item: "_Node"
    low: int
    high: int | None


_Node: TypeAlias = "_Character | _Anchor | _Sequence | _Choice | _Repeat"


class _Parser:
    """Parses the part of Python's expressions that is regular: no look-around, no references."""

    def __init__(self, what: str, pattern: str) -> None:
        self._what, self._pattern, self._position, self._depth = what, pattern, 0, 0

    def parse(self) -> _Node:
        node = self._parse_choice()
        if self._position < len(self._pattern):
            raise self.refuse()
        return node

    def refuse(self) -> InvalidAdapter:
        return InvalidAdapter(
            f"adapter_config.json has the key {self._pattern[:60]!r} in {self._what}, an expression that"
            " is not supported.",
            hint="Write the modules' names out.",
        )

    def _peek(self) -> str:
        return self._pattern[self._position : self._position + 1]

    def _take(self, token: str) -> bool:
        is_next = self._pattern.startswith(token, self._position)
        self._position += len(token) if is_next else 0
        return is_next

    def _parse_choice(self) -> _Node:
        self._depth += 1
        if self._depth > MAX_DEPTH or len(self._pattern) > MAX_STATES:
            raise self.refuse()
        options = [self._parse_sequence()]
        while self._take("|"):
            options.append(self._parse_sequence())
        self._depth -= 1
        return options[0] if len(options) == 1 else _Choice(tuple(options))

    def _parse_sequence(self) -> _Node:
        items: list[_Node] = []
        while self._peek() not in ("", "|", ")"):
            items.append(self._parse_repeats(self._parse_item()))
        return _Sequence(tuple(items))

    def _parse_repeats(self, item: _Node) -> _Node:
        low, high = 0, None
        if self._peek() in ("*", "+", "?") and self._peek():
            low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}[self._peek()]
            self._position += 1
        else:
            braces = re.compile(r"\{(\d{1,3})(,?)(\d{0,3})\}").match(self._pattern, self._position)
            if braces is None:
                return item
            self._position = braces.end()
            low = int(braces[1])
            high = int(braces[3]) if braces[3] else (None if braces[2] else low)
        self._take("?")  # whether the shortest or the longest match is tried first changes nothing here
        if self._peek() in ("*", "+", "?", "{") or max(low, high or 0) > MAX_REPEATS:
            raise self.refuse()
        if high is not None and low > high:
            raise self.refuse()
        return _Repeat(item, low, high)

    def _parse_item(self) -> _Node:
        if self._take("("):
            if self._take("?") and not self._take(":"):
                raise self.refuse()
            node = self._parse_choice()
            if not self._take(")"):
                raise self.refuse()
            return node
        if self._take("["):
            return _Character(self._parse_class())
        character = self._peek()
        self._position += 1
        match character:
            case ".":
                return _Character(lambda c: c != "\n")
            case "^":
                return _Anchor(True)
            case "$":
                return _Anchor(False)
            case "\\":
                return _Character(self._parse_escape())
            case "*" | "+" | "?" | "{":
                raise self.refuse()
        return _Character(character.__eq__)

    def _parse_escape(self) -> Predicate:
        letter = self._peek()
        self._position += 1
        if letter.lower() in _CATEGORIES:
            accepts = _CATEGORIES[letter.lower()]
            return accepts if letter.islower() else lambda c: not accepts(c)
        if not letter or letter.isalnum():
            raise self.refuse()
        return letter.__eq__

    def _parse_class(self) -> Predicate:
        """Parse what follows an opening bracket, up to the closing one."""
        is_negated, parts = self._take("^"), []
        while not self._take("]") or not parts:
            character = self._peek()
            self._position += 1
            if not character or (character == "]" and parts):
                raise self.refuse()
            if character == "\\":
                parts.append(self._parse_escape())
            elif self._peek() == "-" and self._pattern[self._position + 1 : self._position + 2] not in (
                "]",
                "\\",
                "",
            ):
                last = self._pattern[self._position + 1]
                self._position += 2
                if last < character:
                    raise self.refuse()
                parts.append(lambda c, low=character, high=last: low <= c <= high)
            else:
                parts.append(character.__eq__)
        return lambda c: any(part(c) for part in parts) is not is_negated


# --- automata ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    """Reads a character that it `accepts` and goes on at `targets`, or goes there at once.

    A state without `accepts` is passed anywhere, or at the start or the end of the path only.
    """

    targets: list[int]
    accepts: Predicate | None = None
    only_at_start: bool = False
    only_at_end: bool = False


class _Automaton:
    """One key as a nondeterministic automaton, whose sets of states are remembered as it runs."""

    def __init__(self, what: str, pattern: str, budget: _Budget) -> None:
        budget.spend(40 * len(pattern))
        parser = _Parser(what, pattern)
        tree = parser.parse()
        self._budget = budget
        self._refuse, self._emitted = parser.refuse, 0
        self._states = [_State([])]  # the first one is the end of a match
        any_prefix = _Sequence((_Repeat(_Character(lambda c: True), 0, None), _Character(".".__eq__)))
        start = self._emit(_Sequence((_Repeat(any_prefix, 0, 1), tree)), 0)
        self._start = self._close({start}, at_start=True)
        self._steps: dict[tuple[frozenset[int], str], frozenset[int]] = {}

    def fits(self, path: str) -> bool:
        """Whether the whole path fits the key, behind any prefix that ends with a point."""
        states = self._start
        for character in path:
            key = (states, character)
            if key not in self._steps:
                if len(self._steps) > MAX_STATES:
                    raise self._refuse()
                self._steps[key] = self._step(states, character)
            states = self._steps[key]
            if not states:
                return False
        return 0 in self._close(set(states), at_start=not path, at_end=True)

    def _step(self, states: frozenset[int], character: str) -> frozenset[int]:
        targets: set[int] = set()
        for state in (self._states[number] for number in states):
            if state.accepts is not None and state.accepts(character):
                targets.update(state.targets)
        return self._close(targets)

    def _close(self, numbers: set[int], at_start: bool = False, at_end: bool = False) -> frozenset[int]:
        """Add every state that is reached without reading a character."""
        pending = list(numbers)
        self._budget.spend(12 * len(pending))
        while pending:
            state = self._states[pending.pop()]
            is_passed = (at_start or not state.only_at_start) and (at_end or not state.only_at_end)
            if state.accepts is None and is_passed:
                new = set(state.targets) - numbers
                numbers |= new
                self._budget.spend(12 * len(new) + 12)
                pending += new
        return frozenset(numbers)

    def _emit(self, node: _Node, after: int) -> int:
        """Make the states of a node, which go on at the state `after`; return where they begin."""
        self._emitted += 1
        self._budget.spend(60)
        if self._emitted > MAX_STATES:
            raise self._refuse()
        match node:
            case _Character(accepts):
                return self._add(_State([after], accepts))
            case _Anchor(at_start):
                return self._add(_State([after], only_at_start=at_start, only_at_end=not at_start))
            case _Sequence(items):
                for item in reversed(items):
                    after = self._emit(item, after)
                return after
            case _Choice(options):
                return self._add(_State([self._emit(option, after) for option in options]))
            case _Repeat(item, low, high):
                return self._emit_repeats(item, low, high, after)

    def _emit_repeats(self, item: _Node, low: int, high: int | None, after: int) -> int:
        start = after
        if high is None:
            start = self._add(_State([after]))
            self._states[start].targets.append(self._emit(item, start))
        for _ in range(0 if high is None else high - low):
            start = self._add(_State([self._emit(item, start), after]))
        for _ in range(low):
            start = self._emit(item, start)
        return start

    def _add(self, state: _State) -> int:
        self._states.append(state)
        return len(self._states) - 1
