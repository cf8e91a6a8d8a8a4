# SPDX-License-Identifier: Apache-2.0
"""func.yaml and the options of Deploy."""

import json
from pathlib import Path
from typing import Any

import pytest
from samples import ROOT, function

from boesfsd import manifest, plan, units
from boesfsd.errors import BoesError
from boesfsd.manifest import Manifest, parse
from boesfsd.model import PolicyBlock, PolicyFiles, PolicyProgram, PolicySource, Ports, Settings

HEAD = "schema_version: 20180708\n"
FN = """
schema_version: 20180708
name: hello
version: 0.0.12
runtime: python
build_image: fnproject/python:3.12-dev
run_image: fnproject/python:3.12
cmd: handler
entrypoint: /python/bin/fdk '/function/my func.py'
content_type: text/plain
type: sync
memory: 256
timeout: 60
idle_timeout: 90
config:
  PORT: 8080
  DEBUG: true
  TEXT: hello
annotations:
  a: {b: [1]}
build: [make]
expects:
  config:
  - name: NEEDED
  - name: WANTED
    required: false
triggers:
- {name: hello, type: http, source: /hello}
signing_details: {signing_algorithm: x}
deploy: {oci: {}}
"""


def refusal(text: str) -> str:
    with pytest.raises(BoesError) as refused:
        parse(text)
    assert refused.value.code == "InvalidManifest"
    return str(refused.value)


def refused_options(given: dict[str, Any]) -> str:
    with pytest.raises(BoesError) as refused:
        manifest.check_options(given)
    assert refused.value.code == "InvalidArgs"
    return str(refused.value)


def settings(text: str = "", **given: Any) -> Settings:
    manifest.check_options(given)
    return manifest.settings(parse(HEAD + text), given)


# --- what Fn writes


def test_all_of_fns_keys_are_understood() -> None:
    read = parse(FN)
    assert read.name == "hello"
    assert read.command == ("/python/bin/fdk", "/function/my func.py", "handler")
    assert read.required_config == ("NEEDED",)
    assert manifest.settings(read, {}) == Settings(
        runtime="python",
        memory=256,
        timeout=60,
        idle_timeout=90,
        config={"PORT": "8080", "DEBUG": "true", "TEXT": "hello"},
    )


def test_the_example_is_valid() -> None:
    assert manifest.read(ROOT / "examples/hello-python/func.yaml").name == "hello-python"


def test_zero_means_the_default_as_in_fn() -> None:
    assert settings("memory: 0\ntimeout: 0\nidle_timeout: 0") == Settings()


# --- what is wrong


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "must be a map of keys, is empty"),
        ("- a", "must be a map of keys, is list"),
        ("hello", "must be a map of keys, is str"),
        ("name: x", "'schema_version' is a required property"),
        ("schema_version: 20180707", "schema_version: 20180708 was expected"),
        (HEAD + "memory: lots", "memory: 'lots' is not of type 'integer'"),
        (HEAD + "memory: true", "memory: True is not of type 'integer'"),
        (HEAD + "memory: 8193", "memory: 8193 is greater than the maximum of 8192"),
        (HEAD + "memory: -1", "memory: -1 is less than the minimum of 0"),
        (HEAD + "timeout: 301", "timeout: 301 is greater"),
        (HEAD + "idle_timeout: 3601", "idle_timeout: 3601 is greater"),
        (HEAD + "concurrency: 0", "concurrency: 0 is less"),
        (HEAD + "cpu: 0", "cpu: 0 is less than or equal"),
        (HEAD + "cpuset: 0 1", "cpuset: "),
        (HEAD + "network: bridge", "network: 'bridge' is not one of"),
        (HEAD + "runtime: ../x", "runtime: '../x' does not match"),
        (HEAD + "config: [A]", "config: ['A'] is not of type 'object'"),
        (HEAD + "config: {A: [1]}", "config.A: [1] is not of type"),
        (HEAD + "config: {A B: x}", "config: 'A B' does not match"),
        (HEAD + "config: {A: null}", "config.A: None is not of type"),
        (HEAD + "ports: {connect: [70000]}", "ports.connect.0: 70000 is greater"),
        (HEAD + "triggers: [{name: x, type: kafka, source: /}]", "triggers.0.type: 'kafka' is not one of"),
        (HEAD + "triggers: [{name: x, type: http, source: a}]", "triggers.0.source: 'a' does not match"),
        (HEAD + "name: 7", "name: 7 is not of type 'string'"),
        (HEAD + "entrypoint: a 'b", "entrypoint: No closing quotation"),
        (HEAD + "replace: true", "unknown key replace"),
        (HEAD + "dry-run: true", "unknown key dry-run"),
        (HEAD + "memroy: 1\ncolour: 2", "unknown key colour, memroy"),
        (HEAD + "ports: {conect: [1]}", "unknown key conect in ports"),
        (HEAD + "triggers: [{name: x, type: http, source: /, z: 1}]", "unknown key z in triggers.0"),
        (HEAD + "'7': x", "unknown key 7"),
    ],
)
def test_a_wrong_key_or_value_is_named(text: str, says: str) -> None:
    message = refusal(text)
    assert message.startswith("func.yaml: ")
    assert says in message


def test_an_unknown_key_is_answered_with_the_known_ones() -> None:
    assert "Hint: known are annotations, build, " in refusal(HEAD + "memroy: 1")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (HEAD + "name: [a\n", "line 3, column 1"),
        (HEAD + "a: b: c\n", "line 2, column 5"),
        (HEAD + "\tname: x\n", "line 2, column 1"),
        (HEAD + "name: 'x\n", "line 3, column 1"),
        (HEAD + "---\nname: x\n", "line 2, column 1"),
        (HEAD + "name: !!python/object:os.system x\n", "line 2, column 7"),
        (HEAD + "{[a]: b}", "line 2"),
    ],
)
def test_broken_yaml_is_told_with_its_line(text: str, where: str) -> None:
    assert refusal(text).startswith(f"func.yaml, {where}")


@pytest.mark.parametrize("text", ["config: &a {A: x}\nannotations: *a", "annotations: &a [*a]", "name: *nowhere"])
def test_aliases_are_refused_with_their_line(text: str) -> None:
    message = refusal(HEAD + text)
    assert "line " in message
    assert "aliases are not allowed" in message


@pytest.mark.parametrize(
    "text",
    [
        "annotations: " + "[" * 5000,
        "annotations: " + "{a: " * 5000,
        "memory: !!int ''",
        "memory: !!int '-'",
        "cpu: !!float x",
        "name: !!timestamp x",
        "name: !!bool x",
        "name: !!binary é",
        "name: 2020-13-45",
        "name: !!omap [x]",
        "name: \0",
        "name: \ud800",
        "? {a: b}\n: c",
        "<<: 7",
        "memory: 99999999999999999999999999999999999999",
        "memory: " + "9" * 5000,
    ],
)
def test_hostile_yaml_is_refused_and_nothing_else_happens(text: str) -> None:
    assert refusal(HEAD + text)


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
def test_cpu_is_a_number_of_cpus(value: str) -> None:
    """NaN passes every comparison of JSON schema; units.drop_ins would then fail after the store has the row."""
    assert "cpu" in refusal(HEAD + f"cpu: {value}")


def test_cpu_nan_is_refused_as_an_option_too() -> None:
    assert "cpu" in refused_options({"cpu": float("nan")})


@pytest.mark.parametrize("key", ["memory", "tasks", "files", "tmp_size", "timeout", "concurrency"])
def test_a_whole_number_written_as_a_float_is_refused_or_taken_as_the_integer(key: str) -> None:
    """JSON schema says that 128.0 is an integer; the plan, the unit and D-Bus do not."""
    try:
        value = getattr(settings(f"{key}: 128.0"), key)
    except BoesError:
        return
    assert isinstance(value, int)


def test_ports_written_as_floats_are_refused_or_taken_as_integers() -> None:
    try:
        ports = settings("network: host\nports: {connect: [80.0]}").ports
    except BoesError:
        return
    assert ports.connect is not None
    assert all(isinstance(port, int) for port in ports.connect)


@pytest.mark.parametrize("name", ["1", "null", "true", "1.5"])
@pytest.mark.parametrize("key", ["config", "environment"])
def test_the_name_of_a_variable_is_text(key: str, name: str) -> None:
    column = len(key) + 4
    assert f"func.yaml, line 2, column {column}: the key {name} is no text" in refusal(HEAD + f"{key}: {{{name}: x}}")


@pytest.mark.parametrize("name", ['"1"', '"1.5"', '"A\\n"', '""', '"é"', '"A=B"'])
@pytest.mark.parametrize("key", ["config", "environment"])
def test_the_name_of_a_variable_is_letters_digits_and_underscores(key: str, name: str) -> None:
    assert key in refusal(HEAD + f"{key}: {{{name}: x}}")


@pytest.mark.parametrize("text", ["3-1", '"0\\n"', "0,3-1"])
def test_a_cpuset_that_systemd_would_drop_is_refused(text: str) -> None:
    """systemd ignores AllowedCPUs=3-1 with a warning: the function would run on every CPU."""
    with pytest.raises(BoesError, match="cpuset"):
        settings(f"cpuset: {text}")


def test_a_cpu_number_beyond_the_kernels_highest_is_refused() -> None:
    with pytest.raises(BoesError, match=r"cpuset: 0-8192"):
        settings("cpuset: 0-8192")


def test_a_runtime_with_a_newline_is_refused() -> None:
    assert "runtime" in refusal(HEAD + 'runtime: "python\\n"')


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(BoesError, match=r"There is no func\.yaml"):
        manifest.read(tmp_path / "func.yaml")


def test_a_file_over_256_kib_is_refused(tmp_path: Path) -> None:
    (tmp_path / "func.yaml").write_text(HEAD + "#" * (256 << 10))
    with pytest.raises(BoesError, match="over 256 KiB"):
        manifest.read(tmp_path / "func.yaml")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "func.yaml").write_bytes(b"name: \xff")
    with pytest.raises(BoesError, match=r"Cannot read func\.yaml"):
        manifest.read(tmp_path / "func.yaml")


# --- ports and network


def test_ports_need_a_network() -> None:
    assert "ports" in refusal(HEAD + "ports: {connect: [80]}")
    assert "ports" in refusal(HEAD + "network: none\nports: {bind: []}")


def test_options_cannot_take_the_network_from_under_ports() -> None:
    with pytest.raises(BoesError, match="ports"):
        settings("network: host\nports: {connect: [80]}", network="none")
    with pytest.raises(BoesError, match="ports"):
        settings("", ports={"connect": [80]})


def test_ports_are_sorted_and_counted_once() -> None:
    assert settings("network: host\nports: {connect: [443, 80, 443], bind: []}").ports == Ports((80, 443), ())


def test_ports_not_given_stay_open() -> None:
    assert settings("network: host\nports: {bind: [8080]}").ports == Ports(None, (8080,))


# --- merge


def test_options_win_over_func_yaml_key_by_key() -> None:
    merged = settings("memory: 64\ntasks: 9\nconfig: {A: 1, B: 1}", memory=32, config={"B": "2", "C": "3"})
    assert (merged.memory, merged.tasks, merged.config) == (32, 9, {"A": "1", "B": "2", "C": "3"})


def test_options_merge_the_environment_too() -> None:
    assert settings("environment: {A: 1}", environment={"B": "2"}).environment == {"A": "1", "B": "2"}


def test_replace_and_dry_run_are_options_but_no_settings() -> None:
    assert settings("", replace=True, **{"dry-run": True}) == Settings()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"colour": "red"}, "unknown key colour"),
        ({"idle-timeout": 3}, "unknown key idle-timeout"),
        ({"name": "x"}, "unknown key name"),
        ({"memory": "128"}, "memory: '128' is not of type 'integer'"),
        ({"replace": 1}, "replace: 1 is not of type 'boolean'"),
        ({"config": {"A": []}}, "config.A"),
        ({"ports": {"listen": []}}, "unknown key listen in ports"),
    ],
)
def test_wrong_options_are_named(given: dict[str, Any], says: str) -> None:
    assert says in refused_options(given)


def test_a_value_with_nul_or_over_64_kib_is_refused() -> None:
    with pytest.raises(BoesError, match="config: A"):
        settings("", config={"A": "x\0y"})
    with pytest.raises(BoesError, match="config: A"):
        settings("", config={"A": "x" * ((64 << 10) + 1)})


def test_a_configuration_that_the_agent_could_not_read_is_refused_at_deploy() -> None:
    """agent/plan.h has PLAN_MAX_BYTES of 1 MiB; every start of the function would fail with EFBIG."""
    with pytest.raises(BoesError):
        settings("", config={f"A{number}": "x" * (64 << 10) for number in range(17)})


# --- the store's form


@pytest.mark.parametrize(
    "value",
    [
        Settings(),
        Settings(
            runtime="python", cpu=0.25, cpuset="0-1", network="host", ports=Ports((1, 2), ()), config={"A": "ü\n"}
        ),
        Settings(ports=Ports(None, (8080,)), environment={"B": ""}),
        manifest.settings(parse(FN), {}),
    ],
)
def test_settings_survive_the_store(value: Settings) -> None:
    assert manifest.from_json(json.loads(json.dumps(manifest.to_json(value)))) == value


def test_keys_of_a_later_version_are_left_out_and_missing_ones_get_their_default() -> None:
    assert manifest.from_json({"memory": 1, "colour": "red"}) == Settings(memory=1)


def test_what_a_manifest_may_say_can_be_rendered() -> None:
    extremes = "memory: 1\ncpu: 0.0001\ncpuset: '0'\ntasks: 4\nfiles: 16\ntmp_size: 1\nlog_rate: 1\ntimeout: 1"
    value = settings(extremes)
    assert units.live_properties(value)
    deployed = function(**{name: getattr(value, name) for name in ("memory", "cpu", "cpuset", "tasks")})
    assert all(units.drop_ins(deployed, 0, 5).values())
    assert plan.path(deployed.id).name.endswith(".plan")


# --- the policy


def policy_of(tree: Path, text: str, **given: str) -> PolicySource | None:
    """What func.yaml says, with the files of TREE."""
    return manifest.read_policy(parse(HEAD + text), tree, given)


def test_a_policy_is_a_block_a_file_or_two_files(tmp_path: Path) -> None:
    for name, text in (
        ("alone.yaml", "default: deny\n"),
        ("behind.yaml", "policy: {default: deny}\n"),
        ("m", "M"),
        ("p", "P"),
    ):
        (tmp_path / name).write_text(text)
    block = "policy:\n  default: allow\n"
    assert policy_of(tmp_path, "") is None
    assert policy_of(tmp_path, block) == PolicyBlock("func.yaml", HEAD + block, ("policy",))
    assert policy_of(tmp_path, "policy: alone.yaml\n") == PolicyBlock("alone.yaml", "default: deny\n")
    behind = PolicyBlock("behind.yaml", "policy: {default: deny}\n", ("policy",))
    assert policy_of(tmp_path, "policy: behind.yaml\n") == behind
    assert policy_of(tmp_path, "policy: {model: m, policy: p}\n") == PolicyFiles("m", "M", "p", "P")
    assert policy_of(tmp_path, "policy: {model: m, policy: p, kill: 3}\n") == PolicyFiles("m", "M", "p", "P", 3)
    assert policy_of(tmp_path, block, policy="default: deny") == PolicyBlock("option policy", "default: deny")


def test_a_policy_may_be_a_program_of_the_administrator_s(tmp_path: Path) -> None:
    assert policy_of(tmp_path, "policy: {program: quota}\n") == PolicyProgram("func.yaml", "quota")
    (tmp_path / "p.yaml").write_text("program: quota\n")
    assert policy_of(tmp_path, "policy: p.yaml\n") == PolicyProgram("p.yaml", "quota")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "link", "nothing", "directory", "a/../../secret"])
def test_a_file_outside_the_source_is_no_policy(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("default: deny\n")
    tree = tmp_path / "tree"
    (tree / "directory").mkdir(parents=True)
    (tree / "link").symlink_to("../secret")
    with pytest.raises(BoesError) as refused:
        policy_of(tree, f"policy: {name}\n")
    assert refused.value.code == "InvalidManifest"
    assert f"func.yaml: policy: {name}" in str(refused.value)


@pytest.mark.parametrize(
    "text", ["5", "[]", "''", "{model: m}", "{model: m, policy: p, rules: []}", "{model: m, policy: 5}"]
)
def test_what_is_no_policy_is_named(text: str) -> None:
    with pytest.raises(BoesError) as refused:
        parse(f"{HEAD}policy: {text}\n")
    assert str(refused.value).startswith("func.yaml: policy")


def test_a_manifest_is_a_value() -> None:
    assert parse(HEAD) == Manifest("", (), {}, (), None, HEAD)
