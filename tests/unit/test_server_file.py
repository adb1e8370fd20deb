"""server_file: each documented key of MMS's and TorchServe's configuration files, and what it becomes here."""

import pytest

from headrace import server_file
from headrace.config import ModelSpec
from headrace.errors import ConfigError
from headrace.server_file import MMS, TORCHSERVE


def read(dialect=MMS, environ=None, **found):
    return server_file.interpret(dialect, found, environ or {})


def values(file):
    return {name: value for name, (_, value) in file.settings.items()}


def test_each_key_that_is_a_setting_of_ours():
    file = read(
        inference_address="http://0.0.0.0:8090",
        management_address="http://[::1]:9000/",
        model_store="/models",
        load_models="a.mar, b=c.mar",
        default_workers_per_model="2",
        default_service_handler="svc.py:handle",
        decode_input_request="false",
        job_queue_size="7",
        max_request_size="6553500",
        max_response_size="70000",
        default_response_timeout="2",
        unregister_model_timeout="5",
        blacklist_env_vars=".*SECRET.*",
    )
    assert values(file) == {
        "host": "0.0.0.0",
        "port": 8090,
        "management_host": "::1",
        "management_port": 9000,
        "workers_per_model": 2,
        "default_handler": "svc.py:handle",
        "decode_input": False,
        "queue": 7,
        "max_request_bytes": 6553500,
        "max_response_bytes": 70000,
        "timeout_ms": 120_000,
        "unload_timeout_ms": 5000,
    }
    assert (file.model_store, file.models, file.hidden) == ("/models", ["a.mar", "b=c.mar"], ".*SECRET.*")
    assert file.settings["queue"] == ("job_queue_size", 7)
    assert file.notes == []


@pytest.mark.parametrize(("dialect", "timeout_ms"), [(MMS, 180_000), (TORCHSERVE, 3000)])
def test_the_response_timeout_is_in_minutes_for_mms_and_in_seconds_for_torchserve(dialect, timeout_ms):
    assert values(read(dialect, default_response_timeout="3")) == {"timeout_ms": timeout_ms}


def test_folders_of_log_files_are_named_as_having_no_meaning():
    (note,) = read(environ={"LOG_LOCATION": "/logs", "METRICS_LOCATION": "", "HOME": "/"}).notes
    assert note == ("log_files.without_meaning_here", {"variables": ["LOG_LOCATION"], "log": "standard error"})


def test_a_keystore_has_the_usual_password_unless_another_is_given():
    assert read(keystore="/k.p12").keystore_password == "changeit"
    assert read(keystore="/k.p12", keystore_pass="other").keystore_password == "other"


def test_the_response_timeout_in_seconds_wins_in_any_order():
    for keys in (
        ("default_response_timeout", "default_response_timeout_seconds"),
        ("default_response_timeout_seconds",),
    ):
        assert values(read(**dict.fromkeys(keys, "3"))) == {"timeout_ms": 3000}
    assert values(read(default_response_timeout_seconds="4", default_response_timeout="1")) == {"timeout_ms": 4000}


def test_keys_without_a_meaning_and_unknown_ones_are_named_once():
    file = read(vmargs="-Xmx1g", async_logging="true", number_of_netty_threads="1", queue="3")
    assert file.notes == [
        ("config_file.without_meaning_here", {"keys": ["async_logging", "number_of_netty_threads", "vmargs"]}),
        ("config_file.unknown", {"keys": ["queue"]}),
    ]


def test_problems_are_told_together():
    with pytest.raises(ConfigError) as caught:
        read(job_queue_size="many", inference_address="8080", blacklist_env_vars="(", max_request_size="1e6")
    assert sorted(line.split("=")[0] for line in str(caught.value).splitlines()) == [
        "blacklist_env_vars",
        "inference_address",
        "job_queue_size",
        "max_request_size",
    ]


def test_the_environment_beats_the_file_only_where_the_file_allows_it():
    environ = {"MMS_JOB_QUEUE_SIZE": "5", "TS_JOB_QUEUE_SIZE": "6", "MMS_VMARGS": "-Xmx1g"}
    assert values(read(MMS, environ, job_queue_size="1")) == {"queue": 1}
    assert values(read(MMS, environ, job_queue_size="1", enable_envvars_config="true")) == {"queue": 5}
    assert values(read(TORCHSERVE, environ, enable_envvars_config="true")) == {"queue": 6}


def test_values_are_substituted_from_the_environment():
    file = read(MMS, {"SAGEMAKER_HANDLER": "svc:handle"}, default_service_handler="$$SAGEMAKER_HANDLER$$")
    assert values(file) == {"default_handler": "svc:handle"}
    with pytest.raises(ConfigError, match="the environment has no SAGEMAKER_HANDLER"):
        read(default_service_handler="$$SAGEMAKER_HANDLER$$")


def test_two_settings_that_share_a_line_are_read_as_two():
    file = read(TORCHSERVE, enable_model_api="truedefault_response_timeout=60")
    assert values(file) == {"timeout_ms": 60_000}
    assert [event for event, _ in file.notes] == ["config_file.joined_line", "config_file.without_meaning_here"]


def test_torchserve_s_models():
    text = '{"m": {"0.9": {"minWorkers": 9}, "1.0": {"defaultVersion": true, "marName": "m.mar", "minWorkers": 1, '
    text += '"maxWorkers": 2, "batchSize": 4, "maxBatchDelay": 50, "responseTimeout": 3}}}'
    file = read(TORCHSERVE, models=text)
    completed = file.complete(ModelSpec("m", "/m"))
    assert completed == ModelSpec("m", "/m", None, 1, 2, batch_size=4, batch_delay_ms=50, timeout_ms=3000)
    assert file.complete(ModelSpec("other", "/m")) == ModelSpec("other", "/m")
    for broken in ("[]", "{", '{"m": 1}', '{"m": {}}', '{"m": {"1.0": {"batchSize": "x"}}}'):
        with pytest.raises(ConfigError, match="models="):
            read(TORCHSERVE, models=broken)


def test_which_file_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert server_file.find(MMS, None, {}) is None
    assert server_file.find(MMS, "sagemaker", {}) == "sagemaker"
    (tmp_path / "config.properties").write_text("")
    (tmp_path / "other").write_text("job_queue_size=3\n")
    assert server_file.find(MMS, None, {}) == "config.properties"
    assert server_file.find(MMS, "absent", {"MMS_CONFIG_FILE": "other"}) == "other"
    assert values(server_file.read(MMS, "other", {})) == {"queue": 3}
    for dialect, given, environ in (
        (MMS, "absent", {}),
        (MMS, None, {"MMS_CONFIG_FILE": "absent"}),
        (TORCHSERVE, "sagemaker", {}),
    ):
        with pytest.raises(ConfigError, match="no such file"):
            server_file.find(dialect, given, environ)


def test_the_built_in_file_for_sagemaker():
    file = server_file.read(MMS, "sagemaker", {"SAGEMAKER_BIND_TO_PORT": "9000", "SAGEMAKER_MAX_REQUEST_SIZE": "10"})
    assert values(file) == {
        "max_request_bytes": 10,
        "host": "0.0.0.0",
        "port": 9000,
        "management_host": "0.0.0.0",
        "management_port": 9000,
    }
