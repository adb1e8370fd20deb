"""Content codings: what is read, what is refused and why, and which coding an answer gets."""

import gzip
import os
import random
import zlib
from collections.abc import Callable

import pytest

from headrace import compression
from headrace.compression import Codings, UnsupportedCoding, choose, codings
from headrace.errors import DecodeError, PayloadTooLarge

zstd = compression._zstd()
LIMIT = 4 << 20
TEXT = b"what goes in at the top comes out at the very bottom. " * 1000

needs_zstd = pytest.mark.skipif(zstd is None, reason="no compression.zstd and no backports.zstd here")


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    return compressor.compress(data) + compressor.flush()


WRITERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("X-GZip", gzip.compress),
    "gzip in capitals, among identities": ("identity, GZIP ,identity", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "deflate without zlib's wrapper": ("deflate", raw_deflate),
}
if zstd is not None:
    WRITERS["zstd"] = ("zstd", zstd.compress)


def decode(data: bytes, name: str, limit: int = LIMIT) -> bytes:
    return Codings(limit, 0).decode(memoryview(data), name)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("size", [0, 1, 1000, 64 << 10, 1 << 20], ids=str)
def test_round_trip(writer: str, size: int) -> None:
    name, write = WRITERS[writer]
    noise = random.Random(size).randbytes(size)
    assert decode(write(noise), name) == noise
    assert decode(write(bytes(size)), name) == bytes(size)


def test_members_are_joined() -> None:
    assert decode(gzip.compress(b"first ") + gzip.compress(b"") + gzip.compress(TEXT), "gzip") == b"first " + TEXT


@needs_zstd
def test_frames_are_joined() -> None:
    assert decode(zstd.compress(b"first ") + zstd.compress(TEXT), "zstd") == b"first " + TEXT


def test_members_that_straddle_the_pieces() -> None:
    noise = random.Random(1).randbytes(100_000)
    assert decode(gzip.compress(noise) * 7, "gzip") == noise * 7


def test_too_many_members() -> None:
    with pytest.raises(DecodeError, match="at most 1000 members"):
        decode(gzip.compress(b"") * 1001, "gzip")
    assert decode(gzip.compress(b"") * 1000, "gzip") == b""


@pytest.mark.parametrize("writer", WRITERS)
def test_the_size_bound_is_exact(writer: str) -> None:
    name, write = WRITERS[writer]
    assert len(decode(write(bytes(1000)), name, 1000)) == 1000
    with pytest.raises(PayloadTooLarge, match=r"more than 999 bytes .HEADRACE_MAX_REQUEST"):
        decode(write(bytes(1000)), name, 999)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_bomb(writer: str) -> None:
    """A megabyte of anything is let pass; past that, at most so many times the size that came."""
    name, write = WRITERS[writer]
    bomb = write(bytes(3 << 20))
    assert decode(write(bytes(1 << 20)), name) == bytes(1 << 20)
    with pytest.raises(PayloadTooLarge, match="past 256 times its size"):
        decode(bomb, name)


@pytest.mark.parametrize("writer", WRITERS)
def test_every_cut_is_noticed(writer: str) -> None:
    name, write = WRITERS[writer]
    whole = write(TEXT[:200])
    for length in range(len(whole)):
        with pytest.raises(DecodeError, match=r"ends before its content-encoding \w+ does|not \w+ as its"):
            decode(whole[:length], name)


@pytest.mark.parametrize("name", codings())
def test_junk(name: str) -> None:
    generator = random.Random(7)
    for _ in range(300):
        junk = generator.randbytes(generator.randrange(1, 400))
        try:
            decode(junk, name)
        except (DecodeError, PayloadTooLarge):
            pass  # bare deflate has no check sum: some junk is a body


@pytest.mark.parametrize("writer", WRITERS)
def test_a_flipped_byte_never_breaks_out(writer: str) -> None:
    name, write = WRITERS[writer]
    whole = write(TEXT[:2000])
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x55
        try:
            decode(bytes(damaged), name)
        except (DecodeError, PayloadTooLarge):
            pass


def test_what_follows_deflate() -> None:
    with pytest.raises(DecodeError, match="3 bytes follow"):
        decode(zlib.compress(TEXT) + b"xyz", "deflate")


@pytest.mark.parametrize("name", ["br", "compress", "gzip, gzip", "deflate, br", "no such; thing"])
def test_codings_that_are_not_read(name: str) -> None:
    with pytest.raises(UnsupportedCoding, match=r"not read|more than one") as caught:
        decode(b"whatever", name)
    assert caught.value.status == 415
    assert caught.value.fields == f"accept-encoding: {', '.join(codings())}\r\n".encode()


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ("gzip", "gzip"),
        ("GZip", "gzip"),
        ("x-gzip", "gzip"),
        ("gzip, deflate", "gzip"),
        ("deflate, gzip;q=0.5", "deflate"),
        ("deflate;q=0.2, gzip;q=0.5, identity;q=0.1", "gzip"),
        ("gzip;q=0", None),
        ("gzip;q=0, deflate", "deflate"),
        ("identity", None),
        ("gzip;q=0.5, identity", None),
        ("gzip, identity;q=0", "gzip"),
        ("br", None),
        ("*;q=0", None),
        ("gzip;q=2", None),
        ("gzip;q=nan", None),
        ("gzip;q=", None),
        (" , ,gzip ; q=1", "gzip"),
        ("", None),
    ],
)
def test_choose(accepted: str, chosen: str | None) -> None:
    assert choose(accepted) == chosen


def test_choose_for_a_wildcard() -> None:
    assert choose("*") == codings()[0]
    assert choose("zstd;q=0, gzip;q=0, *") == "deflate"


@needs_zstd
def test_zstd_is_preferred_among_equals() -> None:
    assert choose("gzip, deflate, br, zstd") == "zstd"


@pytest.mark.parametrize("name", codings())
def test_encode(name: str) -> None:
    packed, fields = Codings(LIMIT, 1).encode(memoryview(TEXT), b"a: b\r\n", name)
    assert fields == b"a: b\r\nvary: accept-encoding\r\ncontent-encoding: " + name.encode() + b"\r\n"
    assert len(packed) < len(TEXT) / 10
    assert decode(packed, name) == TEXT


def test_encode_leaves_alone_what_the_model_coded() -> None:
    coded = os.urandom(100)
    assert Codings(LIMIT, 1).encode(coded, b"Content-Encoding: br\r\n", "gzip") == (coded, b"Content-Encoding: br\r\n")


def test_encode_for_one_that_wants_none() -> None:
    assert Codings(LIMIT, 1).encode(TEXT, b"", "br, gzip;q=0") == (TEXT, b"vary: accept-encoding\r\n")
