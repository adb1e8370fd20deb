"""The listening sockets: bound by the supervisor, inherited by every frontend, one for each port."""

import errno
import socket

from headrace.config import Config
from headrace.errors import ConfigError

BACKLOG = 4096  # the kernel lowers it to net.core.somaxconn


def listen(config: Config) -> dict[str, socket.socket]:
    """`inference` and, unless one port serves both, `management`. Raises ConfigError that says what is in the way."""
    listeners = {"inference": _bind(config.host, config.port, "HEADRACE_")}
    if not config.single_port:
        try:
            listeners["management"] = _bind(config.management_host, config.management_port, "HEADRACE_MANAGEMENT_")
        except ConfigError:
            listeners["inference"].close()
            raise
    return listeners


def url(listener: socket.socket, is_tls: bool = False) -> str:
    """The URL of the address that it is really bound to."""
    host, port = listener.getsockname()[:2]
    scheme = "https" if is_tls else "http"
    return f"{scheme}://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"{scheme}://{host}:{port}"


def _bind(host: str, port: int, prefix: str) -> socket.socket:
    """prefix: of the variables that name host and port."""
    name = host.encode() if host.isascii() else host  # bytes spare the tables of internationalised names, 0.2 MB
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigError(f"{prefix}HOST={host} cannot be resolved: {error.strerror}") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError(_explain(error, host, port, prefix)) from None
    return listener


def _explain(error: OSError, host: str, port: int, prefix: str) -> str:
    where = f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return f"address {where} is in use: end what listens there, or set {prefix}PORT to another port"
    if error.errno == errno.EACCES:
        return f"address {where} may not be bound by this user: set {prefix}PORT to a port from 1024 up"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"address {where} is not of this machine: set {prefix}HOST to one that is, or to 0.0.0.0 for all"
    return f"address {where} cannot be bound ({prefix}PORT): {error.strerror}"
