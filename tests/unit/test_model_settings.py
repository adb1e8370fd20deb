"""What a model says of its batches: in its class, in headrace.toml, and both together."""

import pytest

from headrace import Model
from headrace.errors import ModelError
from headrace.loaders import Options, load
from headrace.model_settings import ModelSettings, read_settings


class Delayed(Model):
    max_batch_delay_ms = 2.0


class Aimed(Model):
    target_latency_ms = 30


@pytest.fixture
def settings(tmp_path):
    def make(cls, toml):
        (tmp_path / "headrace.toml").write_text(toml)
        return ModelSettings.of(cls, tmp_path)

    return make


def test_batch_settings_of_the_file(settings):
    found = settings(Model, "max_batch_bytes = 1000\ntarget_latency_ms = 2.5\nmax_batch_size = 9")
    assert (found.max_batch_bytes, found.target_latency_ms, found.max_batch_size) == (1000, 2.5, 9)


@pytest.mark.parametrize(
    ("cls", "toml", "target", "delay"),
    [
        (Delayed, "target_latency_ms = 20", 20, None),
        (Aimed, "max_batch_delay_ms = 1", None, 1),
        (Aimed, "", 30, None),
        (Delayed, "max_batch_size = 1", None, 2.0),
    ],
)
def test_target_or_delay_of_the_file_replaces_that_of_the_class(settings, cls, toml, target, delay):
    found = settings(cls, toml)
    assert (found.target_latency_ms, found.max_batch_delay_ms) == (target, delay)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("target_latency_ms = 0", "target_latency_ms = 0 is wrong; it must be a number above 0, up to 60000"),
        ("target_latency_ms = -3.5", "target_latency_ms = -3.5 is wrong"),
        ("target_latency_ms = nan", "target_latency_ms = nan is wrong"),
        ("target_latency_ms = true", "target_latency_ms = True is wrong"),
        ('target_latency_ms = "20ms"', "target_latency_ms = '20ms' is wrong"),
        ("max_batch_bytes = 0", "max_batch_bytes = 0 is wrong; it must be an integer from 1 up, in bytes"),
        ("max_batch_bytes = 1.5", "max_batch_bytes = 1.5 is wrong"),
        ("max_batch_delay_ms = inf", "max_batch_delay_ms = inf is wrong; it must be a number from 0 to 60000"),
        (
            "target_latency_ms = 20\nmax_batch_delay_ms = 5",
            "target_latency_ms = 20 and max_batch_delay_ms = 5 exclude each other; keep the target",
        ),
        ("target_latency_ms = 20\nmax_batch_size = 1", "which max_batch_size = 1 rules out; set max_batch_size to 2"),
    ],
)
def test_bad_value_is_named_with_file_key_and_allowed_form(tmp_path, toml, message):
    (tmp_path / "headrace.toml").write_text(toml)
    with pytest.raises(ModelError, match=rf"headrace\.toml: .*{message}"):
        read_settings(tmp_path)


@pytest.mark.parametrize(("toml", "replicas"), [("replicas = 3", (3, 3)), ("replicas = [1, 4]", (1, 4)), ("", None)])
def test_replicas_are_a_number_or_a_range(settings, toml, replicas):
    assert settings(Model, toml).replicas == replicas
    assert settings(type("Own", (Model,), {"replicas": [2, 3]}), toml).replicas == (replicas or (2, 3))


@pytest.mark.parametrize("wrong", ["0", "[4, 1]", "[1]", "[0, 2]", "[1, 2, 3]", "true", "[1, true]", '"2"'])
def test_replicas_that_make_no_sense(tmp_path, wrong):
    (tmp_path / "headrace.toml").write_text(f"replicas = {wrong}")
    with pytest.raises(ModelError, match=r"must be an integer from 1 up, or \[least, most\] such as \[1, 4\]"):
        read_settings(tmp_path)


def test_class_that_contradicts_itself_is_named(settings):
    with pytest.raises(ModelError, match="class Both: target_latency_ms = 5 and max_batch_delay_ms = 1 exclude"):
        settings(type("Both", (Model,), {"target_latency_ms": 5, "max_batch_delay_ms": 1}), "")


@pytest.mark.parametrize(
    ("toml", "options", "target_ns"),
    [
        ("target_latency_ms = 20", {}, 20_000_000),
        ("target_latency_ms = 20", {"batch_delay_ms": 5.0}, None),  # asked for at registration
        ("target_latency_ms = 20", {"batch_size": 1}, None),
        ("", {}, None),
    ],
)
def test_loaded_model_is_tuned_where_it_has_a_target_and_a_choice(tmp_path, toml, options, target_ns):
    source = "from headrace import Model\nclass M(Model):\n    def predict(self, x):\n        return x\n"
    (tmp_path / "model.py").write_text(source)
    (tmp_path / "headrace.toml").write_text(toml + "\nmax_batch_bytes = 77\n")
    servable = load(tmp_path, None, Options("m", **options), 900)
    try:
        assert (servable.tuner.target_ns if servable.tuner else None) == target_ns
        assert servable.max_batch_bytes == 77
    finally:
        servable.unload()
