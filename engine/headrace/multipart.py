"""Form bodies: multipart/form-data (RFC 7578) and application/x-www-form-urlencoded."""

import re
import urllib.parse
from dataclasses import dataclass

from headrace.errors import DecodeError

MAX_PARTS = 1000

# One parameter of a field value: name="quoted, with \" inside" or name=token.
_PARAMETER = re.compile(r';\s*([^\s=;]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;]*))')


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form. content_type: as sent, None for a plain field; filename likewise."""

    name: str
    content: bytearray
    content_type: str | None
    filename: str | None


def parameter(value: str, name: str) -> str | None:
    """Parameter *name* of a field value such as `form-data; name="a"`; None when it has none."""
    for found, quoted, token in _PARAMETER.findall(value):
        if found.lower() == name:
            return re.sub(r"\\(.)", r"\1", quoted) if quoted else token
    return None


def parse_multipart(body: memoryview, content_type: str) -> list[Part]:
    """The parts of a multipart/form-data body, in order. DecodeError when it is none."""
    boundary = parameter(content_type, "boundary")
    if not boundary or len(boundary) > 70:
        raise DecodeError("multipart/form-data needs a boundary of 1 to 70 characters in its content-type")
    delimiter = b"\r\n--" + boundary.encode("latin-1", "replace")
    pieces = (b"\r\n" + body).split(delimiter, MAX_PARTS + 2)
    if len(pieces) > MAX_PARTS + 2:
        raise DecodeError(f"multipart body of more than {MAX_PARTS} parts; send fewer")
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise DecodeError(f"multipart body does not end in --{boundary}--; it was cut off or has another boundary")
    return [_parse_part(piece) for piece in pieces[1:-1]]


def parse_urlencoded(body: bytes) -> list[tuple[str, bytearray]]:
    """Names and values of a query or of a form, in order. DecodeError when there are too many."""
    pieces = body.split(b"&", MAX_PARTS)
    if len(pieces) > MAX_PARTS:
        raise DecodeError(f"form of more than {MAX_PARTS} fields; send fewer")
    found = []
    for piece in pieces:
        if piece:
            name, _, value = piece.replace(b"+", b" ").partition(b"=")
            text = urllib.parse.unquote_to_bytes(name).decode("utf-8", "replace")
            found.append((text, bytearray(urllib.parse.unquote_to_bytes(value))))
    return found


def _parse_part(piece: bytes) -> Part:
    padding, _, rest = piece.partition(b"\r\n")
    head, blank, content = (b"\r\n" + rest).partition(b"\r\n\r\n")
    if padding.strip(b" \t") or not blank:
        raise DecodeError("multipart body with a part that has no blank line after its header fields")
    headers: dict[str, str] = {}
    for line in head.decode("utf-8", "replace").split("\r\n"):
        field, _, value = line.partition(":")
        headers[field.strip().lower()] = value.strip()
    disposition = headers.get("content-disposition", "")
    name = parameter(disposition, "name")
    if name is None:
        raise DecodeError('multipart body with a part that has no content-disposition: form-data; name="..."')
    return Part(name, bytearray(content), headers.get("content-type"), parameter(disposition, "filename"))
