# SPDX-License-Identifier: Apache-2.0
"""Plans: what the agent is told, and in which order."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from samples import (
    CODE,
    ROOT,
    app,
    bare_host,
    command,
    commands_runtime,
    full_function,
    full_host,
    function,
    python_runtime,
    rendered,
)

from boesfsd import layout, plan
from boesfsd.layout import DEVICES, SHM, TMP
from boesfsd.model import Command, Function, Owner, PolicyProgram, Ports

CONTRACT = {
    "FN_FORMAT": "http-stream",
    "FN_LISTENER": "unix:/run/fn/lsnr.sock",
    "FN_MEMORY": "128",
    "FN_TMPSIZE": "64",
    "FN_TYPE": "sync",
    "FN_FN_ID": function().id,
    "FN_APP_ID": function().app.id,
    "FN_NAME": "hello",
    "FN_APP_NAME": "shop",
}


def unescape(field: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"t": "\t", "n": "\n", "\\": "\\"}[found[1]], field)


MODES = ("landlock", "boesfs")


def steps(deployed: Function, **host: object) -> list[tuple[str, ...]]:
    """As the agent reads them."""
    text = rendered(deployed, bare_host(**host))
    assert text.startswith("boesfs-plan\t6\n")
    assert text.endswith("\n")
    return [tuple(map(unescape, line.split("\t"))) for line in text.splitlines()[1:]]


def named(deployed: Function, operation: str) -> list[tuple[str, ...]]:
    return [step[1:] for step in steps(deployed) if step[0] == operation]


def test_the_plan_of_a_plain_function(golden: Callable[[str, str], None]) -> None:
    golden("plan-plain.txt", rendered(function(), bare_host()))


def test_the_plan_of_a_function_with_everything(golden: Callable[[str, str], None]) -> None:
    golden("plan-full.txt", rendered(full_function(), full_host()))


# --- order


@pytest.mark.parametrize("enforcement", MODES)
def test_the_walls_come_in_this_order(enforcement: str) -> None:
    operations = [step[0] for step in steps(full_function(), enforcement=enforcement)]
    piece = {"landlock": "bind", "boesfs": "govern"}[enforcement]
    walls = ["root", "mkdir", piece, "device", "tmpfs", "proc", "listener", "pivot", "drop", "landlock", "allow",
             "ports", "restrict", "seccomp", "env", "cwd", "exec"]  # fmt: skip
    firsts = [operations.index(wall) for wall in ("root", "pivot", "drop", "landlock", "restrict", "seccomp", "exec")]
    assert firsts == sorted(firsts)
    assert set(walls) <= set(operations)


@pytest.mark.parametrize("enforcement", MODES)
def test_no_mount_follows_the_pivot_and_no_rule_the_restriction(enforcement: str) -> None:
    operations = [step[0] for step in steps(full_function(), enforcement=enforcement)]
    pivot, restrict = operations.index("pivot"), operations.index("restrict")
    mounts = {"root", "mkdir", "link", "file", "copy", "bind", "govern", "device", "hide", "tmpfs", "proc", "listener"}
    assert not mounts & set(operations[pivot:])
    assert not {"landlock", "allow", "ports"} & set(operations[restrict:])
    assert operations[-1] == "exec"


@pytest.mark.parametrize(
    "operation", ["user", "network", "root", "pivot", "drop", "landlock", "restrict", "seccomp", "exec"]
)
def test_each_wall_is_there_once(operation: str) -> None:
    for deployed in (function(), full_function()):
        assert len(named(deployed, operation)) == 1


def test_a_directory_is_made_before_it_is_used_and_only_once() -> None:
    made: list[str] = []
    for step in steps(full_function(), files=full_host().files, resolver="/etc/resolv.conf"):
        if step[0] == "mkdir":
            assert step[1] not in made
            assert str(Path(step[1]).parent) in ("/", *made)
            made.append(step[1])
        elif step[0] in ("tmpfs", "proc", "listener", "link"):
            place = Path(step[2] if step[0] == "link" else step[1])
            assert str(place if step[0] != "link" else place.parent) in ("/", "/dev", *made)


def test_every_operation_is_one_that_the_agent_knows() -> None:
    known = set(re.findall(r'\[OP_[A-Z]+\] = "([a-z]+)"', (ROOT / "agent/plan.c").read_text()))
    assert {step[0] for step in steps(full_function())} <= known


# --- BoesFS


def test_every_piece_of_the_root_is_governed_but_what_is_not_the_hosts_files() -> None:
    """The skeleton, the trees of the host and each tmpfs; /proc, devices, the listener and empty covers are not."""
    seen = steps(function(network="host", uid=200001), files=full_host().files, enforcement="boesfs")
    assert [step for step in seen if step[0] == "bind"] == []
    assert [step[1:] for step in seen if step[0] == "policy"] == [("boesfsd", "200001")]
    assert [step[1:] for step in seen if step[0] == "govern"] == [
        ("/", "ro"),
        ("/usr", "ro", "/usr"),
        ("/python", "ro", "/usr/lib/boesfs/runtimes/python"),
        ("/python/httptools", "ro", "/usr/lib/python3/dist-packages/httptools"),
        ("/function", "ro", str(CODE)),
        ("/etc/ssl/certs", "ro", "/etc/ssl/certs"),
        (SHM, "rw"),
        (TMP, "rw"),
    ]
    ungoverned = {step[1] for step in seen if step[0] in ("device", "hide", "proc", "listener")}
    assert ungoverned == {*DEVICES, *python_runtime().hide, "/proc", "/run/fn"}


def test_a_program_of_the_administrator_s_governs_instead() -> None:
    seen = steps(function(uid=200001, policy=PolicyProgram("f", "quota")), enforcement="boesfs")
    assert [step for step in seen if step[0] == "policy"] == [("policy", "quota")]


def test_the_policy_is_named_before_and_the_skeleton_is_governed_when_it_is_whole() -> None:
    seen = [step[0] for step in steps(full_function(), enforcement="boesfs", files=full_host().files)]
    governed = seen.index("govern")
    assert seen.index("policy") < governed
    last = max(index for index, step in enumerate(seen) if step in ("mkdir", "link", "file", "copy", "root"))
    assert last < governed
    tmpfs = max(index for index, step in enumerate(seen) if step == "tmpfs")
    assert seen[tmpfs:].count("govern") == 2


def test_what_is_mounted_has_something_below_it() -> None:
    seen = steps(full_function(), enforcement="boesfs")
    files = {step[1] for step in seen if step[0] == "file"}
    assert {f"/dev/{step[1]}" for step in seen if step[0] == "device"} <= files


# --- escapes


@pytest.mark.parametrize("value", ["a\tb", "a\nb", "a\\b", "\\n", "\\", "\\\\t", "\t\n\\", "ü", "x=y", "", " "])
def test_any_text_survives_the_plan(value: str) -> None:
    deployed = function(config={"TEXT": value})
    assert (f"TEXT={value}",) in named(deployed, "env")
    assert len(steps(deployed)) == len(steps(function(config={"TEXT": "x"})))


def test_a_value_cannot_add_an_operation() -> None:
    assert named(function(config={"TEXT": "x\nbind\t/etc\t/function"}), "bind") == named(function(), "bind")


def test_arguments_of_the_command_stay_apart() -> None:
    assert named(function(command=("/bin/f", "two words", "tab\there")), "exec") == [
        ("/bin/f", "two words", "tab\there")
    ]


# --- environment


def test_fns_contract_is_in_the_environment() -> None:
    seen = plan.environment(function(), python_runtime())
    assert {name: value for name, value in seen.items() if name.startswith("FN_")} == CONTRACT


def test_the_listener_path_fits_a_socket_address() -> None:
    assert len(CONTRACT["FN_LISTENER"].removeprefix("unix:")) <= 107 - len("phony")


def test_nobody_overrides_the_contract() -> None:
    lie = dict.fromkeys(CONTRACT, "lie")
    deployed = function(app=app(config=lie), config=lie, environment=lie)
    seen = plan.environment(deployed, python_runtime())
    assert {name: seen[name] for name in CONTRACT} == CONTRACT


def test_function_config_wins_over_app_config_over_bundle_over_runtime() -> None:
    runtime = python_runtime()
    layers = [
        function(),
        function(environment={"LANG": "bundle"}),
        function(environment={"LANG": "bundle"}, app=app(config={"LANG": "app"})),
        function(environment={"LANG": "bundle"}, app=app(config={"LANG": "app"}), config={"LANG": "function"}),
    ]
    assert [plan.environment(deployed, runtime)["LANG"] for deployed in layers] == [
        "C.UTF-8",
        "bundle",
        "app",
        "function",
    ]


def test_each_variable_is_named_once() -> None:
    names = [step[0].partition("=")[0] for step in named(full_function(), "env")]
    assert len(names) == len(set(names))


# --- settings


def test_limits_are_in_the_units_that_the_agent_takes() -> None:
    deployed = function(timeout=7, idle_timeout=8, log_rate=9)
    limits = dict(step for step in named(deployed, "limit"))
    assert limits == {"timeout": "7000", "idle-timeout": "8000", "init-timeout": "5000", "log-rate": "9"}


@pytest.mark.parametrize("network", ["none", "host"])
def test_network_is_named(network: str) -> None:
    assert named(function(network=network), "network") == [(network,)]


def test_a_private_network_is_a_path() -> None:
    assert named(function(network="private"), "network") == [(f"/run/netns/boesfs-{function().id}",)]


def test_without_network_there_are_no_certificates_and_no_resolver() -> None:
    host = {"files": full_host().files, "resolver": "/etc/resolv.conf"}
    assert not any("ssl" in field or "resolv" in field for step in steps(function(), **host) for field in step)
    seen = [step for step in steps(function(network="host"), **host) if step[0] == "bind"]
    assert ("copy", "/etc/resolv.conf", "/etc/resolv.conf") in steps(function(network="host"), **host)
    assert ("bind", "/etc/ssl/certs", "/etc/ssl/certs") in seen


def test_ports_are_listed_by_side_and_an_empty_list_closes() -> None:
    assert named(function(network="host", ports=Ports((1, 2), ())), "ports") == [("connect", "1", "2"), ("bind",)]
    assert named(function(network="host"), "ports") == []


def test_code_and_runtime_may_be_read_and_run_but_not_written() -> None:
    allowed = {path: rights for rights, path in named(function(), "allow")}
    assert allowed["/function"] == allowed["/usr"] == allowed["/python"] == "rlx"
    assert {path for path, rights in allowed.items() if "w" in rights} == {"/dev", "/proc", "/tmp", "/run/fn"}


def test_the_code_is_bound_where_the_fdk_looks() -> None:
    assert (str(CODE), "/function") in named(function(), "bind")


def test_a_hostname_is_letters_digits_and_dashes() -> None:
    assert named(function(name="a:b@c.d~e_f"), "hostname") == [("a-b-c-d-e-f",)]
    assert named(function(name="x" * 255), "hostname") == [("x" * 63,)]


def test_the_command_is_func_yamls_or_the_runtimes() -> None:
    assert named(function(command=("/function/run", "x")), "exec") == [("/function/run", "x")]
    assert named(function(), "exec") == [python_runtime().command]


def test_a_function_is_itself_in_passwd() -> None:
    files = {step[0]: step[2] for step in named(function(uid=200001), "file")}
    assert "function:x:200001:200001:" in files["/etc/passwd"]
    assert "function:x:200001:" in files["/etc/group"]


# --- commands


def of_command(deployed: Command, enforcement: str = "landlock") -> list[list[str]]:
    host = dataclasses.replace(full_host(), enforcement=enforcement)
    text = plan.of_command(deployed, layout.of_command(deployed, commands_runtime(), host), host)
    return [[unescape(field) for field in line.split("\t")] for line in text.splitlines()[1:]]


@pytest.mark.parametrize("enforcement", ["landlock", "boesfs"])
def test_the_plan_of_a_command(golden: Callable[[str, str], None], enforcement: str) -> None:
    host = dataclasses.replace(full_host(), enforcement=enforcement)
    of = command(
        *("sh", "-c", "two\nlines"),
        directories=("/srv/job", "/tmp/a/b", "/usr/local/src"),
        terminal=True,
        rows=24,
        columns=80,
        reaper=True,
        time=5,
    )
    golden(
        f"plan-command-{enforcement}.txt", plan.of_command(of, layout.of_command(of, commands_runtime(), host), host)
    )


@pytest.mark.parametrize("enforcement", ["landlock", "boesfs"])
def test_a_directory_is_mounted_over_what_is_around_it_and_governed(enforcement: str) -> None:
    steps = of_command(command(directories=("/usr", "/tmp/x/y", "/srv")), enforcement)
    trees = [step[2] for step in steps if step[0] == "tree"]
    assert trees == ["/srv", "/usr", "/tmp/x/y"]
    first = next(number for number, step in enumerate(steps) if step[0] == "tree")
    assert not [step for step in steps[first:] if step[0] in ("bind", "tmpfs", "hide", "mkdir", "device", "proc")]
    assert [step for step in steps[:first] if step[:2] == ["mkdir", "/tmp/x/y"]]
    if enforcement == "boesfs":
        for number, step in enumerate(steps):
            assert step[0] != "tree" or steps[number + 1] == ["govern", step[2], "rw"]
    assert not [step for step in steps if step[0] in ("bind", "govern") and step[2:] and step[2] == "/usr"][1:]


def test_tmp_can_be_a_directory_of_the_host() -> None:
    steps = of_command(command(directories=("/tmp",)), "boesfs")
    assert [step[1] for step in steps if step[0] == "tmpfs"] == ["/dev/shm"]
    assert [step[1] for step in steps if step[0] == "govern" and step[1].startswith("/tmp")] == ["/tmp"]


def test_a_directory_s_rights_are_its_own_wherever_it_is() -> None:
    for path in ("/etc", "/tmp", "/srv"):
        steps = of_command(command(directories=(path,)))
        assert [step[1] for step in steps if step[0] == "allow" and step[2] == path] == ["rlwtfdsnuemix"]


def test_a_command_has_its_owner_s_numbers_and_no_listener() -> None:
    steps = of_command(command(terminal=False, reaper=False))
    words = {step[0] for step in steps}
    assert ["user", "1000", "100", "20", "30"] in steps
    assert ["limit", "umask", "18"] in steps
    assert not words & {"listener", "terminal", "reaper"}
    assert {"pts", "freeze", "pivot", "drop", "restrict", "seccomp", "exec"} <= words
    assert ["freeze", "/proc/sys"] in steps
    passwd = next(step for step in steps if step[:2] == ["file", "/etc/passwd"])
    assert passwd[3] == "root:x:0:0::/:/bin/false\nann:x:1000:100::/tmp:/bin/sh\n"
    root = of_command(command(owner=Owner(0, 0, "root")))
    assert next(step for step in root if step[:2] == ["file", "/etc/passwd"])[3] == "root:x:0:0::/tmp:/bin/sh\n"
    assert next(step for step in root if step[:2] == ["file", "/etc/group"])[3] == "root:x:0:\n"
