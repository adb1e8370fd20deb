"""The file of `headrace serve --settings FILE`: a setting a line, in the form of Java's properties (properties.py).

    # of the night shift
    max_batch_size = 64
    idle_timeout = 2m

A name is the variable's without HEADRACE_, or the variable's itself; case does not count.
"""

from headrace import properties
from headrace.errors import ConfigError
from headrace.settings import field_of, suggest

FILE_BYTES_MAX = 1 << 20


def read(path: str) -> dict[str, tuple[str, object]]:
    """For settings.load(): field name -> (where it stands, text). Raises ConfigError with all problems, one a line."""
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"--settings {path} cannot be read: {error.strerror}") from None
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"--settings {path} has more than {FILE_BYTES_MAX} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--settings {path} is not UTF-8: {error}") from None
    found: dict[str, tuple[str, object]] = {}
    problems = []
    for word, value in properties.parse(text).items():
        name = field_of(word)
        if name is None:
            problems.append(f"{path}: {word!r} is no setting; {suggest(word)}")
        elif name in found:
            problems.append(f"{path}: {word} is given twice, under two names")
        else:
            found[name] = (f"{path}: {word}", value)
    if problems:
        raise ConfigError("\n".join(problems))
    return found
