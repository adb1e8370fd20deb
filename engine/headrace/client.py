"""A client of the management API, for the commands: one request on one connection; what goes wrong is a sentence.

A refusal of the server (Refused), no server (Unreachable) and a mistake of the user (UsageError) are different
errors with different exit codes, so that scripts can tell them apart.
"""

import enum
import http.client
import json
import os
import re
import ssl
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import quote, urlencode, urlsplit

ANSWER_MOST = 64 << 20  # bytes; an overview of 10,000 models has some 4 MB
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, section 2.1: b64token


class Exit(enum.IntEnum):
    """How a command of the client ended."""

    OK = 0
    REFUSED = 1  # the server said no, or the model failed
    USAGE = 2
    UNREACHABLE = 3  # no server, or not one of ours


class ClientError(Exception):
    """Shown to the user as it is. exit: the command's status."""

    exit: ClassVar[Exit] = Exit.REFUSED


class UsageError(ClientError):
    exit = Exit.USAGE


class Unreachable(ClientError):
    exit = Exit.UNREACHABLE


class Refused(ClientError):
    """The server answered with an error. status: of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """url: of the management port, http or https; the certificate is checked (SSL_CERT_FILE names another authority's).
    token: for `Authorization: Bearer`; empty: none is sent. Raises UsageError."""

    def __init__(self, url: str, token: str = "") -> None:
        self.url = url.rstrip("/")
        self._token = token
        try:
            parts = urlsplit(self.url)
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError as error:
            raise UsageError(f"{url!r} is no URL: {error}") from None
        if parts.scheme not in ("http", "https") or not self._host or parts.path or parts.query:
            raise UsageError(f"{url!r} must be the URL of a management port, such as http://127.0.0.1:8081")
        self._is_encrypted = parts.scheme == "https"

    @property
    def host(self) -> str:
        return self._host

    def get(self, *words: str, timeout_s: float = 30.0) -> Any:
        """The document at the path that *words* make. Raises ClientError, as all of these do."""
        return self.call("GET", *words, timeout_s=timeout_s)

    def call(
        self,
        method: str,
        *words: str,
        query: Mapping[str, str] | None = None,
        document: Any = None,
        timeout_s: float = 30.0,
    ) -> Any:
        """The document that a request with a JSON body (*document*; None: without a body) is answered with."""
        text = self.text(method, *words, query=query, document=document, timeout_s=timeout_s)
        try:
            return json.loads(text)
        except ValueError:
            raise Unreachable(f"{self.url} answered with something else than JSON: no Headrace listens there") from None

    def text(
        self,
        method: str,
        *words: str,
        query: Mapping[str, str] | None = None,
        document: Any = None,
        timeout_s: float = 30.0,
    ) -> str:
        """As call(), for a document that is not JSON."""
        path = "/" + "/".join(quote(word, safe="") for word in words) + (f"?{urlencode(query)}" if query else "")
        headers = {"connection": "close"}
        body = None
        if document is not None:
            body = json.dumps(document).encode()
            headers["content-type"] = "application/json"
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        connection = self._connect(timeout_s)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            answer = response.read(ANSWER_MOST + 1)
        except TimeoutError:
            raise Unreachable(f"{self.url} has not answered {method} {path} within {timeout_s:g} s") from None
        except ssl.SSLError as error:
            raise Unreachable(f"{self.url}: {error.reason or error}; is it https, and its authority trusted?") from None
        except OSError as error:
            raise Unreachable(
                f"no server answers at {self.url} ({error.strerror or error}); start one with `headrace serve`, "
                "or name its management port with --url or HEADRACE_URL"
            ) from None
        except http.client.HTTPException as error:
            raise Unreachable(f"{self.url} does not speak HTTP as a server should: {error!r}") from None
        finally:
            connection.close()
        if len(answer) > ANSWER_MOST:
            raise Unreachable(f"the answer of {self.url} to {method} {path} is larger than {ANSWER_MOST} bytes")
        text = answer.decode("utf-8", "replace")
        if response.status >= 400:
            raise Refused(response.status, self._explain(response.status, text))
        return text

    def _connect(self, timeout_s: float) -> http.client.HTTPConnection:
        if self._is_encrypted:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(self._host, self._port, timeout=timeout_s, context=context)
        return http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)

    def _explain(self, status: int, text: str) -> str:
        """What the body of an error says, and what to do about it where the client knows better than the server."""
        try:
            document = json.loads(text)
            message, kind = str(document["message"]), str(document["type"])
        except (ValueError, KeyError, TypeError):
            return f"{self.url} answered {status}, not in the form of Headrace"
        if status == 401:
            return f"{message}; give it with --token-file or HEADRACE_TOKEN_FILE"
        if status == 404 and kind == "ResourceNotFoundException":
            return f"{message}; is {self.url} the management port (8081 unless set)?"
        return message


def default_url(environ: Mapping[str, str] = os.environ) -> str:
    """HEADRACE_URL, else the management port of a server with these settings on this machine."""
    port = environ.get("HEADRACE_MANAGEMENT_PORT") or "8081"
    return environ.get("HEADRACE_URL") or f"http://127.0.0.1:{'8081' if port == '0' else port}"


def read_token(path: str | None) -> str:
    """The token in the file at *path*, "" for no path. Raises UsageError, which never shows it."""
    if not path:
        return ""
    try:
        with open(path, "rb") as file:
            token = file.read(65536).decode("ascii", "replace").strip()
    except OSError as error:
        raise UsageError(f"the token file {path} cannot be read: {error.strerror}") from None
    if not _TOKEN.fullmatch(token):
        raise UsageError(f"the token file {path} must hold one token of letters, digits and -._~+/ only")
    return token
