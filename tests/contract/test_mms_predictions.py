"""What a client gets from handlers of every temper, how requests are batched and queued, and what a handler finds."""

import json

import pytest

from tests.contract.conftest import Api, write_handler
from tests.e2e.conftest import in_background, wait_until

MOODY = """
import multiprocessing, os, signal, sys, threading, time
from mms.service import PredictionException

def square(number):
    return number * number

def act(word, data, context):
    if word == "predict":
        raise PredictionException("no such breed \\u20ac\\nat all", 599)
    if word == "predict plainly":
        raise PredictionException("no such breed")
    if word == "raise":
        raise ValueError("secret")
    if word == "memory":
        raise MemoryError("so much")
    if word == "exit":
        sys.exit(3)
    if word == "end":
        os._exit(3)
    if word == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "object":
        return {}
    if word == "two":
        return ["a", "b"]
    if word == "set":
        return [{1, 2}]
    if word == "large":
        return ["x" * 70_000]
    if word == "bytes":
        return [b"\\x00\\xff"]
    if word == "bytearray":
        return [bytearray(b"\\x00\\xff")]
    if word == "str":
        return ["\\u00e4"]
    if word == "json":
        return [{"a": [1, None]}]
    if word == "wait":
        open("begun", "a").close()
        while not os.path.exists("go"):
            time.sleep(0.005)
    if word == "count":
        return [str(len(data))] * len(data)
    if word == "find":
        properties = context.system_properties
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # only a main thread may
        with multiprocessing.Pool(1) as pool:  # only a process that is no daemon may
            pooled = pool.map(square, [3])
        return [{
            "directory": os.path.realpath(properties.get("model_dir")) == os.getcwd() == os.path.realpath(sys.path[0]),
            "main_thread": threading.current_thread() is threading.main_thread(),
            "pooled": pooled,
            "server": properties.get("server_name"),
            "gpu": properties.get("gpu_id"),
            "batch_size": properties.get("batch_size"),
            "manifest": context.manifest["model"]["handler"],
            "name": context.model_name,
            "module": __name__,
            "inherited": os.environ.get("FROM_OUTSIDE"),
        }]
    return ["well"] * len(data)

def handle(data, context):
    return act(data[0]["body"], data, context) if data else None
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    write_handler(store, "moody", MOODY)
    return store


@pytest.fixture(scope="module")
def api(serve_module, store):
    settings = {"HEADRACE_QUEUE": "4", "HEADRACE_MAX_RESPONSE": "65536", "FROM_OUTSIDE": "yes"}
    return Api(
        serve_module("--model-store", str(store), "--models", "moody", HEADRACE_WORKERS_PER_MODEL="1", **settings)
    )


@pytest.fixture
def model(api, store):
    """Registers `moody` as `m` with a query's parameters; `begun` and `go` are as if never touched."""

    def register(query):
        assert api.manage("POST", f"/models?url=moody&model_name=m&{query}").status == 200
        return "m"

    for name in ("begun", "go"):
        (store / "moody" / name).unlink(missing_ok=True)
    yield register
    (store / "moody" / "go").touch()
    assert api.manage("DELETE", "/models/m").status == 200


def ask(api, word, model="moody"):
    return api.infer("POST", f"/predictions/{model}", word.encode(), content_type="text/plain")


@pytest.mark.parametrize(
    ("word", "status", "kind", "message"),
    [
        ("predict", 599, "InternalServerException", "no such breed \u20ac\nat all"),
        ("predict plainly", 500, "InternalServerException", "no such breed"),
        ("raise", 503, "InternalServerException", "Prediction failed"),
        ("memory", 507, "InternalServerException", "Out of resources"),
        ("object", 503, "InternalServerException", "Invalid model predict output"),
        ("two", 503, "InternalServerException", "number of batch response mismatched"),
        ("set", 503, "InternalServerException", "Unsupported model output data type."),
        ("exit", 500, "InternalServerException", "Worker died."),
        (
            "large",
            500,
            "InternalServerException",
            "the model's answer of 70000 bytes is larger than HEADRACE_MAX_RESPONSE allows",
        ),
    ],
)
def test_errors_of_a_prediction(api, word, status, kind, message):
    answer = ask(api, word)
    assert (answer.status, answer.json()) == (status, {"code": status, "type": kind, "message": message})
    assert ask(api, "fine").body == b"well"  # the worker is there, or back by itself


@pytest.mark.parametrize("word", ["end", "kill"])
def test_a_handler_that_ends_its_process_costs_its_own_request(api, model, word):
    model("initial_workers=1")  # each its own: one that goes on like this is set aside
    answer = ask(api, word, "m")
    assert answer.status in (503, 507)  # a kill may be the kernel's, for want of memory
    assert set(answer.json()) == {"code", "type", "message"}
    assert ask(api, "fine", "m").body == b"well"


@pytest.mark.parametrize(
    ("word", "body"),
    [
        ("bytes", b"\x00\xff"),
        ("bytearray", b"\x00\xff"),
        ("str", "ä".encode()),
        ("json", b'{\n  "a": [\n    1,\n    null\n  ]\n}'),
    ],
)
def test_outputs(api, word, body):
    answer = ask(api, word)
    assert (answer.status, answer.body) == (200, body)


def test_what_a_handler_finds_in_its_process(api):
    assert ask(api, "find").json() == {
        "directory": True,
        "main_thread": True,
        "pooled": [9],
        "server": "MMS",
        "gpu": None,
        "batch_size": 1,
        "manifest": "service.py:handle",
        "name": "moody",
        "module": "service",
        "inherited": "yes",
    }


def test_a_full_batch_goes_at_once_and_the_first_does_not_wait_for_ever(api, model):
    model("batch_size=3&max_batch_delay=60000")
    answers = [in_background(lambda: ask(api, "count", "m").body) for _ in range(3)]
    assert [answer() for answer in answers] == [b"3"] * 3  # long before the delay is over
    assert api.manage("GET", "/models/m").json()["batchSize"] == 3


def test_a_lone_request_waits_no_longer_than_the_delay(api, model):
    model("batch_size=3&max_batch_delay=1")
    assert ask(api, "count", "m").body == b"1"


@pytest.mark.parametrize("size", ["0", "-3", "x", ""])
def test_a_batch_size_below_one_means_one(api, model, size):
    model(f"batch_size={size}&max_batch_delay=60000")
    assert ask(api, "count", "m").body == b"1"


def test_a_full_queue_answers_503_at_once_and_those_in_it_are_served(api, model, store):
    model("initial_workers=1")
    waiting = [in_background(lambda: ask(api, "wait", "m").status) for _ in range(4)]
    wait_until(lambda: in_flight(api) == 4, "not all are under way")
    answer = ask(api, "fine", "m")
    assert (answer.status, answer.json()["type"]) == (503, "ServiceUnavailableException")
    assert int(answer.headers["retry-after"]) >= 1
    (store / "moody" / "go").touch()
    assert [answer() for answer in waiting] == [200] * 4


def test_a_request_beyond_the_response_timeout_is_answered(api, store):
    (store / "moody" / "go").unlink(missing_ok=True)
    body = json.dumps({"url": "moody", "model_name": "brief", "response_timeout": 1}).encode()
    assert api.manage("POST", "/models", body, content_type="application/json").status == 200
    answer = ask(api, "wait", "brief")
    assert (answer.status, answer.json()["type"]) == (504, "ServiceUnavailableException")
    (store / "moody" / "go").touch()
    wait_until(lambda: ask(api, "fine", "brief").status == 200, "it does not serve again")
    assert api.manage("DELETE", "/models/brief").status == 200


def in_flight(api):
    return api.server.metric("headrace_model_in_flight")
