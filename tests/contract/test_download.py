"""Models by URL: from a server of the test's own, which a setting must allow; and what is never fetched."""

import asyncio
import http.server
import io
import os
import socket
import threading
import zipfile

import pytest

from headrace import fetch
from headrace.errors import DownloadFailed, ModelNotFound
from headrace.fetch import Rules
from tests.contract.conftest import Api, write_handler

HERE = ("127.0.0.1",)


class Handler(http.server.BaseHTTPRequestHandler):
    archive = b""

    def do_GET(self):
        where, _, rest = self.path[1:].partition("/")
        if where == "redirect":
            count = int(rest)
            self.send_response(302)
            self.send_header("location", f"/redirect/{count - 1}" if count > 1 else "/models/m.mar")
            self.end_headers()
        elif where == "metadata":
            self.send_response(302)
            self.send_header("location", "http://169.254.169.254/latest/meta-data/")
            self.end_headers()
        elif where in ("models", "endless", "short"):
            self.send_response(200)
            if where != "endless":
                self.send_header("content-length", str(len(self.archive) + 9 * (where == "short")))
            self.end_headers()
            self.wfile.write(self.archive * (100 if where == "endless" else 1))
        else:
            self.send_error(403)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def origin(store):
    """URL of a server with an archive of the handler `mirror` at /models/m.mar, and pitfalls."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for path in sorted((store / "mirror").rglob("*")):
            archive.write(path, path.relative_to(store / "mirror"))
    Handler.archive = data.getvalue()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def get(url, directory, rules=None):
    return asyncio.run(fetch.download(url, str(directory), rules or Rules(1 << 20, HERE)))


@pytest.mark.parametrize("path", ["/models/m.mar", "/redirect/1", "/redirect/5", "/models/m.mar?token=x"])
def test_an_archive_is_fetched_through_a_few_redirects(origin, tmp_path, path):
    fetched = get(origin + path, tmp_path)
    assert fetched == str(tmp_path / "m.mar")
    assert (tmp_path / "m.mar").read_bytes() == Handler.archive


@pytest.mark.parametrize(
    ("path", "rules", "why"),
    [
        ("/models/m.mar", Rules(1 << 20), "whose address 127.0.0.1 is not public; HEADRACE_DOWNLOAD_HOSTS=127.0.0.1"),
        ("/models/m.mar", Rules(1 << 20, HERE, ("https://.*",)), "allowed_urls does not allow it"),
        ("/models/m.mar", Rules(100, HERE), "over the limit of 100"),
        ("/endless/m.mar", Rules(10_000, HERE), "longer than the limit"),
        ("/short/m.mar", None, "it ended 9 bytes early"),
        ("/redirect/6", None, "more than 5 redirects"),
        ("/metadata", None, "169.254.169.254 is not public"),
        ("/forbidden", None, "code: 403"),
    ],
)
def test_what_is_not_fetched(origin, tmp_path, path, rules, why):
    with pytest.raises(DownloadFailed) as caught:
        get(origin + path, tmp_path, rules)
    assert why in str(caught.value)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://2852039166/",  # the same as a number
        "http://0xa9fea9fe/",
        "http://0251.0376.0251.0376/",
        "http://169.254.43518/",
        "http://[::ffff:169.254.169.254]/",
        "http://[::169.254.169.254]/",
        "http://[64:ff9b::a9fe:a9fe]/",  # by NAT64
        "http://[2002:a9fe:a9fe::1]/",  # by 6to4
        "http://[fd00:ec2::254]/latest/meta-data",  # EC2's over IPv6
        "http://[fe80::1]/m.mar",
        "http://192.0.0.192/opc/v2/",  # Oracle's
        "http://168.63.129.16/",  # Azure's
        "http://100.100.100.200/",  # Alibaba's
        "http://localhost/m.mar",
        "http://[::1]/m.mar",
        "http://[::ffff:127.0.0.1]/m.mar",
        "http://10.0.0.1/m.mar",
        "http://0.0.0.0/m.mar",
    ],
)
def test_addresses_that_only_this_machine_can_see(tmp_path, url):
    with pytest.raises(DownloadFailed, match="is not public"):
        get(url, tmp_path, Rules(1 << 20))


def test_a_name_is_judged_by_all_its_addresses(tmp_path, monkeypatch):
    """Which of them would be asked is the resolver's whim. The name is not resolved again for the connection."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("1.1.1.1", "169.254.169.254")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *asked, **how: found)
    with pytest.raises(DownloadFailed, match=r"models\.example, whose address 169\.254\.169\.254 is not public"):
        get("http://models.example/m.mar", tmp_path, Rules(1 << 20))


@pytest.mark.parametrize("url", ["ftp://example.org/m", "http://h:0/", "http://h:x/", "file:///etc/passwd"])
def test_what_is_no_url_of_an_archive(tmp_path, url):
    with pytest.raises(ModelNotFound, match="Invalid model url"):
        get(url, tmp_path)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/m.mar", "http://", "https:///m.mar"])
def test_hosts_that_are_not_there(tmp_path, url):
    with pytest.raises(DownloadFailed, match="Failed to download model from"):
        get(url, tmp_path)


def test_a_name_out_of_the_url_stays_in_the_directory(origin, tmp_path):
    assert get(origin + "/models/..%2f..%2fetc", tmp_path) == str(tmp_path / "_2f.._2fetc")


def test_a_server_refuses_and_leaves_nothing(serve, origin, tmp_path):
    write_handler(tmp_path / "store", "m", "def handle(data, context):\n    return data and ['well'] * len(data)\n")
    folder = tmp_path / "tmp"
    folder.mkdir()
    api = Api(serve("--model-store", str(tmp_path / "store"), TMPDIR=str(folder)))
    answer = api.manage("POST", f"/models?url={origin}/models/m.mar&model_name=m")
    assert (answer.status, answer.json()["type"]) == (400, "DownloadModelException")
    assert os.listdir(folder) == []


def test_a_fetched_archive_serves_and_leaves_nothing_once_it_is_unloaded(serve, origin, tmp_path):
    (tmp_path / "store").mkdir()
    folder = tmp_path / "tmp"
    folder.mkdir()
    api = Api(serve("--model-store", str(tmp_path / "store"), TMPDIR=str(folder), HEADRACE_DOWNLOAD_HOSTS="127.0.0.1"))
    url = f"{origin}/redirect/2"
    assert api.manage("POST", f"/models?url={url}").json() == {"status": 'Model "mirror" registered'}
    assert api.infer("POST", "/predictions/mirror", b"x", content_type="text/plain").status == 200
    assert api.manage("GET", "/models").json()["models"] == [{"modelName": "mirror", "modelUrl": url}]
    assert list(folder.glob("headrace-model-*/*"))
    assert api.manage("DELETE", "/models/mirror").status == 200
    assert list(folder.glob("headrace-model-*")) == []
