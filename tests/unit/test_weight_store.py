"""The store of a model's weights: records, who sees them, and what damage or death does to them."""

import os
import struct
import threading

import pytest

from headrace import weight_store
from headrace.weight_store import Store, create


@pytest.fixture
def fd():
    fd = create()
    yield fd
    os.close(fd)


@pytest.fixture
def replicas(fd):
    """Two of the model's replicas, as they see the store."""
    stores = [Store(fd), Store(fd)]
    yield stores
    for store in stores:
        store.close()


def filled(*contents):
    def fill(parts):
        for part, content in zip(parts, contents, strict=True):
            part[:] = content

    return [len(content) for content in contents], fill


def values(parts):
    return [bytes(part) for part in parts]


def test_what_one_replica_puts_another_gets(replicas):
    first, second = replicas
    with first.locked():
        assert first.get("a") is None
        assert values(first.put("a", *filled(b"one", b"", b"x" * 100_000))) == [b"one", b"", b"x" * 100_000]
        first.put("b", *filled(b"two"))
    with second.locked():
        assert values(second.get("b")) == [b"two"]
        assert values(second.get("a")) == [b"one", b"", b"x" * 100_000]
        assert second.get("c") is None


def test_parts_are_aligned_as_numpy_wants_them(replicas):
    np = pytest.importorskip("numpy")
    with replicas[0].locked():
        parts = replicas[0].put("a", *filled(b"1", b"22", b"333"))
    assert [np.frombuffer(part, np.uint8).ctypes.data % 64 for part in parts] == [0, 0, 0]


def test_what_a_replica_writes_is_its_own(replicas):
    first, second = replicas
    with first.locked():
        (mine,) = first.put("a", *filled(b"shared"))
    mine[:6] = b"mine!!"
    with second.locked():
        assert values(second.get("a")) == [b"shared"]
    assert bytes(mine) == b"mine!!"


def test_a_record_whose_writer_fails_is_not_there_and_takes_no_memory(fd, replicas):
    first, second = replicas

    def fail(parts):
        parts[0][:3] = b"abc"
        raise RuntimeError("disk")

    with first.locked():
        first.put("a", *filled(b"one"))
    before = os.fstat(fd).st_size
    with first.locked(), pytest.raises(RuntimeError, match="disk"):
        first.put("b", [1 << 20], fail)
    assert os.fstat(fd).st_size == before
    with second.locked():
        assert second.get("b") is None
        assert values(second.put("b", *filled(b"two"))) == [b"two"]
        assert values(second.get("a")) == [b"one"]


def test_others_wait_while_one_writes(replicas):
    first, second = replicas
    got = []

    def follow():
        with second.locked():
            got.extend(values(second.get("a") or []))

    with first.locked():
        thread = threading.Thread(target=follow)
        thread.start()
        with first.locked():  # as a build() that loads files does
            first.put("a", *filled(b"one"))
        thread.join(0.05)
        assert thread.is_alive()
    thread.join(30)
    assert got == [b"one"]


def test_the_lock_of_a_replica_that_died_is_free_and_what_it_half_wrote_is_written_over(fd, replicas):
    pid = os.fork()
    if pid == 0:
        store = Store(fd)
        with store.locked():
            store.put("a", [10], lambda parts: os._exit(0))
    os.waitpid(pid, 0)
    with replicas[0].locked():
        assert replicas[0].get("a") is None
        assert values(replicas[0].put("a", *filled(b"whole"))) == [b"whole"]


def test_mappings_outlive_the_descriptors(replicas):
    with replicas[0].locked():
        parts = replicas[0].put("a", *filled(b"kept"))
    replicas[0].close()
    try:
        assert values(parts) == [b"kept"]
        assert not replicas[0].is_open
        with pytest.raises(OSError), replicas[0].locked():
            pass
    finally:
        replicas[0] = Store(replicas[1]._fd)


@pytest.mark.parametrize("damage", ["end", "length", "head", "sizes"])
def test_damage_is_found_before_anything_is_mapped(fd, replicas, damage):
    page = weight_store._PAGE_BYTES
    with replicas[0].locked():
        replicas[0].put("a", *filled(b"one"))
    if damage == "end":
        os.pwrite(fd, struct.pack("<Q", 1 << 40), 0)
    elif damage == "length":
        os.pwrite(fd, struct.pack("<Q", 1 << 40), page)
    elif damage == "head":
        os.pwrite(fd, struct.pack("<Q", 1 << 40), page + 8)
    else:
        head = os.pread(fd, 64, page + 16).partition(b"}")[0] + b"}"
        os.pwrite(fd, head.replace(b"[3]", b"[9]"), page + 16)
        os.pwrite(fd, head.replace(b'"sizes":[3]', b'"sizes":9e9').ljust(len(head)), page + 16)
    with replicas[1].locked(), pytest.raises((ValueError, TypeError)):
        replicas[1].get("a")
