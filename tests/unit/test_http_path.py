"""Paths: decoded once, split at their own slashes, refused where two readers could see two paths."""

import pytest

from headrace._http import HttpError, split_path


@pytest.mark.parametrize(
    ("path", "segments"),
    [
        (b"", []),
        (b"/", []),
        (b"/ping", [b"ping"]),
        (b"/ping/", [b"ping"]),
        (b"/models/a/invoke", [b"models", b"a", b"invoke"]),
        (b"/1/2/3/4", [b"1", b"2", b"3", b"4"]),
        (b"/1/2/3/4/", [b"1", b"2", b"3", b"4"]),
        (b"/models/a%20b", [b"models", b"a b"]),
        (b"/%6d%6F", [b"mo"]),
        (b"/a%2520b", [b"a%20b"]),
        (b"/%25", [b"%"]),
        (b"/%C3%A9", [b"\xc3\xa9"]),
        (b"/\xff", [b"\xff"]),
        (b"/...", [b"..."]),
        (b"/.a/..b/c.", [b".a", b"..b", b"c."]),
        (b"/a+b;c=d@e:f", [b"a+b;c=d@e:f"]),
        (b"/%3F%23", [b"?#"]),
    ],
)
def test_paths(path: bytes, segments: list[bytes]) -> None:
    assert split_path(path) == segments
    # The decoded bytes are all the room it needs.
    room = sum(map(len, segments))
    assert split_path(path, room) == segments
    if room:
        with pytest.raises(HttpError) as caught:
            split_path(path, room - 1)
        assert (caught.value.status, caught.value.code) == (414, "path_too_long")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (b"*", 400, "bad_target"),
        (b"ping", 400, "bad_target"),
        (b"/%", 400, "bad_escape"),
        (b"/%4", 400, "bad_escape"),
        (b"/%4/a", 400, "bad_escape"),
        (b"/%g0", 400, "bad_escape"),
        (b"/%0g", 400, "bad_escape"),
        (b"/%%41", 400, "bad_escape"),
        (b"/% 41", 400, "bad_escape"),
        (b"/%+1", 400, "bad_escape"),
        (b"/%u0041", 400, "bad_escape"),
        (b"/%00", 400, "bad_path_byte"),
        (b"/a%0d%0ab", 400, "bad_path_byte"),
        (b"/%7f", 400, "bad_path_byte"),
        (b"/a%2fb", 400, "bad_path_byte"),
        (b"/a%2Fb", 400, "bad_path_byte"),
        (b"/a%5cb", 400, "bad_path_byte"),
        (b"/a\\b", 400, "bad_path_byte"),
        (b"/\x00", 400, "bad_path_byte"),
        (b"/.", 400, "dot_segment"),
        (b"/..", 400, "dot_segment"),
        (b"/a/../b", 400, "dot_segment"),
        (b"/a/./b", 400, "dot_segment"),
        (b"/a/.%2e", 400, "dot_segment"),
        (b"/%2e%2E/", 400, "dot_segment"),
        (b"//", 400, "empty_segment"),
        (b"//a", 400, "empty_segment"),
        (b"/a//b", 400, "empty_segment"),
        (b"/a//", 400, "empty_segment"),
        (b"/1/2/3/4/5", 404, "path_too_deep"),
        (b"/1/2/3/4//", 404, "path_too_deep"),
        (b"/" + b"a/" * 4000, 404, "path_too_deep"),
    ],
)
def test_refusals(path: bytes, status: int, code: str) -> None:
    with pytest.raises(HttpError) as caught:
        split_path(path)
    assert (caught.value.status, caught.value.code) == (status, code)


@pytest.mark.parametrize("byte", range(256))
def test_every_escape(byte: int) -> None:
    is_fine = byte >= 0x20 and byte != 0x7F and byte not in b"/\\"
    for escape in (f"%{byte:02x}", f"%{byte:02X}"):
        path = b"/x" + escape.encode()
        if is_fine:
            assert split_path(path) == [b"x" + bytes([byte])]
        else:
            with pytest.raises(HttpError) as caught:
                split_path(path)
            assert caught.value.code == "bad_path_byte"
