"""Request heads: the corpus at every split, tables for each rule, limits at the boundary, over it and far over it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headrace._http import Head, HttpError, Reader, field_is_owned, field_ok, parse_head

CORPUS = Path(__file__).resolve().parents[1] / "corpus/http"
VALID = json.loads((CORPUS / "valid/expected.json").read_text())
INVALID = {
    name: want if isinstance(want, list) else [0, want]
    for name, want in json.loads((CORPUS / "invalid/expected.json").read_text()).items()
}


def read(data: bytes, pieces: list[bytes]) -> tuple[list[tuple[Head, bytes]], str, bool]:
    """Requests, the refusal's word ("" for none), and whether the bytes ended where a request ends."""
    assert b"".join(pieces) == data
    reader = Reader()
    requests: list[tuple[Head, bytes]] = []
    try:
        for piece in pieces:
            requests.extend(reader.feed(piece))
    except HttpError as error:
        return requests, error.code, False
    return requests, "", reader.is_idle


def all_splits(data: bytes) -> Iterator[list[bytes]]:
    """Whole, byte by byte, and in two at every offset."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    for cut in range(1, len(data)):
        yield [data[:cut], data[cut:]]


def as_json(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return value


def test_corpus_files_and_expectations_match_up() -> None:
    assert {path.stem for path in (CORPUS / "valid").glob("*.http")} == set(VALID)
    assert {path.stem for path in (CORPUS / "invalid").glob("*.http")} == set(INVALID)


@pytest.mark.parametrize("name", VALID)
def test_valid(name: str) -> None:
    data = (CORPUS / f"valid/{name}.http").read_bytes()
    requests, refusal, is_idle = read(data, [data])
    assert (refusal, is_idle, len(requests)) == ("", True, len(VALID[name]))
    for (head, body), expected in zip(requests, VALID[name], strict=True):
        found = {**head._asdict(), "body": body}
        assert {key: as_json(found[key]) for key in expected} == expected
    for pieces in all_splits(data):
        assert read(data, pieces) == (requests, "", True)


@pytest.mark.parametrize("name", INVALID)
def test_invalid(name: str) -> None:
    data = (CORPUS / f"invalid/{name}.http").read_bytes()
    whole = read(data, [data])
    assert [len(whole[0]), whole[1]] == INVALID[name]
    for pieces in all_splits(data):
        assert read(data, pieces) == whole


@pytest.mark.parametrize("name", [name for name, want in INVALID.items() if want[0] == 0])
def test_a_refusal_stays_whatever_follows(name: str) -> None:
    data = (CORPUS / f"invalid/{name}.http").read_bytes()
    outcomes = [read(data[:n], [data[:n]])[1] for n in range(len(data) + 1)]
    first = outcomes.index(INVALID[name][1])
    assert set(outcomes[:first]) == {""}
    assert set(outcomes[first:]) == {INVALID[name][1]}


@pytest.mark.parametrize(
    ("enough", "code"),
    [
        (b"\x16", "bad_method"),
        (b"\x00", "bad_method"),
        (b"\n", "bare_lf"),
        (b"\rG", "bare_cr"),
        (b"PRI ", "unsupported_version"),
        (b"GET  ", "bad_request_line"),
        (b"GET /\r", "bad_request_line"),
        (b"GET * ", "bad_target"),
        (b"GET /\xff", "bad_target"),
        (b"GET / X", "bad_version"),
        (b"GET / HTTP/2", "unsupported_version"),
        (b"GET / HTTP/1.1\n", "bad_version"),
        (b"GET / HTTP/1.1\r\n ", "folded_field"),
        (b"GET / HTTP/1.1\r\nA ", "bad_field_name"),
        (b"GET / HTTP/1.1\r\nA:\n", "bare_lf"),
        (b"GET / HTTP/1.1\r\nA:\x00", "bad_field_value"),
        (b"GET / HTTP/1.1\r\nContent-Length: x\r\n", "bad_length"),
    ],
)
def test_a_refusal_comes_with_the_byte_that_earns_it(enough: bytes, code: str) -> None:
    assert parse_head(enough[:-1]) is None
    with pytest.raises(HttpError) as caught:
        parse_head(enough)
    assert caught.value.code == code


STATUS_BY_CODE = {
    "unsupported_version": 505,
    "line_too_long": 414,
    "field_too_long": 431,
    "head_too_large": 431,
    "too_many_fields": 431,
}


@pytest.mark.parametrize("name", INVALID)
def test_refusals_say_what_was_wrong(name: str) -> None:
    data = (CORPUS / f"invalid/{name}.http").read_bytes()
    with pytest.raises(HttpError) as caught:
        list(Reader().feed(data))
    error = caught.value
    assert error.status == STATUS_BY_CODE.get(error.code, 400)
    assert str(error).isascii()
    assert str(error).isprintable()
    assert len(str(error)) > 20


def head(fields: bytes = b"", line: bytes = b"POST / HTTP/1.1", host: bytes = b"Host: a\r\n") -> Head:
    found = parse_head(line + b"\r\n" + host + fields + b"\r\n")
    assert found is not None
    return found


def refused(data: bytes, **limits: int) -> tuple[int, str]:
    with pytest.raises(HttpError) as caught:
        parse_head(data, None, **limits)
    return caught.value.status, caught.value.code


@pytest.mark.parametrize("byte", range(256))
def test_every_byte_in_every_place(byte: int) -> None:
    c = bytes([byte])
    is_token = c.isalnum() or c in b"!#$%&'*+-.^_`|~"
    places = {
        b"A%sB / HTTP/1.1\r\nHost: a\r\n\r\n": is_token or c == b" ",  # "A B ..." fails on its target
        b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n": 0x20 < byte < 0x7F and c != b"#",
        b"GET / HTTP/1.1\r\nHost: a\r\nA%s: b\r\n\r\n": is_token or c == b":",
        b"GET / HTTP/1.1\r\nHost: a\r\nA: b%sc\r\n\r\n": (byte >= 0x20 and byte != 0x7F) or c == b"\t",
        b"GET / HTTP/1.1\r\nHost: a%sb\r\n\r\n": c.isalnum() or c in b"-._~%!$&'()*+,;=",
        b"GET / HTTP/1.1\r\nHost: a\r\nA: 01234567%s89abcdef\r\n\r\n": (byte >= 0x20 and byte != 0x7F) or c == b"\t",
    }
    for template, is_fine in places.items():
        data = template % c
        if is_fine and not (c == b" " and template.startswith(b"A%s")):
            assert parse_head(data) is not None, data
        else:
            assert refused(data)[0] == 400, data


@pytest.mark.parametrize(
    ("digits", "value"),
    [
        (b"0", 0),
        (b"00", 0),
        (b"4294967295", 2**32 - 1),
        (b"4294967301", 2**32 + 5),
        (b"9223372036854775813", 2**63 + 5),
        (b"18446744073709551609", 2**64 - 7),
        (b"18446744073709551615", 2**64 - 1),
        (b"18446744073709551616", 2**64 - 1),
        (b"18446744073709551621", 2**64 - 1),
        (b"1" + b"0" * 999, 2**64 - 1),
        (b"9" * 1000, 2**64 - 1),
        (b"0" * 999 + b"5", 5),
    ],
)
def test_lengths_never_wrap(digits: bytes, value: int) -> None:
    assert head(b"Content-Length: " + digits + b"\r\n").content_length == value


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b"", "none"),
        (b"application/json", "json"),
        (b"APPLICATION/JSON", "json"),
        (b"application/json;charset=utf-8", "json"),
        (b"application/json \t; charset=utf-8", "json"),
        (b"application/jsonlines", "other"),
        (b"application/x-npy", "npy"),
        (b"application/x-npz", "npz"),
        (b"text/csv; header=absent", "csv"),
        (b"text/plain", "text"),
        (b"application/octet-stream", "raw"),
        (b"application/x-www-form-urlencoded", "form"),
        (b'multipart/form-data; boundary="a;b"', "multipart"),
        (b"application/*", "other"),
        (b"application json", "other"),
        (b";", "none"),
    ],
)
def test_content_kind(value: bytes, kind: str) -> None:
    found = head(b"Content-Type:" + value + b"\r\n")
    assert (found.content_kind, found.content_type) == (kind, value)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b"", "any"),
        (b"*/*", "any"),
        (b"*/*;q=0.1", "any"),
        (b"application/*, text/csv", "any"),
        (b"text/csv, */*", "csv"),
        (b"text/html, */*;q=0.8", "any"),
        (b"application/json", "json"),
        (b"APPLICATION/X-NPY;v=1", "npy"),
        (b"text/plain;q=0.5,application/json", "text"),
        (b"application/octet-stream", "raw"),
        (b"application/x-npz", "other"),
        (b"multipart/form-data", "other"),
        (b"image/png", "other"),
        (b"application/json;q=0", "other"),
        (b"application/json; Q=0.000, text/csv", "csv"),
        (b"application/json;q=0.001, text/csv", "json"),
        (b"application/json;a=1;q=0, text/csv", "csv"),
        (b'image/png;x="a,text/plain", text/csv', "csv"),
        (b'image/png;x="\\",text/plain", text/csv', "csv"),
        (b'image/png;x="unclosed, text/csv', "other"),
        (b", ,text/csv", "csv"),
        (b"*/*;q=0", "other"),
    ],
)
def test_accept_kind(value: bytes, kind: str) -> None:
    assert head(b"Accept: " + value + b"\r\n").accept_kind == kind


@pytest.mark.parametrize(
    ("fields", "codings"),
    [
        (b"", 0),
        (b"Content-Encoding: gzip\r\n", 1),
        (b"Content-Encoding: identity\r\nContent-Encoding:\r\n", 0),
        (b"content-encoding: Identity\r\ncontent-encoding: br\r\n", 1),
        (b"Accept-Encoding: gzip, deflate\r\n", 2),
        (b"Accept-Encoding: identity\r\nAccept-Encoding: \r\n", 0),
        (b"accept-encoding: *\r\nContent-Encoding: x\r\n", 3),
        (b"Accept-Encodinh: gzip\r\nContent-Encodinh: gzip\r\n", 0),
    ],
)
def test_codings(fields: bytes, codings: int) -> None:
    assert head(fields).codings == codings


@pytest.mark.parametrize(
    ("version", "fields", "stays"),
    [
        (b"1.1", b"", True),
        (b"1.0", b"", False),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"CONNECTION: a, Close\r\n", False),
        (b"1.1", b"Connection: ,close,\r\n", False),
        (b"1.1", b"Connection: keep-alive\r\nConnection: close\r\n", False),
        (b"1.1", b"Connection: close-x, xclose, clos\r\n", True),
        (b"1.1", b"Connection: clo se\r\n", True),
        (b"1.1", b"Proxy-Connection: close\r\n", True),
        (b"1.0", b"Connection: keep-alive\r\n", True),
        (b"1.0", b"Connection: x,\tKEEP-ALIVE\t\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
        (b"1.0", b"Keep-Alive: timeout=5\r\n", False),
    ],
)
def test_keep_alive(version: bytes, fields: bytes, stays: bool) -> None:
    assert head(fields, b"GET / HTTP/" + version).keep_alive is stays


@pytest.mark.parametrize(
    ("fields", "expects"),
    [
        (b"", (False, False)),
        (b"Expect:\r\n", (False, False)),
        (b"Expect: 100-CONTINUE\r\n", (True, False)),
        (b"Expect: 100-continue, x\r\n", (False, True)),
        (b"Expect: 100-continue\r\nExpect: x\r\n", (True, True)),
    ],
)
def test_expectations(fields: bytes, expects: tuple[bool, bool]) -> None:
    found = head(fields)
    assert (found.expect_continue, found.expect_other) == expects


LIMITS: dict[str, tuple[Callable[[int], bytes], int, tuple[int, str]]] = {
    # limit: head of exactly this size, default, refusal
    "max_line": (lambda n: b"GET /" + b"a" * (n - 14) + b" HTTP/1.1\r\nHost: a\r\n\r\n", 16384, (414, "line_too_long")),
    "max_fields": (
        lambda n: b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A:\r\n" * (n - 1) + b"\r\n",
        100,
        (431, "too_many_fields"),
    ),
    "max_head": (
        lambda n: (
            b"GET / HTTP/1.1\r\nHost: a\r\n"
            + (b"A:" + b"v" * 12000 + b"\r\n") * 5
            + b"B:"
            + b"v" * (n - 60051)
            + b"\r\n\r\n"
        ),
        65536,
        (431, "head_too_large"),
    ),
    "max_blank_lines": (lambda n: b"\r\n" * n + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 8, (400, "bad_blank_lines")),
}


def field_line(n: int) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: a\r\nA:" + b"v" * (n - 2) + b"\r\n\r\n"


@pytest.mark.parametrize("name", LIMITS)
def test_limits_by_default(name: str) -> None:
    build, most, refusal = LIMITS[name]
    assert parse_head(build(most)) is not None
    assert refused(build(most + 1)) == refusal
    if name != "max_head":
        assert refused(build(most * 1000)) == refusal
    assert parse_head(build(most), None, **{name: most}) is not None
    assert refused(build(most), **{name: most - 1}) == refusal


def test_field_lines_have_the_limit_of_lines() -> None:
    assert parse_head(field_line(16384)) is not None
    for over in (16385, 16384 * 1000):
        assert refused(field_line(over)) == (431, "field_too_long")
    assert parse_head(field_line(30), max_line=30) is not None
    assert refused(field_line(30), max_line=29) == (431, "field_too_long")
    name = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"N" * 16384
    assert refused(name + b": v\r\n\r\n") == (431, "field_too_long")


@pytest.mark.parametrize(
    ("prefix", "shown", "refusal"),
    [
        (b"", 16384, (414, "line_too_long")),
        (b"GET /", 16384, (414, "line_too_long")),
        (b"GET / HTTP/1.1\r\n", 16384, (431, "field_too_long")),
        (b"GET / HTTP/1.1\r\nA:", 16382, (431, "field_too_long")),
    ],
)
def test_a_line_without_an_end_is_refused_on_the_way(prefix: bytes, shown: int, refusal: tuple[int, str]) -> None:
    room = shown - len(prefix) if prefix == b"GET /" else shown
    assert parse_head(prefix + b"A" * room) is None
    assert refused(prefix + b"A" * (room + 1)) == refusal
    assert refused(prefix + b"A" * (1 << 20)) == refusal


def test_a_head_is_refused_when_no_byte_of_its_room_is_left() -> None:
    data = b"GET / HTTP/1.1\r\n" + (b"A:" + b"v" * 1000 + b"\r\n") * 100
    assert parse_head(data[:65535]) is None
    assert refused(data[:65536]) == (431, "head_too_large")
    # A head that ends with the last byte of the room is fine, and blank lines in front count.
    build = LIMITS["max_head"][0]
    assert refused(b"\r\n" + build(65535)) == (431, "head_too_large")
    assert parse_head(b"\r\n" + build(65534)) is not None


def test_limits_do_not_depend_on_the_split() -> None:
    for build, most, refusal in [*LIMITS.values(), (field_line, 16384, (431, "field_too_long"))]:
        for size in (most - 1, most, most + 1):
            data = build(size)
            for pieces in ([1] * len(data), [7] * (len(data) // 7), [len(data) - 1], [size - 1, 1, 1, 1]):
                if size > most:
                    with pytest.raises(HttpError) as caught:
                        parse_head(data, pieces)
                    assert (caught.value.status, caught.value.code) == refusal
                else:
                    assert parse_head(data, pieces) == parse_head(data)


def test_any_contiguous_buffer_will_do() -> None:
    data = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    assert parse_head(bytearray(data)) == parse_head(memoryview(data)) == parse_head(data)
    with pytest.raises(TypeError):
        parse_head("GET")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="max_lines"):
        parse_head(data, max_lines=1)


@pytest.mark.parametrize(
    ("name", "value", "is_fine"),
    [
        (b"x-model", b"a b\tc", True),
        (b"x-model", b"", True),
        (b"x-model", b"caf\xe9", True),
        (b"", b"a", False),
        (b"x model", b"a", False),
        (b"x:", b"a", False),
        (b"x\r\n", b"a", False),
        (b"caf\xe9", b"a", False),
        (b"x", b"a\r\nset-cookie: b", False),
        (b"x", b"a\nb", False),
        (b"x", b"a\rb", False),
        (b"x", b"12345678\x00", False),
        (b"x", b"\x7f", False),
        (b"x", b"\x1b[31m", False),
    ],
)
def test_fields_of_answers(name: bytes, value: bytes, is_fine: bool) -> None:
    assert field_ok(name, value) is is_fine


def test_fields_that_only_the_server_writes() -> None:
    for name in (b"Content-Length", b"TRANSFER-ENCODING", b"connection", b"Date"):
        assert field_is_owned(name)
    for name in (b"", b"Content-Type", b"Set-Cookie", b"Dates"):
        assert not field_is_owned(name)
