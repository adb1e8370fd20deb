"""The management API over real control channels; the processes at their other ends are played by the test.

The played worker loads what it is told to, unless the model's name says how it fails; all peers write down, in one
list, what they were told.
"""

import asyncio
import dataclasses
import json
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from headrace import affinity, control, errors
from headrace._memory import Board, create_board
from headrace.archives import Archives
from headrace.children import Death
from headrace.config import Config
from headrace.control import Message
from headrace.control_async import AsyncChannel
from headrace.deployment import Deployment
from headrace.explain import Explainer
from headrace.frontends import Frontend, Frontends
from headrace.last_errors import LastErrors
from headrace.management import Management, model_path
from headrace.nursery import Nursery
from headrace.overview import Overview
from headrace.registry import Registry, Replica, State
from headrace.running_settings import RunningSettings
from headrace.scrape import Scrape
from headrace.settings import Settings
from headrace.workers import Worker, Workers

Script = Callable[["Server"], Awaitable[None]]


class Server:
    """A control plane with two shared workers and one frontend, whose processes are played."""

    def __init__(self, config: Config) -> None:
        self.told: list[str] = []
        self.config = config
        board_fd = create_board()
        board = Board(board_fd)
        nobody: Any = None
        self.registry = Registry()
        self.frontends = Frontends(config, -1, {}, nobody, nobody, list, nobody, nobody)
        plan = affinity.plan_for("off", 2, 1, (0,), 1, {})
        nursery = Nursery(config, -1, board, nobody)
        self.workers = Workers(config, board, nursery, nobody, plan, self.frontends, lambda: None, nobody)
        self.deployment = Deployment(config, self.registry, self.workers, self.frontends, Archives(nobody), board_fd)
        scrape = Scrape(0, self.registry, self.workers, self.frontends, self.deployment)
        explainer = Explainer(config, self.registry, self.deployment, LastErrors())
        overview = Overview(config, self.registry, self.workers, self.deployment)
        settings = RunningSettings(Settings(config, {}), self.registry, self.workers, self.frontends, self.deployment)
        self.management = Management(
            config, self.registry, self.deployment, scrape, explainer, overview, settings, dict
        )
        self.gate = asyncio.Event()  # loads of models called "slow" wait for it
        self.gate.set()
        self.peers: list[AsyncChannel] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.board_fd = board_fd
        ours = self.play("frontend", self.play_frontend)
        death: asyncio.Future[Death] = asyncio.get_running_loop().create_future()
        self.frontends.live[0] = Frontend(0, 0, ours, death, asyncio.Event(), -1, -1)
        for index in range(2):
            self.workers.by_index[index] = Worker(
                index,
                None,
                1,
                channel=self.play(f"worker {index}", self.play_worker),
                death=asyncio.get_running_loop().create_future(),
                is_up=True,
            )

    def play(self, name: str, act: Callable[[str, AsyncChannel, Message], Awaitable[None]]) -> AsyncChannel:
        ours, theirs = control.pair()
        peer = AsyncChannel(theirs)
        self.peers += [peer, AsyncChannel(ours)]
        self.tasks.append(asyncio.create_task(peer.serve(lambda message, fds: act(name, peer, message))))
        return self.peers[-1]

    async def play_frontend(self, name: str, peer: AsyncChannel, message: Message) -> None:
        where = message.get("workers")
        self.told.append(f"{name} {message['op']} {message['name']}" + (f" {where}" if where is not None else ""))
        peer.reply(message)

    async def play_worker(self, name: str, peer: AsyncChannel, message: Message) -> None:
        self.told.append(f"{name} {message['op']}")
        model = message.get("name")
        if model == "slow":
            await self.gate.wait()
        if message["op"] == "load" and model == "large":
            peer.reply(message, **errors.to_message(errors.OutOfMemory("needs 5GiB, 1GiB is free")))
        elif message["op"] == "load" and model == "broken":
            peer.reply(message, **errors.to_message(errors.ModelError("no module named x", "Traceback ...")))
        elif message["op"] == "load" and model == "deadly":
            worker = self.workers.by_index[int(name.split()[1])]
            assert worker.death is not None
            worker.death.set_result(Death(1, 0, 9))
            peer.close()
        else:
            peer.reply(message, info={"max_batch_size": 7})

    async def ask(
        self, method: str, path: str, query: str = "", body: str = "", port: str = "management"
    ) -> tuple[int, Any]:
        kind = "application/json; charset=utf-8" if body else ""
        message = {"method": method, "path": path, "query": query, "content_type": kind, "body": body, "port": port}
        reply = await self.management.answer(message)
        assert reply["body"].endswith("}\n")
        return reply["status"], json.loads(reply["body"])

    def close(self) -> None:
        os.close(self.board_fd)
        for peer in self.peers:
            peer.close()
        for task in self.tasks:
            task.cancel()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for name in ("a", "b", "slow", "large", "broken", "deadly"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.py").write_text("from headrace import Model")
    return tmp_path


@pytest.fixture
def run(store: Path) -> Callable[..., None]:
    def run(script: Script, **settings: Any) -> None:
        async def main() -> None:
            defaults: dict[str, Any] = {"workers": 2, "model_store": str(store)}
            server = Server(dataclasses.replace(Config(), **{**defaults, **settings}))
            try:
                await asyncio.wait_for(script(server), 30)
            finally:
                server.close()

        asyncio.run(main())

    return run


def test_a_life_from_load_to_unload(run: Callable[..., None]) -> None:
    async def script(server: Server) -> None:
        assert await server.ask("POST", "/models", "url=a&model_name=a") == (200, {"status": 'Model "a" registered'})
        status, described = await server.ask("GET", "/models/a/")
        assert status == 200
        assert described["modelName"] == "a"
        assert described["modelUrl"] == "a"
        assert described["batchSize"] == 7
        assert [worker["status"] for worker in described["workers"]] == ["READY"]
        assert await server.ask("GET", "/models") == (200, {"models": [{"modelName": "a", "modelUrl": "a"}]})
        assert await server.ask("DELETE", "/models/a") == (200, {"status": 'Model "a" unregistered'})
        assert await server.ask("GET", "/models") == (200, {"models": []})
        assert server.told == [
            "worker 0 load",
            "frontend route a [0]",
            "frontend unroute a",
            "worker 0 unload",
        ]

    run(script)


def test_the_form_of_sagemaker_with_its_trailing_comma(run: Callable[..., None], store: Path) -> None:
    async def script(server: Server) -> None:
        body = '{\n "model_name": "a",\n "url": "%s",\n}' % (store / "a")
        assert (await server.ask("POST", "/models", body=body, port="inference"))[0] == 200
        assert (await server.ask("POST", "/models", body=body, port="inference"))[0] == 409
        status, described = await server.ask("GET", "/models/a", port="inference")
        assert (status, described["modelUrl"]) == (200, str(store / "a"))

    run(script, sagemaker=True, multi_model=True, model_store="/", port=8080, management_port=8080)


def test_replicas_go_to_the_emptiest_workers(run: Callable[..., None]) -> None:
    async def script(server: Server) -> None:
        await server.ask("POST", "/models", "url=a&model_name=x")
        await server.ask("POST", "/models", "url=a&model_name=y")
        status = await server.ask("POST", "/models", "url=a&model_name=z&initial_workers=5&batch_size=0")
        assert status == (200, {"status": "Workers scaled"})
        assert [server.registry.get(name).residents() for name in "xyz"] == [[0], [1], [0, 1]]
        assert server.registry.get("z").options == {"batch_size": 1}

    run(script)


@pytest.mark.parametrize(
    ("name", "status", "kind", "message"),
    [
        ("large", 507, "InsufficientStorageException", "needs 5GiB, 1GiB is free"),
        ("broken", 500, "InternalServerException", "no module named x"),
        ("deadly", 507, "InsufficientStorageException", "was killed by SIGKILL while loading"),
    ],
)
def test_a_failed_load_leaves_nothing_behind(
    run: Callable[..., None], name: str, status: int, kind: str, message: str
) -> None:
    async def script(server: Server) -> None:
        answer = await server.ask("POST", "/models", f"url={name}&model_name={name}")
        assert (answer[0], answer[1]["code"], answer[1]["type"]) == (status, status, kind)
        assert message in answer[1]["message"]
        assert (await server.ask("GET", f"/models/{name}"))[0] == 404
        assert not any("route" in told for told in server.told)
        assert (await server.ask("DELETE", f"/models/{name}"))[0] == 404

    run(script)


def test_one_load_at_a_time_for_each_name(run: Callable[..., None]) -> None:
    async def script(server: Server) -> None:
        server.gate.clear()
        load = asyncio.ensure_future(server.ask("POST", "/models", "url=slow&model_name=slow"))
        while not server.told:
            await asyncio.sleep(0)
        assert (await server.ask("POST", "/models", "url=slow&model_name=slow"))[0] == 409
        assert (await server.ask("POST", "/models", "url=a&model_name=a"))[0] == 200  # others do not wait
        server.gate.set()
        assert (await load)[0] == 200

    run(script)


def test_an_unload_ends_the_load_and_leaves_nothing(run: Callable[..., None]) -> None:
    async def script(server: Server) -> None:
        server.gate.clear()
        load = asyncio.ensure_future(server.ask("POST", "/models", "url=slow&model_name=slow"))
        while not server.told:
            await asyncio.sleep(0)
        first, second = (asyncio.ensure_future(server.ask("DELETE", "/models/slow")) for _ in range(2))
        while not server.registry.get("slow").is_leaving:
            await asyncio.sleep(0)
        server.gate.set()
        status, answer = await load
        assert (status, answer["message"]) == (409, "Model slow was unregistered while it was being loaded")
        assert await first == (200, {"status": 'Model "slow" unregistered'})
        assert (await second)[0] == 404
        assert server.told == ["worker 0 load", "worker 0 unload"]
        assert await server.ask("POST", "/models", "url=slow&model_name=slow") == (
            200,
            {"status": 'Model "slow" registered'},
        )

    run(script)


def test_work_on_a_model_waits_its_turn(run: Callable[..., None]) -> None:
    async def script(server: Server) -> None:
        server.gate.clear()
        assert (await server.ask("POST", "/models", "url=slow&model_name=slow&synchronous=false"))[0] == 202
        scaled = asyncio.ensure_future(server.ask("PUT", "/models/slow", "min_worker=2&synchronous=true"))
        while not server.told:
            await asyncio.sleep(0)
        server.gate.set()
        assert (await scaled)[0] == 200
        assert server.registry.get("slow").residents() == [0, 1]

    run(script)


def test_an_asynchronous_failure_stays_to_be_seen_and_gives_way(run: Callable[..., None]) -> None:
    async def script(server: Server) -> None:
        query = "url=broken&model_name=broken&synchronous=false"
        assert await server.ask("POST", "/models", query) == (202, {"status": "Processing worker updates..."})
        while (described := (await server.ask("GET", "/models/broken"))[1])["status"] != "failed":
            await asyncio.sleep(0)
        assert described["reason"] == "no module named x"
        assert (await server.ask("POST", "/models", "url=a&model_name=broken&synchronous=true"))[0] == 500
        assert (await server.ask("GET", "/models/broken"))[0] == 404

    run(script)


def test_a_replica_that_follows_load_evicts_nobody(run: Callable[..., None]) -> None:
    async def script(server: Server) -> None:
        await server.ask("POST", "/models", "url=a&model_name=a")
        model, deployment = server.registry.get("a"), server.deployment
        assert (model.least, model.most) == (1, 2)
        del server.told[:]
        model.needs_bytes = deployment.admission.budget.free_bytes  # it would fit, and leave nothing to spare
        assert await deployment.add_replica(model, "it is hot")
        assert (server.told, model.residents()) == ([], [0])
        model.needs_bytes = 1000
        assert await deployment.add_replica(model, "it is hot")
        assert model.residents() == [0, 1]
        assert server.told == ["worker 1 load", "frontend route a [0, 1]"]
        assert await deployment.drop_replica(model, "it is cold")
        assert (server.told[2:], model.residents()) == (["frontend route a [0]", "worker 1 unload"], [0])
        assert [(record["event"], record["reason"]) for record in deployment.history.records("a")] == [
            ("loaded", "registered"),
            ("replica_added", "it is hot"),
            ("replica_removed", "it is cold"),
        ]

    run(script)


def test_an_unload_waits_for_a_replica_that_comes_by_load(run: Callable[..., None]) -> None:
    async def script(server: Server) -> None:
        await server.ask("POST", "/models", "url=slow&model_name=slow")
        model = server.registry.get("slow")
        server.gate.clear()
        growing = asyncio.ensure_future(server.deployment.add_replica(model, "it is hot"))
        while "worker 1 load" not in server.told:
            await asyncio.sleep(0)
        unloading = asyncio.ensure_future(server.ask("DELETE", "/models/slow"))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not unloading.done()
        server.gate.set()
        assert (await unloading)[0] == 200
        await growing
        assert server.told.count("worker 1 unload") == 1
        assert [record["event"] for record in server.deployment.history.records("slow")] == ["loaded", "unloaded"]

    run(script)


def test_scaling_up_and_down(run: Callable[..., None]) -> None:
    async def script(server: Server) -> None:
        await server.ask("POST", "/models", "url=a&model_name=a")
        del server.told[:]
        query = "min_worker=2&synchronous=true"
        assert await server.ask("PUT", "/models/a", query) == (200, {"status": "Workers scaled"})
        assert server.told[0] == "worker 1 load"
        assert server.told[-1] == "frontend route a [0, 1]"
        del server.told[:]
        assert (await server.ask("PUT", "/models/a", "min_worker=1&synchronous=true"))[0] == 200
        assert server.told[:2] == ["frontend route a [0]", "worker 1 unload"]
        assert (await server.ask("PUT", "/models/a", "min_worker=2&max_worker=1"))[0] == 400

    run(script)


def test_a_successor_gets_its_models_back_and_no_request_before(run: Callable[..., None]) -> None:
    async def script(server: Server) -> None:
        for name in ("a", "b"):
            await server.ask("POST", "/models", f"url={name}&model_name={name}&initial_workers=2")
        del server.told[:]
        worker = server.workers.by_index[0]
        await server.deployment.take_down(worker)
        assert sorted(server.told) == ["frontend route a [1]", "frontend route b [1]"]
        del server.told[:]
        await server.deployment.restore(worker)
        assert server.told == [
            "worker 0 load",
            "frontend route a [0, 1]",
            "worker 0 load",
            "frontend route b [0, 1]",
        ]
        assert [route["workers"] for route in server.deployment.routes.all()] == [[0, 1], [0, 1]]

    run(script)


def test_a_model_that_cannot_be_restored_says_so(run: Callable[..., None]) -> None:
    async def script(server: Server) -> None:
        model = server.registry.register("broken", "/broken", "broken")
        model.replicas[0], model.state, model.is_routed = Replica(State.REGISTERED), State.RESIDENT, True
        await server.deployment.restore(server.workers.by_index[0])
        assert (model.state, model.reason) == (State.FAILED, "no module named x")
        assert server.told == ["worker 0 load", "frontend unroute broken"]
        assert (await server.ask("DELETE", "/models/broken"))[0] == 200

    run(script)


@pytest.mark.parametrize(
    ("method", "path", "query", "body", "status", "message"),
    [
        ("POST", "/models", "", "", 400, "Parameter url is required"),
        ("POST", "/models", "url=a", "", 400, "Model name is not defined. a has no manifest"),
        ("POST", "/models", "url=a&model_name=a/b", "", 400, "1 to 255 letters"),
        ("POST", "/models", "url=a&model_name=..", "", 400, "not `.` or `..`"),
        ("POST", "/models", "url=a&model_name=a&runtime=perl", "", 400, "Invalid RuntimeType value: perl"),
        ("POST", "/models", "url=../a&model_name=a", "", 404, "Relative path is not allowed"),
        ("POST", "/models", "url=a/../../b&model_name=a", "", 404, "Relative path is not allowed"),
        ("POST", "/models", "url=/etc&model_name=a", "", 404, "is not inside the model store"),
        ("POST", "/models", "url=a%00&model_name=a", "", 404, "Relative path is not allowed"),
        ("POST", "/models", "url=ghost&model_name=a", "", 404, "Model not found in model store: ghost"),
        ("POST", "/models", "url=http://127.0.0.1/y.mar&model_name=a", "", 400, "127.0.0.1 is not public"),
        ("POST", "/models", "url=ftp://x/y.mar&model_name=a", "", 404, "Invalid model url: ftp://x/y.mar"),
        ("POST", "/models", "", "{oops", 400, "the body is not JSON"),
        ("POST", "/models", "url=a", "[1]", 400, "must be a JSON object, not list"),
        ("POST", "/models", "url=a&model_name=a", "{}", 400, "Parameter url is required"),  # the query does not count
        ("POST", "/models", "", '{"url": "a\\u0000", "model_name": "a"}', 404, "Relative path"),
        ("PATCH", "/models", "", "", 405, "Requested method is not allowed, please refer to API document."),
        ("POST", "/models/a", "", "", 405, "Requested method is not allowed"),
        ("GET", "/models/ghost", "", "", 404, "Model not found: ghost"),
        ("DELETE", "/models/ghost", "", "", 404, "Model not found: ghost"),
        ("GET", "/models/a/b", "", "", 404, "Requested resource is not found, please refer to API document."),
        ("GET", "/", "", "", 405, "Requested method is not allowed, please"),
        ("GET", "/\ud800", "", "", 404, "Requested resource is not found"),
    ],
)
def test_what_is_refused(
    run: Callable[..., None], method: str, path: str, query: str, body: str, status: int, message: str
) -> None:
    async def script(server: Server) -> None:
        answer = await server.ask(method, path, query, body)
        assert (answer[0], answer[1]["code"]) == (status, status)
        assert set(answer[1]) == {"code", "type", "message"}
        assert message in answer[1]["message"]
        assert server.told == []

    run(script)


def test_two_ports_keep_management_off_the_inference_port(run: Callable[..., None]) -> None:
    async def script(server: Server) -> None:
        for method in ("GET", "POST"):
            assert (await server.ask(method, "/models", "url=a&model_name=a", port="inference"))[0] == 404
        assert (await server.ask("GET", "/models"))[0] == 200

    run(script)


def test_numbers_and_truth_values_may_be_text_in_json(run: Callable[..., None]) -> None:
    async def script(server: Server) -> None:
        body = {"url": "a", "model_name": "a", "batch_size": "4", "max_batch_delay": 20, "response_timeout": 9}
        body |= {"synchronous": True, "initial_workers": "1", "unheard_of": [], "handler": None}
        assert await server.ask("POST", "/models", body=json.dumps(body)) == (200, {"status": "Workers scaled"})
        model = server.registry.get("a")
        assert model.options == {"batch_size": 4, "batch_delay_ms": 20}
        assert model.timeout_ms == 9000
        await server.ask("POST", "/models", "url=b&model_name=b&response_timeout=2&batch_size=many")
        assert server.registry.get("b").timeout_ms == 120_000  # minutes, in a query
        assert server.registry.get("b").options == {"batch_size": 1}

    run(script)


def test_paths_need_a_store_or_sagemaker() -> None:
    with pytest.raises(errors.RequestError, match="no model store"):
        model_path("/tmp", Config())
    with pytest.raises(errors.RequestError, match="must be an absolute path"):
        model_path("tmp", dataclasses.replace(Config(), sagemaker=True))
    with tempfile.TemporaryDirectory() as directory:
        assert model_path(directory, dataclasses.replace(Config(), sagemaker=True)) == directory
