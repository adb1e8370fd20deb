"""Making the shared memory: sealed, without a name, without a page before its time; and the supervisor's board."""

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from headrace import _memory
from headrace._memory import Board, committed_bytes, create_board, create_segment, largest_slot, segment_bytes

PAGE = 4096
MIB = 1 << 20
CONTROL_SENT = 64  # of a worker's page
SYS_FUTEX = {"x86_64": 202, "aarch64": 98}


@pytest.fixture
def board_fd():
    fd = create_board()
    yield fd
    os.close(fd)


@pytest.fixture
def segment_fd():
    fd = create_segment(3, 64 * MIB, largest_slot(MIB, MIB))
    yield fd
    os.close(fd)


@pytest.fixture(params=["board_fd", "segment_fd"])
def memory_fd(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("change", [-PAGE, PAGE], ids=["shrink", "grow"])
def test_nobody_can_change_its_size(memory_fd, change):
    with pytest.raises(PermissionError) as refused:
        os.ftruncate(memory_fd, os.fstat(memory_fd).st_size + change)
    assert refused.value.errno == errno.EPERM
    with pytest.raises(PermissionError):
        fcntl.fcntl(memory_fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_only_the_header_has_a_page_until_more_is_touched(memory_fd):
    assert committed_bytes(memory_fd) == PAGE
    os.pwrite(memory_fd, b"\1", os.fstat(memory_fd).st_size - 1)
    assert committed_bytes(memory_fd) == 2 * PAGE


def test_it_closes_on_exec_and_has_no_name(memory_fd):
    assert not os.get_inheritable(memory_fd)
    assert os.readlink(f"/proc/self/fd/{memory_fd}").startswith("/memfd:headrace-")
    assert os.fstat(memory_fd).st_nlink == 0
    shm = Path("/dev/shm")
    assert not (shm.is_dir() and [entry for entry in shm.iterdir() if "headrace" in entry.name])


def test_it_needs_no_dev_shm():
    """Containers give 64 MiB there by default, some nothing at all."""
    unshare, mount = shutil.which("unshare"), shutil.which("mount")
    if not unshare or not mount:
        pytest.skip("unshare or mount is not installed")
    code = (
        "import os; from headrace import _memory as m\n"
        "assert os.statvfs('/dev/shm').f_blocks * os.statvfs('/dev/shm').f_frsize <= 4096\n"
        "fd = m.create_segment(0, 256 << 20, 1 << 20); m.Board(m.create_board()).notify(0)\n"
        "for i in range(32): os.pwrite(fd, b'x' * (1 << 20), i << 20)\n"
        "print('written', m.committed_bytes(fd))"
    )
    script = 'mount -t tmpfs -o size=4k,mode=0555 none /dev/shm || exit 77; exec "$@"'
    command = [unshare, "--map-root-user", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", code]
    path = str(Path(_memory.__file__).parents[1])
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": path}, check=False
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no mount namespace here: {done.stderr.strip()}")
    assert done.stdout == f"written {32 * MIB}\n", done.stderr


def test_a_segment_has_room_for_its_arena_and_knows_its_frontend(segment_fd):
    size = os.fstat(segment_fd).st_size
    assert size == segment_bytes(64 * MIB, largest_slot(MIB, MIB)) > 64 * MIB
    header = os.pread(segment_fd, 32, 0)
    assert header[:8] == b"HADRACE1"
    assert int.from_bytes(header[12:16], "little") == 3
    assert int.from_bytes(header[16:24], "little") == size


def test_segments_make_ids_of_their_own():
    prefixes = set()
    for _ in range(2):
        fd = create_segment(0, MIB, 4096)
        prefixes.add(os.pread(fd, 8, 24))
        os.close(fd)
    assert len(prefixes) == 2


@pytest.mark.parametrize("frontend", [64, 1 << 31])
def test_a_frontend_beyond_the_limit_is_refused(frontend):
    with pytest.raises(ValueError, match=f"frontend {frontend} is not below {_memory.FRONTENDS_MAX}"):
        create_segment(frontend, MIB, 4096)


def test_what_the_kernel_refuses_is_told_with_its_reason():
    """As many descriptors as we may have are open."""
    code = (
        "import resource; from headrace._memory import create_board, create_segment\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "for make in (create_board, lambda: create_segment(0, 1 << 20, 4096)):\n"
        "    try: make()\n"
        "    except OSError as error: print(error.errno, 'memfd_create' in str(error))"
    )
    path = str(Path(_memory.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=True
    )
    assert done.stdout.splitlines() == [f"{errno.EMFILE} True"] * 2


def test_a_failing_header_closes_the_descriptor(monkeypatch):
    before = set(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "pwrite", lambda *_: 1)
    for make in (create_board, lambda: create_segment(0, MIB, 4096)):
        with pytest.raises(OSError, match="short write"):
            make()
    assert set(os.listdir("/proc/self/fd")) == before


# The board.


@pytest.fixture
def board(board_fd):
    return Board(board_fd)


@pytest.fixture
def raw(board_fd):
    """The board's bytes as another process maps them."""
    with mmap.mmap(board_fd, 0) as memory:
        yield memory


def page_at(worker):
    return PAGE + worker * PAGE


def word(raw, offset):
    return int.from_bytes(raw[offset : offset + 8], "little")


def test_a_fresh_page_says_booting_and_nothing_else(board):
    page = board.page(0)
    assert page.pop("state") == "booting"
    assert set(page.values()) == {0}


@pytest.mark.parametrize("state", [0, 1, 2, 3, 4, (1 << 64) - 1])
def test_a_page_shows_what_the_worker_wrote(board, raw, state):
    at = page_at(7)
    raw[at + 128 : at + 136] = state.to_bytes(8, "little")
    raw[at + 192 : at + 200] = (12345).to_bytes(8, "little")
    page = board.page(7)
    assert page["state"] == ({0: "booting", 1: "idle", 2: "running", 3: "loading"}.get(state, "unknown"))
    assert page["requests"] == 12345
    assert board.page(6)["requests"] == board.page(8)["requests"] == 0


def test_notify_counts_and_takes_the_announcement_down(board, raw):
    at = page_at(1023)
    raw[at] = 1
    board.notify(1023)
    board.notify(1023)
    assert word(raw, at + CONTROL_SENT) == 2
    assert raw[at] == 0
    assert word(raw, page_at(1022) + CONTROL_SENT) == 0


def test_reset_clears_one_page(board, raw):
    for worker in (4, 5, 6):
        raw[page_at(worker) : page_at(worker + 1)] = b"\xff" * PAGE
    board.reset(5)
    assert not any(raw[page_at(5) : page_at(6)])
    assert raw[page_at(4) : page_at(5)] == raw[page_at(6) : page_at(7)] == b"\xff" * PAGE


@pytest.mark.parametrize("call", ["notify", "reset", "page"])
def test_a_worker_beyond_the_limit_is_refused(board, raw, call):
    before = raw[:PAGE]
    with pytest.raises(ValueError, match=f"worker 1024 is not below {_memory.WORKERS_MAX}"):
        getattr(board, call)(1024)
    with pytest.raises(OverflowError):
        getattr(board, call)(-1)
    assert raw[:PAGE] == before


@pytest.mark.parametrize("waker_died", [False, True], ids=["asleep", "asleep, its waker killed before the call"])
@pytest.mark.skipif(platform.machine() not in SYS_FUTEX, reason="number of the futex system call not known here")
def test_notify_wakes_a_worker_that_sleeps_on_its_doorbell(board, raw, waker_died):
    at, number = page_at(2), SYS_FUTEX[platform.machine()]
    address = ctypes.addressof(ctypes.c_uint32.from_buffer(raw, at))
    raw[at] = 1
    answer = []

    def sleep():
        minute = (ctypes.c_long * 2)(60, 0)
        answer.append(ctypes.CDLL(None).syscall(number, ctypes.c_void_p(address), 0, 1, minute, None, 0))

    sleeper = threading.Thread(target=sleep)
    sleeper.start()
    call = Path(f"/proc/self/task/{sleeper.native_id}/syscall")
    watchdog = time.monotonic() + 30
    while not call.read_text().startswith(f"{number} {address:#x} "):
        assert time.monotonic() < watchdog, "the sleeper never slept"
    if waker_died:
        raw[at] = 0
    board.notify(2)
    sleeper.join(timeout=30)
    assert answer == [0]


def memfd(length, header=b""):
    fd = os.memfd_create("other")
    os.ftruncate(fd, length)
    os.pwrite(fd, header, 0)
    return fd


HEADER = b"HADRACE1\4\0\0\0\0\4\0\0"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: memfd(0), "is no board of this build: 0 bytes where 4198400 are expected"),
        (lambda: memfd(PAGE, HEADER), "is no board of this build: 4096 bytes where"),
        (lambda: memfd(PAGE * 2000, HEADER), "is no board of this build: 8192000 bytes where"),
        (lambda: memfd(PAGE * 1025), "not a board of this build"),
        (lambda: create_segment(0, MIB, 4096), "is no board of this build"),
        (lambda: os.open("/dev/null", os.O_RDWR), "is no board of this build"),
    ],
    ids=["empty", "short", "long", "zeros", "segment", "device"],
)
def test_a_descriptor_of_something_else_is_refused(make, why):
    fd = make()
    try:
        with pytest.raises(ValueError, match=why):
            Board(fd)
    finally:
        os.close(fd)


def test_a_closed_descriptor_is_refused(board_fd):
    closed = os.dup(board_fd)
    os.close(closed)
    with pytest.raises((OSError, ValueError), match=f"{closed}|Bad file descriptor"):
        Board(closed)


def test_a_board_of_the_right_header_and_length_is_taken():
    fd = memfd(PAGE * 1025, HEADER)
    assert Board(fd).page(1023)["turns"] == 0
    os.close(fd)


def test_a_board_that_cannot_be_written_is_refused(board_fd):
    readable = os.open(f"/proc/self/fd/{board_fd}", os.O_RDONLY)
    try:
        with pytest.raises(OSError):
            Board(readable)
    finally:
        os.close(readable)


@pytest.mark.parametrize(("offset", "what"), [(0, "magic"), (8, "version"), (12, "workers")])
def test_a_board_of_another_build_is_refused(board_fd, offset, what):
    os.pwrite(board_fd, b"\xee", offset)
    with pytest.raises(ValueError, match="different builds"):
        Board(board_fd)
