"""The metrics of one call of a handler (`context.metrics`)."""

from collections.abc import Mapping, Sequence

from headrace.mms.metrics.dimension import Dimension
from headrace.mms.metrics.metric import Metric


class MetricsStore:
    """Takes what the handler reports; a counter of the same name, request and dimensions adds up.

    idx: which request of the call it is about; None for all of them.
    """

    def __init__(self, request_ids: Mapping[int, str], model_name: str) -> None:
        self.request_ids = request_ids
        self.model_name = model_name
        self.store: list[Metric] = []
        self.cache: dict[tuple[object, ...], Metric] = {}

    def add_counter(
        self, name: str, value: int, idx: int | None = None, dimensions: Sequence[Dimension] | None = None
    ) -> None:
        self._add(name, value, idx, "count", dimensions, "counter")

    def add_time(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: Sequence[Dimension] | None = None,
    ) -> None:
        self._add_checked(name, value, idx, unit, dimensions, ("ms", "s"))

    def add_size(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: Sequence[Dimension] | None = None,
    ) -> None:
        self._add_checked(name, value, idx, unit, dimensions, ("B", "kB", "MB", "GB"))

    def add_percent(
        self, name: str, value: float, idx: int | None = None, dimensions: Sequence[Dimension] | None = None
    ) -> None:
        self._add(name, value, idx, "percent", dimensions)

    def add_error(self, name: str, value: str, dimensions: Sequence[Dimension] | None = None) -> None:
        self._add(name, value, None, "", dimensions)

    def add_metric(
        self,
        name: str,
        value: float | str,
        idx: int | None = None,
        unit: str | None = None,
        dimensions: Sequence[Dimension] | None = None,
    ) -> None:
        self._add(name, value, idx, unit, dimensions)

    def _add_checked(
        self,
        name: str,
        value: float,
        idx: int | None,
        unit: str,
        dimensions: Sequence[Dimension] | None,
        units: tuple[str, ...],
    ) -> None:
        if unit not in units:
            raise ValueError(f"metric {name!r}: unit {unit!r} is unknown; use one of {', '.join(units)}")
        self._add(name, value, idx, unit, dimensions)

    def _add(
        self,
        name: str,
        value: float | str,
        idx: int | None,
        unit: str | None,
        dimensions: Sequence[Dimension] | None,
        method: str | None = None,
    ) -> None:
        key = (name, unit, idx, tuple(map(str, dimensions or ())))
        known = self.cache.get(key) if method else None
        if known is not None:
            known.update(value)
            return
        request_id = ",".join(self.request_ids.values()) if idx is None else self.request_ids.get(idx)
        subject = [*(dimensions or ()), Dimension("ModelName", self.model_name), Dimension("Level", "Model")]
        metric = Metric(name, value, unit, subject, request_id, method)
        self.store.append(metric)
        if method:
            self.cache[key] = metric
