"""A frontend process: `python -m headrace.frontend FD`, FD being its end of the control channel.

Everything that happens for each request is in headrace._frontend; here is what happens once, or a few times a second:
the listening sockets, the supervisor's messages, deadlines, and pages that go back to the kernel.
"""

import asyncio
import functools
import gc
import os
import signal
import socket
import sys
from typing import Any

import orjson
import uvloop

from headrace import errors, log, processes, surroundings, tracing
from headrace._frontend import INFERENCE, MANAGEMENT, Exchange, Note
from headrace._frontend import Frontend as DataPath
from headrace._memory import largest_slot
from headrace.access_log import AccessLog
from headrace.config import Config
from headrace.control import Message
from headrace.control_async import AsyncChannel

SWEEP_S = 0.25  # deadlines are enforced this exactly
FILES_BESIDE = 256  # open files beside the clients' connections: segments, listeners, the management's
FAREWELL_S = 2.0  # for last answers to arrive (a lingering close takes 1.5 s at most)
FLUSH_S = 1.0  # each for the last lines of the access log to be written, the last spans to be sent
TRIM_EVERY = 8  # sweeps; pages go back after they were not needed for two such periods

_JSON = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
_SURFACES = {"inference": INFERENCE, "management": MANAGEMENT}
_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    413: "payload_too_large",
    503: "overloaded",
    504: "deadline_exceeded",
}


def render_error(status: int, text: str) -> bytes:
    """The JSON body of an error that the frontend answers by itself."""
    code = "model_not_found" if text.startswith("Model not found") else _CODES.get(status)
    return errors.body(status, errors.type_of(status, code or ""), text)


class Frontend:
    """The process's control side."""

    def __init__(self, channel: AsyncChannel, message: Message, fds: list[int]) -> None:
        self.channel = channel
        self.config = Config.from_dict(message["config"])
        self.index: int = message["frontend"]
        self.single_port: bool = message["single_port"]
        self.log = log.get(f"frontend-{self.index}")
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(self.failed)
        board_fd, segment_fd, self.eventfd, *listeners = fds
        config = self.config
        self.raise_file_limit()
        self.path = DataPath(
            self.loop,
            board_fd,
            segment_fd,
            self.eventfd,
            config.arena_bytes,
            largest_slot(config.max_request_bytes, config.max_response_bytes),
            {
                "max_request": config.max_request_bytes,
                "max_response": config.max_response_bytes,
                "spin_us": config.spin_us,
                **self.limits(),
            },
            render_error,
            self.ask,
            lambda worker: channel.send({"op": "suspect", "worker": worker}),
            self.wake,
        )
        self.set_surroundings()
        self.access_log: AccessLog | None = None
        self.tracer = tracing.start(os.environ, self.log)
        self.watch()
        os.close(board_fd)  # mapped; the segment's stays open for hole punching
        self.listeners = list(zip(message["listeners"], listeners, strict=True))
        self.servers: list[asyncio.Server] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.tls = surroundings.tls_context(config)
        self.sweeps = 0
        self.trimming = False

    def failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback of the loop has raised. Where memory lacked half way the books may be wrong: a successor's are
        right, and whoever loses a connection may ask again."""
        try:
            loop.default_exception_handler(context)
        finally:
            if isinstance(context.get("exception"), MemoryError):
                os._exit(errors.Exit.BOOT_FAILED)

    def limits(self) -> dict[str, int]:
        """Those that may change while it runs."""
        config = self.config
        return {
            "max_connections": config.max_connections,
            "queue_total": config.queue_total,
            "min_rate": config.min_rate,
            "retries": config.retries,
            "header_timeout_ms": config.header_timeout_ms,
            "body_timeout_ms": config.body_timeout_ms,
            "idle_timeout_ms": config.idle_timeout_ms,
            "write_timeout_ms": config.write_timeout_ms,
        }

    def set_surroundings(self) -> None:
        self.path.set_surroundings(
            surroundings.CACHE_FIELDS,
            surroundings.origin_fields(self.config),
            surroundings.preflight_fields(self.config),
            surroundings.execution_parameters(self.config),
        )

    def raise_file_limit(self) -> None:
        wanted = self.config.max_connections + FILES_BESIDE
        if (files := processes.raise_file_limit(wanted)) < wanted:
            self.log.warning("files.few", may_open=files, wanted=wanted, why="the hard limit, `ulimit -Hn`")

    def watch(self) -> None:
        """Have the data path tell of single requests, where anybody wants to know."""
        share = self.config.access_log or None
        if share is not None and self.access_log is None:
            self.access_log = AccessLog(self.config.log_format, f"frontend-{self.index}")
        if self.access_log is not None or self.tracer is not None:
            sampling = self.tracer.sampling if self.tracer is not None else None
            self.path.watch(self.tell, share, sampling, int.from_bytes(os.urandom(8), "little"))

    def adopt(self, values: dict[str, Any]) -> None:
        """Settings have changed."""
        watched = self.config.access_log
        self.config.adopt(values)
        if self.config.access_log != watched:
            self.watch()
        log.set_level(self.config.log_level)
        self.raise_file_limit()
        self.path.set_limits(self.limits())
        self.set_surroundings()

    async def run(self) -> None:
        """Serves until the supervisor goes away."""
        self.loop.add_reader(self.eventfd, self.path.wake)
        for name, fd in self.listeners:
            surfaces = INFERENCE | MANAGEMENT if self.single_port else _SURFACES[name]
            listener = socket.socket(fileno=fd)
            listener.setblocking(False)
            protocol = functools.partial(self.path.protocol, surfaces)
            tls = self.tls if self.config.tls_ports in ("both", name) else None
            handshake_s = self.config.header_timeout_ms / 1000 if tls is not None else None
            server = await self.loop.create_server(protocol, sock=listener, ssl=tls, ssl_handshake_timeout=handshake_s)
            self.servers.append(server)
        self.sweep()
        self.channel.send({"op": "ready"})
        await self.channel.serve(self.hear)
        for told in (self.access_log, self.tracer):
            if told is not None:
                told.close(FLUSH_S)

    def sweep(self) -> None:
        self.loop.call_later(SWEEP_S, self.sweep)
        self.path.sweep()
        self.sweeps += 1
        if self.sweeps % TRIM_EVERY == 0 and not self.trimming:
            ranges = self.path.trim_begin()
            if ranges:
                self.trimming = True
                punched = self.loop.run_in_executor(None, self.path.punch, ranges)
                punched.add_done_callback(lambda _: self.trimmed(ranges))

    def trimmed(self, ranges: list[tuple[int, int, int]]) -> None:
        self.path.trim_end(ranges)
        self.trimming = False

    def hear(self, message: Message, fds: list[int]) -> None:
        """Acts on one message of the supervisor's."""
        op = message["op"]
        if op == "worker" and message["up"]:
            self.path.worker_up(message["worker"])
        elif op == "worker":
            self.path.worker_down(message["worker"], message["out_of_memory"])
        elif op == "route":
            self.path.set_route(
                message["name"],
                message["model"],
                message["workers"],
                message["queue"],
                message["timeout_ms"],
                message["default"],
                message["refusal"],
                message["retry_after_s"],
                message["named"],
            )
        elif op == "unroute":
            self.path.remove_route(message["name"])
        elif op == "refuse":
            self.path.refuse(message["name"], message["model"], message["status"], message["text"])
        elif op == "settings":
            self.adopt(message["values"])
        elif op == "uses":
            self.channel.reply(message, uses=self.path.uses())
            return
        elif op == "health":
            self.path.set_health(message["status"], message["text"])
            self.path.set_readiness(message["ready"], orjson.dumps(message["document"], option=_JSON))
        elif op == "token":
            self.path.set_token(message["token"].encode(), message["guards_inference"], message["guards_reading"])
        elif op == "stats":
            stats = self.path.stats()
            stats["access_log_dropped"] = self.access_log.dropped if self.access_log is not None else 0
            stats["traces_dropped"] = self.tracer.dropped if self.tracer is not None else 0
            self.channel.reply(message, stats=stats, tally=self.path.tally(message["busiest"]))
            return
        elif op == "drain":
            self.spawn(self.drain(message))
            return
        else:
            raise ValueError(f"unknown control message {op!r}")
        if "id" in message:
            self.channel.reply(message)

    def tell(self, notes: list[Note]) -> None:
        """What became of single requests, to whoever wants to know."""
        if self.access_log is not None and (logged := [note for note in notes if note.is_logged]):
            self.access_log.tell(logged)
        if self.tracer is not None and (traced := [note for note in notes if note.is_traced]):
            self.tracer.tell(traced)

    def spawn(self, work: Any) -> None:
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def drain(self, message: Message) -> None:
        """Accepts nothing more, answers what is in, then says so. What is left at the end is answered 503."""
        for server in self.servers:
            server.close()
        self.path.drain_connections()
        until_s = self.loop.time() + message["within_s"]
        while self.path.unanswered() and self.loop.time() < until_s:
            await asyncio.sleep(0.01)
        self.path.answer_rest("the server ends, and the request was not answered in time; try again")
        until_s = self.loop.time() + FAREWELL_S
        while self.path.connections and self.loop.time() < until_s:
            await asyncio.sleep(0.01)
        self.channel.reply(message)

    def wake(self, model: int) -> None:
        """A request came for a model that no worker has; the supervisor knows whether it can be loaded again."""
        try:
            self.channel.send({"op": "wake", "model": model})
        except ConnectionError:
            pass  # the supervisor is gone, and so are we in a moment

    def ask(
        self, exchange: Exchange, method: str, path: str, query: str, content_type: str, body: bytes, surfaces: int
    ) -> None:
        """Passes a management request on to the supervisor, which answers in its own time."""
        from urllib.parse import unquote_to_bytes

        message = {
            "op": "manage",
            "method": method,
            "path": unquote_to_bytes(path.encode("latin-1")).decode("utf-8", "replace"),
            "query": query,
            "content_type": content_type,
            "body": body.decode("latin-1"),
            "port": "management" if surfaces & MANAGEMENT else "inference",
        }
        self.spawn(self.pass_on(exchange, message))

    async def pass_on(self, exchange: Exchange, message: Message) -> None:
        try:
            reply = await self.channel.call(message)
        except (errors.HeadraceError, ConnectionError) as exc:
            body = render_error(503, f"the supervisor gave no answer: {exc}")
            self.path.answer(exchange, 503, body, "application/json", {})
            return
        body = reply["body"].encode("utf-8", "surrogatepass")
        self.path.answer(exchange, reply["status"], body, reply["content_type"], reply.get("headers") or {})


async def _main(control_fd: int) -> None:
    channel = AsyncChannel(control_fd)
    try:
        message, fds = await channel.receive()
    except EOFError:
        return
    log.configure(message["config"]["log_level"], message["config"]["log_format"], f"frontend-{message['frontend']}")
    processes.die_with_parent(message["supervisor"])
    processes.set_title(f"frontend {message['frontend']}")
    frontend = Frontend(channel, message, fds)
    # What lives now lives for ever, and requests make no cycles: young collections find nothing, old ones cost time.
    gc.collect()
    gc.freeze()
    processes.give_memory_back()
    gc.set_threshold(50_000, 50, 100)
    await frontend.run()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's ^C reaches the whole group; the supervisor decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(_main(int(sys.argv[1])))


if __name__ == "__main__":
    main()
