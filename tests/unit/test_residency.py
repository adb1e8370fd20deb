"""What is loaded, what goes, and when: the simulator's residency, against a container of a few lines."""

import asyncio
import io
import tarfile
from types import SimpleNamespace

import pytest
from aiohttp import web

from headrace.simulate.api_errors import ModelError, ModelNotReady, ServiceUnavailable, ValidationError
from headrace.simulate.cloudwatch import Metrics
from headrace.simulate.disk import MARK, Disk, DiskError
from headrace.simulate.model_api import ModelApi
from headrace.simulate.packages import Packages, hashed
from headrace.simulate.residency import Residency
from headrace.simulate.rules import Rules
from headrace.simulate.trace import Record


class Container:
    """Holds *room* models, like the contract says. A load waits while *gate* is closed; answers of *broken* are 500."""

    def __init__(self, room=100):
        self.room = room
        self.names = []
        self.loads = []
        self.unloads = []
        self.under_way = 0
        self.counts_loads_under_way = False
        self.broken = set()
        self.gate = asyncio.Event()
        self.gate.set()

    async def load(self, request):
        name = (await request.json())["model_name"]
        self.loads.append(name)
        if name in self.names:
            return web.Response(status=409)
        if name in self.broken:
            return web.Response(status=500, text="broken")
        self.under_way += 1
        try:
            taken = len(self.names) + (self.under_way - 1) * self.counts_loads_under_way
            await self.gate.wait()
            if taken >= self.room:
                return web.Response(status=507, text="full")
            self.names.append(name)
        finally:
            self.under_way -= 1
        return web.json_response({})

    async def unload(self, request):
        name = request.match_info["name"]
        if name not in self.names:
            return web.Response(status=404)
        self.names.remove(name)
        self.unloads.append(name)
        return web.json_response({})

    async def list(self, request):
        at = int(request.query.get("next_page_token", 0))
        page = {"models": [{"modelName": name, "modelUrl": ""} for name in self.names[at : at + 2]]}
        if at + 2 < len(self.names):
            page["nextPageToken"] = str(at + 2)
        return web.json_response(page)


@pytest.fixture
def rehearse(tmp_path):
    """rehearse(story, room=..., **rules) runs story(scene): scene has models, container, disk, ask() and so on."""
    store = tmp_path / "s3"
    for index in range(6):
        pack(store / f"m{index}.tar.gz", {"weights": bytes(100_000)})

    async def run(story, room, rules):
        container = Container(room)
        app = web.Application()
        app.router.add_post("/models", container.load)
        app.router.add_delete("/models/{name}", container.unload)
        app.router.add_get("/models", container.list)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        api = ModelApi(f"http://127.0.0.1:{runner.addresses[0][1]}")
        api.open()
        disk = Disk(str(tmp_path / "disk"), rules.disk_bytes)
        clock = asyncio.get_running_loop().time
        metrics = Metrics("e", "v")
        models = Residency("e", api, disk, Packages(str(store)), rules, metrics, disk.root, clock)

        async def ask(index, hold=None, limit_s=60.0):
            """One request; hold: an event that it waits for while it has the model. How the model was found."""
            record = Record(0, "")
            async with models.use(f"m{index}.tar.gz", clock() + limit_s, record):
                if hold:
                    await hold.wait()
            return record.found

        scene = SimpleNamespace(
            container=container, models=models, disk=disk, ask=ask, store=store, api=api, metrics=metrics
        )
        try:
            await asyncio.wait_for(story(scene), 30)
        finally:
            await models.close()
            await api.close()
            await runner.cleanup()
            disk.close()

    return lambda story, room=100, **rules: asyncio.run(run(story, room, Rules(**rules)))


def pack(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def indices(names):
    """Of models, by the names that the container knows."""
    known = {hashed(f"m{index}.tar.gz"): index for index in range(6)}
    return [known[name] for name in names]


async def until(condition):
    while not condition():
        await asyncio.sleep(0.002)


def test_the_least_recently_used_model_goes_when_there_is_no_memory(rehearse):
    async def story(scene):
        assert [await scene.ask(index) for index in (0, 1, 0, 2, 0)] == ["miss", "miss", "hit", "miss", "hit"]
        assert indices(scene.container.unloads) == [1]
        assert scene.models.loaded_count == 2
        assert (scene.models.counts.refusals, scene.models.counts.deletions) == (1, 0)
        assert await scene.ask(1) == "miss"
        assert scene.models.counts.downloads == 3  # it was on the disk still

    rehearse(story, room=2)


def test_a_model_in_use_stays_and_is_waited_for(rehearse):
    async def story(scene):
        hold = asyncio.Event()
        busy = asyncio.create_task(scene.ask(0, hold))
        await until(lambda: scene.models.loaded_count == 1)
        waiting = asyncio.create_task(scene.ask(1))
        await until(lambda: scene.models.counts.refusals == 1)
        await asyncio.sleep(0)
        assert not scene.container.unloads
        hold.set()
        assert await asyncio.gather(busy, waiting) == ["miss", "miss"]
        assert indices(scene.container.unloads) == [0]

    rehearse(story, room=1)


def test_507_with_nothing_to_unload_is_the_clients_to_hear(rehearse):
    async def story(scene):
        for _ in range(2):
            with pytest.raises(ModelError) as caught:
                await scene.ask(0)
            assert (caught.value.original_status, caught.value.original_message) == (507, "full")
        assert scene.models.loaded_count == 0

    rehearse(story, room=0)


def test_two_loads_that_keep_each_other_out_come_one_after_the_other(rehearse):
    async def story(scene):
        scene.container.counts_loads_under_way = True
        scene.container.gate.clear()
        asked = [asyncio.create_task(scene.ask(index)) for index in (0, 1)]
        await until(lambda: scene.container.under_way == 2)
        scene.container.gate.set()
        assert await asyncio.gather(*asked) == ["miss", "miss"]

    rehearse(story, room=1, loads_at_a_time=2)


def test_many_requests_share_a_load_and_its_failure(rehearse):
    async def story(scene):
        scene.container.gate.clear()
        asked = [asyncio.create_task(scene.ask(0)) for _ in range(20)]
        await until(lambda: scene.container.under_way)
        scene.container.gate.set()
        assert sorted(await asyncio.gather(*asked)) == ["miss"] + ["wait"] * 19
        assert indices(scene.container.loads) == [0]
        scene.container.broken.add(hashed("m1.tar.gz"))
        failures = await asyncio.gather(*(scene.ask(1) for _ in range(3)), return_exceptions=True)
        assert [each.original_status for each in failures] == [500] * 3
        assert indices(scene.container.loads) == [0, 1]
        assert scene.metrics.statistics("ModelLoadingTime").count == 1

    rehearse(story)


def test_a_load_goes_on_when_its_request_gives_up(rehearse):
    async def story(scene):
        scene.container.gate.clear()
        with pytest.raises(ModelNotReady):
            await scene.ask(0, limit_s=0.05)
        scene.container.gate.set()
        await until(lambda: scene.models.loaded_count == 1)
        assert await scene.ask(0) == "hit"

    rehearse(story)


def test_a_load_has_a_limit_of_its_own(rehearse):
    async def story(scene):
        scene.container.gate.clear()
        with pytest.raises(ModelError, match=r"within 0\.1 s"):
            await scene.ask(0)
        scene.container.gate.set()
        assert await scene.ask(0) == "miss"

    rehearse(story, load_s=0.1)


def test_a_conflict_means_that_it_is_loaded(rehearse):
    async def story(scene):
        scene.container.names.append(hashed("m0.tar.gz"))
        assert [await scene.ask(0), await scene.ask(0)] == ["miss", "hit"]

    rehearse(story)


def test_a_full_disk_loses_what_is_not_loaded_first(rehearse):
    async def story(scene):
        for index in (0, 1, 2):
            await scene.ask(index)
        assert indices(scene.container.unloads) == [0]  # all were loaded: one has to be unloaded to be deleted
        assert scene.disk.stored(hashed("m0.tar.gz")) is None
        scene.models.lose_all()
        await scene.ask(1)
        await scene.ask(3)
        assert [scene.disk.stored(hashed(f"m{index}.tar.gz")) is None for index in (1, 2, 3)] == [False, True, False]
        assert len(scene.container.unloads) == 1
        assert scene.disk.used_bytes <= 250_000

    rehearse(story, disk_bytes=250_000)


def test_a_package_larger_than_the_disk(rehearse):
    async def story(scene):
        with pytest.raises(ValidationError, match="of a disk of 50000"):
            await scene.ask(0)
        assert scene.disk.used_bytes == 0

    rehearse(story, disk_bytes=50_000)


def test_without_caching_nothing_stays(rehearse):
    async def story(scene):
        for _ in range(2):
            assert await scene.ask(0) == "miss"
            await until(lambda: not scene.disk.used_bytes)
        assert indices(scene.container.unloads) == [0, 0]

    rehearse(story, is_caching=False)


def test_a_container_that_is_back_is_asked_for_all_pages_of_its_list(rehearse):
    async def story(scene):
        for index in range(5):
            await scene.ask(index)
        scene.container.names.remove(hashed("m3.tar.gz"))
        names = await scene.api.loaded(10)
        assert indices(sorted(names, key=scene.container.names.index)) == [0, 1, 2, 4]
        scene.models.lose_all_but(names)
        assert [await scene.ask(index) for index in (2, 3, 4)] == ["hit", "miss", "hit"]

    rehearse(story)


def test_what_a_lost_container_was_loading_is_not_taken_for_loaded(rehearse):
    async def story(scene):
        scene.container.gate.clear()
        asked = asyncio.create_task(scene.ask(0))
        await until(lambda: scene.container.under_way)
        scene.models.lose_all()
        scene.container.gate.set()
        with pytest.raises(ModelError, match="restarted"):
            await asked
        assert scene.models.loaded_count == 0

    rehearse(story)


def test_loads_that_wait_are_bounded(rehearse, monkeypatch):
    monkeypatch.setattr("headrace.simulate.residency.LOADS_MAX", 2)

    async def story(scene):
        scene.container.gate.clear()
        asked = [asyncio.create_task(scene.ask(index)) for index in (0, 1)]
        await asyncio.sleep(0)
        with pytest.raises(ServiceUnavailable):
            await scene.ask(2)
        scene.container.gate.set()
        await asyncio.gather(*asked)

    rehearse(story)


def test_a_folder_of_somebody_else_is_not_taken(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").touch()
    with pytest.raises(DiskError, match="not empty"):
        Disk(str(tmp_path / "mine"), 1)
    disk = Disk(str(tmp_path / "new"), 1)
    with pytest.raises(DiskError, match="in use by another"):
        Disk(str(tmp_path / "new"), 1)
    disk.close()
    (tmp_path / "left").mkdir()
    (tmp_path / "left" / MARK).touch()
    (tmp_path / "left" / "models").mkdir()
    (tmp_path / "left" / "models" / "old").touch()
    left = Disk(str(tmp_path / "left"), 1)
    assert not list((tmp_path / "left" / "models").iterdir())
    left.close()
