"""Ports that encrypt: from PEM files, from a keystore, one of two ports; large and many answers, and mistakes."""

import datetime
import http.client
import ipaddress
import json
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sysconfig
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12

from headrace import keystore
from headrace.config import Config
from headrace.errors import ConfigError
from tests.e2e.conftest import WATCHDOG_S, wait_until, write_model

ECHO = """
from headrace import Model

class Echo(Model):
    def handle(self, requests):
        return [request.body for request in requests]
"""


@pytest.fixture(scope="module")
def credentials(tmp_path_factory):
    """Directory with certificate.pem, key.pem and keystore.p12 (password `secret`) for 127.0.0.1."""
    directory = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "headrace test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / "certificate.pem").write_bytes(certificate.public_bytes(pem))
    (directory / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    encryption = serialization.BestAvailableEncryption(b"secret")
    (directory / "keystore.p12").write_bytes(
        pkcs12.serialize_key_and_certificates(b"server", key, certificate, None, encryption)
    )
    return directory


def connect(credentials, port):
    context = ssl.create_default_context(cafile=credentials / "certificate.pem")
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=WATCHDOG_S, context=context)


def port_of(server, name):
    wait_until(lambda: server.find(" ready "), server.log)
    return int(server.find(rf" {name}=https?://127.0.0.1:(\d+)").group(1))


def test_both_ports_from_pem_files_with_bodies_of_all_sizes(serve, tmp_path, credentials):
    server = serve.begin(
        write_model(tmp_path / "echo", ECHO),
        HEADRACE_TLS="both",
        HEADRACE_TLS_CERTIFICATE=str(credentials / "certificate.pem"),
        HEADRACE_TLS_KEY=str(credentials / "key.pem"),
    )
    inference = connect(credentials, port_of(server, "inference"))
    for size in (0, 1, 4096, 70_000, 3_000_000):
        body = os.urandom(size)
        inference.request("POST", "/invocations", body)
        answer = inference.getresponse()
        assert (answer.status, answer.read() == body) == (200, True)
    inference.request("POST", "/models/none/invoke", b"x" * 1000)
    answer = inference.getresponse()
    assert (answer.status, json.loads(answer.read())["code"]) == (404, 404)
    inference.close()
    management = connect(credentials, port_of(server, "management"))
    management.request("GET", "/models")
    answer = management.getresponse()
    assert [model["modelName"] for model in json.loads(answer.read())["models"]] == ["echo"]
    management.close()


def test_a_pipeline_and_a_client_that_does_not_encrypt(serve, tmp_path, credentials):
    server = serve.begin(
        write_model(tmp_path / "echo", ECHO),
        HEADRACE_TLS="inference",
        HEADRACE_TLS_CERTIFICATE=str(credentials / "certificate.pem"),
        HEADRACE_TLS_KEY=str(credentials / "key.pem"),
    )
    port = port_of(server, "inference")
    with socket.create_connection(("127.0.0.1", port), WATCHDOG_S) as plain:
        plain.sendall(b"GET /ping HTTP/1.1\r\nhost: t\r\n\r\n")
        assert not plain.recv(1000).startswith(b"HTTP/1.1 2")
    context = ssl.create_default_context(cafile=credentials / "certificate.pem")
    raw = socket.create_connection(("127.0.0.1", port), WATCHDOG_S)
    with context.wrap_socket(raw, server_hostname="127.0.0.1") as sock:
        request = b"POST /invocations HTTP/1.1\r\nhost: t\r\ncontent-length: 1\r\n\r\n"
        close = request.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
        sock.sendall(b"".join(request + b"%d" % (number % 10) for number in range(300)) + close + b"x")
        received = bytearray()
        while data := sock.recv(65536):
            received += data
    bodies = [part.rpartition(b"\r\n\r\n")[2] for part in received.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert bodies == [b"%d" % (number % 10) for number in range(300)] + [b"x"]
    server.management_port = port_of(server, "management")
    assert server.request("GET", "/models", management=True).status == 200  # which is not encrypted


def test_a_keystore_of_the_configuration_file(tmp_path, credentials):
    (tmp_path / "store").mkdir()
    (tmp_path / "config.properties").write_text(
        "inference_address=https://127.0.0.1:0\nmanagement_address=http://127.0.0.1:0\n"
        f"keystore={credentials}/keystore.p12\nkeystore_pass=secret\nkeystore_type=PKCS12\n"
    )
    env = {name: text for name, text in os.environ.items() if not name.startswith(("HEADRACE_", "SAGEMAKER_"))}
    command = [Path(sysconfig.get_path("scripts")) / "multi-model-server", "--start", "--foreground"]
    with open(tmp_path / "log", "wb") as log:
        server = subprocess.Popen(
            [*command, "--model-store", "store"], cwd=tmp_path, env=env | {"TMPDIR": str(tmp_path)}, stderr=log
        )
    try:
        log = tmp_path / "log"
        wait_until(lambda: " ready " in log.read_text() or server.poll() is not None, "not ready")
        address = log.read_text().split(" inference=https://127.0.0.1:")[1].split()[0]
        connection = connect(credentials, int(address))
        connection.request("GET", "/ping")
        assert connection.getresponse().status == 200
        connection.close()
        assert " management=http://" in log.read_text()
        assert "secret" not in log.read_text()
    finally:
        server.terminate()
        server.wait(WATCHDOG_S)


def test_the_line_for_a_keystore_of_java_s_own_form_makes_one_that_is_read(tmp_path):
    if shutil.which("keytool") is None:
        pytest.skip("no keytool (of a Java runtime)")
    jks = tmp_path / "a keystore.jks"
    passwords = ["-storepass", "changeit", "-keypass", "changeit", "-storetype", "JKS"]
    names = ["-alias", "a", "-dname", "CN=a", "-keyalg", "EC", "-keystore", str(jks)]
    subprocess.run(["keytool", "-genkeypair", *names, *passwords], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(ConfigError) as caught:
        keystore.load(context, config(tls_keystore=jks))
    told = re.search(r"name (.*), which this makes: (.*)", str(caught.value))
    command = [*shlex.split(told[2]), "-srcstorepass", "changeit", "-deststorepass", "changeit"]
    subprocess.run(command, check=True, capture_output=True)
    keystore.load(context, config(tls_keystore=told[1], tls_keystore_password="changeit"))


def config(**fields):
    return Config(tls_ports="both", **{name: str(value) for name, value in fields.items()})


def test_mistakes_are_told_with_what_would_be_right(tmp_path, credentials):
    jks = tmp_path / "old.jks"
    jks.write_bytes(b"\xfe\xed\xfe\xed" + bytes(20))
    pem, key, p12 = (credentials / name for name in ("certificate.pem", "key.pem", "keystore.p12"))
    for fields, why in [
        ({}, "HEADRACE_TLS_CERTIFICATE is not set"),
        ({"tls_certificate": pem}, "HEADRACE_TLS_KEY is not set"),
        ({"tls_certificate": tmp_path / "no", "tls_key": key}, "no such file"),
        ({"tls_certificate": key, "tls_key": pem}, "must be PEM files"),
        ({"tls_keystore": tmp_path / "no"}, "No such file"),
        ({"tls_keystore": jks}, "keytool -importkeystore"),
        ({"tls_keystore": pem}, "must be PKCS #12"),
        ({"tls_keystore": p12, "tls_keystore_password": "wrong"}, "keystore_pass"),
    ]:
        with pytest.raises(ConfigError, match=why):
            keystore.load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), config(**fields))
