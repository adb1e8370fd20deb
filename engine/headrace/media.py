"""Media types by number, as in ext/layout.h, and the field lines of an answer."""

from collections.abc import Iterable

NONE = 0
JSON = 1
NPY = 2
CSV = 3
RAW = 4
NPZ = 5
TEXT = 6
FORM = 7
MULTIPART = 8
ANY = 9
OTHER = 10

PHRASE_MAX = 512  # characters

# The exact content types that a number stands for in an answer; any other goes out in a field line.
EXACT: dict[str, int] = {
    "application/json": JSON,
    "application/x-npy": NPY,
    "text/csv": CSV,
    "application/octet-stream": RAW,
    "application/x-npz": NPZ,
    "text/plain": TEXT,
}

_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")  # RFC 9110, 5.6.2
_CONTROLS = {code: " " for code in (*range(0x20), 0x7F) if code != 0x09}


def field_line(name: str, value: object) -> bytes:
    """`name: value\\r\\n` (RFC 9110, 5.5 and 5.6.2).

    ValueError, which shows no value, for what cannot be sent: a line end would begin a field, or an answer, of its own.
    """
    if not name or not _TOKEN.issuperset(name):
        raise ValueError(f"header name {name!r} is not a token as RFC 9110 has it")
    text = str(value).strip(" \t")
    for code in map(ord, text):
        if code in _CONTROLS or code > 0xFF:
            raise ValueError(
                f"the value of header {name} has U+{code:04X}; controls and what latin-1 lacks cannot be sent"
            )
    return f"{name}: {text}\r\n".encode("latin-1")


def phrase_line(phrase: str) -> bytes:
    """A reason phrase as the first of the field lines, `:phrase\\r\\n` as ext/response.h has it; nothing for none.

    Line ends and other controls become spaces, what latin-1 lacks becomes `?`, and what is too long is cut.
    """
    text = phrase.translate(_CONTROLS).strip()[:PHRASE_MAX]
    return b":" + text.encode("latin-1", "replace") + b"\r\n" if text else b""


# Fields that frame the message or that the server owns; a model's own would contradict them.
_OWNED = frozenset(
    ["connection", "content-length", "date", "keep-alive", "server", "transfer-encoding", "x-request-id"],
)


def fields(content_type: str | None, headers: Iterable[tuple[str, object]]) -> tuple[int, bytes]:
    """(kind, field lines) of an answer with this content type and these headers; a `content-type` among them counts.

    None and no such header: MEDIA_NONE, no content type is sent. Headers that the server owns are left out.
    ValueError for one that cannot be sent.
    """
    lines = b""
    for name, value in headers:
        lowered = str(name).lower()
        if lowered == "content-type":
            content_type = str(value) if content_type is None else content_type
        elif lowered not in _OWNED:
            lines += field_line(str(name), value)
    if content_type is None:
        return NONE, lines
    kind = EXACT.get(content_type, OTHER)
    return kind, lines + field_line("content-type", content_type) if kind == OTHER else lines
