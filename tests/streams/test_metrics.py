"""What is exported keeps the habits of Prometheus and tells nothing of anybody."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from memory.errors import Reason
from memory.model.times import SECOND
from streams import bootstrap
from streams.config.settings import load
from streams.contract.messages import Receipt, SelectorDigest
from streams.erasure import metrics as erasure_metrics
from streams.erasure.bound import Bound
from streams.workers import metrics
from streams.workers.metrics import (
    MEASURED,
    OLDEST_OPEN_FORGET,
    RELIABILITY_AGE,
    REPLICA_AGE,
)

METRICS = [
    found
    for module in (metrics, erasure_metrics)
    for found in vars(module).values()
    if isinstance(found, MetricWrapperBase)
]
LABELS = {
    "by",
    "pruning",
    "what",
    "role",
    "outcome",
    "reason",
    "stage",
    "topic",
    "partition",
    "label",
    "model",
}
"""Few values each; `label` has those that a setting allows."""

every_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric._name)

NOW = 1_790_000_000_000_000


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
            assert not re.search(r"_(total|ms|milliseconds|count|sum|bucket)$", name)
            assert name.endswith("_seconds") == (
                metric
                in (
                    OLDEST_OPEN_FORGET,
                    MEASURED,
                    RELIABILITY_AGE,
                    REPLICA_AGE,
                    erasure_metrics.OLDEST_ERASURE,
                    erasure_metrics.BOUND_SECONDS,
                    erasure_metrics.LIMIT_SECONDS,
                )
            )


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
        # Erasing waits for files to be written anew.
        assert bounds[0] <= (1 if metric is erasure_metrics.ERASURE_SECONDS else 0.005)
        assert bounds[-1] >= 30


def test_a_stage_takes_from_when_a_request_was_to_be_carried_out() -> None:
    def observed() -> list[float]:
        told = (
            REGISTRY.get_sample_value(f"visual_memory_erasure_seconds_{kind}", {"stage": stage})
            for stage in ("log_compacted", "redis_purged")
            for kind in ("count", "sum")
        )
        return [value for value in told if value is not None]

    erasure_metrics.begin_stages_at_zero()
    before = observed()
    stages = {"received": NOW, "erased": NOW + SECOND, "redis_purged": NOW + 3 * SECOND}
    said = Receipt("r", "erased", stages, SelectorDigest("subject", "d"), 9, 4, memory="vm")
    erasure_metrics.observe_stages({"received", "erased"}, said)
    erasure_metrics.observe_stages({"received", "erased", "redis_purged"}, said)
    *others, count, total = before
    assert observed() == pytest.approx([*others, count + 1, total + 3])


def test_the_bound_is_told_beside_its_limit() -> None:
    def told(name: str) -> float | None:
        return REGISTRY.get_sample_value(f"visual_memory_erasure_{name}_seconds")

    erasure_metrics.export_bound(Bound({"log": 7.0, "redis": 5.0}, ()), 86_400)
    assert (told("bound"), told("limit")) == (7, 86_400)
    erasure_metrics.export_bound(None, 60)
    assert (told("bound"), told("limit")) == (-1, 60)


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


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"visual_memory_{name}", labels)


@pytest.mark.parametrize("role", sorted(metrics.OUTCOMES))
def test_a_roles_series_are_there_before_anything_happens(role: str) -> None:
    metrics.begin_at_zero(role)
    assert value("retries_total", role=role) is not None
    for outcome in metrics.OUTCOMES[role]:
        assert value("events_total", role=role, outcome=outcome) is not None
    for reason in Reason:
        assert value("rejected_total", role=role, reason=str(reason)) is not None
    for stage in metrics.STAGES[role]:
        assert value("stage_seconds_count", stage=stage) is not None
    merges = value("freshness_seconds_count", role=role) is not None
    assert merges == (role in ("ingest", "correct"))


class Blank:
    """An embedder that takes three images at most."""

    name, digest, dim = "blank", "0" * 64, 2

    def embed(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        if len(images) > 3:
            raise ValueError("too many")
        return np.ones((len(images), 2), np.float32)


def test_embedded_images_are_counted_under_the_kind_of_model_alone() -> None:
    counted = metrics.Counted(Blank(), "a-kind")
    assert value("embedded_images_total", model="a-kind") == 0
    assert counted.embed([Image.new("RGB", (1, 1))] * 3).shape == (3, 2)
    assert value("embedded_images_total", model="a-kind") == 3
    assert (counted.name, counted.digest, counted.dim) == ("blank", "0" * 64, 2)


def test_images_that_could_not_be_embedded_are_not_counted() -> None:
    counted = metrics.Counted(Blank(), "another-kind")
    with pytest.raises(ValueError, match="too many"):
        counted.embed([Image.new("RGB", (1, 1))] * 4)
    assert value("embedded_images_total", model="another-kind") == 0


def test_the_folder_of_a_model_is_no_label() -> None:
    settings = load(embedder="vectors:somewhere/private:2")
    assert bootstrap.embedder(settings).name == "somewhere/private"
    assert value("embedded_images_total", model="vectors") == 0
