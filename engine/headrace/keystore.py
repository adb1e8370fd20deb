"""A server's certificate and private key, from PEM files or from a PKCS #12 keystore, into a TLS context."""

import contextlib
import os
import shlex
import ssl
from typing import Any

from headrace.config import Config
from headrace.errors import ConfigError

# First bytes of the forms that only Java reads. Source: JavaKeyStore and JceKeyStore of OpenJDK.
_JAVA_FORMS = {b"\xfe\xed\xfe\xed": "JKS", b"\xce\xce\xce\xce": "JCEKS"}


def load(context: ssl.SSLContext, config: Config) -> None:
    """Have *context* show the configured certificate. Raises ConfigError that says what is wrong with which file."""
    if config.tls_keystore:
        _load_keystore(context, config.tls_keystore, config.tls_keystore_password)
        return
    for setting, path in (("HEADRACE_TLS_CERTIFICATE", config.tls_certificate), ("HEADRACE_TLS_KEY", config.tls_key)):
        if not path:
            raise ConfigError(f"{setting} is not set, but TLS needs a certificate and its private key, in PEM files")
        if not os.access(path, os.R_OK):
            raise ConfigError(f"{setting}={path}: no such file, or not readable")
    try:
        context.load_cert_chain(config.tls_certificate, config.tls_key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise ConfigError(
            f"HEADRACE_TLS_CERTIFICATE={config.tls_certificate}, HEADRACE_TLS_KEY={config.tls_key}: {error}; "
            "they must be PEM files of a certificate (chain) and of its private key without a password"
        ) from None


def _no_password() -> str:
    raise ValueError("the private key has a password")


def _load_keystore(context: ssl.SSLContext, path: str, password: str) -> None:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ConfigError(f"keystore={path}: {error.strerror}") from None
    kind = _JAVA_FORMS.get(data[:4])
    if kind is not None:
        words = ("keytool", "-importkeystore", "-srcstoretype", kind, "-srckeystore", path)
        command = shlex.join([*words, "-deststoretype", "PKCS12", "-destkeystore", f"{path}.p12"])
        raise ConfigError(f"keystore={path} is of Java's own form {kind}; name {path}.p12, which this makes: {command}")
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.serialization import pkcs12
    except ImportError:
        raise ConfigError(
            f"keystore={path}: reading keystores needs the package cryptography: pip install 'headrace[keystore]'; or "
            "give PEM files by private_key_file and certificate_file"
        ) from None
    key: Any
    try:
        key, certificate, chain = pkcs12.load_key_and_certificates(data, password.encode())
    except ValueError as error:
        raise ConfigError(f"keystore={path}: {error}; it must be PKCS #12, and keystore_pass its password") from None
    if key is None or certificate is None:
        raise ConfigError(f"keystore={path} has no private key with a certificate")
    pem = serialization.Encoding.PEM
    text = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    text += b"".join(item.public_bytes(pem) for item in (certificate, *chain))
    # OpenSSL reads files only: one without a name, which nobody else can open, and which is gone at once.
    with contextlib.closing(_Memory(text)) as memory:
        try:
            context.load_cert_chain(memory.path)
        except ssl.SSLError as error:
            raise ConfigError(f"keystore={path}: {error}") from None


class _Memory:
    def __init__(self, data: bytes) -> None:
        self._fd = os.memfd_create("keystore", os.MFD_CLOEXEC)
        os.write(self._fd, data)
        self.path = f"/proc/self/fd/{self._fd}"

    def close(self) -> None:
        os.close(self._fd)
