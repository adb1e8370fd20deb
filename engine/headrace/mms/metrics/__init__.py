"""Metrics that handlers report."""

from headrace.mms.metrics import dimension, metric, metrics_store, unit

__all__ = ["dimension", "metric", "metrics_store", "unit"]
