"""The README's commands do what it says."""

import re
import shlex
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


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
