"""One value with its unit and dimensions."""

import socket
import time
from collections.abc import Iterable

from headrace.mms.metrics.dimension import Dimension
from headrace.mms.metrics.unit import Units

_UNITS = Units().units
_HOST = socket.gethostname()


class Metric:
    """A metric; `metric_method="counter"` adds up, else the last value counts. unit: a short name of Units."""

    def __init__(
        self,
        name: str,
        value: float | str,
        unit: str | None,
        dimensions: Iterable[Dimension] | None = None,
        request_id: str | None = None,
        metric_method: str | None = None,
    ) -> None:
        self.name = name
        self.value = value
        self.unit = _UNITS.get(unit, unit)
        self.dimensions = list(dimensions or ())
        self.request_id = request_id
        self.metric_method = metric_method

    def update(self, value: float | str) -> None:
        if self.metric_method == "counter" and isinstance(self.value, (int, float)) and isinstance(value, (int, float)):
            self.value += value
        else:
            self.value = value

    def __str__(self) -> str:
        """`Name.Unit:value|#dimensions|#hostname:h,requestID:id,timestamp:seconds`, the form of MMS's metric logs."""
        value = round(self.value, 2) if isinstance(self.value, float) else self.value
        subject = ",".join(map(str, self.dimensions))
        request = f",requestID:{self.request_id}" if self.request_id else ""
        return f"{self.name}.{self.unit}:{value}|#{subject}|#hostname:{_HOST}{request},timestamp:{int(time.time())}"
