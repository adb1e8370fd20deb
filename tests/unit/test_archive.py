"""Archives: what is unpacked, and what is refused because it would do harm."""

import io
import os
import stat
import tarfile
import zipfile

import pytest

from headrace import archive
from headrace.archive import unpack
from headrace.errors import InvalidModel


@pytest.fixture
def unpacked(tmp_path):
    """unpacked(archive) -> the directory; whatever happens, nothing beside it was touched."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_text("as it was")
    directory = tmp_path / "in"
    directory.mkdir()

    def run(path):
        unpack(str(path), str(directory))
        return directory

    yield run
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "a") == ["in", "outside"]
    assert [path.name for path in (tmp_path / "outside").iterdir()] == ["kept"]
    assert (tmp_path / "outside" / "kept").read_text() == "as it was"


def write_zip(path, *members):
    """Members: (name, content) or (name, content, mode)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content, *mode in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (mode[0] if mode else 0) << 16
            out.writestr(info, content)
    return path


def write_tar(path, *members, mode="w:gz"):
    """Members: (name, content) or (name, None, type, linkname)."""
    with tarfile.open(path, mode) as out:
        for name, content, *rest in members:
            info = tarfile.TarInfo(name)
            if rest:
                info.type, info.linkname = rest
            info.size = len(content or b"")
            out.addfile(info, io.BytesIO(content or b""))
    return path


def link(name, to):
    """The same symbolic link as a member of a zip and of a tar."""
    return (name, to, stat.S_IFLNK | 0o777), (name, None, tarfile.SYMTYPE, to)


def test_zip(tmp_path, unpacked):
    made = write_zip(tmp_path / "a", ("MAR-INF/MANIFEST.json", "{}"), ("code/run.sh", "x", stat.S_IFREG | 0o4755))
    directory = unpacked(made)
    assert (directory / "MAR-INF" / "MANIFEST.json").read_text() == "{}"
    assert stat.S_IMODE((directory / "code" / "run.sh").stat().st_mode) == 0o700, "executable, and not as anybody else"
    assert stat.S_IMODE((directory / "MAR-INF" / "MANIFEST.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_tar(tmp_path, unpacked, mode):
    made = write_tar(
        tmp_path / "a",
        ("./", None, tarfile.DIRTYPE, ""),
        ("./model.py", b"old"),
        ("./model.py", b"new"),
        ("./blobs/1", b"weights"),
        ("./hard", None, tarfile.LNKTYPE, "./blobs/1"),
        ("./snapshot/weights", None, tarfile.SYMTYPE, "../blobs/1"),
        mode=mode,
    )
    directory = unpacked(made)
    assert (directory / "model.py").read_text() == "new"
    assert (directory / "hard").read_text() == "weights"
    assert (directory / "snapshot" / "weights").read_text() == "weights"


ESCAPES = ["/etc/x", "../outside/kept", "a/../../outside/x", "a/..", "..", "nul\0/x"]


@pytest.mark.parametrize("name", ESCAPES)
def test_names_that_lead_out(tmp_path, unpacked, name):
    if "\0" not in name:  # zipfile ends a name there
        with pytest.raises(InvalidModel, match="leads out"):
            unpacked(write_zip(tmp_path / "a", (name, "x")))
    with pytest.raises(InvalidModel, match=r"leads out|no file"):
        unpacked(write_tar(tmp_path / "a", ("h", None, tarfile.LNKTYPE, name)))


@pytest.mark.parametrize(
    "links",
    [
        [("l", "/etc/passwd")],
        [("l", "../outside/kept")],
        [("l", "..")],
        [("d/e/l1", "../../x"), ("l2", "d/e/l1/../..")],  # only through the first does the second lead out
        [("s/t/a", "../../s"), ("s/t/a/x", "../../..")],
        [("l", "../outside"), ("l/new", "kept")],  # made in a folder outside, were it not looked at
        [("a", "b"), ("b", "/etc")],
    ],
)
def test_links_that_lead_out(tmp_path, unpacked, links):
    for write, members in zip((write_zip, write_tar), zip(*(link(*one) for one in links), strict=True), strict=True):
        with pytest.raises(InvalidModel, match="leads out"):
            unpacked(write(tmp_path / "a", *members))
        for path in (tmp_path / "in").rglob("*"):
            if path.is_symlink():
                path.unlink()


def test_no_file_is_written_through_a_link(tmp_path, unpacked):
    for member in link("l", "../outside"):
        made = write_zip(tmp_path / "a", member, ("l/kept", "x")) if len(member) == 3 else None
        made = made or write_tar(tmp_path / "a", member, ("l/kept", b"x"))
        with pytest.raises(InvalidModel, match=r"cannot be unpacked"):
            unpacked(made)  # the files come first, and then there is a folder where the link would be
        (tmp_path / "in" / "l" / "kept").unlink()
        (tmp_path / "in" / "l").rmdir()


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices(tmp_path, unpacked, kind):
    with pytest.raises(InvalidModel, match="device"):
        unpacked(write_tar(tmp_path / "a", ("dev", None, kind, "")))


def test_device_in_a_zip(tmp_path, unpacked):
    with pytest.raises(InvalidModel, match="device"):
        unpacked(write_zip(tmp_path / "a", ("dev", "", stat.S_IFCHR)))


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_bounds(tmp_path, unpacked, write, monkeypatch):
    monkeypatch.setattr(archive, "FILES_MAX", 3)
    with pytest.raises(InvalidModel, match="more than 3 members"):
        unpacked(write(tmp_path / "a", *((str(index), b"x") for index in range(4))))
    monkeypatch.setattr(archive, "RATIO_FREE_BYTES", 1000)
    unpacked(write(tmp_path / "a", ("random", os.urandom(50_000))))
    with pytest.raises(InvalidModel, match="200 times its own size"):
        unpacked(write(tmp_path / "a", ("zeros", bytes(10_000_000))))
    monkeypatch.setattr(archive, "BYTES_MAX", 9999)
    with pytest.raises(InvalidModel, match="more than 9999 bytes"):
        unpacked(write(tmp_path / "a", ("random", os.urandom(10_000))))


@pytest.mark.parametrize("content", [b"", b"no archive at all" * 100, b"PK\x03\x04", b"\x1f\x8b\x08garbage"])
def test_what_is_no_archive(tmp_path, unpacked, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InvalidModel, match="archive a"):
        unpacked(tmp_path / "a")


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_damage_anywhere_is_an_error_or_harmless(tmp_path, write, unpacked):
    whole = write(tmp_path / "a", ("weights", os.urandom(2000)), ("code/model.py", b"x = 1\n" * 50)).read_bytes()
    failures = 0
    for at in range(0, len(whole), 97):
        for broken in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]):
            (tmp_path / "a").write_bytes(broken)
            try:
                unpacked(tmp_path / "a")
            except InvalidModel:
                failures += 1
    assert failures > len(whole) // 97, "a cut archive is noticed wherever it was cut"
