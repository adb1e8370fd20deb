"""Content codings (RFC 9110, 8.4): bodies that come compressed, and answers that go out so.

Both are a worker's work, never a frontend's: who sends or wants compressed bytes spends his model's time.
A compressed body is decoded when it is first looked at, so that one which cannot be is its own request's fault alone.
"""

import functools
import zlib
from collections.abc import Callable
from typing import Any

from headrace.errors import DecodeError, PayloadTooLarge, UnsupportedMediaType

#: A body may grow to so many times its size, and to so many bytes in any case. Zeros deflate to a thousandth (zlib's
#: documentation gives 1032:1 as its limit); weights, images and numbers as text to a tenth at best.
RATIO_MOST = 256
RATIO_FREE_BYTES = 1 << 20
#: RFC 1952, 2.2: a gzip body is one member or more; RFC 8878, 3.1: likewise frames of zstd.
MEMBERS_MOST = 1000
#: RFC 9659, 3: what a decoder of `zstd` as a content coding must be able to, and may refuse to exceed: 8 MB.
ZSTD_WINDOW_LOG = 23

_PIECE_BYTES = 64 << 10
_LEVEL = 1  # the fastest: several times as fast as zlib's default, for answers a tenth larger
_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's wbits
_ALIASES = {"x-gzip": "gzip"}  # RFC 9110, 8.4.1.3


class UnsupportedCoding(UnsupportedMediaType):
    """A content coding that is not read; the answer says which are (RFC 9110, 15.5.16)."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.fields = f"accept-encoding: {', '.join(codings())}\r\n".encode()


class Codings:
    """What a worker's Port does about content codings.

    max_request_bytes: of a decoded body; min_bytes: the smallest answer that is compressed, 0 = none is.
    """

    def __init__(self, max_request_bytes: int, min_bytes: int) -> None:
        self.min_bytes = min_bytes
        self._max_request_bytes = max_request_bytes

    def decode(self, coded: memoryview, content_encoding: str) -> bytes:
        """The body as it was before its codings. Raises UnsupportedCoding, DecodeError and PayloadTooLarge."""
        names = [_ALIASES.get(name, name) for name in _members(content_encoding) if name != "identity"]
        if len(names) > 1:
            raise UnsupportedCoding(
                f"content-encoding {content_encoding!r} is more than one; send a body in one coding"
            )
        if not names:
            return bytes(coded)
        if names[0] not in codings():
            raise UnsupportedCoding(f"content-encoding {names[0]!r} is not read; send one of {', '.join(codings())}")
        return _decode(coded, names[0], self._max_request_bytes)

    def encode(self, body: Any, fields: bytes, accept_encoding: str) -> tuple[Any, bytes]:
        """(the answer in the coding that the client likes best, or as it is where there is none; its field lines)"""
        if b"content-encoding:" in fields.lower():
            return body, fields  # the model has seen to it
        fields += b"vary: accept-encoding\r\n"
        name = choose(accept_encoding)
        if name is None:
            return body, fields
        return _encoder(name)(body), fields + f"content-encoding: {name}\r\n".encode()


def codings() -> tuple[str, ...]:
    """Codings that are read and written here, best first."""
    return ("gzip", "deflate") if _zstd() is None else ("zstd", "gzip", "deflate")


def choose(accept_encoding: str) -> str | None:
    """The coding for an answer by an Accept-Encoding value (RFC 9110, 12.5.3); None for `identity`.

    The highest weight wins, of equal ones the first of codings(). A weight that is none counts as 0.
    """
    weights: dict[str, float] = {}
    for item in accept_encoding.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        weights.setdefault(_ALIASES.get(name, name), weight if 0 < weight <= 1 else 0.0)
    best = max(codings(), key=lambda name: weights.get(name, weights.get("*", 0.0)))  # the first of equals
    weight = weights.get(best, weights.get("*", 0.0))
    return best if weight > 0 and weight >= weights.get("identity", 0.0) else None


def _members(value: str) -> list[str]:
    return [name for name in (part.strip().lower() for part in value.split(",")) if name]


def _decode(coded: memoryview, name: str, max_bytes: int) -> bytes:
    """Decodes in pieces, so that neither a lie about sizes nor many empty members cost more than the bounds say."""
    start, failures = _decoder(name, coded)
    most = min(max_bytes, max(RATIO_FREE_BYTES, RATIO_MOST * len(coded)))
    room, at, members = most, 0, 0
    pieces: list[bytes] = []
    while at < len(coded) or not members:
        if members and name == "deflate":
            raise DecodeError(f"{len(coded) - at} bytes follow the end of a body in content-encoding deflate")
        if members == MEMBERS_MOST:
            raise DecodeError(f"a body in content-encoding {name} may have at most {MEMBERS_MOST} members")
        members += 1
        decoder = start()
        while not decoder.eof:
            if at == len(coded):
                raise DecodeError(f"the body ends before its content-encoding {name} does; was it cut off?")
            piece = coded[at : at + _PIECE_BYTES]
            try:
                plain = decoder.decompress(piece, room + 1)
            except failures as error:
                raise DecodeError(f"the body is not {name} as its content-encoding says: {error}") from None
            at += len(piece)
            if len(plain) > room:
                raise PayloadTooLarge(_too_large(name, len(coded), most, max_bytes))
            room -= len(plain)
            pieces.append(plain)
        at -= len(decoder.unused_data)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_large(name: str, coded: int, most: int, max_bytes: int) -> str:
    if most == max_bytes:
        return f"the body is {name} of more than {max_bytes} bytes (HEADRACE_MAX_REQUEST)"
    return f"{coded} bytes of {name} are more than {most} bytes of body: past {RATIO_MOST} times its size none is read"


def _decoder(name: str, coded: memoryview) -> tuple[Callable[[], Any], type[Exception]]:
    """(what makes a decompressor, what that raises)"""
    if name == "zstd":
        zstd: Any = _zstd()
        options = {zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG}
        return functools.partial(zstd.ZstdDecompressor, options=options), zstd.ZstdError
    bits = _GZIP
    if name == "deflate":
        # RFC 9110, 8.4.1.2: it is the zlib format, but some send bare deflate. RFC 1950, 2.2, has how to tell.
        is_zlib = len(coded) >= 2 and coded[0] & 0x0F == 8 and (coded[0] << 8 | coded[1]) % 31 == 0
        bits = _ZLIB if is_zlib else _RAW
    return functools.partial(zlib.decompressobj, bits), zlib.error


def _encoder(name: str) -> Callable[[Any], bytes]:
    if name == "zstd":
        zstd: Any = _zstd()
        return functools.partial(zstd.compress, level=_LEVEL)
    return functools.partial(_deflate, bits=_GZIP if name == "gzip" else _ZLIB)


def _deflate(body: Any, bits: int) -> bytes:
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, bits)
    return compressor.compress(body) + compressor.flush()


@functools.cache
def _zstd() -> Any:
    """The module of PEP 784, or its backport; None where neither is."""
    try:
        from compression import zstd
    except ImportError:
        try:
            from backports import zstd
        except ImportError:
            return None
    return zstd
