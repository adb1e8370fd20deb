"""settings and config: what wins over what, which defaults follow from which, and how mistakes are reported."""

import json
from pathlib import Path

import pytest

from headrace import config, machine, settings_table
from headrace.errors import ConfigError
from headrace.settings import SAGEMAKER_MARKERS
from headrace.settings import load as load_settings

MIB = 1 << 20
README = Path(__file__).parents[2] / "README.md"


def load(flags=None, **environ):
    return load_settings(flags, environ)


def value(name, flags=None, **environ):
    return getattr(load(flags, **environ).config, name)


def problems(flags=None, **environ) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(flags, **environ)
    return str(caught.value).splitlines()


@pytest.fixture
def machine_of(monkeypatch):
    """Pretends a number of usable CPUs."""

    def pretend(cpus: int) -> None:
        monkeypatch.setattr(machine, "usable_cpus", lambda: tuple(range(cpus)))
        monkeypatch.setattr(machine, "cpu_quota", lambda root="/": None)

    return pretend


def test_defaults_standalone(machine_of):
    machine_of(8)
    settings = load()
    chosen = settings.config
    assert (chosen.host, chosen.port, chosen.management_port) == ("127.0.0.1", 8080, 8081)
    assert (chosen.workers, chosen.frontends, chosen.pin, chosen.spin_us) == (7, 1, "auto", 100)
    assert (chosen.eviction, chosen.isolation, chosen.template_imports) == ("lru", "auto", ("numpy",))
    assert chosen.memory_budget_bytes == machine.memory_limit_bytes() * 80 // 100
    assert (chosen.arena_bytes, chosen.max_request_bytes, chosen.max_response_bytes) == (
        256 * MIB,
        100 * MIB,
        100 * MIB,
    )
    assert (chosen.queue, chosen.timeout_ms, chosen.retries) == (1000, 60_000, 1)
    assert (chosen.max_batch_size, chosen.max_batch_delay_ms) == (32, 0.0)
    assert (chosen.header_timeout_ms, chosen.body_timeout_ms, chosen.idle_timeout_ms) == (10_000, 30_000, 75_000)
    assert (chosen.write_timeout_ms, chosen.max_connections) == (30_000, 10_000)
    assert (chosen.log_level, chosen.log_format) == ("INFO", "text")
    assert (chosen.sagemaker, chosen.multi_model, chosen.models, chosen.model_store) == (False, False, (), None)
    assert not chosen.single_port
    assert set(settings.origin.values()) == {"default"}


def test_one_core_still_has_a_worker_and_does_not_spin(machine_of):
    machine_of(1)
    assert value("workers") == 1
    assert value("spin_us") == 0
    assert value("spin_us", HEADRACE_SPIN="20us") == 20


def test_two_free_ports_are_two_and_management_stays_on_the_loopback_address():
    settings = load(HEADRACE_PORT="0", HEADRACE_MANAGEMENT_PORT="0", HEADRACE_HOST="0.0.0.0")
    assert (settings.config.management_host, settings.config.single_port) == ("127.0.0.1", False)


def test_flag_beats_variable_beats_sagemaker_beats_file_beats_default():
    sources = {"HEADRACE_PORT": "2", "SAGEMAKER_BIND_TO_PORT": "3"}
    file = {"port": ("inference_address", 4)}
    found = []
    for flags, environ in [
        ({"port": "1"}, sources),
        ({}, sources),
        ({}, {"SAGEMAKER_BIND_TO_PORT": "3"}),
        ({}, {}),
    ]:
        settings = load_settings(flags, environ, file=file)
        found.append((settings.config.port, settings.origin["port"]))
    assert found == [
        (1, "--port"),
        (2, "HEADRACE_PORT"),
        (3, "SAGEMAKER_BIND_TO_PORT"),
        (4, "inference_address"),
    ]


def test_ready_values_are_in_the_field_s_own_unit():
    assert value("timeout_ms", {"timeout_ms": 1500}) == 1500
    assert value("timeout_ms", {"timeout_ms": "1500"}) == 1_500_000


@pytest.mark.parametrize("name", [name for name, item in config.KNOBS.items()])
def test_each_knob_can_be_set_by_its_variable_and_shows_as_it_is_written(name):
    text = {
        "host": "::1",
        "pin": "off",
        "memory_budget_bytes": "2GiB",
        "eviction": "none",
        "isolation": "process",
        "initialize_errors": "retry",
        "failed_start": "stay",
        "decode_input": "false",
        "max_download_bytes": "3GiB",
        "tls_ports": "both",
        "template_imports": "numpy,torch.nn",
        "arena_bytes": "512MiB",
        "max_request_bytes": "3MiB",
        "max_response_bytes": "5KiB",
        "max_batch_delay_ms": "2.5ms",
        "token_scope": "all",
        "access_log": "2.5%",
        "log_level": "WARNING",
        "log_format": "json",
    }.get(name, "9s" if name.endswith(("timeout_ms", "resident_ms", "idle_ms")) else "9")
    variable = config.KNOBS[name].metadata["variable"]
    settings = load(**{variable: text})
    assert config.show(name, getattr(settings.config, name)) == text
    assert settings.origin[name] == variable
    assert settings.log_fields()[name] == f"{text} (from {variable})"


@pytest.mark.parametrize("marker", SAGEMAKER_MARKERS)
def test_each_marker_turns_sagemaker_mode_on(marker):
    environ = {marker: {"SAGEMAKER_MULTI_MODEL": "false", "SAGEMAKER_SAFE_PORT_RANGE": "9-10"}.get(marker, "9")}
    settings = load(**environ)
    assert settings.config.sagemaker
    assert settings.origin["sagemaker"] == marker
    assert (settings.config.host, settings.config.single_port) == ("0.0.0.0", True)
    assert settings.config.management_port == settings.config.port
    assert not load(**{marker: ""}).config.sagemaker


def test_names_that_notebooks_set_are_no_sagemaker_mode():
    assert not value("sagemaker", SAGEMAKER_REGION="eu-west-1", SAGEMAKER_SPACE_NAME="x", SAGEMAKER_BASE_DIR="/x")


def test_a_model_directory_found_by_the_caller_turns_sagemaker_mode_on():
    model = config.ModelSpec("model", "/opt/ml/model")
    settings = load_settings({}, {}, sagemaker=True, models=(model,), origin={"models": "/opt/ml/model"})
    assert (settings.config.host, settings.config.models) == ("0.0.0.0", (model,))
    assert settings.log_fields()["models"] == "model (from /opt/ml/model)"


def test_multi_model_mode_leaves_eviction_to_the_platform():
    assert value("multi_model", SAGEMAKER_MULTI_MODEL="true")
    assert value("eviction", SAGEMAKER_MULTI_MODEL="true") == "none"
    assert value("eviction", SAGEMAKER_MULTI_MODEL="true", HEADRACE_EVICTION="LRU") == "lru"
    assert value("eviction", SAGEMAKER_BIND_TO_PORT="1") == "lru"
    assert problems(SAGEMAKER_MULTI_MODEL="maybe") == [
        "SAGEMAKER_MULTI_MODEL='maybe' must be true or false (or yes/no, on/off, 1/0)"
    ]


@pytest.mark.parametrize(
    ("variable", "text", "field", "expected"),
    [
        ("SAGEMAKER_BIND_TO_PORT", "9090", "port", 9090),
        ("SAGEMAKER_MODEL_SERVER_WORKERS", "3", "workers", 3),
        ("SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS", "90", "timeout_ms", 90_000),
        ("SAGEMAKER_MODEL_SERVER_TIMEOUT", "20", "timeout_ms", 20 * 60_000),
        ("SAGEMAKER_MODEL_SERVER_TIMEOUT", "3600", "timeout_ms", 3600 * 60_000),
        ("SAGEMAKER_MAX_PAYLOAD_IN_MB", "6", "max_request_bytes", 6 * MIB),
        ("SAGEMAKER_CONTAINER_LOG_LEVEL", "10", "log_level", "DEBUG"),
        ("SAGEMAKER_CONTAINER_LOG_LEVEL", "20", "log_level", "INFO"),
        ("SAGEMAKER_CONTAINER_LOG_LEVEL", "30", "log_level", "WARNING"),
        ("SAGEMAKER_CONTAINER_LOG_LEVEL", "50", "log_level", "ERROR"),
        ("SAGEMAKER_CONTAINER_LOG_LEVEL", "warning", "log_level", "WARNING"),
    ],
)
def test_sagemaker_names(variable, text, field, expected):
    settings = load(**{variable: text})
    assert getattr(settings.config, field) == expected
    assert settings.origin[field] == variable


def test_of_both_time_outs_the_one_in_seconds_wins():
    assert value("timeout_ms", SAGEMAKER_MODEL_SERVER_TIMEOUT="60", SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS="7") == 7000


def test_two_free_ports_standalone_but_one_in_sagemaker_mode():
    assert value("management_port", HEADRACE_PORT="0") == 0
    assert not load(HEADRACE_PORT="0").config.single_port
    assert load(HEADRACE_PORT="0", SAGEMAKER_MULTI_MODEL="true").config.single_port
    assert load(HEADRACE_PORT="8000", HEADRACE_MANAGEMENT_PORT="8000").config.single_port


def test_the_management_api_does_not_reach_the_inference_port_by_accident():
    (problem,) = problems(HEADRACE_PORT="8081")
    assert problem.startswith("HEADRACE_PORT=8081 is the default management port; set HEADRACE_MANAGEMENT_PORT")
    assert load(HEADRACE_PORT="8081", HEADRACE_MANAGEMENT_PORT="8081").config.single_port
    assert load(HEADRACE_PORT="8081", SAGEMAKER_MULTI_MODEL="true").config.single_port


@pytest.mark.parametrize(("text", "share"), [("50%", 50), ("100%", 100), ("12.5%", 12.5), (" 80 % ", 80)])
def test_the_budget_as_a_share(text, share):
    assert value("memory_budget_bytes", HEADRACE_MEMORY_BUDGET=text) == int(machine.memory_limit_bytes() * share / 100)


@pytest.mark.parametrize("text", ["0%", "101%", "-5%", "%", "5%%", "lots"])
def test_what_is_no_budget(text):
    (problem,) = problems(HEADRACE_MEMORY_BUDGET=text)
    assert problem.startswith(f"HEADRACE_MEMORY_BUDGET={text!r} must be bytes, or a number with KiB")
    assert problem.endswith("or a share of the memory from 1% to 100%")


def test_a_small_arena_shrinks_the_default_limits():
    chosen = load(HEADRACE_ARENA="64MiB").config
    assert (chosen.max_request_bytes, chosen.max_response_bytes) == (32 * MIB, 32 * MIB)


def test_a_large_payload_grows_the_default_arena():
    assert value("arena_bytes", HEADRACE_MAX_REQUEST="1GiB") == 2048 * MIB
    assert value("arena_bytes", SAGEMAKER_MAX_PAYLOAD_IN_MB="200") == 400 * MIB
    assert value("arena_bytes", HEADRACE_MAX_RESPONSE="4KiB") == 256 * MIB


def test_a_payload_and_an_arena_that_contradict_each_other():
    assert problems({"max_request_bytes": "100MiB"}, HEADRACE_ARENA="64MiB", HEADRACE_MAX_RESPONSE="32MiB") == [
        "--max-request=100MiB does not fit into half of HEADRACE_ARENA=64MiB; raise the arena to 200MiB or lower the "
        "limit to 32MiB"
    ]


def test_pinned_cpu_lists_decide_the_number_of_workers(machine_of):
    machine_of(8)
    assert value("workers", HEADRACE_PIN="2-3;4-5") == 2
    assert value("workers", HEADRACE_PIN="2-3;4-5", HEADRACE_WORKERS="2") == 2
    assert problems(HEADRACE_PIN="2-3;4-5", HEADRACE_WORKERS="3") == [
        "HEADRACE_PIN=2-3;4-5 has 2 CPU lists, but HEADRACE_WORKERS=3; give one list a worker"
    ]
    assert problems(HEADRACE_PIN="6-9") == [
        "HEADRACE_PIN=6-9 names CPUs that this process may not use: 8,9; usable: 0,1,2,3,4,5,6,7"
    ]


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("HEADRACE_PORT", "65536", "must be from 0 to 65535"),
        ("HEADRACE_PORT", "", "must be a whole number"),
        ("HEADRACE_PORT", "80a", "must be a whole number"),
        ("HEADRACE_MANAGEMENT_PORT", "-1", "must be from 0 to 65535"),
        ("HEADRACE_WORKERS", "0", "must be from 1 to 1000"),
        ("HEADRACE_WORKERS", "1001", "must be from 1 to 1000"),
        ("HEADRACE_FRONTENDS", "65", "must be from 1 to 64"),
        ("HEADRACE_HOST", "http://x", "must be an IP address or a host name, without scheme, port or brackets"),
        ("HEADRACE_HOST", "127.0.0.1:80", "must be an IP address or a host name, without scheme, port or brackets"),
        ("HEADRACE_HOST", "", "must be an IP address or a host name, without scheme, port or brackets"),
        ("HEADRACE_ARENA", "1KiB", "must be from 1MiB to 64GiB"),
        ("HEADRACE_MAX_REQUEST", "3GiB", "must be from 1KiB to 2GiB"),
        ("HEADRACE_MEMORY_BUDGET", "512", "must be at least 1MiB"),
        ("HEADRACE_TIMEOUT", "0", "must be from 1ms to 8760h"),
        ("HEADRACE_TIMEOUT", "1w", "must be a number with us, ms, s, m or h, such as 250ms (a bare number: s)"),
        ("HEADRACE_MAX_BATCH_DELAY", "2m", "must be from 0ms to 60s"),
        ("HEADRACE_RETRIES", "1.5", "must be a whole number"),
        ("HEADRACE_EVICTION", "fifo", "must be one of lru, none"),
        ("HEADRACE_LOG_LEVEL", "LOUD", "must be one of DEBUG, INFO, WARNING, ERROR"),
        (
            "HEADRACE_TEMPLATE_IMPORTS",
            "numpy,a-b",
            "must be module names apart by commas, such as numpy,torch; 'a-b' is none",
        ),
        ("SAGEMAKER_BIND_TO_PORT", "70000", "must be from 0 to 65535"),
        ("SAGEMAKER_MODEL_SERVER_TIMEOUT", "1.5", "must be a whole number"),
        ("SAGEMAKER_CONTAINER_LOG_LEVEL", "LOUD", "must be one of DEBUG, INFO, WARNING, ERROR"),
    ],
)
def test_what_is_refused_and_what_is_said(variable, text, message):
    assert problems(**{variable: text}) == [f"{variable}={text!r} {message}"]


def test_an_unreadable_pin_says_where():
    (problem,) = problems(HEADRACE_PIN="0;x")
    assert problem.startswith("HEADRACE_PIN='0;x' must be auto, off, or CPU lists")
    assert "worker 1" in problem


def test_an_unknown_name_gets_a_suggestion():
    assert problems(HEADRACE_MAX_REQEUST="1") == [
        "HEADRACE_MAX_REQEUST is no setting; did you mean HEADRACE_MAX_REQUEST?"
    ]
    assert problems(HEADRACE_XYZZY="1") == [
        "HEADRACE_XYZZY is no setting; the known ones are listed by `headrace serve --help`"
    ]
    assert load(HEADRACE_BUILD="debug", HEADRACES="1").config.port == 8080


def test_kubernetes_service_links_are_explained():
    found = problems(HEADRACE_PORT="tcp://10.0.0.1:80", HEADRACE_SERVICE_HOST="10.0.0.1", HEADRACE_PORT_80_TCP_ADDR="x")
    assert len(found) == 3
    assert all("enableServiceLinks: false" in problem for problem in found)


def test_all_problems_are_reported_together_and_none_follows_from_another():
    found = problems(
        {"workers": "many"},
        HEADRACE_PROT="1",
        HEADRACE_TIMEOUT="soon",
        HEADRACE_ARENA="64MiB",
        HEADRACE_MAX_REQUEST="64MiB",
        HEADRACE_MAX_RESPONSE="huge",
        HEADRACE_PIN="0;0;0;0",
    )
    assert [problem.split("=")[0].split(" ")[0] for problem in found] == [
        "--workers",
        "HEADRACE_MAX_RESPONSE",
        "HEADRACE_TIMEOUT",
        "HEADRACE_PROT",
        "HEADRACE_MAX_REQUEST",
    ]


def test_a_long_value_is_cut_in_the_message():
    (problem,) = problems(HEADRACE_PORT="9" * 5000)
    assert len(problem) < 200


def test_a_field_that_does_not_exist_is_a_bug_of_the_caller():
    with pytest.raises(TypeError, match="prot"):
        load_settings({"prot": "1"}, {})


def test_the_config_travels_as_json():
    models = (config.ModelSpec("a", "/a"), config.ModelSpec("b", "/b", "service:handle"))
    chosen = load_settings({"template_imports": "numpy,torch"}, {}, models=models, model_store="/").config
    assert config.Config.from_dict(json.loads(json.dumps(chosen.asdict()))) == chosen
    secret = load_settings({}, {}, keystore=("/k.p12", "pass")).config
    assert [secret.asdict(with_secrets=which)["tls_keystore_password"] for which in (False, True)] == ["", "pass"]


def test_the_config_of_another_build_is_refused():
    with pytest.raises(TypeError, match="new_knob"):
        config.Config.from_dict({**config.Config().asdict(), "new_knob": 1})


def test_the_config_is_frozen():
    with pytest.raises(AttributeError):
        config.Config().port = 1


def test_the_table_has_a_row_for_each_knob():
    rows = settings_table.render().splitlines()
    assert len(rows) == len(config.KNOBS) + 2
    assert all(row.count(" | ") == 2 for row in rows[2:])


@pytest.mark.skipif(not README.exists(), reason="no README in this tree")
def test_the_readme_s_table_is_up_to_date():
    parts = README.read_text().split("<!-- settings -->")
    assert len(parts) == 3, "README.md must have the table between two <!-- settings --> lines"
    assert parts[1].strip() == settings_table.render(), "paste the output of python -m headrace.settings_table"


@pytest.mark.parametrize(
    ("text", "share", "shown"),
    [
        ("off", 0, "off"),
        ("On", 1, "on"),
        ("1%", 0.01, "1%"),
        ("0.01", 0.01, "1%"),
        ("0", 0, "off"),
        ("12.5 %", 0.125, "12.5%"),
    ],
)
def test_a_share_is_a_word_a_percentage_or_a_number(text, share, shown):
    assert value("access_log", HEADRACE_ACCESS_LOG=text) == pytest.approx(share)
    assert config.show("access_log", value("access_log", HEADRACE_ACCESS_LOG=text)) == shown


@pytest.mark.parametrize("text", ["", "5", "101%", "-1%", "sometimes", "1e-3"])
def test_what_is_no_share_is_refused_with_what_would_be_one(text):
    (problem,) = problems(HEADRACE_ACCESS_LOG=text)
    assert problem.startswith(f"HEADRACE_ACCESS_LOG={text!r} must be off, on, or a share of all")
