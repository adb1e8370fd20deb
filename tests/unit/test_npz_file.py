"""npz files on the disk: the same arrays as numpy.load() gives, and nothing of a file that is not whole."""

import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from headrace import npz_file

ARRAYS = {
    "w": np.arange(70_000, dtype=np.float32).reshape(200, 350),
    "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "scalar": np.array(3),
    "none": np.empty((0, 5), np.int8),
    "big_endian": np.arange(5, dtype=">i4"),
    "text": np.array(["a", "bc"]),
    "dots.in.name": np.array([True, False]),
}


@pytest.fixture(params=["savez", "savez_compressed", "zip64"])
def path(request, tmp_path, monkeypatch):
    if request.param == "zip64":
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    path = str(tmp_path / "file.npz")
    (np.savez_compressed if request.param == "savez_compressed" else np.savez)(path, **ARRAYS)
    return path


def read(path):
    return npz_file.read(str(path), npz_file.own_memory)


def test_arrays_are_those_of_numpy(path):
    with np.load(path) as theirs, read(path) as ours:
        assert isinstance(ours, type(theirs))
        assert ours.files == theirs.files == list(ours) == list(ARRAYS)
        assert len(ours) == len(ARRAYS)
        for name, array in theirs.items():
            assert ours[name].dtype == array.dtype
            assert ours[name].flags.f_contiguous == array.flags.f_contiguous
            assert ours[name].flags.writeable
            assert ours[name].flags.aligned
            np.testing.assert_array_equal(ours[name], array, strict=True)
        assert "w" in ours
        assert "w.npy" in ours
        assert "v" not in ours
        assert ours["w.npy"].shape == ours.f.w.shape == (200, 350)
        assert set(ours.keys()) == set(ARRAYS)


def test_an_array_that_is_not_there_is_named_with_those_that_are(path):
    with pytest.raises(KeyError, match="v is not a file in the archive; it has w, fortran"):
        read(path)["v"]


def test_arrays_outlive_the_file(path):
    ours = read(path)
    w = ours["w"]
    ours.close()
    os.truncate(path, 0)
    del ours
    np.testing.assert_array_equal(w, ARRAYS["w"])


def test_a_file_that_is_cut_or_changed_is_not_read(path, tmp_path):
    whole = Path(path).read_bytes()
    other = tmp_path / "other.npz"
    for length in (0, 10, 21, 22, len(whole) // 2, len(whole) - 1):
        other.write_bytes(whole[:length])
        with pytest.raises(npz_file.Unreadable):
            read(other)
    for at in range(0, len(whole), 997):
        other.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            found = read(other)
        except npz_file.Unreadable:
            continue
        for name in set(found) & set(ARRAYS):  # a byte of no account, such as a time stamp; or a name
            np.testing.assert_array_equal(found[name], ARRAYS[name])


def test_what_needs_pickle_and_other_members_are_left_to_numpy(tmp_path):
    np.savez(tmp_path / "objects.npz", o=np.array([{}], object))
    np.savez(tmp_path / "records.npz", r=np.zeros(2, [("a", int)]))
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with zipfile.ZipFile(tmp_path / "bzip2.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.npy", b"hello")
    for name in ("objects", "records", "other", "bzip2"):
        with pytest.raises(npz_file.Unreadable):
            read(tmp_path / f"{name}.npz")


def test_a_member_that_says_it_is_larger_than_the_file_takes_no_memory(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    entry = data.index(b"PK\x01\x02")
    struct.pack_into("<II", data, entry + 20, 1 << 31, 1 << 31)
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(npz_file.Unreadable, match="larger than the file"):
        read(tmp_path / "a.npz")
