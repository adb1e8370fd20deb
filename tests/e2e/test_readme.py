"""What the README and docs/ tell a reader to type or to open is there, and the README's commands do what it says."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from bench import report

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_should_name_only_what_is_there(page):
    text = page.read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())
    typed = re.findall(r"`([^`\n]+)`", text) + re.findall(r"^(make .*)", text, re.MULTILINE)
    assert {command.split()[1] for command in typed if re.match(r"make \S", command)} <= targets
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    files = re.findall(r"`((?:engine|ext|tests|bench|docs)/[\w./-]+)`", text)
    absent = [name for name in files if "NAME" not in name and not (ROOT / name).exists()]
    absent += [link for link in links if link and not (page.parent / link).exists()]
    assert absent == []


def test_should_show_the_committed_figures():
    block = re.search(r"<!-- overhead -->\n(.*?)<!-- overhead -->", (ROOT / "README.md").read_text(), re.DOTALL).group(
        1
    )
    result = json.loads((ROOT / "bench" / "results" / "overhead.json").read_text())
    assert report.short(result) in block


def test_should_answer_the_curl_lines_of_the_readme(serve):
    block = re.search(r"<!-- tested -->\n```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    command, *curls = block.strip().split("\n")
    assert command.startswith("headrace serve digits=")
    server = serve("digits=" + str(ROOT / command.split("=")[1]))
    answers = []
    for line in curls:
        arguments = shlex.split(line.replace("localhost:8080", f"127.0.0.1:{server.port}"))
        done = subprocess.run([*arguments, "--silent", "--fail"], cwd=ROOT, capture_output=True, timeout=60, check=True)
        answers.append(done.stdout)
    assert answers[0] == b'{"predictions":[7]}'
    assert answers[1] == b'{"predictions":[0,1,2,3,4,5,6,7,8,9]}'
    assert answers[2] == b'{"predictions":[3]}'
