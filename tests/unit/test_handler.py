"""Handlers written for Multi Model Server, as they see requests and as their answers leave."""

import json

import pytest
from local_request import LocalRequest

from headrace import media
from headrace.errors import ModelError
from headrace.handler import HandlerName, HandlerServable, load_handler
from headrace.mms.context import Context
from headrace.mms.metrics.dimension import Dimension
from headrace.mms.metrics.metrics_store import MetricsStore
from headrace.mms.service import PredictionException
from headrace.namespace import Namespace

BOUNDARY = "multipart/form-data; boundary=frontier"


class Loaded:
    """A handler module of this source, loaded in a namespace of its own."""

    def __init__(self, directory, source, function="handle", decode=True, owns_process=False, retries_initialize=False):
        (directory / "service.py").write_text(source)
        self.isolation = Namespace(1, [directory])
        self.context = Context("m", str(directory), {"model": {"modelName": "m"}}, 4, None)
        try:
            name = HandlerName("service", function, None)
            entry = self.isolation.call(load_handler, name, self.isolation, self.context, "m", retries_initialize)
        except BaseException:
            self.isolation.close()
            raise
        self.servable = HandlerServable("m", self.isolation, entry, self.context, 4, 0, decode, owns_process)

    def run(self, *requests):
        self.servable.run(list(requests))
        assert all(request.status is not None for request in requests)
        return requests

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.servable.unload()


@pytest.fixture
def loaded(tmp_path):
    opened = []

    def open_one(*args, **kwargs):
        opened.append(Loaded(tmp_path, *args, **kwargs))
        return opened[-1]

    yield open_one
    for one in opened:
        one.servable.unload()


# What a handler is


def test_function_is_called_once_without_data_at_load(loaded):
    one = loaded("calls = []\ndef handle(data, context):\n    calls.append(data)\n    return data and [len(calls)]\n")
    (request,) = one.run(LocalRequest({"a": 1}))
    assert request.answer == b"2"


def test_class_is_made_and_initialized_with_the_context(loaded):
    one = loaded(
        "from mms.service import PredictionException\n"
        "class Helper:\n    pass\n"
        "class Handler:\n"
        "    def initialize(self, context):\n        self.dir = context.system_properties['model_dir']\n"
        "    def handle(self, data, context):\n        return [self.dir]\n"
    )
    (request,) = one.run(LocalRequest({}))
    assert request.answer.decode() == one.context.system_properties["model_dir"]


def test_named_function_that_is_missing_gives_way_to_the_class(loaded):
    one = loaded("class H:\n    def handle(self, data, context):\n        return ['ok']\n", function="elsewhere")
    assert one.run(LocalRequest({}))[0].answer == b"ok"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\n", "no function 'handle' and no class with one"),
        ("class A:\n    def handle(self, d, c): ...\nclass B(A):\n    pass\n", "several classes .*: A, B"),
    ],
)
def test_module_without_one_entry_point_is_refused(loaded, source, message):
    with pytest.raises(ModelError, match=message):
        loaded(source)


FAILING = (
    "class H:\n    tries = 0\n    def initialize(self, c):\n        self.tries += 1\n        raise {}\n"
    "    def handle(self, data, c):\n        return [str(self.tries)]\n"
)


@pytest.mark.parametrize("error", ["ZeroDivisionError", "MemoryError"])
def test_exception_of_initialize_fails_the_load(loaded, error):
    with pytest.raises((ZeroDivisionError, MemoryError)) as caught:
        loaded(FAILING.format(error))
    assert caught.type.__name__ == error


def test_exception_of_initialize_is_logged_where_that_is_wanted(loaded, capfd):
    one = loaded(FAILING.format("ZeroDivisionError"), retries_initialize=True)
    assert one.run(LocalRequest({}))[0].answer == b"1"
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_memory_error_of_initialize_always_fails_the_load(loaded):
    with pytest.raises(MemoryError):
        loaded(FAILING.format("MemoryError"), retries_initialize=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("service", ("service", "handle", None)),
        ("service.py", ("service", "handle", None)),
        ("service.py:go", ("service", "go", None)),
        ("sub/service.py:go", ("service", "go", "sub")),
        ("/opt/x/handler_service.py:handle", ("handler_service", "handle", "/opt/x")),
        ("package.module", ("package.module", "handle", None)),
        ("package.module:go", ("package.module", "go", None)),
    ],
)
def test_handler_name(text, expected):
    name = HandlerName.parse(text)
    assert (name.module, name.function, name.folder) == expected


@pytest.mark.parametrize("text", ["", ":", "a b", "a-b.py:f", "a.py:f g", "sub/:f", "..py"])
def test_bad_handler_name_is_refused(text):
    with pytest.raises(ModelError, match="names no module"):
        HandlerName.parse(text)


# Inputs

SHOW = """
def handle(data, context):
    if data is None:
        return None
    return [repr({key: (type(value).__name__, value) for key, value in item.items()}) for item in data]
"""


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (LocalRequest(b'{"a": [1, 2.5]}'), {"body": ("dict", {"a": [1, 2.5]})}),
        (LocalRequest(b"[NaN, 36893488147419103232]"), None),
        (LocalRequest(b"abc", "text/plain"), {"body": ("str", "abc")}),
        (LocalRequest("é".encode(), "text/csv; charset=utf-8"), {"body": ("str", "é")}),
        (LocalRequest(b"{}", "application/json; charset=utf-8"), {"body": ("bytearray", bytearray(b"{}"))}),
        (LocalRequest(b"\x00\xff", "application/octet-stream"), {"body": ("bytearray", bytearray(b"\x00\xff"))}),
        (LocalRequest(b"", "application/json"), {"body": ("bytearray", bytearray())}),
        (LocalRequest(b"x", ""), {"body": ("bytearray", bytearray(b"x"))}),
        (
            LocalRequest(b"x", "", query="a=1&b=%C3%A9+z&a=2&c"),
            {
                "a": ("bytearray", bytearray(b"2")),
                "b": ("bytearray", bytearray("é z".encode())),
                "c": ("bytearray", bytearray()),
                "body": ("bytearray", bytearray(b"x")),
            },
        ),
        (
            LocalRequest(b"a=1&b=%20", "application/x-www-form-urlencoded"),
            {"a": ("bytearray", bytearray(b"1")), "b": ("bytearray", bytearray(b" "))},
        ),
    ],
)
def test_decoded_input(loaded, request_, expected):
    (answered,) = loaded(SHOW).run(request_)
    if expected is None:
        assert answered.answer == b"{'body': ('list', [nan, 36893488147419103232])}"
    else:
        assert answered.answer.decode() == repr(expected)


def test_input_without_decoding_is_always_a_bytearray(loaded):
    first, second = loaded(SHOW, decode=False).run(LocalRequest(b"{"), LocalRequest(b"\xff", "text/plain"))
    assert first.answer == b"{'body': ('bytearray', bytearray(b'{'))}"
    assert second.answer == b"{'body': ('bytearray', bytearray(b'\\xff'))}"


FORM = (
    b"preamble\r\n--frontier\r\n"
    b'Content-Disposition: form-data; name="plain"\r\n\r\none\r\ntwo\r\n--frontier\r\n'
    b'Content-Disposition: form-data; name="file"; filename="a \\"b\\".json"\r\nContent-Type: application/json\r\n\r\n'
    b'{"x": 1}\r\n--frontier\r\n'
    b'Content-Disposition: form-data; name="empty"; filename="e"\r\nContent-Type: image/png\r\n\r\n\r\n--frontier--\r\n'
)


def test_multipart_parts_come_under_their_names(loaded):
    (request,) = loaded(SHOW).run(LocalRequest(FORM, BOUNDARY))
    assert eval(request.answer) == {
        "plain": ("bytearray", bytearray(b"one\r\ntwo")),
        "file": ("dict", {"x": 1}),
        "empty": ("bytearray", bytearray()),
    }


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (FORM, "multipart/form-data", "boundary"),
        (FORM, "multipart/form-data; boundary=other", "does not end"),
        (FORM[:-14], BOUNDARY, "does not end"),
        (b"--frontier\r\nno header\r\n--frontier--\r\n", BOUNDARY, "no blank line"),
        (b"--frontier\r\nA: b\r\n\r\nx\r\n--frontier--\r\n", BOUNDARY, "no content-disposition"),
        (b"--frontier\r\n\r\n" * 1100 + b"--frontier--", BOUNDARY, "more than 1000 parts"),
        (b"a&" * 1100, "application/x-www-form-urlencoded", "more than 1000 fields"),
        (b"{", "application/json", "not JSON"),
        (b"[" * 100_000, "application/json", "not JSON"),
        (b"\xff", "text/plain", "not UTF-8"),
    ],
)
def test_body_that_is_not_what_it_says_is_the_clients_error_alone(loaded, body, content_type, message):
    bad, good = loaded(SHOW).run(LocalRequest(body, content_type), LocalRequest(b"1"))
    assert bad.status == 400
    assert message in bad.message
    assert good.answer == b"{'body': ('int', 1)}"


def test_context_tells_of_each_request(loaded):
    one = loaded(
        "def handle(data, c):\n"
        "    if data is None: return\n"
        "    return [{'id': c.get_request_id(i), 'all': c.get_all_request_header(i),\n"
        "             'one': c.get_request_header(i, 'X-One'),\n"
        "             'other': c.get_request_header(i, 'x-one'), 'name': c.model_name, 'manifest': c.manifest,\n"
        "             'props': c.request_processor[i].get_request_properties() == c.get_all_request_header(i),\n"
        "             'batch': c.system_properties['batch_size'], 'gpu': c.system_properties['gpu_id'],\n"
        "             'server': c.system_properties['server_name']} for i in range(len(data))]\n"
    )
    requests = one.run(LocalRequest(b"1", headers=[("X-One", "a")]), LocalRequest(b"2", headers=[("X-One", "b")]))
    for request, value in zip(requests, "ab", strict=True):
        assert json.loads(request.answer) == {
            "id": request.id,
            "all": {
                "Content-Type": "application/json",
                "X-One": value,
                "body": {"content-type": "application/json"},
            },
            "one": value,
            "other": None,
            "name": "m",
            "manifest": {"model": {"modelName": "m"}},
            "props": True,
            "batch": 4,
            "gpu": None,
            "server": "MMS",
        }


# Outputs


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("b'\\x00\\x01'", b"\x00\x01"),
        ("bytearray(b'ab')", b"ab"),
        ("'é'", "é".encode()),
        ("{'a': [1, 2]}", b'{\n  "a": [\n    1,\n    2\n  ]\n}'),
        ("{1: 2**70}", b'{\n  "1": 1180591620717411303424\n}'),
        ("None", b"null"),
        ("__import__('numpy').float32(0.5)", b"0.5"),
        ("__import__('numpy').arange(2)", b"[\n  0,\n  1\n]"),
        ("{'a': [__import__('numpy').arange(6)[::3]]}", b'{\n  "a": [\n    [\n      0,\n      3\n    ]\n  ]\n}'),
        (
            "{'big': 2**70, 'a': __import__('numpy').array(['x'])}",
            b'{\n  "big": 1180591620717411303424,\n  "a": [\n    "x"\n  ]\n}',
        ),
    ],
)
def test_output(loaded, expression, answer):
    (request,) = loaded(f"def handle(data, context):\n    return data and [{expression}]\n").run(LocalRequest({"a": 1}))
    assert (request.status, request.answer_kind, request.answer) == (200, media.NONE, answer)


def test_status_type_and_headers_are_each_requests_own_and_do_not_carry_over(loaded):
    one = loaded(
        "def handle(data, c):\n"
        "    if data is None: return\n"
        "    for i, item in enumerate(data):\n"
        "        if item['body'] == 1:\n"
        "            c.set_response_status(code=418, phrase='tea\\r\\npot: \\u20ac', idx=i)\n"
        "            c.set_response_content_type(i, 'application/x-tea')\n"
        "            c.set_response_header(i, 'X-Pot', 'a; b\\xe9')\n"
        "            c.set_response_header(i, 'x-request-id', 'forged')\n"
        "    return ['x'] * len(data)\n"
    )
    first, second = one.run(LocalRequest(b"0"), LocalRequest(b"1"))
    assert (first.status, first.answer_kind, first.fields) == (200, media.NONE, b"")
    assert (second.status, second.answer_kind) == (418, media.OTHER)
    assert second.fields == b":tea  pot: ?\r\nX-Pot: a; b\xe9\r\ncontent-type: application/x-tea\r\n"
    assert one.run(LocalRequest(b"0"))[0].fields == b""


def test_all_statuses_at_once(loaded):
    one = loaded(
        "def handle(data, c):\n    c.set_all_response_status(503, 'busy')\n    return data and ['x'] * len(data)\n"
    )
    assert [request.status for request in one.run(LocalRequest(b"0"), LocalRequest(b"1"))] == [503, 503]


# Errors


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("raise PredictionException('zeile eins\\nzwei \\u20ac', 599)", 599, "zeile eins\nzwei €"),
        ("raise PredictionException('no code')", 500, "no code"),
        ("raise PredictionException('odd code', 'x')", 500, "odd code"),
        ("raise ValueError('secret')", 503, "Prediction failed"),
        ("raise MemoryError", 507, "Out of resources"),
        ("return 'text'", 503, "Invalid model predict output"),
        ("return None", 503, "Invalid model predict output"),
        ("return ['a']", 503, "number of batch response mismatched"),
        ("return ['a', 'b', 'c']", 503, "number of batch response mismatched"),
        ("return [object(), {1, 2}]", 503, "Unsupported model output data type."),
        ("import sys; sys.exit(3)", 500, "Worker died."),
    ],
)
def test_error_concerns_every_request_of_the_batch(loaded, body, status, message):
    one = loaded(
        "from mms.service import PredictionException\n"
        f"def handle(data, context):\n    if data is None: return\n    {body}\n"
    )
    for request in one.run(LocalRequest(b"0"), LocalRequest(b"1")):
        assert (request.status, request.message) == (status, message)


def test_bad_item_of_a_batch_fails_alone(loaded):
    one = loaded(
        "from mms.service import PredictionException\n"
        "def handle(data, c):\n"
        "    if data is None: return\n"
        "    values = [item.pop('body') for item in data]\n"
        "    for i, value in enumerate(values):\n"
        "        c.set_response_header(i, 'X-Value', str(value))\n"
        "        if value == 'bad': raise PredictionException('no good', 422)\n"
        "        if value == 'worse': raise ValueError\n"
        "    return [value * 2 for value in values]\n"
    )
    requests = one.run(*(LocalRequest(value) for value in ("a", "bad", "b", "worse")))
    assert [request.status for request in requests] == [200, 422, 200, 503]
    assert [requests[0].answer, requests[2].answer] == [b"aa", b"bb"]
    assert [request.fields for request in requests] == [b"X-Value: a\r\n", b"", b"X-Value: b\r\n", b""]


def test_traceback_is_logged_once_from_the_handlers_frame_on(loaded, capfd):
    one = loaded("def handle(data, context):\n    return data and 1 / 0\n")
    one.run(LocalRequest(b"0"))
    log = capfd.readouterr().err
    assert log.count("ZeroDivisionError: division by zero") == 1
    assert "service.py" in log
    assert "headrace/handler.py" not in log


def test_exit_of_a_handler_with_its_own_process_reaches_the_worker_after_the_answers(loaded):
    one = loaded("import sys\ndef handle(data, context):\n    data and sys.exit(3)\n", owns_process=True)
    request = LocalRequest(b"0")
    with pytest.raises(SystemExit) as info:
        one.servable.run([request])
    assert (info.value.code, request.status, request.message) == (3, 500, "Worker died.")


def test_exception_that_came_along_under_the_same_name_counts(loaded):
    one = loaded(
        "class PredictionException(Exception):\n"
        "    def __init__(self, message, error_code):\n        self.message, self.error_code = message, error_code\n"
        "def handle(data, context):\n    if data: raise PredictionException('short', 422)\n"
    )
    (request,) = one.run(LocalRequest(b"0"))
    assert (request.status, request.message) == (422, "short")


def test_prediction_exception_reads_as_handlers_expect():
    assert str(PredictionException("no", 418)) == "no : 418"
    assert PredictionException("no").error_code == 500


# Metrics


def test_metrics_of_a_call():
    store = MetricsStore({0: "r0", 1: "r1"}, "m")
    store.add_counter("Seen", 1, 0)
    store.add_counter("Seen", 2, 0)
    store.add_counter("Seen", 5, 1)
    store.add_time("Took", 1.23456, unit="s")
    store.add_size("Body", 7, 1, "kB")
    store.add_percent("Full", 50.0)
    store.add_error("Oops", "why")
    store.add_metric("Any", 3, unit="widgets", dimensions=[Dimension("Shelf", "top")])
    lines = [str(metric).rpartition(",timestamp:")[0] for metric in store.store]
    assert [line.partition("|#hostname:")[0] for line in lines] == [
        "Seen.Count:3|#ModelName:m,Level:Model",
        "Seen.Count:5|#ModelName:m,Level:Model",
        "Took.Seconds:1.23|#ModelName:m,Level:Model",
        "Body.Kilobytes:7|#ModelName:m,Level:Model",
        "Full.Percent:50.0|#ModelName:m,Level:Model",
        "Oops.unitless:why|#ModelName:m,Level:Model",
        "Any.widgets:3|#Shelf:top,ModelName:m,Level:Model",
    ]
    assert [line.rpartition("requestID:")[2] for line in lines] == [
        "r0",
        "r1",
        "r0,r1",
        "r1",
        "r0,r1",
        "r0,r1",
        "r0,r1",
    ]
    with pytest.raises(ValueError, match="unit 'h' is unknown"):
        store.add_time("Took", 1, unit="h")
