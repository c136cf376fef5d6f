"""The exponent of growth, and the operations that a job is held against."""

import pytest

from benchmarks.growth import exponent
from benchmarks.w2.mfu import operations
from ouroboros.backend.local.model.load import load_base


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_exponent_is_the_power(power):
    assert exponent([(n, 3 * n**power) for n in (1, 2, 8, 64)]) == pytest.approx(power)


def test_operations_grow_with_rows_and_epochs_and_little_with_the_adapter(tiny):
    runtime = load_base(str(tiny), "float32")
    rows = [("where is my parcel?", "shipping"), ("set an alarm", "clock")]
    targets = ("q_proj", "v_proj")
    once = operations(runtime, rows, 1, 4, targets)
    assert operations(runtime, rows, 3, 4, targets) == 3 * once
    assert sum(operations(runtime, [row], 1, 4, targets) for row in rows) == once
    tokens = sum(len(runtime.tokenizer.encode_pair(*row)) for row in rows)
    assert operations(runtime, rows, 1, 8, targets) - once == tokens * 6 * 4 * sum(
        s.inputs + s.outputs for s in runtime.base.linears if s.name in targets
    )
