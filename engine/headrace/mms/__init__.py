"""What handlers written for Multi Model Server import as `mms`: the same names, served by Headrace.

Handlers reach it under that name through their namespace (headrace.namespace.STAND_INS), other processes through
headrace.stand_in; nothing is installed as `mms`.
"""

from headrace.mms import context, metrics, service

__version__ = context.VERSION

__all__ = ["__version__", "context", "metrics", "service"]
