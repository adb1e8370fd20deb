"""Units by the short names that handlers use."""


class Units:
    def __init__(self) -> None:
        self.units: dict[str | None, str] = {
            "ms": "Milliseconds",
            "s": "Seconds",
            "percent": "Percent",
            "count": "Count",
            "B": "Bytes",
            "kB": "Kilobytes",
            "MB": "Megabytes",
            "GB": "Gigabytes",
            None: "unitless",
            "": "unitless",
        }
