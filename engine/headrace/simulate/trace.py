"""What became of each request, one JSON object a line: two servers that played the same traffic can be laid side by
side."""

import json
from dataclasses import asdict, dataclass
from typing import IO

from headrace import log

_log = log.get("simulate")


@dataclass(slots=True)
class Record:
    """One request. at_s: of its arrival, since the simulator's start. found: its model was loaded (`hit`), on its way
    (`wait`) or neither (`miss`); empty where there was none to find. status: of the answer to the client;
    original_status: of the container's, None where it was not asked. Times: in all, waiting for the model, in the
    container. loaded: models in memory afterwards."""

    at_s: float
    id: str
    model: str = ""
    found: str = ""
    status: int = 0
    error: str = ""
    original_status: int | None = None
    total_ms: float = 0.0
    wait_ms: float = 0.0
    model_ms: float = 0.0
    request_bytes: int = 0
    answer_bytes: int = 0
    loaded: int = 0


class Trace:
    """file: written to as requests end; None: nothing is."""

    def __init__(self, file: IO[str] | None) -> None:
        self._file = file

    def write(self, record: Record) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(asdict(record)) + "\n")
        except OSError as error:  # a full disk ends the trace, not the rehearsal
            _log.error("trace.ended", error=error)
            self._file = None
