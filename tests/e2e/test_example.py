"""The curl line that `headrace serve` shows for the bundled model does what it promises, in a shell, as it stands."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import wait_until

from headrace import example


def run(line):
    """The answer to a curl line as a person would paste it; curl itself is asked to say what failed, and how."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not here")
    assert line.startswith("curl ")
    done = subprocess.run(["sh", "-c", f"{line} --silent --show-error --fail"], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_the_line_is_alone_on_standard_output_and_gets_the_digit(serve, host):
    if host == "::" and not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    server = serve(HEADRACE_HOST=host, SAGEMAKER_BASE_DIR="/nonexistent")
    wait_until(lambda: server.output, "no line on standard output")
    (line,) = server.output
    label = re.search(r"/digit-(\d)\.json ", line).group(1)
    assert f":{server.port}/" in line
    assert run(line) == {"predictions": [int(label)]}


def test_with_json_logs_it_is_an_event_and_standard_output_is_empty(serve, tmp_path):
    link = tmp_path / "a digit's model"
    link.symlink_to(example.BUNDLED)
    server = serve(f"seven={link}", HEADRACE_LOG_FORMAT="json")
    found = wait_until(lambda: server.find(r'.*"example".*'), "no event")
    line = json.loads(found[0])["command"]
    assert "/models/seven/invoke" in line
    assert run(line) == {"predictions": [7]}
    assert server.output == []


def test_other_models_are_served_without_it(serve, model_dir):
    source = "from headrace import Model\nclass Echo(Model):\n    def predict(self, x): return x\n"
    server = serve(model_dir("echo", source))
    assert server.stop() == 0
    assert server.output == []
