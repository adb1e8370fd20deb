"""The template: a process that has imported what workers need, and forks them. Run as `python -m headrace.template FD`.

    supervisor --- {"op": "start", "config", "supervisor": pid} [board] --> template      imports, then replies
               --- {"op": "fork", "worker", "cpus", "threads", "config"} [its control socket, a pipe for its output] -->
    template -- fork --> middle -- fork --> worker     middle ends at once: the worker is re-parented to the supervisor,
                                                       a subreaper, and says hello on its own socket

Invariants
1. It has one thread at each fork: a lock that another thread held would stay locked in the child for ever. A fork is
   refused otherwise, and a module of HEADRACE_TEMPLATE_IMPORTS that starts a thread stops the start, by name.
2. It never computes: a child of a process that ran OpenMP hangs at its first parallel region. Numeric libraries are
   held to one thread before they are imported; each worker sizes its own after the fork.
3. A worker asks for its death signal only once the supervisor is its parent, and goes on only if it still is.
"""

import gc
import importlib
import os
import random
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from headrace import affinity, errors, log, output, processes
from headrace.config import Config
from headrace.control import Channel, ChannelError, Message, close_descriptors
from headrace.errors import ConfigError, Exit, HeadraceError

#: entry(control_fd, board_fd, index, config): what a worker runs. It may return, which is a proper end.
Entry = Callable[[int, int, int, Config], Any]

#: Imported beside HEADRACE_TEMPLATE_IMPORTS: whatever a worker imports by itself is paid for in each of them.
PRELOAD = ("numpy", "numpy.random", "orjson", "json", "inspect", "headrace.mms.service", "headrace.mms.context")

_log = log.get("template")


@dataclass(frozen=True, slots=True)
class Birth:
    """What a worker just forked is to become."""

    control_fd: int
    board_fd: int
    index: int
    supervisor: int
    cpus: list[int] | None
    threads: int
    config: Config
    output_fd: int = -1  # of the pipe that its standard output and error are to lead into; -1: the template's


class Template:
    def __init__(self, channel: Channel, preload: tuple[str, ...]) -> None:
        self._channel = channel
        self._preload = preload
        self._supervisor = 0
        self._board_fd = -1

    def serve(self) -> Birth | None:
        """Answer messages until the supervisor goes (None); in a worker, returns what it is."""
        while True:
            try:
                received = self._channel.receive()
            except EOFError:
                return None
            except ChannelError as error:  # whoever waits for an answer learns of it by our end, and has a new template
                _log.error("template.failed", reason=error)
                return None
            if received is None:
                continue
            message, fds = received
            try:
                if message["op"] == "start":
                    self._start(message, fds)
                elif message["op"] == "fork":
                    birth = self._fork(message, fds)
                    if birth is not None:
                        return birth
                else:
                    close_descriptors(fds)
                    raise HeadraceError(f"the template knows no {message['op']!r}")
            except Exception as error:
                self._channel.reply(message, **errors.to_message(error))

    def _start(self, message: Message, fds: list[int]) -> None:
        (self._board_fd,) = fds
        self._supervisor = message["supervisor"]
        config = Config.from_dict(message["config"])
        processes.die_with_parent(self._supervisor)
        log.configure(config.log_level, config.log_format, "template")
        for name in self._preload:
            _import(name, "")
        for name in config.template_imports:
            _import(name, " of HEADRACE_TEMPLATE_IMPORTS")
        gc.collect()
        processes.give_memory_back()
        gc.freeze()  # a collection in a worker must not write to pages that all of them share
        self._channel.reply(message)

    def _fork(self, message: Message, fds: list[int]) -> Birth | None:
        """Fork a worker. In the template: reply with its pid, return None; in the worker: return its Birth."""
        control_fd, *output_fds = fds
        pid = -1
        try:
            if processes.thread_count() != 1:
                raise HeadraceError(f"the template has {processes.thread_count()} threads; it can fork with one only")
            config = Config.from_dict(message["config"])
            cpus, threads = message["cpus"], message["threads"]
            output_fd = output_fds[0] if output_fds else -1
            birth = Birth(
                control_fd, self._board_fd, message["worker"], self._supervisor, cpus, threads, config, output_fd
            )
            pid = _fork_orphan()
        finally:
            if pid != 0:
                close_descriptors(fds)
        if pid == 0:
            self._channel.close()
            return birth
        self._channel.reply(message, pid=pid)
        return None


def main(fd: int, entry: Entry | None = None) -> int:
    """Serve the supervisor at the other end of *fd*; in a worker, run *entry* (by default headrace.worker's main)."""
    os.environ.update(affinity.thread_environment(1))  # before anything imports numpy
    processes.set_title("template")
    preload = PRELOAD if entry else (*PRELOAD, "headrace.worker")
    birth = Template(Channel(fd), preload).serve()
    return Exit.OK if birth is None else _live(birth, entry)


def _import(name: str, source: str) -> None:
    """Import a module. Raises ConfigError when that fails, or starts a thread; *source* says who named it."""
    try:
        importlib.import_module(name)
    except Exception as error:
        failure = ConfigError(f"the template cannot import {name}{source}: {type(error).__name__}: {error}")
        failure.detail = traceback.format_exc()
        raise failure from None
    if processes.thread_count() != 1:
        raise ConfigError(f"importing {name}{source} starts a thread; workers can be forked only where there is one")


def _fork_orphan() -> int:
    """Fork a process that becomes the child of the nearest subreaper above us. Returns its pid; 0 in it, once it is.

    Raises OSError.
    """
    pid_out, pid_in = os.pipe()
    pipes = {pid_out, pid_in}
    try:
        go_out, go_in = os.pipe()
        pipes |= {go_out, go_in}
        middle = os.fork()
        if middle == 0:
            return _middle(pipes, pid_in, go_out, go_in)
        _, status = os.waitpid(middle, 0)  # a process's children get their new parent before it can be waited for
        if status != 0:
            raise OSError(f"a worker could not be forked: the process in between ended with status {status}")
        pid = int.from_bytes(os.read(pid_out, 4), "little")
        os.write(go_in, b"!")
        return pid
    finally:
        for pipe in pipes:
            os.close(pipe)


def _middle(pipes: set[int], pid_in: int, go_out: int, go_in: int) -> int:
    try:
        pid = os.fork()
        if pid > 0:
            os.write(pid_in, pid.to_bytes(4, "little"))
            os._exit(0)
        os.close(go_in)  # else we would not see the template's end
        pipes.remove(go_in)
        if os.read(go_out, 1):
            return 0
    except OSError:
        pass
    os._exit(1)


def _live(birth: Birth, entry: Entry | None) -> int:
    """Be the worker; returns its exit status."""
    processes.die_with_parent(birth.supervisor)
    os.setpgid(0, 0)  # what the models start can be ended with us
    processes.reset_signals()
    processes.set_title(f"worker {birth.index}")
    if birth.output_fd >= 0:
        output.divert(birth.output_fd)
    log.configure(birth.config.log_level, birth.config.log_format, f"worker-{birth.index}")
    affinity.apply(birth.cpus, birth.threads)
    random.seed()
    sys.modules["numpy.random"].seed()  # all workers would draw the same numbers
    try:
        if entry is None:
            from headrace import worker

            entry = worker.main
        entry(birth.control_fd, birth.board_fd, birth.index, birth.config)
    except HeadraceError as error:
        log.get("worker").exception("worker.failed", code=error.code)
        return processes.ChildExit.of(error)
    return Exit.OK


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
