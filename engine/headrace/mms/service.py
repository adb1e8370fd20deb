"""PredictionException, and the rest of what handlers import from `mms.service`."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from headrace import log as logs
from headrace.mms.context import Context
from headrace.mms.metrics.metric import Metric

_log = logs.get("metrics")


class PredictionException(Exception):
    """Raised by a handler to answer with this message and status."""

    def __init__(self, message: str, error_code: int = 500) -> None:
        super().__init__(message, error_code)
        self.message = message
        self.error_code = error_code

    def __str__(self) -> str:
        return f"{self.message} : {self.error_code}"


class Service:
    """A model and its entry point, for code that makes its own."""

    def __init__(
        self,
        model_name: str,
        model_dir: str,
        manifest: Mapping[str, Any] | None,
        entry_point: Callable[[Any, Context], Any],
        gpu: int | None,
        batch_size: int,
    ) -> None:
        self.context = Context(model_name, model_dir, manifest, batch_size, gpu)
        self.entry_point = entry_point


def emit_metrics(metrics: Iterable[Metric]) -> None:
    """A line of the log for each metric, in the form of Multi Model Server's metric log. Toolkits report some at every
    request, so their level is DEBUG."""
    if _log.is_enabled("DEBUG"):
        for metric in metrics:
            _log.debug("metric", line=str(metric))
