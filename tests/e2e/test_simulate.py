"""`headrace simulate` in front of `headrace serve`, asked with the real client of sagemaker-runtime."""

import concurrent.futures
import json
import re
import subprocess
import sys
import urllib.request

import botocore.exceptions
import pytest

from tests.e2e.conftest import WATCHDOG_S
from tests.e2e.simulated import ENDPOINT, as_json, invoke, pack, simulating

SERVE = ("--", sys.executable, "-m", "headrace", "serve")
# Says which model it is, and shows what reached it.
NATIVE = """
import os
from headrace import InferenceError, Model, Response

class Shown(Model):
    isolation = "shared"
    def load(self, directory):
        self.name = (directory / "name.txt").read_text()
        self.ballast = os.urandom({ballast})
    def handle(self, requests):
        return [self.answer(request) for request in requests]
    def answer(self, request):
        if bytes(request.body) == b'"fail"':
            return Response({{"error": "no such breed"}}, status=418)
        fields = {{key.lower(): value for key, value in request.headers.items()}}
        said = {{"X-Amzn-SageMaker-Custom-Attributes": "seen"}}
        return Response({{"name": self.name, "headers": fields}}, headers=said)
"""


def models(folder, count, ballast=1000):
    folder.mkdir()
    for index in range(count):
        pack(folder, f"m{index}.tar.gz", {"model.py": NATIVE.format(ballast=ballast), "name.txt": f"m{index}"})
    return folder


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    """A multi-model endpoint with three models, a folder of its packages, and a client."""
    folder = models(tmp_path_factory.mktemp("rehearsal") / "s3", 3)
    pack(folder, "team/broken.tar.gz", {"model.py": "import nothing_of_that_name\n"})
    (folder / "text.tar.gz").write_text("no archive")
    with simulating() as start:
        simulator = start("--packages", folder, *SERVE).ready()
        yield simulator, folder, simulator.client()


def test_boto3_gets_an_answer(rehearsal):
    _, _, client = rehearsal
    words = {
        "Accept": "application/json",
        "CustomAttributes": "trace-7",
        "InferenceId": "i-1",
        "SessionId": "NEW_SESSION",
    }
    answer = invoke(client, "m0.tar.gz", **words)
    assert (answer["InvokedProductionVariant"], answer["CustomAttributes"]) == ("AllTraffic", "seen")
    assert answer["ContentType"].startswith("application/json")
    assert answer["ResponseMetadata"]["RequestId"]
    shown = as_json(answer)
    assert shown["name"] == "m0"
    fields = shown["headers"]
    assert fields["x-amzn-sagemaker-target-model"] == "m0.tar.gz"
    assert fields["x-amzn-sagemaker-custom-attributes"] == "trace-7"
    assert fields["x-amzn-sagemaker-inference-id"] == "i-1"
    assert fields["x-amzn-sagemaker-session-id"] == "NEW_SESSION"
    assert not [
        name for name in fields if name in ("authorization", "x-amz-date", "user-agent", "amz-sdk-invocation-id")
    ]


def refused(client, *words, error="ClientError", **more):
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        invoke(client, *words, **more)
    assert type(caught.value).__name__ == error
    return caught.value.response


def test_what_a_model_refuses_is_a_model_error(rehearsal):
    _, _, client = rehearsal
    answer = refused(client, "m0.tar.gz", b'"fail"', error="ModelError")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert answer["OriginalStatusCode"] == 418
    assert json.loads(answer["OriginalMessage"]) == {"error": "no such breed"}
    assert answer["LogStreamArn"].endswith(f"log-group:/aws/sagemaker/Endpoints/{ENDPOINT}")
    assert "Received client error (418) from primary" in answer["Error"]["Message"]


def test_a_load_that_fails_is_a_model_error(rehearsal):
    _, _, client = rehearsal
    answer = refused(client, "team/broken.tar.gz", error="ModelError")
    assert answer["OriginalStatusCode"] == 500
    assert "nothing_of_that_name" in answer["OriginalMessage"]


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("ghost.tar.gz", "No such file"),
        ("../m0.tar.gz", "without `..`"),
        ("/etc/passwd", "relative path"),
        ("team", "no file"),
        ("text.tar.gz", "Failed to extract"),
        (None, "TargetModel is missing"),
    ],
)
def test_a_target_that_is_not_there_is_a_validation_error(rehearsal, target, says):
    _, _, client = rehearsal
    answer = refused(client, target, error="ValidationError")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert says in answer["Error"]["Message"]


def test_an_endpoint_or_variant_of_another_name_is_a_validation_error(rehearsal):
    _, _, client = rehearsal
    with pytest.raises(client.exceptions.ValidationError, match=r"Endpoint other of account 0+ not found"):
        client.invoke_endpoint(EndpointName="other", TargetModel="m0.tar.gz", Body=b"")
    assert "blue" in refused(client, "m0.tar.gz", error="ValidationError", TargetVariant="blue")["Error"]["Message"]


def test_a_body_may_have_six_mebibytes(rehearsal):
    _, _, client = rehearsal
    assert as_json(invoke(client, "m0.tar.gz", b" " * 6_291_456))["name"] == "m0"
    answer = refused(client, "m0.tar.gz", b" " * 6_291_457)
    assert (answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]) == (413, "413")


def test_what_is_cached_outlives_its_package(rehearsal):
    """SageMaker, "Add or Remove Models": the old version may be served until it is unloaded and deleted."""
    simulator, folder, client = rehearsal
    assert as_json(invoke(client, "m2.tar.gz"))["name"] == "m2"
    pack(folder, "m2.tar.gz", {"model.py": NATIVE.format(ballast=1), "name.txt": "new"})
    assert as_json(invoke(client, "m2.tar.gz"))["name"] == "m2"
    (folder / "m2.tar.gz").unlink()
    assert as_json(invoke(client, "m2.tar.gz"))["name"] == "m2"
    simulator.wait_for(r"package\.changed model=m2\.tar\.gz .*package=gone")


def test_one_load_for_many_requests(rehearsal):
    simulator, _, client = rehearsal
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        names = list(pool.map(lambda _: as_json(invoke(client, "m1.tar.gz"))["name"], range(16)))
    assert names == ["m1"] * 16
    assert len(simulator.find(r"simulate model\.loaded model=m1\.tar\.gz")) == 1


def test_a_streamed_answer_is_refused_by_name(rehearsal):
    _, _, client = rehearsal
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        client.invoke_endpoint_with_response_stream(EndpointName=ENDPOINT, Body=b"{}")
    assert caught.value.response["Error"]["Code"] == "UnknownOperationException"
    assert "it has POST /endpoints/" in caught.value.response["Error"]["Message"]


def test_headrace_bench_measures_through_it(rehearsal, tmp_path):
    simulator, _, _ = rehearsal
    (tmp_path / "names").write_text("m0\nm1\n")
    url = f"{simulator.url}/endpoints/{ENDPOINT}/invocations"
    flags = ["--models", str(tmp_path / "names"), "--header", "X-Amzn-SageMaker-Target-Model: {model}.tar.gz"]
    flags += ["--generate", "json:1x4", "--rate", "40", "--duration", "1s", "--warmup", "100ms", "--slo", "errors=0"]
    words = [sys.executable, "-m", "headrace", "bench", url, *flags, "--json", str(tmp_path / "report")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=WATCHDOG_S)
    assert done.returncode == 0, done.stdout + done.stderr
    shares = re.findall(r"model +(m\d): (\d+) sent, (\d+) good", done.stdout)
    assert {name for name, *_ in shares} == {"m0", "m1"}
    assert sum(int(good) for *_, good in shares) == sum(int(sent) for _, sent, _ in shares) > 30


def test_metrics_in_both_forms(rehearsal):
    simulator, _, client = rehearsal
    invoke(client, "m0.tar.gz")
    with urllib.request.urlopen(simulator.url + "/metrics.json") as answer:
        data = {each["MetricName"]: each for each in json.load(answer)["MetricData"]}
    assert data["ModelLoadingTime"]["Unit"] == "Microseconds"
    assert data["ModelLoadingTime"]["Namespace"] == "AWS/SageMaker"
    assert {"Name": "EndpointName", "Value": ENDPOINT} in data["Invocations"]["Dimensions"]
    hits = data["ModelCacheHit"]["StatisticValues"]
    assert 0 < hits["Sum"] < hits["SampleCount"]
    assert data["LoadedModelCount"]["StatisticValues"]["Maximum"] == len(simulator.find(r"simulate model\.loaded "))
    assert 0 < data["MemoryUtilization"]["StatisticValues"]["Maximum"] < 100
    assert 0 < data["DiskUtilization"]["StatisticValues"]["Maximum"] < 100
    with urllib.request.urlopen(simulator.url + "/metrics") as answer:
        text = answer.read().decode()
    assert f'ModelDownloadingTime_count{{EndpointName="{ENDPOINT}",VariantName="AllTraffic"}}' in text
