"""Java properties files, as Multi Model Server and TorchServe read them: text in, keys and values out.

    key = value     key: value     key value        the first of `=`, `:` or white space ends the key
    # comment       ! comment
    a = one, \\      a backslash at the end of a line goes on in the next, whose leading blanks do not count
        two
    \\t \\n \\r \\f \\uXXXX \\\\    escapes; before any other character a backslash vanishes

A later line of the same key wins. Source: java.util.Properties.load (Java SE API documentation).
"""

import re
from collections.abc import Mapping

from headrace.errors import ConfigError

_BLANKS = " \t\f"
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_VARIABLE = re.compile(r"\$\$([A-Za-z_][A-Za-z0-9_]*)\$\$")


def parse(text: str) -> dict[str, str]:
    """Keys and values in order of their last line. Raises ConfigError for a \\uXXXX that is none."""
    found: dict[str, str] = {}
    for line in _logical_lines(text):
        key, value = _split(line)
        found.pop(key, None)
        found[key] = value
    return found


def substitute(properties: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """The properties with each `$$NAME$$` replaced from the environment. Raises ConfigError that names unset ones."""
    problems: list[str] = []
    found = {}
    for key, value in properties.items():
        missing = [name for name in _VARIABLE.findall(value) if name not in environ]
        problems += [f"{key}: $${name}$$: the environment has no {name}; set it, or write a value" for name in missing]
        found[key] = value if missing else _VARIABLE.sub(lambda match: environ[match[1]], value)
    if problems:
        raise ConfigError("\n".join(problems))
    return found


def _logical_lines(text: str) -> list[str]:
    lines: list[str] = []
    is_continued = False
    for natural in re.split(r"\r\n|\r|\n", text):
        line = natural.lstrip(_BLANKS)
        if not is_continued and (not line or line[0] in "#!"):
            continue
        backslashes = len(line) - len(line.rstrip("\\"))
        if is_continued:
            lines[-1] += line
        else:
            lines.append(line)
        is_continued = backslashes % 2 == 1
        if is_continued:
            lines[-1] = lines[-1][:-1]
    return lines


def _split(line: str) -> tuple[str, str]:
    at = 0
    while at < len(line) and line[at] not in "=:" + _BLANKS:
        at += 2 if line[at] == "\\" else 1
    rest = line[at:].lstrip(_BLANKS)
    if rest[:1] in ("=", ":"):
        rest = rest[1:].lstrip(_BLANKS)
    return _unescape(line[:at]), _unescape(rest).rstrip()


def _unescape(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        escaped = match[1]
        if escaped[0] != "u":
            return _ESCAPES.get(escaped, escaped)
        if len(escaped) != 5:
            raise ConfigError(f"{text}: \\u must be followed by four hexadecimal digits; write \\\\u for a backslash")
        return chr(int(escaped[1:], 16))

    return re.sub(r"\\(u[0-9a-fA-F]{4}|.)", character, text)
