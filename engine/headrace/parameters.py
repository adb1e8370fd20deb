"""Parameters of a management request: out of its query, a JSON object or a form, as text by name.

A JSON body stands alone; a form adds to the query. The JSON is read as leniently as Multi Model Server reads it, for a
flat object: a comma before the end (as in SageMaker's documented example), single quotes, names without quotes.
"""

import re
from collections.abc import Mapping

import orjson

from headrace.control import Message
from headrace.errors import RequestError

Parameters = Mapping[str, str]

_FIELDS_MAX = 100
_STRING = r'"(?:[^"\\]|\\.)*"|' + r"'(?:[^'\\]|\\.)*'"
_PAIR = re.compile(rf"\s*({_STRING}|[A-Za-z_][A-Za-z0-9_]*)\s*:\s*({_STRING}|[A-Za-z0-9_.+-]+)\s*(,|$)", re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


def read(message: Message) -> Parameters:
    """Of a "manage" message. Raises RequestError.

    `response_timeout` comes in seconds; in a query Multi Model Server has it in minutes.
    """
    kind = message["content_type"].split(";")[0].strip().lower()
    if kind == "application/json":
        return _of_json(message["body"].encode("latin-1"))
    text = message["query"]
    if kind == "application/x-www-form-urlencoded" and message["body"]:
        text = f"{text}&{message['body']}" if text else message["body"]
    found = query(text)
    minutes = number(found, "response_timeout", 0)
    return {**found, "response_timeout": str(60 * minutes)} if minutes else found


def values(message: Message) -> dict[str, object]:
    """The names and values of a JSON object, as they are. Raises RequestError for anything else."""
    try:
        document = orjson.loads(message["body"].encode("latin-1"))
    except orjson.JSONDecodeError as error:
        raise RequestError(f'the body must be a JSON object, such as {{"log_level": "DEBUG"}}: {error}') from None
    if not isinstance(document, dict) or not 0 < len(document) <= _FIELDS_MAX:
        raise RequestError(f"the body must be a JSON object with 1 to {_FIELDS_MAX} names")
    return document


def query(text: str) -> dict[str, str]:
    """A query's parameters; of equal names the last. Raises RequestError."""
    from urllib.parse import parse_qsl

    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_FIELDS_MAX))
    except ValueError:
        raise RequestError(f"more than {_FIELDS_MAX} parameters") from None


def number(parameters: Parameters, name: str, default: int) -> int:
    """A whole number; whatever does not parse means the default, as in Multi Model Server."""
    text = parameters.get(name, "")
    return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else default


def flag(parameters: Parameters, name: str, default: bool) -> bool:
    """True for `true` in any case, False for any other text, as Java's Boolean.parseBoolean."""
    text = parameters.get(name)
    return default if text is None else text.lower() == "true"


def _of_json(body: bytes) -> Parameters:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        lenient = _of_lenient_json(body.decode("utf-8", "replace").strip())
        if lenient is None:
            raise RequestError(f"the body is not JSON: {error}") from None
        return lenient
    if not isinstance(document, dict):
        raise RequestError(f"the body must be a JSON object, not {type(document).__name__}")
    return {key: _text(value) for key, value in document.items() if value is not None}


def _of_lenient_json(text: str) -> Parameters | None:
    """A flat object with the liberties above; None for anything else."""
    if not (text.startswith("{") and text.endswith("}")):
        return None
    inner, at, found = text[1:-1].rstrip(), 0, {}
    while at < len(inner):
        pair = _PAIR.match(inner, at)
        if pair is None:
            return None
        found[_unquoted(pair[1])] = _unquoted(pair[2])
        at = pair.end()
    return {key: value for key, value in found.items() if value != "null"}


def _unquoted(text: str) -> str:
    if text[0] not in "\"'":
        return text
    return _ESCAPE.sub(
        lambda found: chr(int(found[1][1:], 16)) if len(found[1]) == 5 else _ESCAPES.get(found[1], found[1]), text[1:-1]
    )


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
