"""What all suites of laws share: a law that a store cannot hold is declared, and shown as such."""

from collections.abc import Mapping
from typing import ClassVar

import pytest


class Laws:
    """Laws as tests. A subclass that cannot hold one says so, and why:

        class TestMine(SharedBlobLaws):
            lacks = {"test_keys_are_listed_in_code_point_order": "its server sorts by UTF-16"}

    Such a law runs all the same; where it fails, pytest reports an expected failure with that reason.
    """

    lacks: ClassVar[Mapping[str, str]] = {}

    @pytest.fixture(autouse=True)
    def _declared(self, request: pytest.FixtureRequest) -> None:
        name = getattr(request.function, "__name__", "")
        if name in self.lacks:
            request.applymarker(pytest.mark.xfail(reason=f"declared: {self.lacks[name]}", strict=False))

    def test_only_laws_that_there_are_may_be_lacking_and_with_a_reason(self) -> None:
        assert [name for name in self.lacks if not name.startswith("test_")] == []
        assert [name for name in self.lacks if not callable(getattr(self, name, None))] == []
        assert [name for name, reason in self.lacks.items() if not reason.strip()] == []
