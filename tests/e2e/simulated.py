"""`headrace simulate` for tests: started on free ports, asked with boto3, and ended with all that it started."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading

import boto3
import psutil
from botocore.config import Config

from tests.e2e.conftest import WATCHDOG_S, is_alive, wait_until

ENDPOINT = "rehearsal"


class Simulator:
    """arguments: flags and the container. ready() waits until the endpoint is in service."""

    def __init__(self, *arguments, **environment):
        env = {
            key: value for key, value in os.environ.items() if not key.startswith(("HEADRACE_", "SAGEMAKER_", "AWS_"))
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "headrace", "simulate", "--endpoint", ENDPOINT, "--port", "0", *map(str, arguments)],
            env=env | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines = []
        self.reader = threading.Thread(target=self._follow, daemon=True)
        self.reader.start()
        self.url = ""

    def _follow(self):
        with self.process.stdout as stream:
            for line in stream:
                self.lines.append(line.rstrip("\n"))

    @property
    def log(self):
        return "\n".join(self.lines)

    def find(self, pattern):
        return re.findall(pattern, self.log)

    def wait_for(self, pattern, times=1):
        """Until the log has it so often."""
        wait_until(lambda: len(self.find(pattern)) >= times, f"{pattern} in\n{self.log}")

    def ready(self):
        ends = lambda: self.process.poll() is not None  # noqa: E731
        wait_until(lambda: self.find(r"container\.in_service") or ends(), f"not in service:\n{self.log}")
        assert not ends(), self.log
        self.url = self.find(r"listening endpoint=\S+ url=(\S+)")[0]
        return self

    def client(self, **config):
        return boto3.client(
            "sagemaker-runtime",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="dummy",
            aws_secret_access_key="dummy",
            config=Config(retries={"max_attempts": 0}, read_timeout=WATCHDOG_S, max_pool_connections=64, **config),
        )

    def container(self):
        """The container's first process."""
        return psutil.Process(int(self.find(r"container\.started pid=(\d+)")[-1]))

    def ended(self):
        """The exit status of one that ends by itself."""
        status = self.process.wait(WATCHDOG_S)
        self.reader.join(WATCHDOG_S)
        return status

    def stop(self):
        """SIGINT; the exit status. Fails when a process stays behind."""
        family = []
        if self.process.poll() is None:
            family = psutil.Process(self.process.pid).children(recursive=True)
            self.process.send_signal(signal.SIGINT)
        status = self.ended()
        wait_until(lambda: not any(map(is_alive, family)), f"left behind:\n{self.log}")
        return status


@contextlib.contextmanager
def simulating():
    """start(*arguments) gives a Simulator; each must end with status 0 and without a traceback of its own."""
    started = []

    def start(*arguments, **environment):
        started.append(Simulator(*arguments, **environment))
        return started[-1]

    try:
        yield start
        statuses = [one.stop() for one in started]
    except BaseException:
        for one in started:
            one.process.send_signal(signal.SIGTERM)
            one.process.wait(WATCHDOG_S)
            print(one.log)
        raise
    assert statuses == [0] * len(started), "\n".join(one.log for one in started)
    assert not [line for one in started for line in one.lines if ".broke" in line], started[0].log


def pack(folder, target, files):
    """A model package of these files, {name: text or bytes}, at *target* below the folder."""
    path = folder / target
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def invoke(client, target=None, body=b"{}", **words):
    """The answer of boto3's invoke_endpoint, its body read."""
    if target is not None:
        words["TargetModel"] = target
    answer = client.invoke_endpoint(EndpointName=ENDPOINT, ContentType="application/json", Body=body, **words)
    answer["Body"] = answer["Body"].read()
    return answer


def as_json(answer):
    return json.loads(answer["Body"])
