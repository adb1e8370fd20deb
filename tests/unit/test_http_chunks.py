"""Chunked bodies: data, announcement, limits at the boundary, one over and a thousand times over.

Refusals of the grammar are in the corpus; here every byte is tried in every place of the decoder alone.
"""

import pytest

from headrace._http import ChunkDecoder, HttpError

END = b"0\r\n\r\n"


def decode(data: bytes, step: int | None = None, **limits: int) -> tuple[bytes, bool, int]:
    """Data, whether the body ended, and how many bytes were taken."""
    decoder, out, used = ChunkDecoder(**limits), b"", 0
    step = step or max(len(data), 1)
    for start in range(0, len(data), step):
        out += decoder.feed(data[start : start + step])
        used += decoder.used
        if decoder.done:
            break
    return out, decoder.done, used


def refused(data: bytes, **limits: int) -> tuple[int, str]:
    found = set()
    for step in (None, 1, 2, 7):
        with pytest.raises(HttpError) as caught:
            decode(data, step, **limits)
        found.add((caught.value.status, caught.value.code))
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize(
    ("raw", "data"),
    [
        (END, b""),
        (b"1\r\na\r\n" + END, b"a"),
        (b"a\r\n0123456789\r\nA\r\n0123456789\r\n" + END, b"0123456789" * 2),
        (b"0010\r\n0123456789abcdef\r\n00000\r\n\r\n", b"0123456789abcdef"),
        (b"2;a\r\n\r\n\r\n" + END, b"\r\n"),
        (b'1;a="\\\\";b="\\"" ; c = d\r\nx\r\n' + END, b"x"),
        (b"1;\r\nx\r\n0;\r\n\r\n", b"x"),
        (b'1;a="\xe9"\r\nx\r\n' + END, b"x"),
        (b"0\r\nA: b\r\nB:\r\nC: \t\xff\r\n\r\n", b""),
    ],
)
def test_bodies(raw: bytes, data: bytes) -> None:
    for step in (None, 1, 2, 3, 5):
        assert decode(raw + b"GET /", step) == (data, True, len(raw))
    for cut in range(len(raw)):
        out, is_done, used = decode(raw[:cut])
        assert (data.startswith(out), is_done, used) == (True, False, cut)


def test_nothing_is_taken_behind_the_end() -> None:
    decoder = ChunkDecoder()
    assert (decoder.feed(END + b"GET"), decoder.done, decoder.used) == (b"", True, len(END))
    assert (decoder.feed(b"GET"), decoder.done, decoder.used) == (b"", True, 0)


def test_a_refusal_stays() -> None:
    decoder = ChunkDecoder()
    for data in (b"x", b"1\r\na\r\n"):
        with pytest.raises(HttpError, match="hexadecimal"):
            decoder.feed(data)


def test_a_chunk_is_announced_before_its_data() -> None:
    decoder = ChunkDecoder()
    assert (decoder.feed(b"fffffffffffffff\r"), decoder.announced) == (b"", 0)
    assert (decoder.feed(b"\n"), decoder.announced) == (b"", 2**60 - 1)
    assert (decoder.feed(b"abc"), decoder.announced) == (b"abc", 2**60 - 1)
    decoder = ChunkDecoder()
    assert (decoder.feed(b"3\r\nabc\r\n10\r\n"), decoder.announced) == (b"abc", 3 + 16)
    assert (decoder.feed(b"0" * 16 + b"\r\n" + END), decoder.announced) == (b"0" * 16, 3 + 16)


@pytest.mark.parametrize("byte", range(256))
def test_every_byte_in_every_place(byte: int) -> None:
    c = bytes([byte])
    is_control = byte < 0x20 or byte == 0x7F
    is_hex = c in b"0123456789abcdefABCDEF"
    is_token = c.isalnum() or c in b"!#$%&'*+-.^_`|~"
    places = {
        b"%s;x\r\n": is_hex,
        b"1%s\r\nx": is_hex or c == b";",
        b"1;a%s\r\n": is_token or c in b";= ",
        b'1;"%s"\r\n': not is_control and c not in b'"\\',
        b"1\r%s": c == b"\n",
        b"1\r\nx%s": c == b"\r",
        b"1\r\nx\r%s": c == b"\n",
        b"0\r\nA%s:\r\n": is_token or c == b":",
        b"0\r\nA:%s\r\n": not is_control or c == b"\t",
        b"0\r\n\r%s": c == b"\n",
    }
    for template, is_fine in places.items():
        data = template % c
        if is_fine:
            decode(data)
        else:
            assert refused(data)[0] == 400, data


def test_sizes_have_at_most_fifteen_significant_digits() -> None:
    for digits in (b"f" * 15, b"0" * 100 + b"1" + b"0" * 14):
        assert decode(digits + b"\r\n") == (b"", False, len(digits) + 2)
    for digits in (b"1" + b"0" * 15, b"f" * 16, b"1" + b"0" * 16, b"0" * 100 + b"f" * 17, b"1" * 1000):
        assert refused(digits) == (400, "chunk_too_large")


def test_size_lines() -> None:
    refusal = (400, "chunk_line_too_long")
    for line in (b"1;" + b"a" * 4094, b"0" * 4095 + b"1"):
        assert decode(line + b"\r\nx\r\n" + END)[0] == b"x"
    for line in (b"1;" + b"a" * 4095, b"1;" + b"a" * 4096 * 1000, b"0" * 4096 + b"1", b'1;"' + b"a" * 4094):
        assert refused(line) == refusal
    assert decode(b"1;ab\r\n", max_chunk_line=4)[2] == 6
    assert refused(b"1;abc", max_chunk_line=4) == refusal


def test_overhead() -> None:
    # One line of 4 bytes and CRLF, one byte of data and CRLF: 8 bytes of framing to 1 of data.
    assert decode(b"1;ab\r\nx\r\n" * 5000 + END)[1]
    # Thirteen bytes to one, three too many each time: the size line behind n chunks makes 13 n + 11 bytes of framing,
    # and that is more than 16384 + 10 n from n = 5458 on.
    greedy = b"1;abcdefg\r\nx\r\n"
    assert decode(greedy * 5458 + END)[1]
    assert refused(greedy * 5459) == (400, "chunk_overhead")
    assert refused(greedy * 100_000) == (400, "chunk_overhead")
    # Data pays for framing only once it has come: 6 bytes for the first line, 2 + 5 for the rest.
    assert decode(b"1;ab\r\nx\r\n0;a\r\n\r\n", max_chunk_overhead=6)[1]
    assert refused(b"1;ab\r\nx\r\n0;a\r\n\r\n", max_chunk_overhead=5) == (400, "chunk_overhead")


def test_trailers() -> None:
    fine = b"0\r\n" + b"A:\r\n" * 64 + b"\r\n"
    assert decode(fine)[1]
    for count in (65, 64_000):
        assert refused(b"0\r\n" + b"A:\r\n" * count + b"\r\n") == (431, "too_many_trailers")
    assert decode(b"0\r\nA:" + b"v" * (16384 - 6) + b"\r\n\r\n")[1]
    for length in (16384 - 5, 16384 * 1000):
        assert refused(b"0\r\nA:" + b"v" * length + b"\r\n\r\n") == (431, "trailer_too_large")
    assert decode(b"0\r\nA:\r\n\r\n", max_trailer=6, max_trailer_fields=1)[1]
    assert refused(b"0\r\nA:\r\n\r\n", max_trailer=5) == (431, "trailer_too_large")
    assert refused(b"0\r\nA:\r\n\r\n", max_trailer_fields=0) == (431, "too_many_trailers")


def test_many_tiny_chunks_are_taken() -> None:
    assert decode(b"1\r\nx\r\n" * 70_000 + END) == (b"x" * 70_000, True, 6 * 70_000 + 5)
