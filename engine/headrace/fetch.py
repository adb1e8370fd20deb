"""Model archives from http(s) URLs: size-limited, and not from addresses that only this machine's network can see.

Whoever may register a model names the URL, and the server would ask whatever lies behind it: an instance's metadata at
169.254.169.254, a neighbour's admin page. So each name is resolved once, all its addresses must be public, and the
connection goes to one of those; HEADRACE_DOWNLOAD_HOSTS names the exceptions. Each redirect is judged alike.
"""

import asyncio
import contextlib
import http.client
import ipaddress
import os
import re
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

from headrace import __version__, units
from headrace.errors import DownloadFailed, ModelNotFound

REDIRECTS_MAX = 5
CONNECT_S = 10.0
STALL_S = 30.0
TOTAL_S = 600.0
_CHUNK = 1 << 20
_REDIRECTS = (301, 302, 303, 307, 308)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are the address that is meant
# What the registries of some Pythons let pass as global (RFC 6890; RFC 4291, compatible and site-local addresses; RFC
# 8215; RFC 4380), and a public address at which Azure's host answers each machine.
_CLOSED = [
    ipaddress.ip_network(text)
    for text in ("192.0.0.0/24", "168.63.129.16/32", "::/96", "fec0::/10", "64:ff9b:1::/48", "2001::/23")
]


@dataclass(frozen=True, slots=True)
class Rules:
    """max_bytes: of an archive; hosts: that may have addresses which are not public, `*` for all; patterns: regular
    expressions of which one must match a URL whole, none for all."""

    max_bytes: int
    hosts: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()


async def download(url: str, directory: str, rules: Rules) -> str:
    """Path of the file in *directory* that the URL's answer was written to.

    Raises DownloadFailed, and ModelNotFound for what is no http URL.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[str] = loop.create_future()
    stop = threading.Event()

    def run() -> None:
        try:
            path = _download(url, directory, rules, stop)
        except BaseException as error:
            _settle(loop, future, error)
        else:
            _settle(loop, future, path)

    # A thread of its own, and a daemon: one of a pool would be waited for when the server ends.
    threading.Thread(target=run, daemon=True, name="download").start()
    try:
        return await future
    finally:
        stop.set()


def _settle(loop: asyncio.AbstractEventLoop, future: "asyncio.Future[str]", result: str | BaseException) -> None:
    def settle() -> None:
        if future.done():
            return
        if isinstance(result, str):
            future.set_result(result)
        else:
            future.set_exception(result)

    with contextlib.suppress(RuntimeError):  # the loop is closed: the server ends
        loop.call_soon_threadsafe(settle)


def _download(url: str, directory: str, rules: Rules, stop: threading.Event) -> str:
    end_s = time.monotonic() + TOTAL_S
    try:
        for _ in range(REDIRECTS_MAX + 1):
            parts = _parsed(url)
            if rules.patterns and not any(re.fullmatch(pattern, url) for pattern in rules.patterns):
                raise DownloadFailed(f"Failed to download model from: {url}: allowed_urls does not allow it")
            connection = _connect(parts, rules)
            with contextlib.ExitStack() as stack:
                stack.callback(connection.close)
                target = parts.path or "/"
                target = f"{target}?{parts.query}" if parts.query else target
                connection.request("GET", target, headers={"user-agent": f"headrace/{__version__}"})
                answer = connection.getresponse()
                stack.callback(answer.close)
                if answer.status not in _REDIRECTS:
                    return _store(answer, url, directory, rules, end_s, stop)
                following = urljoin(url, answer.headers.get("location", ""))
            if parts.scheme == "https" and not following.lower().startswith("https:"):
                raise DownloadFailed(f"Failed to download model from: {url}: it leads from https to {following}")
            url = following
    except (OSError, http.client.HTTPException, ssl.SSLError) as error:
        raise DownloadFailed(f"Failed to download model from: {url}: {error}") from None
    raise DownloadFailed(f"Failed to download model from: {url}: more than {REDIRECTS_MAX} redirects")


def _parsed(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ModelNotFound(f"Invalid model url: {url}") from None
    if parts.scheme in ("http", "https") and not parts.netloc:
        raise DownloadFailed(f"Failed to download model from: {url}")
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not url.isascii() or " " in url:
        raise ModelNotFound(f"Invalid model url: {url}; use http://HOST/PATH, https://HOST/PATH, or a path")
    return parts


def _connect(parts: SplitResult, rules: Rules) -> http.client.HTTPConnection:
    """A connection to an address of the host that may be asked. Raises OSError, DownloadFailed."""
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(info[4][0]) for info in infos]
    is_exempt = "*" in rules.hosts or host.lower() in rules.hosts
    closed = [address for address in addresses if not _is_public(address)]
    if closed and not is_exempt:
        raise DownloadFailed(
            f"models are not fetched from {host}, whose address {closed[0]} is not public; "
            f"HEADRACE_DOWNLOAD_HOSTS={host} would allow it"
        )
    sock = socket.create_connection((addresses[0], port), CONNECT_S)
    try:
        sock.settimeout(STALL_S)
        if parts.scheme == "https":
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise
    connection = http.client.HTTPConnection(host, parts.port)
    connection.sock = sock
    return connection


def _is_public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):  # it may stand for one of version 4
        inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF) if found in _NAT64 else None
        found = found.ipv4_mapped or found.sixtofour or inner or found
    return found.is_global and not found.is_multicast and not any(found in network for network in _CLOSED)


def _store(
    answer: http.client.HTTPResponse, url: str, directory: str, rules: Rules, end_s: float, stop: threading.Event
) -> str:
    if answer.status != 200:
        raise DownloadFailed(f"Failed to download model from: {url}, code: {answer.status}")
    limit = f"the limit of {units.format_size(rules.max_bytes)} (HEADRACE_MAX_DOWNLOAD)"
    if (answer.length or 0) > rules.max_bytes:
        raise DownloadFailed(f"Failed to download model from: {url}: its {answer.length} bytes are over {limit}")
    name = re.sub(r"[^A-Za-z0-9._-]", "_", urlsplit(url).path.rpartition("/")[2])[-100:].lstrip(".") or "model"
    path, size = os.path.join(directory, name), 0
    with open(path, "xb") as file:
        while chunk := answer.read(_CHUNK):
            size += len(chunk)
            if size > rules.max_bytes:
                raise DownloadFailed(f"Failed to download model from: {url}: longer than {limit}")
            if time.monotonic() > end_s or stop.is_set():
                raise DownloadFailed(f"Failed to download model from: {url}: not complete after {TOTAL_S:.0f} s")
            file.write(chunk)
    if answer.length:
        raise DownloadFailed(f"Failed to download model from: {url}: it ended {answer.length} bytes early")
    return path
