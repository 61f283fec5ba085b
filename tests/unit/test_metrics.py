"""The worker's counters: what they say when there is more than they have series for."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from streams.metrics import MAX_FIELD_SERIES, Metrics


def test_an_unknown_field_that_has_a_series_is_counted_there_also_when_no_new_one_gets_any() -> None:
    metrics = Metrics(CollectorRegistry(), clock=lambda: 0.0, now_ms=lambda: 0.0)

    def counted(field: str) -> float | None:
        return metrics.registry.get_sample_value("driftwood_unknown_fields_total", {"field": field})

    metrics.unknown_fields({"loyalty": 5})
    metrics.unknown_fields({f"made up {number}": 1 for number in range(MAX_FIELD_SERIES + 9)})
    metrics.unknown_fields({"loyalty": 7, "(others)": 3})
    assert counted("loyalty") == 12
    assert counted("(others)") == 10 + 3
