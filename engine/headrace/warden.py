"""The warden: ends what a dead supervisor leaves behind. Run as `python -I -S warden.py MARK`, with descriptor 3.

    supervisor --- "+PID\\n" a process group of ours began, "-PID\\n" it was ended --> warden
               --- the end of the stream: the supervisor is gone, however it went

A process is ours when it is in one of those groups, or has MARK in the environment that it was started with: so are
what models start, also in a session of their own, and what that starts in turn. Out of reach is only what has both
left its group and been started with another environment.

It stands for itself and imports nothing: it has to be small, it lives as long as the server, and it must not fail.
"""

import _signal as signal  # type: ignore[import-not-found]  # `signal` imports enum and more: 0.8 MB
import os
import sys
import time

STREAM_FD = 3
LOOK_S = 0.005
WITHIN_S = 2.0


def main(mark: bytes) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # what is said to the whole container is the supervisor's to act on
    groups = _listen()
    until_s = time.monotonic() + WITHIN_S
    # Again and again: whoever is not dead yet may still start others.
    while _kill(groups, mark) and time.monotonic() < until_s:
        time.sleep(LOOK_S)


def _listen() -> set[int]:
    """Until the stream ends; the groups that were there then."""
    groups: set[int] = set()
    rest = b""
    while data := os.read(STREAM_FD, 65536):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            (groups.add if line[:1] == b"+" else groups.discard)(int(line[1:]))
    return groups - {os.getpid()}


def _kill(groups: set[int], mark: bytes) -> bool:
    """SIGKILL for all that is ours; whether there was any."""
    found = False
    for name in filter(str.isdigit, os.listdir("/proc")):
        pid = int(name)
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                state, _, group = file.read().rpartition(b")")[2].split()[:3]
            if state in b"ZX" or pid == os.getpid():
                continue
            if int(group) in groups or _has(pid, mark):
                found = True
                os.kill(pid, signal.SIGKILL)
        except (OSError, ValueError):
            continue  # it has ended, or is somebody else's
    return found


def _has(pid: int, mark: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return mark in file.read()
    except OSError:
        return False


if __name__ == "__main__":
    main(os.fsencode(sys.argv[1]))
