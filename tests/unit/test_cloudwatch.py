"""What the simulator counts, in CloudWatch's words."""

import json

from headrace.simulate.cloudwatch import Metrics


def test_metrics_without_values_are_not_told():
    metrics = Metrics("e", "v")
    metrics.record("ModelLoadingTime", 2000.0)
    metrics.record("ModelLoadingTime", 4000.0)
    (datum,) = metrics.document()["MetricData"]
    assert (datum["MetricName"], datum["Unit"]) == ("ModelLoadingTime", "Microseconds")
    assert datum["StatisticValues"] == {"SampleCount": 2, "Sum": 6000.0, "Minimum": 2000.0, "Maximum": 4000.0}
    json.dumps(metrics.document(), allow_nan=False)
    assert b'ModelLoadingTime_sum{EndpointName="e",VariantName="v"} 6000.0' in metrics.exposition()
