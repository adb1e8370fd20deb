"""The console: a page on the management port that shows what the server does. Static files out of the package.

The page (console_page/) asks /overview and /metrics for all it shows, so what a client may read and change there is
what the token allows it anyway. Its parts are named by their content and may be cached for ever; the page itself not.
Everything comes from this server: no font, script or picture from elsewhere, and nothing inline (CSP).

Source: Content Security Policy Level 3 (W3C); RFC 8246 (immutable).
"""

import hashlib
from importlib import resources

from headrace.control import Message
from headrace.errors import NotFound

PAGE = "console.html"
PARTS = {"console.css": "text/css", "treemap.js": "text/javascript", "metrics.js": "text/javascript"}
SCRIPT = "console.js"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_FIELDS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
_FOR_EVER = {"cache-control": "public, max-age=31536000, immutable"}
_ASK_AGAIN = {"cache-control": "no-cache"}


class Console:
    """The files, read once; some 30 KB."""

    def __init__(self) -> None:
        self._answers: dict[str, Message] = {}
        names: dict[str, str] = {}
        for name, kind in PARTS.items():
            names[name] = self._enter(name, _read(name), kind)
        script = _read(SCRIPT)
        for name, named in names.items():
            script = script.replace(f'"./{name}"', f'"./{named}"')
        names[SCRIPT] = self._enter(SCRIPT, script, "text/javascript")
        page = _read(PAGE)
        for name, named in names.items():
            page = page.replace(f'"/console/{name}"', f'"/console/{named}"')
        self._answers[""] = _answer(page, "text/html", _ASK_AGAIN)

    def answer(self, name: str) -> Message:
        """The reply that carries the page (""), or one of its parts. Raises NotFound."""
        try:
            return self._answers[name]
        except KeyError:
            raise NotFound(f"the console has no part {name!r}; the page is at /console") from None

    def _enter(self, name: str, text: str, kind: str) -> str:
        """Make a part known under a name that tells its content; returns that."""
        stem, _, suffix = name.rpartition(".")
        named = f"{stem}.{hashlib.sha256(text.encode()).hexdigest()[:12]}.{suffix}"
        self._answers[named] = _answer(text, kind, _FOR_EVER)
        return named


def _read(name: str) -> str:
    return resources.files("headrace").joinpath("console_page").joinpath(name).read_text("utf-8")


def _answer(text: str, kind: str, cache: dict[str, str]) -> Message:
    return {"status": 200, "body": text, "content_type": f"{kind}; charset=utf-8", "headers": {**_FIELDS, **cache}}
