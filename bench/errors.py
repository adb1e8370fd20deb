"""Why a bench could not be run, in words for whoever started it."""


class BenchError(Exception):
    pass
