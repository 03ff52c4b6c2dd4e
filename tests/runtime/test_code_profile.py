"""What codes cost is measured in the pieces that run, once for each bottleneck."""

import itertools
import time

import numpy as np
import pytest
from tests.exit_training.bottlenecks import bottleneck_with_exits, profile, small_bottleneck, small_network, stripes
from tests.tables import analytic_table

from coinfer.profile.sizing import at_sizes
from coinfer.profile.table import ProfileError, ProfileTable
from coinfer.runtime.code_profile import measure_codes
from coinfer.runtime.images import normalise
from coinfer.runtime.profiling import with_codes

GRAPH = small_bottleneck()


def samples() -> list[dict[str, np.ndarray]]:
    assert GRAPH.image is not None
    return [{"input": normalise(picture, GRAPH.image)} for picture in stripes(2).images]


def test_codes_are_measured_and_known_by_their_bottleneck():
    found = measure_codes(GRAPH, samples(), time.thread_time)
    assert found is not None
    assert found.fits(GRAPH)
    assert not found.fits(small_network())
    assert GRAPH.bottleneck is not None
    for times, code in zip(found.codes, GRAPH.bottleneck.codes, strict=True):
        assert min(times.device_s, times.server_s, times.encode_s, times.decode_s) > 0
        assert times.size_bits == 8 * (code.size_bytes or 0)
    assert measure_codes(small_network(), samples(), time.thread_time) is None


def test_time_of_the_processor_counts_not_what_a_busy_machine_adds(monkeypatch: pytest.MonkeyPatch):
    """A thread's clock that shows one more second each time it is read: every piece takes one of them."""
    ticks = itertools.count()
    monkeypatch.setattr(time, "thread_time", lambda: float(next(ticks)))
    found = measure_codes(bottleneck_with_exits(), samples(), time.thread_time)
    assert found is not None
    for times in found.codes:
        assert [times.device_s, times.server_s, *times.earlier_s.values()] == [1.0, 1.0, 1.0]


def test_a_table_of_before_gets_what_it_lacks():
    table = analytic_table(GRAPH)
    with pytest.raises(ProfileError, match="the profile of 'small' does not know this bottleneck: profile it anew"):
        table.segment_s(GRAPH, ("input",), ("code4",))
    known = with_codes(GRAPH, table, samples())
    assert known.segment_s(GRAPH, ("input",), ("code4",)) > 0
    assert with_codes(GRAPH, known, samples()) is known
    assert with_codes(small_network(), table, samples()) is table
    assert ProfileTable.model_validate_json(known.model_dump_json()) == known


def test_each_exit_behind_a_code_has_a_time_of_its_own():
    graph = bottleneck_with_exits()
    found = measure_codes(graph, samples(), time.thread_time)
    assert found is not None
    assert [list(times.earlier_s) for times in found.codes] == [["code2/answer/exit2"], ["code4/answer/exit2"]]
    assert min(seconds for times in found.codes for seconds in (*times.earlier_s.values(), times.server_s)) > 0
    table = profile(graph)
    assert table.segment_s(graph, ("code4",), ("code4/answer/exit2",)) == 4.0
    assert table.segment_s(graph, ("input",), ("code4/answer/exit2",)) == 5.0
    halved = table.with_op_s([seconds / 2 for seconds in table.op_s])
    assert halved.segment_s(graph, ("code2",), ("code2/answer/exit2",)) == pytest.approx(2.0)
    assert ProfileTable.model_validate_json(table.model_dump_json()) == table


def test_the_rest_of_a_code_is_what_its_own_head_leaves():
    """On a network that takes 2 s, of whose first pool and its encoder together 1 s."""
    graph = bottleneck_with_exits()
    table = profile(graph).model_copy(update={"op_s": tuple(seconds / 10 for seconds in profile(graph).op_s)})
    head_s = table.segment_s(graph, ("input",), ("pool1",))
    assert 0 < head_s < 1
    assert table.segment_s(graph, ("head/pool1",), ("code4",)) == pytest.approx(1 - head_s)


def test_times_of_pieces_other_machines_and_batches():
    table = profile(GRAPH)
    assert table.segment_s(GRAPH, ("input",), ("code4",)) == 1.0
    assert table.segment_s(GRAPH, ("code4",), ("code4/answer",)) == 10.0
    assert table.segment_s(GRAPH, ("input",), ("code4/answer",)) == 11.0
    assert table.segment_s(GRAPH, ("code4",), ("code4",)) == 0.0
    slow = table.with_op_s([2 * seconds for seconds in table.op_s])
    assert slow.segment_s(GRAPH, ("code4",), ("code4/answer",)) == pytest.approx(20.0)
    batch = GRAPH.axes[0].name
    measured = table.model_copy(update={"sizes": {batch: {1: 1.0, 2: 2.0, 8: 8.0}}})
    sized, grown = at_sizes(GRAPH, measured, {batch: 4})
    assert grown.segment_s(sized, ("input",), ("code4",)) == pytest.approx(4.0)
    assert [code.size_bits for code in grown.code_times(sized).codes] == [400.0, 640.0]
