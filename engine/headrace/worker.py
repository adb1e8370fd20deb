"""A worker's main loop: batches out of the rings, through a model, and back. Control messages between batches.

A worker is forked from the template (headrace.template) and never returns from `main`. The same code serves many models
or one: which, is the supervisor's business.
"""

import faulthandler
import gc
import os
import signal
import time
from pathlib import Path
from typing import Any, NoReturn

from headrace import affinity, errors, footprint, loaders, log, media, output, processes, stand_in, warm_up
from headrace._worker import Port, Request
from headrace.compression import Codings
from headrace.config import Config
from headrace.control import Channel, Message, close_descriptors
from headrace.last_errors import Reporter
from headrace.model_settings import read_settings
from headrace.native import NativeServable
from headrace.output import Capture
from headrace.weight_store import Store

# A full collection over thousands of models takes tens of ms, so none comes by itself before so many of the middle
# generation's, each some 7,000 new objects apart; one comes with each unload, and in a pause after traffic. What the
# template brought is frozen for good: thawing it would have a collection write to pages that all workers share.
FULL_COLLECTION = 1000
IDLE_COLLECTION = 10

_DEFAULTS = ("max_batch_size", "max_batch_bytes", "max_batch_delay_ms")  # settings that models batch by

_UNANSWERED = errors.HeadraceError("the model did not answer the request")

Reply = tuple[int, int, bytes, bytes]


def render(exc: BaseException, request: Request) -> Reply:
    """Arguments of Request.reply that answer with an error. Besides HeadraceErrors those that headrace._worker raises:
    LookupError (model not here), OverflowError (answer too large), BufferError (no room for it), TimeoutError."""
    if not isinstance(exc, errors.HeadraceError):
        exc = _known(exc)
    body = errors.body(exc.status, errors.type_of(exc.status, exc.code), str(exc))
    return exc.status, media.JSON, body, exc.fields + b"retry-after: 1\r\n" if exc.retryable else exc.fields


def _known(exc: BaseException) -> errors.HeadraceError:
    if isinstance(exc, LookupError):
        return errors.Overloaded("the model is not loaded here any more; try again")
    if isinstance(exc, OverflowError):
        # Not 507, at which a platform unloads models: memory is not what lacks.
        return errors.HeadraceError(f"the model's answer of {exc} bytes is larger than HEADRACE_MAX_RESPONSE allows")
    if isinstance(exc, BufferError):
        return errors.Overloaded("there is no room for the model's answer (HEADRACE_ARENA, HEADRACE_MAX_RESPONSE)")
    if isinstance(exc, TimeoutError):
        return errors.DeadlineExceeded("the request was not begun in time (HEADRACE_TIMEOUT)")
    if isinstance(exc, MemoryError):
        return errors.OutOfMemory("out of memory")
    return errors.HeadraceError("internal error")


class Worker:
    """One worker process."""

    def __init__(self, control_fd: int, board_fd: int, index: int, config: Config) -> None:
        self.channel = Channel(control_fd)
        self.config = config
        codings = Codings(config.max_request_bytes, config.compress_min_bytes)
        self.port = Port(board_fd, index, render, config.max_response_bytes, config.spin_us, codings)
        self.log = log.get(f"worker-{index}")
        self.output = Capture(lambda: config.output_lines)
        self.output.install()
        self.supervisor = os.getppid()
        self.models: dict[int, loaders.Servable] = {}
        self.asked: dict[int, dict[str, Any]] = {}  # by model: options that it was loaded with
        self.is_stopping = False
        self.has_loaded = False  # anything, ever
        log.observe(Reporter(self.channel.send).observe)

    def run(self) -> None:
        """Serves until the supervisor says stop, or is gone."""
        self.channel.send({"op": "hello", "pid": os.getpid()})
        while not self.is_stopping:
            if self.port.control_waits():
                self.hear()
            elif not self.step():
                if os.getppid() != self.supervisor:
                    return
                self.output.tell_missed()
                if gc.get_count()[2] >= IDLE_COLLECTION:
                    gc.collect()

    def step(self, heed_control: bool = True) -> bool:
        """Runs one batch; False when there was none."""
        batch = self.port.next_batch(heed_control)
        if batch is None:
            return False
        servable, requests = batch
        missing = _UNANSWERED
        self.output.model, self.output.requests = servable.name, requests
        try:
            servable.run(requests)
        except (
            SystemExit
        ):  # of a handler that has this process to itself, and wants a new one; its requests are answered
            self.is_stopping = True
        except BaseException as exc:  # models may raise anything else; none of it ends the worker
            self.log.exception("model.broke", model=servable.name, requests=[request.id for request in requests])
            if isinstance(exc, MemoryError):
                missing = errors.OutOfMemory(f"model {servable.name} ran out of memory")
        self.output.requests = ()  # nothing here refers to a request once it is answered
        self.port.settle(requests, missing)
        return True

    def hear(self) -> None:
        """Acts on all control messages that wait."""
        while (received := self.channel.receive(0)) is not None:
            message, fds = received
            op = message["op"]
            if op == "attach":
                self.port.attach(message["frontend"], *fds)
                for fd in fds:
                    os.close(fd)  # the port has its own
            elif op == "load":
                (self.load_aside if message["aside"] else self.load)(message, fds)
            elif op == "unload":
                self.unload(message)
            elif op == "settings":
                self.adopt(message)
            elif op == "batching":
                self.asked[message["model"]] = message["options"]
                self.channel.reply(message, info=self.limit(message["model"]))
            elif op == "threads":
                affinity.set_threads(message["threads"], message["before"])
                self.channel.reply(message)
            elif op == "stop":
                while self.step(heed_control=False):
                    pass
                self.is_stopping = True
            else:
                raise ValueError(f"unknown control message {op!r}")

    def load_aside(self, message: Message, fds: list[int]) -> None:
        """load() in a process that serves nobody yet, and is felt by nobody: also while it collects what it left."""
        processes.give_way(True)
        try:
            self.load(message, fds)
        finally:
            processes.give_way(False)

    def load(self, message: Message, fds: list[int]) -> None:
        """fds: the store of weights that the model's replicas have in common, if it has one."""
        index = message["model"]
        began_ns, waited_ns, is_first = time.monotonic_ns(), processes.waited_for_cores_ns(), not self.has_loaded
        self.has_loaded = True
        store = Store(fds[0]) if fds else None
        self.output.model = message["name"]
        self.port.loading(index)
        before = footprint.anonymous_bytes(os.getpid())
        try:
            options = self.options(message["name"], message["options"])
            servable = loaders.load(Path(message["path"]), message["handler"], options, index, store)
            self.warm_up(servable, Path(message["path"]))
        except errors.HeadraceError as exc:
            self.channel.send({"op": "reply", "id": message["id"], **errors.to_message(exc)})
            gc.collect()
            return
        finally:
            self.port.idle()
            close_descriptors(fds)
            if store is not None:
                store.close()
        self.models[index], self.asked[index] = servable, message["options"]
        self.port.serve(index, servable)
        gc.collect(1)  # what the load left behind; see FULL_COLLECTION for the rest
        grown = max(0, footprint.anonymous_bytes(os.getpid()) - before)
        held_ns = time.monotonic_ns() - began_ns - (processes.waited_for_cores_ns() - waited_ns)
        self.channel.reply(
            message,
            info={
                **_batching(servable),
                "pinned": servable.is_pinned,
                "replicas": servable.settings.replicas if isinstance(servable, NativeServable) else None,
            },
            grown_bytes=grown,
            held_ms=held_ns / 1e6,  # as it would have been with a core to itself
            is_first=is_first,
            mapped_bytes=store.mapped_bytes if store is not None else 0,
        )

    def warm_up(self, servable: loaders.Servable, directory: Path) -> None:
        """Has the model answer the request that it is to be tried with, if there is one; else it is unloaded again."""
        try:
            if isinstance(servable, NativeServable):
                wanted = servable.settings.warm_up_request
            else:
                wanted = read_settings(directory).get("warm_up_request")
            if wanted:
                warm_up.run(servable, wanted, directory)
        except errors.HeadraceError:
            servable.unload()
            raise

    def options(self, name: str, asked: dict[str, Any]) -> loaders.Options:
        """What was asked for, and the server's defaults as they are now."""
        config = self.config
        return loaders.Options(
            name=name,
            max_batch_size=config.max_batch_size,
            max_batch_bytes=config.max_batch_bytes,
            max_batch_delay_ms=config.max_batch_delay_ms,
            max_request_bytes=config.max_request_bytes,
            default_handler=config.default_handler or None,
            decode_input=config.decode_input,
            retries_initialize=config.initialize_errors == "retry",
            **asked,
        )

    def adopt(self, message: Message) -> None:
        """Settings have changed; the answer says how models batch now, where that is different."""
        values = message["values"]
        before = {name: getattr(self.config, name) for name in _DEFAULTS}
        self.config.adopt(values)
        log.set_level(self.config.log_level)
        changed = {}
        if any(values.get(name, value) != value for name, value in before.items()):
            was = {index: _batching(servable) for index, servable in self.models.items()}
            changed = {index: now for index in self.models if (now := self.limit(index)) != was[index]}
        if "id" in message:
            self.channel.reply(message, changed=list(changed.items()))

    def limit(self, index: int) -> dict[str, Any]:
        """Have a model batch by what holds now; how that is."""
        servable = self.models[index]
        loaders.limit(servable, self.options(servable.name, self.asked[index]))
        self.port.limit(index)
        return _batching(servable)

    def unload(self, message: Message) -> None:
        """Answers what waits for the models, then forgets them; after the reply their memory is the kernel's again.

        Many at once, since the collection that frees their cycles walks over everything that lives here.
        """
        canaries = []
        for index in message["models"]:
            servable = self.models.pop(index, None)
            self.asked.pop(index, None)
            if servable is not None:
                while self.port.waiting(index):
                    self.step(heed_control=False)
                self.port.withdraw(index)
                self.output.model = servable.name
                canaries.append((servable.name, servable.unload()))
                del servable
        if canaries:
            gc.collect()
            processes.give_memory_back()
        for name, canary in canaries:
            if not canary.is_gone():
                self.log.warning(
                    "model.lingers", model=name, why="something outside the model still refers to its module"
                )
        self.channel.reply(message)


def _batching(servable: loaders.Servable) -> dict[str, Any]:
    """How a model's requests become batches, for the supervisor's books."""
    return {
        "max_batch_size": servable.max_batch_size,
        "max_batch_delay_ms": servable.max_batch_delay_ns // 1_000_000,
        "gathers": servable.max_batch_delay_ns > 0 or servable.tuner is not None,
    }


def main(control_fd: int, board_fd: int, index: int, config: Config) -> NoReturn:
    """The forked child's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's ^C reaches the whole group; the supervisor decides
    faulthandler.enable(2)  # a crash, or the watchdog's SIGABRT, leaves a traceback of all threads
    log.configure(config.log_level, config.log_format, f"worker-{index}")
    stand_in.install("ts")  # `mms` is the namespaces' affair: there it comes before an installed one
    gc.set_threshold(700, 10, FULL_COLLECTION)
    code = errors.Exit.OK
    try:
        Worker(control_fd, board_fd, index, config).run()
    except EOFError:
        pass  # the supervisor is gone
    except OSError as error:  # the kernel has no map or descriptor for us
        log.get(f"worker-{index}").error("worker.failed", error=error)
        code = errors.Exit.BOOT_FAILED
    except BaseException:
        log.get(f"worker-{index}").exception("worker.broke")
        code = errors.Exit.BOOT_FAILED
    output.flush()
    processes.give_way(True)  # the kernel takes 90 ms for each GiB of small pages that it gets back
    os._exit(code)
