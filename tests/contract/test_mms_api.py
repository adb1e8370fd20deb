"""Multi Model Server's management and inference APIs on two ports, as a client sees them."""

import json
import re
import urllib.parse
import zipfile

import pytest
from openapi_spec_validator import validate

from tests.contract.conftest import Api
from tests.e2e.conftest import wait_until

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@pytest.fixture(scope="module")
def api(serve_module, store):
    return Api(
        serve_module("--model-store", str(store), "--models", "mirror", HEADRACE_CORS_ORIGIN="https://a.example")
    )


@pytest.fixture
def registered(api):
    """A second model, `m`, for one test."""
    answer = api.manage("POST", "/models?url=mirror&model_name=m&initial_workers=1")
    assert (answer.status, answer.json()) == (200, {"status": "Workers scaled"})
    yield "m"
    api.manage("DELETE", "/models/m")


def error(answer):
    document = answer.json()
    assert set(document) == {"code", "type", "message"}
    assert document["code"] == answer.status
    return answer.status, document["type"]


def mirrored(answer):
    assert answer.status == 200, answer.body
    return answer.json()


# Replies in general


def test_every_reply_has_an_id_of_its_own_and_is_not_to_be_cached(api):
    answers = [
        api.infer("GET", "/ping", x_request_id="mine"),
        api.infer("GET", "/nothing"),
        api.manage("GET", "/models"),
    ]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 3
    for answer in answers:
        assert UUID.fullmatch(answer.headers["x-request-id"])
        assert answer.headers["cache-control"] == "no-cache; no-store, must-revalidate, private"
        assert (answer.headers["pragma"], answer.headers["expires"][-17:]) == ("no-cache", "1970 00:00:00 GMT")


def test_json_is_indented_by_two_and_ends_in_a_newline(api):
    answer = api.manage("GET", "/models/mirror")
    assert answer.headers["content-type"] == "application/json"
    assert answer.body.startswith(b'{\n  "modelName": "mirror",\n')
    assert answer.body.endswith(b"\n}\n")


def test_the_id_in_the_reply_is_the_one_that_the_handler_sees(api):
    answer = api.infer("POST", "/predictions/mirror", b"x", content_type="text/plain")
    assert mirrored(answer)["id"] == answer.headers["x-request-id"]


# Routes


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize(
    "path", ["/predictions/mirror", "/models/mirror/invoke", "/mirror/predict", "/invocations", "/predictions/mirror/"]
)
def test_any_method_runs_the_model(api, method, path):
    answer = api.infer(method, path, b"text", content_type="text/plain")
    assert mirrored(answer)["inputs"] == {"body": ["str", "text"]}


def test_the_path_is_decoded_before_it_is_split(api):
    assert mirrored(api.infer("POST", "/predictions/%6dirror", b"x", content_type="text/plain"))


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_ping(api, method):
    answer = api.infer(method, "/ping")
    assert (answer.status, answer.json()) == (200, {"status": "Healthy"})


@pytest.mark.parametrize(
    ("port", "method", "path", "status", "kind"),
    [
        ("inference", "GET", "/models", 404, "ResourceNotFoundException"),
        ("inference", "POST", "/models", 404, "ResourceNotFoundException"),
        ("management", "GET", "/ping", 404, "ResourceNotFoundException"),
        ("management", "POST", "/predictions/mirror", 404, "ResourceNotFoundException"),
        ("management", "POST", "/invocations", 404, "ResourceNotFoundException"),
        ("inference", "POST", "/predictions", 404, "ResourceNotFoundException"),
        ("inference", "POST", "/invocations/y", 404, "ResourceNotFoundException"),
        ("management", "GET", "/models/a/b", 404, "ResourceNotFoundException"),
        ("inference", "GET", "/", 405, "MethodNotAllowedException"),
        ("management", "DELETE", "/models", 405, "MethodNotAllowedException"),
        ("management", "PATCH", "/models/mirror", 405, "MethodNotAllowedException"),
        ("inference", "POST", "/predictions/ghost", 404, "ModelNotFoundException"),
        ("inference", "POST", "/ghost/predict", 404, "ModelNotFoundException"),
        ("inference", "OPTIONS", "/predictions/ghost", 404, "ModelNotFoundException"),
        ("management", "GET", "/models/ghost", 404, "ModelNotFoundException"),
        ("management", "PUT", "/models/ghost", 404, "ModelNotFoundException"),
        ("management", "DELETE", "/models/ghost", 404, "ModelNotFoundException"),
    ],
)
def test_what_is_not_there(api, port, method, path, status, kind):
    answer = (api.infer if port == "inference" else api.manage)(method, path)
    assert error(answer) == (status, kind)
    assert ("allow" in answer.headers) == (status == 405)


def test_invocations_means_the_only_model_of_the_start_or_the_one_named(api, registered):
    assert mirrored(api.infer("POST", "/invocations?model_name=m", b"x"))["inputs"]["model_name"] == ["bytearray", "m"]
    assert mirrored(api.infer("POST", "/invocations", b"x"))
    assert error(api.infer("POST", "/invocations?model_name=ghost", b"x")) == (404, "ModelNotFoundException")


def test_the_api_describes_itself_on_either_port(api):
    documents = {
        port: ask("OPTIONS", "/").json() for port, ask in (("inference", api.infer), ("management", api.manage))
    }
    for document in documents.values():
        validate(document)
        assert document["openapi"] == "3.0.1"
    assert "/predictions/{model_name}" in documents["inference"]["paths"]
    assert "/models" not in documents["inference"]["paths"]
    assert {"/models", "/models/{model_name}"} <= set(documents["management"]["paths"])
    assert "/ping" not in documents["management"]["paths"]
    assert api.infer("GET", "/api-description").json() == documents["inference"]
    model = api.infer("OPTIONS", "/predictions/mirror").json()
    validate(model)
    assert list(model["paths"]) == ["/predictions/mirror"]


# Registration


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (None, None),
        (
            json.dumps({"url": "mirror", "model_name": "r", "unknown": {"a": 1}, "synchronous": True}),
            "application/json",
        ),
        ('{"url": "mirror", "model_name": "r",}', "application/json; charset=utf-8"),
        ("{'url': 'mirror', model_name: 'r', 'batch_size': 2}", "application/json"),
        ("url=mirror&model_name=r", "application/x-www-form-urlencoded"),
    ],
)
def test_register_by_query_json_or_form(api, body, kind):
    if body is None:
        answer = api.manage("POST", "/models?url=mirror&model_name=r")
    else:
        answer = api.manage("POST", "/models", body.encode(), content_type=kind)
    assert (answer.status, answer.json()) == (200, {"status": 'Model "r" registered'})
    answer = api.manage("DELETE", "/models/r")
    assert (answer.status, answer.json()) == (200, {"status": 'Model "r" unregistered'})
    assert api.manage("GET", "/models/r").status == 404


@pytest.mark.parametrize(
    ("query", "status", "kind"),
    [
        ("", 400, "BadRequestException"),
        ("url=bare", 400, "InvalidModelException"),  # no manifest, and no name
        ("url=empty&model_name=x", 400, "InvalidModelException"),  # nor a handler
        ("url=mirror&model_name=x&runtime=perl", 400, "BadRequestException"),
        ("url=../mirror&model_name=x", 404, "ModelNotFoundException"),
        ("url=ghost&model_name=x", 404, "ModelNotFoundException"),
        ("url=http://&model_name=x", 400, "DownloadModelException"),
        ("url=http://h:x/&model_name=x", 404, "ModelNotFoundException"),
        ("url=mirror&model_name=mirror", 409, "ConflictStatusException"),
        ("url=broken&model_name=x", 500, "InternalServerException"),
        ("url=hungry&model_name=x", 507, "InsufficientStorageException"),
    ],
)
def test_what_is_not_registered(api, query, status, kind):
    assert error(api.manage("POST", f"/models?{query}")) == (status, kind)
    assert api.manage("GET", "/models/x").status == 404


@pytest.mark.parametrize("query", ["batch_size=many&max_batch_delay=x", "initial_workers=&response_timeout=soon"])
def test_a_number_in_the_query_that_does_not_parse_means_the_default(api, query):
    assert api.manage("POST", f"/models?url=mirror&model_name=d&{query}").status == 200
    document = api.manage("GET", "/models/d").json()
    assert (document["batchSize"], document["maxBatchDelay"]) == (1, 100)
    assert api.manage("PUT", "/models/d?min_worker=1&number_gpu=1&timeout=5&synchronous=true").status == 200
    assert api.manage("DELETE", "/models/d").status == 200


@pytest.mark.parametrize("suffix", ["mar", "zip", "of-any-name"])
def test_an_archive_of_any_suffix(api, store, suffix):
    with zipfile.ZipFile(store / f"packed.{suffix}", "w") as archive:
        for file in (store / "mirror").rglob("*"):
            archive.write(file, file.relative_to(store / "mirror"))
    assert api.manage("POST", f"/models?url=packed.{suffix}&model_name=p").status == 200
    assert mirrored(api.infer("POST", "/predictions/p", b"x"))
    assert api.manage("DELETE", "/models/p").status == 200


def test_a_manifest_that_is_not_json(api, store):
    (store / "spoilt" / "MAR-INF").mkdir(parents=True)
    (store / "spoilt" / "MAR-INF" / "MANIFEST.json").write_text("{")
    assert error(api.manage("POST", "/models?url=spoilt&model_name=x")) == (400, "InvalidModelException")
    assert api.manage("GET", "/models/x").status == 404


def test_a_broken_json_body_is_the_clients_fault(api):
    assert error(api.manage("POST", "/models", b'{"url": ', content_type="application/json"))[0] == 400


def test_a_handler_by_parameter_makes_a_model_of_a_bare_directory(api):
    answer = api.manage("POST", "/models?url=bare&model_name=b&handler=svc.py:handle&runtime=python3")
    assert answer.status == 200, answer.body
    assert mirrored(api.infer("POST", "/predictions/b", b"x"))
    api.manage("DELETE", "/models/b")


CLASS = "class Service:\n    def initialize(self, context):\n        {}\n    def handle(self, data, context): ...\n"
BROKEN = {
    "import": ("import nothing_of_this_name\n", 500, "No module named 'nothing_of_this_name'"),
    "syntax": ("def handle(:\n", 500, "SyntaxError"),
    "entry": ("x = 1\n", 500, "no function 'handle'"),
    "function": ("def handle(data, context):\n    raise ValueError('no weights')\n", 500, "ValueError: no weights"),
    "initialize": (CLASS.format("raise RuntimeError('no weights')"), 500, "RuntimeError: no weights"),
    "exit": ("import os\nos._exit(3)\n", 500, "status 3"),
    "function memory": ("def handle(data, context):\n    raise MemoryError\n", 507, "out of memory"),
    "initialize memory": (CLASS.format("raise MemoryError('of the device')"), 507, "of the device"),
}


@pytest.mark.parametrize(("source", "status", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_failed_load_says_why_and_can_be_mended_at_once(api, store, source, status, reason):
    path = store / "mended"
    (path / "MAR-INF").mkdir(parents=True, exist_ok=True)
    (path / "MAR-INF" / "MANIFEST.json").write_text('{"model": {"modelName": "mended", "handler": "service.py"}}')
    (path / "service.py").write_text(source)
    answer = api.manage("POST", "/models?url=mended")
    assert answer.status == status, answer.body
    assert reason in answer.json()["message"]
    assert "Traceback" not in answer.json()["message"]
    assert api.manage("GET", "/models/mended").status == 404
    (path / "service.py").write_text("def handle(data, context):\n    return data and ['well'] * len(data)\n")
    assert api.manage("POST", "/models?url=mended").status == 200
    assert api.infer("POST", "/predictions/mended").body == b"well"
    assert api.manage("DELETE", "/models/mended").status == 200


def test_a_model_of_the_older_archive_form(api, store):
    path = store / "older"
    path.mkdir()
    (path / "MANIFEST.json").write_text('{"Model": {"Model-Name": "elder", "Service": "service.py"}}')
    (path / "service.py").write_text(
        "def handle(data, context):\n    return data and [context.manifest['model']['modelName']]\n"
    )
    assert api.manage("POST", "/models?url=older").status == 200
    assert api.infer("POST", "/predictions/elder").body == b"elder"
    assert api.manage("DELETE", "/models/elder").status == 200


def test_asynchronous_registration_answers_202_and_comes_up(api):
    answer = api.manage("POST", "/models?url=mirror&model_name=later&initial_workers=1&synchronous=false")
    assert (answer.status, answer.json()) == (202, {"status": "Processing worker updates..."})
    wait_until(lambda: api.infer("POST", "/predictions/later", b"x").status == 200, "not loaded")
    api.manage("DELETE", "/models/later")


# Scale, describe, list


def test_describe(api, registered):
    document = api.manage("GET", f"/models/{registered}").json()
    (worker,) = document.pop("workers")
    assert (
        document.items()
        >= {
            "modelName": "m",
            "modelUrl": "mirror",
            "runtime": "python",
            "minWorkers": 1,
            "maxWorkers": 1,
            "batchSize": 1,
            "loadedAtStartup": False,
        }.items()
    )
    assert (worker["status"], worker["gpu"]) == ("READY", False)
    assert worker["memoryUsage"] > 1 << 20
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", worker["startTime"])
    assert api.manage("GET", "/models/mirror").json()["loadedAtStartup"] is True


def test_scale_to_none_and_back(api, registered):
    for count in (2, 0, 1):
        answer = api.manage("PUT", f"/models/m?min_worker={count}&synchronous=true")
        assert (answer.status, answer.json()) == (200, {"status": "Workers scaled"})
        assert len(api.manage("GET", "/models/m").json()["workers"]) == count
        answer = api.infer("POST", "/predictions/m", b"x")
        assert answer.status == (200 if count else 503)
    assert api.manage("PUT", "/models/m?min_worker=1").status == 202
    assert error(api.manage("PUT", "/models/m?min_worker=2&max_worker=1")) == (400, "BadRequestException")


def test_list_by_name_in_pages_with_a_token_only_where_there_is_more(api):
    for name in ("c", "a", "b"):
        assert api.manage("POST", f"/models?url=bare&model_name={name}&handler=svc.py").status == 200
    try:
        first = api.manage("GET", "/models?limit=2").json()
        assert [model["modelName"] for model in first["models"]] == ["a", "b"]
        second = api.manage("GET", f"/models?limit=2&next_page_token={first['nextPageToken']}").json()
        assert second == {
            "models": [{"modelName": "c", "modelUrl": "bare"}, {"modelName": "mirror", "modelUrl": first_url(api)}]
        }
        for query, count in (("limit=0", 4), ("limit=101", 4), ("limit=x", 4), ("next_page_token=x", 4)):
            assert len(api.manage("GET", f"/models?{query}").json()["models"]) == count
        assert api.manage("GET", "/models?next_page_token=9").json() == {"models": []}
    finally:
        for name in ("c", "a", "b"):
            api.manage("DELETE", f"/models/{name}")


def first_url(api):
    return api.manage("GET", "/models/mirror").json()["modelUrl"]


# Inputs and outputs


def test_bodies_by_content_type(api):
    def body_of(body, kind):
        headers = {"content_type": kind} if kind else {}
        return mirrored(api.infer("POST", "/predictions/mirror", body, **headers))["inputs"]["body"]

    assert body_of(b'{"a": [1]}', "application/json") == ["dict", {"a": [1]}]
    assert body_of(b"a,b", "text/csv") == ["str", "a,b"]
    assert body_of(b"raw", "application/octet-stream") == ["bytearray", "raw"]
    assert body_of(b"", None) == ["bytearray", ""]
    assert error(api.infer("POST", "/predictions/mirror", b"{", content_type="application/json"))[0] == 400


def test_parts_and_query_parameters_are_inputs_by_name(api):
    form = urllib.parse.urlencode({"a": "1", "b": "zwei ä"}).encode()
    answer = api.infer("POST", "/predictions/mirror?q=x", form, content_type="application/x-www-form-urlencoded")
    inputs = {"a": ["bytearray", "1"], "b": ["bytearray", "zwei ä"], "q": ["bytearray", "x"]}
    assert mirrored(answer)["inputs"] == inputs
    parts = (
        b'--X\r\ncontent-disposition: form-data; name="a"\r\n\r\nplain\r\n'
        b'--X\r\ncontent-disposition: form-data; name="f"; filename="f"\r\n'
        b"content-type: application/json\r\n\r\n[1]\r\n"
        b"--X--\r\n"
    )
    answer = api.infer("POST", "/predictions/mirror", parts, content_type="multipart/form-data; boundary=X")
    assert mirrored(answer)["inputs"] == {"a": ["bytearray", "plain"], "f": ["list", [1]]}


def test_headers_reach_the_handler_as_they_were_spelt(api):
    answer = api.infer("POST", "/predictions/mirror", b"x", **{"X-Amzn-SageMaker-Target-Model": "other", "X-mY": "1"})
    headers = mirrored(answer)["headers"]
    assert (headers["X-Amzn-SageMaker-Target-Model"], headers["X-mY"]) == ("other", "1")


def test_status_phrase_type_and_fields_of_the_handler(api):
    answer = api.infer("POST", "/predictions/mirror", b"status", content_type="text/plain")
    assert (answer.status, answer.reason, answer.body) == (418, "short  and stout ?", b"tea")
    assert (answer.headers["content-type"], answer.headers["x-tea"]) == ("text/tea", "a; b")
    assert answer.headers["x-request-id"] != "forged"


def test_a_handler_may_say_how_its_answer_is_cached(api):
    headers = api.infer("POST", "/predictions/mirror", b"cache", content_type="text/plain").headers
    assert headers["cache-control"] == "max-age=60"
    assert "pragma" not in headers


def test_errors_of_a_prediction(api):
    answer = api.infer("POST", "/predictions/mirror", b"raise", content_type="text/plain")
    assert error(answer) == (503, "InternalServerException")
    assert answer.json()["message"] == "Prediction failed"


# Other origins


def test_pages_of_the_configured_origin_may_read_answers(api):
    answer = api.infer("GET", "/ping", origin="https://a.example")
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    assert answer.headers["vary"] == "origin"
    preflight = api.infer(
        "OPTIONS", "/predictions/mirror", origin="https://a.example", access_control_request_method="POST"
    )
    assert (preflight.status, preflight.body) == (200, b"")
    assert preflight.headers["access-control-allow-methods"] == "GET, POST, PUT, OPTIONS"
