from typing import Any

import numpy.typing as npt

class Span: ...

def runs(arrays: list[npt.NDArray[Any]]) -> list[tuple[npt.NDArray[Any], list[int]]]: ...
