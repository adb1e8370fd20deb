"""The metrics that CloudWatch has of an endpoint, by its names and in its units, since the start of the simulator.

Sources, of the SageMaker developer guide: "Amazon SageMaker AI metrics in Amazon CloudWatch", "CloudWatch Metrics for
Multi-Model Endpoint Deployments". As a JSON document a metric is a MetricDatum with StatisticValues, as in the
CloudWatch API; as Prometheus text it is a summary, and its least and greatest value are gauges.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.core import CollectorRegistry, GaugeMetricFamily, Metric, SummaryMetricFamily

INVOCATION = "AWS/SageMaker"
INSTANCE = "/aws/sagemaker/Endpoints"


@dataclass(frozen=True, slots=True)
class Definition:
    namespace: str
    unit: str
    help: str


# Recorded for each request, load or unload. "None" is CloudWatch's word for a number without a unit.
RECORDED = {
    "Invocations": Definition(INVOCATION, "None", "requests to the endpoint"),
    "Invocation4XXErrors": Definition(INVOCATION, "None", "1 for each that the model answered with 4xx, else 0"),
    "Invocation5XXErrors": Definition(INVOCATION, "None", "1 for each that the model answered with 5xx, else 0"),
    "ModelLatency": Definition(INVOCATION, "Microseconds", "the container's answer to an invocation"),
    "OverheadLatency": Definition(INVOCATION, "Microseconds", "a request, less its ModelLatency"),
    "ModelLoadingWaitTime": Definition(INVOCATION, "Microseconds", "a request's wait for a download and load"),
    "ModelUnloadingTime": Definition(INVOCATION, "Microseconds", "the container's answer to an unload"),
    "ModelDownloadingTime": Definition(INVOCATION, "Microseconds", "from the package to the disk"),
    "ModelLoadingTime": Definition(INVOCATION, "Microseconds", "the container's answer to a load"),
    "ModelCacheHit": Definition(INVOCATION, "None", "1 for each request whose model was loaded, else 0"),
}
# Asked for when somebody looks.
MEASURED = {
    "LoadedModelCount": Definition(INSTANCE, "None", "models in the container's memory"),
    "MemoryUtilization": Definition(INSTANCE, "Percent", "resident memory of the container's processes"),
    "DiskUtilization": Definition(INSTANCE, "Percent", "unpacked models"),
}


@dataclass(slots=True)
class Statistics:
    count: int = 0
    sum: float = 0.0
    least: float = math.inf
    greatest: float = -math.inf

    def add(self, value: float) -> None:
        self.count += 1
        self.sum += value
        self.least = min(self.least, value)
        self.greatest = max(self.greatest, value)


class Metrics:
    """measure(): the values of MEASURED that there are."""

    def __init__(self, endpoint: str, variant: str) -> None:
        self.measure: Callable[[], Mapping[str, float]] = dict
        self._dimensions = {"EndpointName": endpoint, "VariantName": variant}
        self._statistics = {name: Statistics() for name in RECORDED}

    def record(self, name: str, value: float) -> None:
        """value: in the metric's unit."""
        self._statistics[name].add(value)

    def statistics(self, name: str) -> Statistics:
        return self._statistics[name]

    def document(self) -> dict[str, Any]:
        """{"MetricData": [...]}; a metric that nothing was recorded of is not there, as in CloudWatch."""
        values = self.measure()
        found = [(name, RECORDED[name], it) for name, it in self._statistics.items() if it.count]
        found += [(name, MEASURED[name], Statistics(1, value, value, value)) for name, value in values.items()]
        return {"MetricData": [self._datum(name, definition, it) for name, definition, it in found]}

    def exposition(self) -> bytes:
        """Prometheus text."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(list(self._families())))
        return generate_latest(registry)

    def _datum(self, name: str, definition: Definition, it: Statistics) -> dict[str, Any]:
        return {
            "Namespace": definition.namespace,
            "MetricName": name,
            "Dimensions": [{"Name": key, "Value": value} for key, value in self._dimensions.items()],
            "Unit": definition.unit,
            "StatisticValues": {
                "SampleCount": it.count,
                "Sum": it.sum,
                "Minimum": it.least,
                "Maximum": it.greatest,
            },
        }

    def _families(self) -> Iterator[Metric]:
        labels = list(self._dimensions)
        values = list(self._dimensions.values())
        for name, it in self._statistics.items():
            text = _help(RECORDED[name])
            summary = SummaryMetricFamily(name, text, labels=labels)
            summary.add_metric(values, it.count, it.sum)
            yield summary
            if it.count:
                for suffix, value in (("Minimum", it.least), ("Maximum", it.greatest)):
                    gauge = GaugeMetricFamily(f"{name}_{suffix}", f"{suffix.lower()}: {text}", labels=labels)
                    gauge.add_metric(values, value)
                    yield gauge
        for name, value in self.measure().items():
            gauge = GaugeMetricFamily(name, _help(MEASURED[name]), labels=labels)
            gauge.add_metric(values, value)
            yield gauge


class _Collector:
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _help(definition: Definition) -> str:
    return f"{definition.help}; unit: {definition.unit}"
