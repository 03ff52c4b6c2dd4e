"""Distributions of times: the right bucket, and never more series than allowed."""

from coinfer.runtime.edge.histograms import (
    BOUNDS_S,
    MAX_LABEL_CHARS,
    MAX_MODELS,
    MAX_PIECES,
    OTHER,
    TimeHistograms,
    piece_label,
)


def samples(times: TimeHistograms) -> dict[tuple[str, ...], float]:
    """Values by name, model, piece and bound."""
    return {
        (sample.name, sample.labels["model"], sample.labels["piece"], sample.labels.get("le", "")): sample.value
        for family in times.collect()
        for sample in family.samples
    }


def test_a_time_is_counted_in_every_bucket_that_it_fits():
    times = TimeHistograms()
    for time_s in (BOUNDS_S[2], 0.3, 99.0):
        times.observe("net", "all", {"compute": time_s})
    found = {bound: value for (name, _, _, bound), value in samples(times).items() if name.endswith("_bucket")}
    assert found == {f"{bound:g}": (bound >= BOUNDS_S[2]) + (bound >= 0.3) for bound in BOUNDS_S} | {"+Inf": 3}
    assert samples(times)["coinfer_compute_seconds_sum", "net", "all", ""] == BOUNDS_S[2] + 0.3 + 99.0


def test_steps_that_a_request_did_not_have_are_not_counted():
    times = TimeHistograms()
    times.observe("net", "all", {"queue_wait": 0.1})
    assert {name.removesuffix("_bucket") for name, *_ in samples(times)} == {
        f"coinfer_queue_wait_seconds{end}" for end in ("", "_count", "_sum")
    }


def test_clients_that_ask_for_ever_new_cuts_make_no_new_series():
    times = TimeHistograms()
    for model in range(MAX_MODELS + 20):
        for piece in range(MAX_PIECES + 20):
            times.observe(str(model), str(piece), {"compute": 1.0})
    counts = {key[1:3]: value for key, value in samples(times).items() if key[0].endswith("_count")}
    assert len(counts) == MAX_MODELS * (MAX_PIECES + 1) + 1
    assert counts["0", OTHER] == 20
    assert counts[OTHER, OTHER] == 20 * (MAX_PIECES + 20)
    assert sum(counts.values()) == (MAX_MODELS + 20) * (MAX_PIECES + 20)


def test_names_of_pieces_are_bounded():
    assert piece_label(["a", "b"], ["c"]) == "a+b to c"
    assert piece_label(["a"], []) == "a to outputs"
    assert len(piece_label(["x" * 1000], [])) == MAX_LABEL_CHARS
