"""The console in a real browser: draws what is there, escapes what models say, changes nothing without the token."""

import re

import pytest
from browser import CHROMIUM, Browser
from conftest import write_model

TOKEN = "0123456789abcdef-secret"
EVIL = "<img src=x onerror=\"document.title='run'\">"
FLAKY = f"""
from headrace import Model
class Flaky(Model):
    def handle(self, requests):
        if bytes(requests[0].body) == b"fail":
            raise ValueError({EVIL!r})
        return [bytes(request.body) for request in requests]
"""


@pytest.fixture(scope="module")
def server(serve_module, tmp_path_factory):
    folder = tmp_path_factory.mktemp("console")
    write_model(folder / "store" / "flaky", FLAKY)
    token = folder / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    return serve_module(
        "--model-store", str(folder / "store"), "--models", "flaky",
        HEADRACE_TOKEN_FILE=str(token), HEADRACE_TOKEN_SCOPE="changes", HEADRACE_WORKERS="1",
    )  # fmt: skip


def test_the_page_asks_for_no_token_and_its_parts_may_be_kept(server):
    page = server.manage("GET", "/console")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["cache-control"] == "no-cache"
    assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    parts = re.findall(r'"(/console/[^"]+)"', page.body.decode())
    script = next(part for part in parts if part.endswith(".js"))
    parts += ["/console/" + name for name in re.findall(r'"\./([^"]+)"', server.manage("GET", script).body.decode())]
    assert len(parts) == 4
    for part in parts:
        answer = server.manage("GET", part)
        assert (answer.status, answer.headers["cache-control"]) == (200, "public, max-age=31536000, immutable"), part
        assert re.search(r"\.[0-9a-f]{12}\.(js|css)$", part)
    assert server.manage("HEAD", "/console").status == 200
    assert server.manage("POST", "/console").status == 405
    assert server.manage("GET", "/console/../models").status == 400
    assert server.manage("GET", "/console/console.js").status == 404
    assert server.request("GET", "/console").status == 404  # not on the inference port
    assert server.manage("POST", "/console/predict/flaky").status == 401  # a test request runs a model


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
def test_it_shows_models_explains_sends_and_unloads_with_the_token_only(server, tmp_path):
    assert server.post("/models/flaky/invoke", b"fail").status == 500
    browser = Browser(tmp_path / "profile")
    try:
        browser.resize(1280, 900)
        browser.open(f"http://127.0.0.1:{server.management_port}/console")
        browser.wait("document.querySelectorAll('#models tbody tr').length == 1")
        assert browser.run("document.querySelector('.cell[data-model=flaky]').title").startswith("flaky: ")
        cells = browser.run("[...document.querySelectorAll('.cell')].map(it => it.offsetWidth * it.offsetHeight)")
        box = browser.run(
            "document.querySelector('#treemap').offsetWidth * document.querySelector('#treemap').offsetHeight"
        )
        assert 0.95 * box < sum(cells) < 1.05 * box
        browser.run("document.querySelector('#models td.name button').click()")
        browser.wait("document.querySelector('#detail pre')?.textContent.includes('ValueError')")
        assert EVIL in browser.run("document.querySelector('#detail-body').textContent")
        assert browser.run("document.querySelectorAll('img').length") == 0
        assert browser.run("document.title") == "Headrace"
        # Read-only until the server has taken the token.
        enter = "document.querySelector('#token').value = '{}'; document.querySelector('#token-form').requestSubmit()"
        assert browser.run("document.querySelector('#unload').hidden && document.querySelector('#load').hidden")
        browser.run(enter.format("wrong-wrong-wrong-wrong"))
        browser.wait("document.querySelector('#notice').textContent.includes('does not take')")
        assert browser.run("document.querySelector('#unload').hidden")
        browser.run(enter.format(TOKEN))
        browser.wait("!document.querySelector('#unload').hidden && !document.querySelector('#load').hidden")
        browser.run("document.querySelector('#try').requestSubmit()")
        browser.wait("document.querySelector('#try-answer').textContent.includes('instances')")
        browser.run("window.confirm = () => true; document.querySelector('#unload').click()")
        browser.wait("document.querySelectorAll('#models tbody tr').length == 0")
        browser.run(
            "document.querySelector('#load-name').value = 'again'; document.querySelector('#load-url').value = 'flaky';"
            "document.querySelector('#load').requestSubmit()"
        )
        browser.wait("document.querySelector('#models td.name')?.textContent == 'again'")
        assert "unloaded" in browser.run("document.querySelector('#history').textContent")
        for width in (1280, 390):
            browser.resize(width, 844)
            assert browser.run("document.documentElement.scrollWidth") <= width
        # Our own two questions with a wrong method or token, and nothing else: no error of a script or of the policy.
        assert all("/overview" in problem for problem in browser.problems), browser.problems
    finally:
        browser.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")
def test_the_metrics_are_read_as_prometheus_means_them(server, tmp_path):
    """metrics.js, in the browser that runs it."""
    page = server.manage("GET", "/console").body.decode()
    script = server.manage("GET", re.search(r'"(/console/console[^"]+js)"', page)[1]).body.decode()
    module = "/console/" + re.search(r'"\./(metrics[^"]+)"', script)[1]
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(f"http://127.0.0.1:{server.management_port}{module}")
        browser.wait("location.pathname.startsWith('/console/metrics')")
        before = 'c_total{m="a"} 5\\nc_total{m="b"} 9\\n'
        after = '# HELP c x\\nc_total{m="a"} 8\\nc_total{m="b"} 2\\nx{l="q\\\\"\\\\\\\\\\\\n"} 1e3\\n'
        found = browser.run(f"""(async () => {{
            const {{ parse, growth, quantile }} = await import("{module}");
            const grown = growth(parse('{before}'), parse('{after}'), "c_total", "m");
            const buckets = [[0.1, 50], [0.2, 100], [Infinity, 100]];
            return [[...grown], parse('{after}').get("x")[0], quantile(buckets, 0.5), quantile(buckets, 0.75),
                    quantile([[0.1, 0], [Infinity, 9]], 0.5), quantile([], 0.5)];
        }})()""")
        assert found[0] == [["a", 3], ["b", 2]]  # b began anew
        assert found[1] == {"labels": {"l": 'q"\\\n'}, "value": 1000}
        assert found[2:] == [0.1, pytest.approx(0.15), 0.1, None]
    finally:
        browser.close()
