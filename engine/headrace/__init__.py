"""Headrace serves many Python models behind one HTTP port, over shared memory.

A model needs only this module: `from headrace import Model`. The names are fetched on first use, so that importing the
package costs nothing and draws in neither numpy nor an event loop.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headrace.errors import InferenceError
    from headrace.model import Model, Response
    from headrace.request import Request

__version__ = "0.1.0"
__all__ = ["InferenceError", "Model", "Request", "Response", "__version__"]

_HOMES = {
    "InferenceError": "headrace.errors",
    "Model": "headrace.model",
    "Request": "headrace.request",
    "Response": "headrace.model",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
