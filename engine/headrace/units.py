"""How settings are written, and how values are written back: sizes, durations, booleans, whole numbers.

    sizes      512; 512KiB or 512Ki, 1.5GiB or 1.5Gi (powers of 1024); 64KB or 64k, 2GB or 2G (powers of 1000)
    durations  250ms 10s 2m 1h; a bare number is in the setting's own unit
    booleans   true/false, yes/no, on/off, 1/0

The short forms are those of Kubernetes (its documentation, "Resource Management for Pods and Containers"): what a pod's
limit says, a setting may say too. Case does not count.

Every parse function raises ValueError with the forms that it would have taken; the caller adds the setting's name.
"""

import re

_SIZE_UNITS: dict[str, int] = {
    "": 1,
    "b": 1,
    **{prefix + end: 1024**power for power, prefix in enumerate("kmgt", 1) for end in ("i", "ib")},
    **{prefix + end: 1000**power for power, prefix in enumerate("kmgt", 1) for end in ("", "b")},
}
_US = {"us": 1, "ms": 1000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000}
_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_ONE = 1_000_000_000  # in billionths: a number has nine decimals at most
_NUMBER = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([a-zA-Z]*)")  # ASCII digits only, and no sign

SIZE_FORMS = (
    "bytes, or a number with KiB, MiB, GiB or Ki, Mi, Gi (powers of 1024) or KB, MB, GB or k, M, G (powers of 1000), "
    "such as 512MiB"
)
DURATION_FORMS = "a number with us, ms, s, m or h, such as 250ms"


def parse_size(text: str) -> int:
    """Bytes. Fractions are rounded down: "1.5KiB" -> 1536."""
    found = _NUMBER.fullmatch(text.strip())
    if not found or found[2].lower() not in _SIZE_UNITS:
        raise ValueError(f"must be {SIZE_FORMS}")
    return _scaled(found[1]) * _SIZE_UNITS[found[2].lower()] // _ONE


def parse_duration_ms(text: str, unit: str) -> float:
    """Milliseconds; *unit* is what a bare number means. parse_duration_ms("10", "s") -> 10000.0."""
    found = _NUMBER.fullmatch(text.strip())
    if not found or (found[2] or unit) not in _US:
        raise ValueError(f"must be {DURATION_FORMS} (a bare number: {unit})")
    return _scaled(found[1]) * _US[found[2] or unit] / (1000 * _ONE)


def _scaled(number: str) -> int:
    """The number times _ONE, exactly; by integers alone, else every process had `fractions` and `decimal` in memory."""
    whole, _, rest = number.partition(".")
    return int(whole + rest.ljust(9, "0"))


def parse_bool(text: str) -> bool:
    try:
        return _BOOLEANS[text.strip().lower()]
    except KeyError:
        raise ValueError("must be true or false (or yes/no, on/off, 1/0)") from None


def parse_int(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", text.strip()):
        raise ValueError("must be a whole number")
    return int(text)


def format_size(count_bytes: int) -> str:
    """The shortest exact form: 268435456 -> "256MiB", 1000 -> "1000"."""
    for power, prefix in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count_bytes and count_bytes % 1024**power == 0:
            return f"{count_bytes // 1024**power}{prefix}"
    return str(count_bytes)


def about_size(count_bytes: int) -> str:
    """Three digits or so, for people: 3355443200 -> "3.1 GiB", 1000 -> "1000 bytes"."""
    for power, prefix in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if abs(count_bytes) >= 1024**power:
            return f"{count_bytes / 1024**power:.1f} {prefix}"
    return f"{count_bytes} bytes"


def format_duration(ms: float) -> str:
    """60000 -> "60s", 250 -> "250ms", 7200000 -> "2h"; whole seconds below two minutes stay seconds."""
    for length, unit in ((3_600_000, "h"), (60_000, "m"), (1000, "s")):
        if ms % length == 0 and ms >= (2 * length if unit == "m" else length):
            return f"{int(ms // length)}{unit}"
    return f"{ms:g}ms"
