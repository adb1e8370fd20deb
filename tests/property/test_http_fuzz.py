"""Any bytes parse or are refused, alike at every split; and what is accepted, trusted parsers accept and frame alike.

FUZZ_MUTATIONS and FUZZ_SEED ask for a longer or another differential run than the suite's.
"""

import itertools
import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import h11
import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace._http import ChunkDecoder, Head, HttpError, Reader, parse_head, split_path
from tests.unit.test_http_sanitized import SANITIZE, build

CORPUS = Path(__file__).resolve().parents[1] / "corpus/http"
VALID = [path.read_bytes() for path in sorted((CORPUS / "valid").glob("*.http"))]
MUTATIONS = int(os.environ.get("FUZZ_MUTATIONS", "20000"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))

# What a mutation puts in: the words and bytes that matter to framing.
WORDS = [
    *(bytes([c]) for c in b"\0\t\n\x0b\r\x1f !\"#%&'*+,-./0159:;=?AFZ[\\]_az{|}~\x7f\x80\xa0\xff"),
    *b"\r\n,\r\n\r\n,0\r\n\r\n,5\r\nabcde\r\n,\r\r\n,\n\n,\r\n ,: ,::, :,GET / HTTP/1.1\r\n,HTTP/1.0,HTTP/1.1,HTTP/2.0,http://a/".split(
        b","
    ),
    *(
        name + b": " + value + b"\r\n"
        for name in (
            b"Host",
            b"Content-Length",
            b"content-length",
            b"Transfer-Encoding",
            b"Connection",
            b"Expect",
            b"X",
        )
        for value in (
            b"a",
            b"5",
            b"0",
            b"+5",
            b"chunked",
            b"close",
            b"keep-alive",
            b"100-continue",
            b"gzip, chunked",
            b"",
        )
    ),
]


def outcome(data: bytes, pieces: list[bytes]) -> tuple[list[tuple[Head, bytes]], str, bool]:
    reader = Reader()
    requests: list[tuple[Head, bytes]] = []
    try:
        for piece in pieces:
            requests.extend(reader.feed(piece))
    except HttpError as error:
        return requests, error.code, False
    return requests, "", reader.is_idle


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


near_requests = st.lists(
    st.one_of(st.sampled_from(VALID), st.sampled_from(WORDS), st.binary(max_size=8)), max_size=12
).map(b"".join)
places = st.lists(st.integers(0, 1 << 16), max_size=8)


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.binary(max_size=300), near_requests), places)
def test_any_bytes_parse_or_are_refused_alike_at_every_split(data: bytes, where: list[int]) -> None:
    whole = outcome(data, [data])
    assert outcome(data, cut(data, where)) == whole
    assert outcome(data, [data[i : i + 1] for i in range(len(data))]) == whole


@settings(max_examples=300, deadline=None)
@given(near_requests, places)
def test_limits_hold_at_every_split(data: bytes, where: list[int]) -> None:
    limits = {"max_line": 40, "max_head": 100, "max_fields": 2, "max_blank_lines": 1}

    def head(pieces: list[int]) -> Head | str | None:
        try:
            return parse_head(data, pieces, **limits)
        except HttpError as error:
            return error.code

    whole = head([])
    assert head([len(piece) for piece in cut(data, where)]) == whole
    assert head([1] * len(data)) == whole
    if whole is None:
        assert len(data) < 100
    elif isinstance(whole, Head):
        assert whole.head_length <= 100
        assert len(whole.fields) <= 2
        assert whole.skipped <= 2
        assert all(len(name) + len(value) < 40 for name, value in whole.fields)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(WORDS), st.binary(max_size=6)), max_size=12).map(b"".join), places)
def test_chunks_alike_at_every_split(data: bytes, where: list[int]) -> None:
    def decode(pieces: list[bytes]) -> tuple[bytes, str]:
        decoder, out = ChunkDecoder(), b""
        try:
            for piece in pieces:
                out += decoder.feed(piece)
                assert decoder.announced >= len(out)
        except HttpError as error:
            return b"", error.code
        return out, "end" if decoder.done else ""

    data = b"5\r\nabcde\r\n" + data
    assert decode(cut(data, where)) == decode([data])
    assert decode([data[i : i + 1] for i in range(len(data))]) == decode([data])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=8), max_size=4))
def test_escaped_segments_come_back(segments: list[bytes]) -> None:
    path = b"".join(b"/" + b"".join(b"%%%02X" % byte for byte in segment) for segment in segments)
    try:
        assert split_path(path) == segments
    except HttpError:
        assert any(s in (b".", b"..") or any(c < 32 or c in b"\x7f/\\" for c in s) for s in segments)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_paths_decode_or_are_refused(path: bytes) -> None:
    try:
        segments = split_path(b"/" + path)
    except HttpError:
        return
    assert len(segments) <= 4
    assert all(s not in (b"", b".", b"..") and not any(c < 32 or c in b"\x7f/\\" for c in s) for s in segments)


# -- against h11 and llhttp --------------------------------------------------------------------------------------------


def mutate(rng: random.Random) -> bytes:
    data = bytearray(rng.choice(VALID))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(7)
        if kind == 0:
            data[at:at] = rng.choice(WORDS)
        elif kind == 1:
            word = rng.choice(WORDS)
            data[at : at + len(word)] = word
        elif kind == 2:
            del data[at : at + rng.randrange(1, 4)]
        elif kind == 3 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 4:
            lines = bytes(data).split(b"\r\n")
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
            data = bytearray(b"\r\n".join(lines))
        elif kind == 5:
            lines = bytes(data).split(b"\r\n")
            lines.insert(rng.randrange(len(lines)), rng.choice(WORDS).rstrip(b"\r\n"))
            data = bytearray(b"\r\n".join(lines))
        else:
            at = data.find(b"\r\n", at)
            if at >= 0:
                data[at : at + 2] = rng.choice((b"\n", b"\r", b"", b"\r\r\n", b"\n\r", b"\r\n\r\n", b" \r\n"))
    return bytes(data)


def by_us(data: bytes) -> tuple[list[tuple[Head, bytes]], int] | None:
    """Requests up to the first that closes, and the bytes they take; None when refused or unfinished.

    HTTP/1.0 ends the comparison too: h11 does not persist there, even where it was asked to.
    """
    reader = Reader()
    requests: list[tuple[Head, bytes]] = []
    try:
        for request in reader.feed(data):
            requests.append(request)
            if not request[0].keep_alive or request[0].minor == 0:
                return requests, len(data) - reader.pending_bytes
    except HttpError:
        return None
    return (requests, len(data)) if requests and reader.is_idle else None


def by_h11(data: bytes) -> list[tuple[str, bytes]] | str:
    """(method, body) of each request, or why h11 refuses."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    requests: list[tuple[str, bytes]] = []
    method, body = "", b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                method, body = event.method.decode(), b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                requests.append((method, body))
                connection.send(h11.Response(status_code=404, headers=[("Content-Length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE:
                    return requests
                connection.start_next_cycle()
            else:
                return requests
    except h11.RemoteProtocolError as error:
        return str(error)


class Collector:
    """What httptools calls back."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, bytes]] = []
        self.body = b""
        self.parser = httptools.HttpRequestParser(self)

    def on_message_begin(self) -> None:
        self.body = b""

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.requests.append((self.parser.get_method().decode(), self.body))


def by_llhttp(data: bytes) -> list[tuple[str, bytes]] | str | None:
    """Likewise; None where it hands the connection over to another protocol, which we never do."""
    collector = Collector()
    try:
        collector.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        return None
    except httptools.HttpParserError as error:
        return str(error)
    return collector.requests


LEADING_ZEROS = re.compile(rb"(\r\n|:[ \t]*)0{10,}(?=[0-9a-fA-F])")
FRAMING = re.compile(rb"(content-length|transfer-encoding|connection):", re.IGNORECASE)


def has_framing_names_elsewhere(requests: list[tuple[Head, bytes]], taken: bytes) -> bool:
    """Trailers of these names: we drop them like any other trailer (RFC 9110 6.5.1); the others judge or heed them."""
    ours = sum(FRAMING.fullmatch(name + b":") is not None for head, _ in requests for name, _ in head.fields)
    return len(FRAMING.findall(taken)) > ours


def can_h11_judge(requests: list[tuple[Head, bytes]], taken: bytes) -> bool:
    """It takes no blank line before a request (RFC 9112 2.2 asks for it)."""
    has_blank_lines = any(head.skipped for head, _ in requests[1:])
    return not (has_blank_lines or has_framing_names_elsewhere(requests, taken))


def for_h11(taken: bytes) -> bytes:
    """It takes no number of more than 20 digits, be they zeros in front. Without such zeros it says what it holds of
    the rest, such as of a chunk extension without a name, which we and it let pass and llhttp does not."""
    return LEADING_ZEROS.sub(rb"\1", taken.lstrip(b"\r\n"))


def can_llhttp_judge(requests: list[tuple[Head, bytes]], taken: bytes) -> bool:
    """It knows a list of methods (to us any token is one, answered by 405 or 501), and takes no HTAB behind "chunked",
    though RFC 9110 5.5 has white space cut off there."""
    has_other_method = any(head.method == "OTHER" for head, _ in requests)
    has_tab = re.search(rb"chunked *\t", taken, re.IGNORECASE) is not None
    return not (has_other_method or has_tab or has_framing_names_elsewhere(requests, taken))


def test_what_we_accept_is_accepted_and_framed_alike_elsewhere() -> None:
    rng = random.Random(SEED)
    accepted = compared = unjudged = 0
    for _ in range(MUTATIONS):
        data = mutate(rng)
        ours = by_us(data)
        if ours is None:
            continue
        requests, length = ours
        taken = data[:length]
        accepted += 1
        wanted = [(head.method, body) for head, body in requests]
        verdicts = []
        for other, can_judge in ((by_h11(for_h11(taken)), can_h11_judge), (by_llhttp(taken), can_llhttp_judge)):
            if isinstance(other, str):
                if can_judge(requests, taken):
                    verdicts.append(other)
                continue
            verdicts.append("")
            if other is None:
                continue
            compared += 1
            assert len(other) == len(wanted), (taken, other, wanted)
            for (method, body), (our_method, our_body) in zip(other, wanted, strict=True):
                assert our_method in (method, "OTHER"), taken
                assert body == our_body, taken
        unjudged += not verdicts
        assert not verdicts or "" in verdicts, (taken, verdicts)
    # The mutations must leave enough whole and judged, or nothing was compared.
    assert accepted > MUTATIONS // 10
    assert compared > accepted
    assert unjudged < accepted // 10


# -- under the sanitizers ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_mutations_break_nothing_and_read_alike_under_the_sanitizers(tmp_path: Path) -> None:
    """Each against a guard page, whole and cut up: no crash, and the outcome that the extension has."""
    driver = build(tmp_path / "driver", *SANITIZE)
    rng = random.Random(SEED + 1)
    for start in range(0, MUTATIONS, 5000):
        inputs = [mutate(rng) for _ in range(min(5000, MUTATIONS - start))]
        stream = b"".join(len(data).to_bytes(4, "little") + data for data in inputs)
        done = subprocess.run([driver, "-"], input=stream, capture_output=True, timeout=600)
        assert done.returncode == 0, done.stderr[-4000:]
        lines = done.stdout.decode().splitlines()
        for data, line in zip(inputs, lines, strict=True):
            requests, code, is_idle = outcome(data, [data])
            assert line == f"{len(requests)} {code or ('ok' if is_idle else 'incomplete')}", data


@pytest.mark.parametrize("path", sorted((CORPUS / "valid").glob("*.http")), ids=lambda path: path.stem)
def test_the_corpus_is_accepted_elsewhere(path: Path) -> None:
    data = path.read_bytes()
    others = [by_h11(data.lstrip(b"\r\n")), by_llhttp(data)]
    assert not all(isinstance(other, str) for other in others), others
