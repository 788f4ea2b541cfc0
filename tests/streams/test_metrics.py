"""What is exported keeps the habits of Prometheus and tells nothing of anybody."""

from __future__ import annotations

import re

import pytest
from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from streams import metrics

METRICS = [found for found in vars(metrics).values() if isinstance(found, MetricWrapperBase)]
LABELS = {"role", "outcome", "reason", "stage", "topic", "partition", "label"}
"""Few values each; `label` has those that a setting allows."""

every_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric._name)


def exported(metric: MetricWrapperBase) -> str:
    """The name under which the samples are found."""
    return str(metric._name) + ("_total" if isinstance(metric, Counter) else "")


@every_metric
def test_a_name_tells_the_unit(metric: MetricWrapperBase) -> None:
    name = exported(metric)
    assert re.fullmatch(r"visual_memory_[a-z_]+", name)
    match metric:
        case Counter():
            assert name.endswith("_total")
        case Histogram():
            assert name.endswith("_seconds")
        case _:
            assert isinstance(metric, Gauge)
            assert not re.search(r"_(total|seconds|ms|milliseconds|count|sum|bucket)$", name)


@every_metric
def test_labels_are_of_the_allowed_ones(metric: MetricWrapperBase) -> None:
    assert set(metric._labelnames) <= LABELS


@every_metric
def test_a_metric_is_explained_in_a_sentence(metric: MetricWrapperBase) -> None:
    assert re.fullmatch(r"[A-Z].+\.", metric._documentation)


@every_metric
def test_a_gauge_says_what_it_is_over_many_processes(metric: MetricWrapperBase) -> None:
    """Else every worker's process shows one of its own, under its pid."""
    if isinstance(metric, Gauge):
        assert metric._multiprocess_mode in ("livesum", "mostrecent")


@every_metric
def test_buckets_grow_and_reach_what_is_promised(metric: MetricWrapperBase) -> None:
    if isinstance(metric, Histogram):
        bounds = [bound for bound in metric._upper_bounds if bound != float("inf")]
        assert bounds == sorted(set(bounds))
        assert bounds[0] <= 0.005
        assert bounds[-1] >= 30


def test_all_names_are_different_and_there_are_some() -> None:
    names = [exported(metric) for metric in METRICS]
    assert len(names) > 10
    assert len(names) == len(set(names))


def test_a_stage_is_observed_in_seconds() -> None:
    metrics.observe_stage("a-stage", 0.2)
    metrics.observe_stage("a-stage", 0.3)
    name = "visual_memory_stage_seconds"
    assert REGISTRY.get_sample_value(f"{name}_count", {"stage": "a-stage"}) == 2
    assert REGISTRY.get_sample_value(f"{name}_sum", {"stage": "a-stage"}) == pytest.approx(0.5)
    assert REGISTRY.get_sample_value(f"{name}_bucket", {"stage": "a-stage", "le": "0.25"}) == 1
