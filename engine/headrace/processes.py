"""What a process of ours asks of the kernel: its parent's death, orphans, a title, signals; and how one is started.

A child is a fresh interpreter running `python -m MODULE 3`, with its end of the control channel as descriptor 3 and no
other but standard ones. It leads a process group, so that a terminal's Ctrl-C reaches the supervisor only.
"""

import contextlib
import ctypes
import enum
import fcntl
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping

import setproctitle

from headrace.errors import LayoutMismatch

CONTROL_FD = 3

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_OWN_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2)
_libc = ctypes.CDLL(None, use_errno=True)


class ChildExit(enum.IntEnum):
    """Exit statuses of frontends and workers that say more than "it died". 1 is what any uncaught exception gives."""

    OK = 0
    BOOT_FAILED = 70
    LAYOUT_MISMATCH = 71

    @classmethod
    def of(cls, error: Exception) -> "ChildExit":
        return cls.LAYOUT_MISMATCH if isinstance(error, LayoutMismatch) else cls.BOOT_FAILED


def become_subreaper() -> None:
    """Descendants whose parent ends become our children instead of init's. Raises OSError."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Have the kernel SIGKILL us when *parent*, our parent's pid, ends; ends at once when it has already.

    The signal is sent when the *thread* that forked us ends, so parents must fork in their main thread.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above took effect, and nobody will signal us
        os._exit(1)


def keep_descriptors() -> None:
    """Have no child of ours inherit what we have inherited, besides the standard descriptors."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):  # the listing's own is closed by now
                os.set_inheritable(int(name), False)


def set_title(role: str) -> None:
    """Show as `headrace: ROLE` in ps and top."""
    setproctitle.setproctitle(f"headrace: {role}")


def thread_count() -> int:
    """Threads of this process, those of C libraries included."""
    return len(os.listdir("/proc/self/task"))


def raise_file_limit(wanted: int) -> int:
    """How many files this process may have open: *wanted* if the hard limit lets it (setrlimit(2)). The soft limit is
    usually 1,024, for the sake of programs that select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, most), hard))
    return min(wanted, most)


def give_memory_back() -> None:
    """Give free memory of the C heap back to the kernel; glibc would keep it, other C libraries have no such call.

    What compiling and unpickling at a start leave free is a MiB in each process.
    """
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)


def reset_signals() -> None:
    """Default handlers and an empty mask, as models expect; SIGINT as Python's own."""
    signal.set_wakeup_fd(-1)
    for number in _OWN_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def give_way(yes: bool) -> None:
    """Have all threads of this process wait for whoever else wants their core and has slept (SCHED_BATCH, sched(7)), or
    be as any other again. Best effort: it takes no privilege, but a sandbox may know no such call."""
    policy = os.SCHED_BATCH if yes else os.SCHED_OTHER
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # it has ended since
            os.sched_setscheduler(int(thread), policy, os.sched_param(0))


def waited_for_cores_ns() -> int:
    """For how long this process's first thread could have run and had no core; 0 where the kernel does not say."""
    try:
        with open("/proc/self/schedstat", "rb") as file:
            return int(file.read().split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def prefer_for_oom(pid: int, score: int) -> None:
    """Make *pid* a likelier victim of the out-of-memory killer, if that is allowed: best effort."""
    try:
        with open(f"/proc/{pid}/oom_score_adj", "r+") as file:
            if int(file.read()) < score:
                file.seek(0)
                file.write(str(score))
    except (OSError, ValueError):
        pass


def spawn(module: str, sock: socket.socket, environ: Mapping[str, str] = os.environ) -> int:
    """Start `python -m MODULE 3`, *sock* being its descriptor 3; returns its pid. Raises OSError."""
    # The directory that we were started in is no place to import from: it may hold anything, such as a random.py.
    safe_path = ("-P",) if sys.version_info >= (3, 11) else ()
    return spawn_command([sys.executable, *safe_path, "-m", module, str(CONTROL_FD)], sock, environ)


def spawn_command(argv: list[str], sock: socket.socket, environ: Mapping[str, str] = os.environ) -> int:
    """Start *argv* as spawn() does."""
    # dup2() onto itself would keep close-on-exec, so the source must not be the target.
    source = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, CONTROL_FD + 1)
    try:
        return os.posix_spawn(
            argv[0],
            argv,
            environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, source, CONTROL_FD)],
            setpgroup=0,
            setsigmask=(),
            setsigdef=_OWN_SIGNALS,
        )
    finally:
        os.close(source)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}, {value}): {os.strerror(code)}")
