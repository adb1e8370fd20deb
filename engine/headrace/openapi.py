"""The OpenAPI document of each port's API, as `OPTIONS /` answers it: what management and frontends do."""

from collections.abc import Iterable
from typing import Any

from headrace import __version__

Document = dict[str, Any]

_TEXT, _NUMBER, _FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
_STATUS: Document = {"type": "object", "required": ["status"], "properties": {"status": _TEXT}}
_ERROR: Document = {
    "type": "object",
    "required": ["code", "type", "message"],
    "properties": {"code": _NUMBER, "type": _TEXT, "message": _TEXT},
}
_LISTED: Document = {
    "type": "object",
    "required": ["modelName", "modelUrl"],
    "properties": {"modelName": _TEXT, "modelUrl": _TEXT},
}
_LIST: Document = {
    "type": "object",
    "required": ["models"],
    "properties": {"nextPageToken": _TEXT, "models": {"type": "array", "items": _LISTED}},
}
_WORKER: Document = {
    "type": "object",
    "properties": {"id": _TEXT, "startTime": _TEXT, "status": _TEXT, "gpu": _FLAG, "memoryUsage": _NUMBER},
}
_MODEL: Document = {
    "type": "object",
    "required": ["modelName", "modelUrl", "minWorkers", "maxWorkers", "batchSize", "maxBatchDelay", "workers"],
    "properties": {
        **dict.fromkeys(("modelName", "modelVersion", "modelUrl", "engine", "runtime", "status", "reason"), _TEXT),
        **dict.fromkeys(("minWorkers", "maxWorkers", "batchSize", "maxBatchDelay"), _NUMBER),
        "loadedAtStartup": _FLAG,
        "workers": {"type": "array", "items": _WORKER},
    },
}
_EXPLANATION: Document = {
    "type": "object",
    "required": ["model", "status", "because", "replicas", "history", "errors"],
    "properties": {
        **dict.fromkeys(("model", "status"), _TEXT),
        "because": {"type": "array", "items": _TEXT},
        **{key: {"type": "object", "nullable": True} for key in ("quarantine", "memory", "room")},
        **{key: {"type": "array", "items": {"type": "object"}} for key in ("replicas", "history", "errors")},
    },
}
_VALUE: Document = {"oneOf": [_TEXT, {"type": "number"}, _FLAG]}
_SETTING: Document = {
    "type": "object",
    "required": ["value", "from", "changeable", "variable", "meaning"],
    "properties": {**dict.fromkeys(("value", "from", "variable", "meaning"), _TEXT), "changeable": _FLAG},
}
_SETTINGS: Document = {
    "type": "object",
    "required": ["settings"],
    "properties": {"settings": {"type": "object", "additionalProperties": _SETTING}},
}
_CHANGE: Document = {"type": "object", "required": ["old", "new"], "properties": {"old": _TEXT, "new": _TEXT}}
_CHANGES: Document = {
    "type": "object",
    "required": ["status", "changed"],
    "properties": {
        "status": _TEXT,
        "changed": {"type": "object", "additionalProperties": _CHANGE},
        "workers_that_follow": {"type": "array", "items": _NUMBER},
    },
}
_ERRORS = {
    400: "the request makes no sense; the message says why",
    403: "not to be done from there; the message says what would do",
    404: "no such model, or nothing at this path",
    409: "the name is in use, or the model is being loaded or unloaded",
    413: "the body is too large",
    500: "the model failed; the message says how",
    503: "the model's queue is full, or no worker can run it",
    504: "not answered in time",
    507: "not enough memory",
}


def document(inference: bool, management: bool) -> Document:
    """OpenAPI 3.0.1 of a port that serves these APIs."""
    paths: dict[str, Document] = {}
    if inference:
        paths |= _inference_paths()
    if management:
        paths |= _management_paths()
    which = "" if inference and management else " (inference)" if inference else " (management)"
    description = _operation("apiDescription", "This document.", {200: ("the API", {"type": "object"})}, [])
    paths["/"] = {"options": description}
    paths["/api-description"] = {"get": {**description, "operationId": "apiDescriptionByPath"}}
    return {
        "openapi": "3.0.1",
        "info": {"title": f"Headrace{which}", "version": __version__},
        "paths": paths,
        "components": {"schemas": {"Error": _ERROR, "Status": _STATUS}},
    }


def model_document(name: str) -> Document:
    """The part that is about one model, by the path that names it."""
    return {
        "openapi": "3.0.1",
        "info": {"title": f"Model {name}", "version": __version__},
        "paths": {f"/predictions/{name}": {"post": _prediction("predict", [])}},
        "components": {"schemas": {"Error": _ERROR}},
    }


def _inference_paths() -> dict[str, Document]:
    name = _parameter("model_name", _TEXT, "the model", "path")
    api = {200: ("the API", {"type": "object"})}
    healthy = {200: ("it serves", _ref("Status")), 503: ("it does not serve yet, or not any more", _ref("Status"))}
    execution: Document = {
        "type": "object",
        "properties": {"MaxConcurrentTransforms": _NUMBER, "BatchStrategy": _TEXT, "MaxPayloadInMB": _NUMBER},
    }
    default = _parameter("model_name", _TEXT, "the model; without it the only one of the start", "query")
    return {
        "/ping": {"get": _operation("ping", "Health.", healthy, [])},
        "/execution-parameters": {
            "get": _operation("executionParameters", "For batch transform.", {200: ("what to send", execution)}, [])
        },
        "/invocations": {"post": _prediction("invocations", [default])},
        "/predictions/{model_name}": {
            "post": _prediction("predictions", [name]),
            "options": _operation("modelDescription", "The part of this that is about one model.", api, [name], (404,)),
        },
        "/models/{model_name}/invoke": {"post": _prediction("invoke", [name])},
        "/{model_name}/predict": {"post": _prediction("predict", [name])},
    }


def _management_paths() -> dict[str, Document]:
    name = _parameter("model_name", _TEXT, "the model", "path")
    register = [
        _parameter(
            "url", _TEXT, "archive or directory: relative to the model store, absolute, or http(s)", required=True
        ),
        _parameter("model_name", _TEXT, "else the manifest's"),
        _parameter("handler", _TEXT, "module.py:function, else the manifest's, else the server's default"),
        _parameter("runtime", {"type": "string", "enum": ["python", "python2", "python3"]}, "of the handler"),
        _parameter("batch_size", _NUMBER, "most requests of one call; default 1"),
        _parameter("max_batch_delay", _NUMBER, "longest wait for company, in milliseconds"),
        _parameter("initial_workers", _NUMBER, "replicas"),
        _parameter("synchronous", _FLAG, "whether the answer waits for the load; default true"),
        _parameter("response_timeout", _NUMBER, "in minutes; in a JSON body in seconds"),
    ]
    scale = [
        name,
        _parameter("min_worker", _NUMBER, "least replicas; default 1"),
        _parameter("max_worker", _NUMBER, "most replicas, which come and go with the load; default min_worker"),
        _parameter("batch_size", _NUMBER, "most requests of one call from now on"),
        _parameter("max_batch_delay", _NUMBER, "longest wait for company from now on, in milliseconds"),
        _parameter("response_timeout", _NUMBER, "from now on, in minutes; in a JSON body in seconds"),
        _parameter("number_gpu", _NUMBER, "accepted, without effect"),
        _parameter("timeout", _NUMBER, "accepted, without effect"),
        _parameter("synchronous", _FLAG, "whether the answer waits; default false"),
    ]
    page = [
        _parameter("limit", _NUMBER, "models of a page, 1 to 100; default 100"),
        _parameter("next_page_token", _TEXT, "of the page before"),
    ]
    done = {200: ("done", _ref("Status"))}
    scaled = {**done, 202: ("under way", _ref("Status"))}
    return {
        "/models": {
            "get": _operation("listModels", "Models by name.", {200: ("a page", _LIST)}, page),
            "post": {
                **_operation("registerModel", "Load a model.", scaled, register, (400, 404, 409, 500, 507)),
                "requestBody": _body({"application/json": {"type": "object"}}),
            },
        },
        "/models/{model_name}": {
            "get": _operation(
                "describeModel", "A model and its workers.", {200: ("the model", _MODEL)}, [name], (404,)
            ),
            "put": _operation(
                "scaleModel", "Set the number of replicas, or how it batches.", scaled, scale, (400, 404, 409, 500, 507)
            ),
            "delete": _operation("unregisterModel", "Unload a model.", done, [name], (404, 409)),
        },
        "/models/{model_name}/explain": {
            "get": _operation(
                "explainModel",
                "Why it is or is not resident, what would have to go for it, its last errors.",
                {200: ("the explanation", _EXPLANATION)},
                [name],
                (404,),
            )
        },
        "/overview": {
            "get": _operation("overview", "The server at a glance.", {200: ("all there is", {"type": "object"})}, [])
        },
        "/settings": {
            "get": _operation(
                "listSettings", "Every setting, and whether it can change now.", {200: ("by name", _SETTINGS)}, []
            ),
            "put": {
                **_operation(
                    "changeSettings",
                    "Change some; all are checked before any is changed.",
                    {200: ("what was changed", _CHANGES)},
                    [],
                    (400, 403, 500, 503, 507),
                ),
                "requestBody": _body({"application/json": {"type": "object", "additionalProperties": _VALUE}}),
            },
        },
        "/drain": {
            "post": _operation(
                "drain", "Answer what was accepted, then end.", {202: ("begun", _ref("Status"))}, [], (403,)
            )
        },
        "/metrics": {
            "get": {
                "operationId": "metrics",
                "description": "What is counted, for Prometheus.",
                "responses": {"200": {"description": "the counters", "content": {"text/plain": {"schema": _TEXT}}}},
            }
        },
    }


def _prediction(operation: str, parameters: list[Document]) -> Document:
    answers: dict[int, tuple[str, Document]] = {200: ("the model's answer", {})}
    found = _operation(operation, "Run the model.", answers, parameters, (400, 404, 413, 500, 503, 504, 507))
    found["responses"]["200"]["content"] = {"*/*": {"schema": {}}}
    return {**found, "requestBody": _body({"*/*": {}})}


def _operation(
    operation: str,
    description: str,
    answers: dict[int, tuple[str, Document]],
    parameters: list[Document],
    errors: Iterable[int] = (),
) -> Document:
    responses = {str(status): {"description": text, **_json(schema)} for status, (text, schema) in answers.items()}
    responses |= {str(status): {"description": _ERRORS[status], **_json(_ref("Error"))} for status in errors}
    return {"operationId": operation, "description": description, "parameters": parameters, "responses": responses}


def _parameter(name: str, schema: Document, description: str, place: str = "query", required: bool = False) -> Document:
    return {
        "in": place,
        "name": name,
        "description": description,
        "required": required or place == "path",
        "schema": schema,
    }


def _body(content: dict[str, Document]) -> Document:
    return {"content": {kind: {"schema": schema} for kind, schema in content.items()}}


def _json(schema: Document) -> Document:
    return {"content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> Document:
    return {"$ref": f"#/components/schemas/{name}"}
