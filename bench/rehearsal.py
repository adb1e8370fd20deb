"""The same traffic through `headrace simulate` to Headrace and to the real Multi Model Server, and what became of it.

    python -m bench.rehearsal [--original MULTI-MODEL-SERVER] [--models 40] [--fit 8] [--requests 100] [--rounds 3]

Two boto3 clients send one seeded trace, Zipf over more models than fit, in its order; each answer is checked. Figures
are those of the simulator's own trace (docs/simulate.md). Two limits, one at a time:

    disk      the disk holds so many models, so the platform unloads; no load is ever refused
    memory    models themselves find no place when so many are loaded, and raise MemoryError: the container's to tell

Results go to bench/results/rehearsal.json, the table to docs/simulate.md. --original: the real command; without it the
one that `python -m bench.peers install` has made.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import numpy as np
from botocore.config import Config

from bench import environment
from bench.errors import BenchError
from bench.peers.multi_model_server.adapter import LOGGING
from bench.peers.peer import program
from headrace import archive
from headrace.simulate.disk import size_of

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "bench" / "results" / "rehearsal.json"
PAGE = ROOT / "docs" / "simulate.md"
MARK = "<!-- rehearsal -->"
NAMES = {"headrace": "Headrace", "original": "Multi Model Server 1.1.11"}
LIMITS = ("disk", "memory")
ENDPOINT = "rehearsal"
EXPONENT = 0.9
WIDTH = 256
CLIENTS = 2
START_S = 60.0
MEMORY_BYTES = 1 << 30  # what MemoryUtilization is a part of
# One model. A place is a file that a process which has loaded a model holds a lock on; the kernel drops it at its end.
HANDLER = """
import fcntl
import json
import os

import numpy as np


class Network:
    def __init__(self, directory):
        self.place = take_place()
        self.weights = np.load(os.path.join(directory, "weights.npy"))
        with open(os.path.join(directory, "number")) as file:
            self.number = float(file.read())

    def answer(self, body):
        x = np.asarray(json.loads(bytes(body))["instances"], np.float32)
        return json.dumps({"predictions": (np.maximum(x @ self.weights, 0).sum(axis=1) + self.number).tolist()})


def take_place():
    for place in range(int(os.environ["REHEARSAL_PLACES"])):
        file = open(os.path.join(os.environ["REHEARSAL_FOLDER"], str(place)), "w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
        else:
            return file
    raise MemoryError("every place is taken")


network = None


def handle(data, context):
    global network
    if network is None:
        network = Network(context.system_properties["model_dir"])
    if data is None:
        return None
    context.set_response_content_type(0, "application/json")
    return [network.answer(item["body"]) for item in data]
"""
MMS_CONFIG = """inference_address=http://127.0.0.1:{port}
management_address=http://127.0.0.1:{port}
default_workers_per_model=1
decode_input_request=false
preload_model=false
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", default=program("multi_model_server", "multi-model-server"))
    for name, default in (("models", 40), ("fit", 8), ("requests", 100), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--limits", nargs="+", choices=LIMITS, default=LIMITS)
    options = parser.parse_args()
    if not os.path.exists(options.original):
        print(f"rehearsal: no {options.original}: run `python -m bench.peers install`, or name it", file=sys.stderr)
        return 1
    kept = json.loads(RESULT.read_text())["limits"] if RESULT.exists() else {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            packages = Path(folder) / "packages"
            pack(packages, options.models)
            model_bytes = unpacked_bytes(packages, Path(folder) / "one")
            for limit in options.limits:
                kept[limit] = {name: [] for name in NAMES}
                for seed in range(options.rounds):
                    for name in NAMES:
                        place = Path(folder) / f"{limit}-{name}-{seed}"
                        place.mkdir()
                        found = one_round(place, packages, limit, name, seed, model_bytes, options)
                        kept[limit][name].append(found)
                        print(limit, name, seed, json.dumps(found), flush=True)
    except BenchError as error:
        print(f"rehearsal: {error}", file=sys.stderr)
        return 1
    sizes = {name: getattr(options, name) for name in ("models", "fit", "requests", "rounds")}
    words = [f"--{name} {value}" for name, value in sizes.items()]
    command = ["python", "-m", "bench.rehearsal", *words]
    result = {**sizes, "exponent": EXPONENT, "clients": CLIENTS, "limits": kept, "environment": None}
    result["environment"] = environment.describe(command)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    before, _, rest = PAGE.read_text().partition(MARK)
    _, _, after = rest.partition(MARK)
    PAGE.write_text(f"{before}{MARK}\n{table(result)}{MARK}{after}")
    return 0


def table(result: Mapping[str, Any]) -> str:
    """The result as a table in Markdown: medians, and what lies around them."""
    count, fit = result["requests"], result["fit"]
    lines = [
        f"{count} requests over {result['models']} models of which {fit} fit, on {result['environment']['cpus']} CPUs "
        f"(load average at the end {result['environment']['load_average']:.1f}); median of {result['rounds']} rounds "
        "(lowest..highest).",
        "",
        "| limit | container | answered | model found loaded | loads refused (507) | first answer of a model, ms | "
        "answer of a loaded model, ms | memory, MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for limit, by_name in result["limits"].items():
        for name, rounds in by_name.items():
            columns = [
                spread([each["good"] / count * 100 for each in rounds], "%"),
                spread([each["hits"] / count * 100 for each in rounds], "%"),
                spread([each["refused_loads"] for each in rounds]),
                spread([each["miss_p50_ms"] for each in rounds]),
                spread([each["hit_p50_ms"] for each in rounds]),
                spread([each["memory_bytes"] / (1 << 20) for each in rounds]),
            ]
            lines.append(f"| {limit} | {NAMES[name]} | {' | '.join(columns)} |")
    return "\n".join([*lines, "", f"Command: `{' '.join(result['environment']['command'])}`.", ""])


def spread(values: Sequence[float], unit: str = "") -> str:
    """ "5.0 (4.2..6.1)"; one number where all are the same."""
    texts = [f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in (min(values), max(values))]
    middle = statistics.median(values)
    text = f"{middle:.3g}" if middle < 100 else f"{middle:.0f}"
    return f"{text}{unit}" if texts[0] == texts[1] else f"{text}{unit} ({texts[0]}..{texts[1]})"


def one_round(
    place: Path,
    packages: Path,
    limit: str,
    name: str,
    seed: int,
    model_bytes: int,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """What became of one trace, from a fresh container."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, options.models + 1) ** EXPONENT
    order = rng.choice(options.models, options.requests, p=weights / weights.sum()).tolist()
    (place / "places").mkdir()
    flags = ["--disk-limit", str(model_bytes * options.fit + 4096)] if limit == "disk" else []
    variables = {
        "REHEARSAL_PLACES": str(options.fit if limit == "memory" else options.models),
        "REHEARSAL_FOLDER": str(place / "places"),
    }
    with simulating(place, packages, flags, name, options.original, variables) as url:
        began = time.monotonic()
        send(url, order)
        seconds = time.monotonic() - began
        with urllib.request.urlopen(f"{url}/metrics.json") as answer:
            data = {each["MetricName"]: each["StatisticValues"] for each in json.load(answer)["MetricData"]}
    records = [json.loads(line) for line in (place / "trace").read_text().splitlines()]
    good = [each for each in records if each["status"] == 200]
    errors: dict[str, int] = {}
    for each in records:
        if each["status"] != 200:
            key = f"{each['error']} {each['original_status']}"
            errors[key] = errors.get(key, 0) + 1
    return {
        "seconds": round(seconds, 3),
        "good": len(good),
        "errors": errors,
        "hits": sum(each["found"] == "hit" for each in records),
        "refused_loads": (place / "log").read_text().count(" load.refused "),
        "miss_p50_ms": percentile([each["total_ms"] for each in good if each["found"] == "miss"], 50),
        "miss_p90_ms": percentile([each["total_ms"] for each in good if each["found"] == "miss"], 90),
        "hit_p50_ms": percentile([each["model_ms"] for each in good if each["found"] == "hit"], 50),
        "hit_p90_ms": percentile([each["model_ms"] for each in good if each["found"] == "hit"], 90),
        "memory_bytes": int(data["MemoryUtilization"]["Maximum"] / 100 * MEMORY_BYTES),
        "loaded": int(data["LoadedModelCount"]["Maximum"]),
    }


def percentile(values: Sequence[float], percent: float) -> float:
    return round(float(np.percentile(values, percent)), 3) if values else float("nan")


def send(url: str, order: Sequence[int]) -> None:
    """All requests, in their order, by CLIENTS clients. Raises BenchError for a wrong answer; refusals are counted by
    the simulator."""
    body = json.dumps({"instances": [[0.0] * WIDTH]})
    feed = iter(order)
    lock = threading.Lock()
    wrong: list[str] = []

    def work() -> None:
        client = boto3.client(
            "sagemaker-runtime",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="any",
            aws_secret_access_key="any",
            config=Config(retries={"max_attempts": 0}, read_timeout=90),
        )
        while True:
            with lock:
                number = next(feed, None)
            if number is None:
                return
            try:
                answer = client.invoke_endpoint(
                    EndpointName=ENDPOINT, TargetModel=f"m{number}.tar.gz", ContentType="application/json", Body=body
                )
            except botocore.exceptions.ClientError:
                continue
            said = json.loads(answer["Body"].read())
            if said != {"predictions": [float(number)]}:
                wrong.append(f"model m{number} answered {said}")

    threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise BenchError(wrong[0])


@contextlib.contextmanager
def simulating(
    place: Path, packages: Path, flags: Sequence[str], name: str, original: str, variables: Mapping[str, str]
) -> Iterator[str]:
    """A simulator before the container of that name; gives its URL once it is in service."""
    port, container_port = free_port(), free_port()
    if name == "original":
        (place / "config.properties").write_text(MMS_CONFIG.format(port=container_port))
        (place / "log4j2.xml").write_text(LOGGING)
        container = [original, "--start", "--foreground", "--model-store", "/"]
        container += ["--mms-config", str(place / "config.properties"), "--log-config", str(place / "log4j2.xml")]
    else:
        container = [sys.executable, "-m", "headrace", "serve", "--log-level", "WARNING"]
    words = [sys.executable, "-m", "headrace", "simulate", "--packages", str(packages), "--endpoint", ENDPOINT]
    words += ["--port", str(port), "--container-port", str(container_port), "--trace", str(place / "trace")]
    words += ["--memory", str(MEMORY_BYTES), *flags, "--", *container]
    (place / "tmp").mkdir()
    with open(place / "log", "wb") as log:
        env = {**os.environ, **variables, "TMPDIR": str(place / "tmp")}
        process = subprocess.Popen(words, cwd=place, env=env, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + START_S
        while not is_up(url):
            if process.poll() is not None or time.monotonic() > end:
                raise BenchError(f"{name} did not come into service:\n{(place / 'log').read_text()[-3000:]}")
            time.sleep(0.05)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ping", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def pack(folder: Path, count: int) -> None:
    """Packages m0.tar.gz ... in *folder*."""
    folder.mkdir()
    source = folder.parent / "source"
    (source / "MAR-INF").mkdir(parents=True)
    np.save(source / "weights.npy", np.random.default_rng(7).standard_normal((WIDTH, WIDTH)).astype(np.float32))
    (source / "service.py").write_text(HANDLER)
    for number in range(count):
        manifest = {"runtime": "python", "model": {"modelName": f"m{number}", "handler": "service.py:handle"}}
        (source / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
        (source / "number").write_text(str(number))
        with tarfile.open(folder / f"m{number}.tar.gz", "w:gz", compresslevel=1) as archived:
            archived.add(source, arcname=".")


def unpacked_bytes(packages: Path, aside: Path) -> int:
    """Of one model, as the simulator's disk counts it."""
    aside.mkdir()
    archive.unpack(str(packages / "m0.tar.gz"), str(aside))
    return size_of(str(aside))


def free_port() -> int:
    """MMS takes no port from 32767 up."""
    for port in range(20_000, 32_000):
        with contextlib.closing(socket.socket()) as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port
    raise BenchError("no free port from 20000 to 31999")


_given: set[int] = set()

if __name__ == "__main__":
    sys.exit(main())
