# SPDX-License-Identifier: Apache-2.0
"""org.boesfs.Faas1 on the system bus: members, properties, signals, named errors, who may do what."""

import contextlib
import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import (
    APP,
    ECHO,
    ERROR,
    FUNCTION,
    HELLO,
    MANAGER,
    NAME,
    PROPERTIES,
    ROOT,
    Bus,
    BusError,
    Deployed,
    Lab,
    wait_for,
)
from punctual import punctual, took

Deploy = Callable[..., Deployed]
STANDARD = "org.freedesktop.DBus.Error."
TOP = Path(__file__).resolve().parents[2]
XML = TOP / "boesfsd/bus/org.boesfs.Faas1.xml"
SLEEP = "import time\ndef handler(ctx, data):\n    time.sleep(20)\n"
INTERACTIVE = 4


def members(element: ET.Element) -> set[tuple[str, ...]]:
    """Every member of an interface with its types."""
    found = set()
    for item in element:
        if item.tag in ("method", "signal"):
            default = "in" if item.tag == "method" else "out"
            args = [f"{arg.get('direction', default)} {arg.get('type')}" for arg in item.iter("arg")]
            found.add((item.tag, item.get("name", ""), *args))
        elif item.tag == "property":
            found.add((item.tag, item.get("name", ""), item.get("type", ""), item.get("access", "")))
    return found


def refused(bus: Bus, member: str, signature: str, *body: Any, **more: Any) -> BusError:
    """The error that a Manager's member ends in."""
    with pytest.raises(BusError) as caught:
        bus.manager(member, signature, *body, **more)
    return caught.value


# --- members


def test_the_name_starts_with_the_service_and_busctl_shows_the_tree(lab: Lab, app: str) -> None:
    # neighbours come and go while busctl walks
    tree = lab.machine.run("busctl", "tree", "--list", NAME, check=False).stdout.splitlines()
    assert ROOT in tree
    assert any(line.startswith(f"{ROOT}/app/") for line in tree)


@pytest.mark.parametrize("interface", [MANAGER, APP, FUNCTION])
def test_the_live_object_s_introspection_equals_the_xml(bus: Bus, app: str, deploy: Deploy, interface: str) -> None:
    function = deploy(HELLO)
    app_path = dict(bus.manager("ListApps"))[app]
    path = {MANAGER: ROOT, APP: app_path, FUNCTION: function.path}[interface]
    live = ET.fromstring(bus.call(path, "org.freedesktop.DBus.Introspectable", "Introspect")[0])
    written = ET.parse(XML).getroot()

    def of(root: ET.Element) -> set[tuple[str, ...]]:
        return next(members(item) for item in root.iter("interface") if item.get("name") == interface)

    assert of(live) == of(written)


def test_create_app_answers_its_object_and_list_apps_has_it(bus: Bus, lab: Lab) -> None:
    name = lab.unique("made")
    path = bus.manager("CreateApp", "sa{sv}", name, {})
    assert [name, path] in bus.manager("ListApps")
    assert bus.get(path, APP, "Name") == name
    assert bus.manager("RemoveApp", "s", name) == [["delete", "app", name]]
    assert [name, path] not in bus.manager("ListApps")


def test_an_app_s_configuration_reaches_its_functions(lab: Lab) -> None:
    app = lab.app({"SHARED": "from the app"})
    function = lab.deploy(app, "import os\ndef handler(ctx, data):\n    return os.environ['SHARED']\n")
    assert function.call().text == "from the app"
    assert lab.bus.get(f"{ROOT}/app/{app.replace('-', '_2d')}", APP, "Config") == {"SHARED": "from the app"}
    lab.bus.manager("RemoveApp", "s", app)


def test_deploy_lists_what_it_creates(deploy: Deploy) -> None:
    function = deploy(HELLO)
    digest = function.get("Digest")
    assert function.changes == [
        ["create", "function", f"{function.app}/{function.name}"],
        ["create", "code", digest],
        ["start", "socket", function.unit("socket")],
    ]


def test_deploying_again_lists_only_what_changed(deploy: Deploy) -> None:
    function = deploy(HELLO, memory=64)
    assert function.replace(memory=96) == [
        ["update", "function", f"{function.app}/{function.name}"],
        ["update", "setting", "memory"],
    ]
    assert function.replace({"func.py": ECHO}, memory=96)[1:] == [["update", "code", function.get("Digest")]]


def test_a_dry_run_lists_the_changes_and_does_nothing(bus: Bus, lab: Lab, app: str) -> None:
    name = lab.unique("dry")
    source = lab.source({"func.py": f"{HELLO}# {name}\n"})
    _, changes = lab.busctl_deploy(app, name, source, {"dry-run": True})
    assert ["create", "function", f"{app}/{name}"] in changes
    assert bus.manager("ListFunctions", "s", app) == []
    digest = next(which for _, kind, which in changes if kind == "code")
    assert digest not in lab.machine.shell("ls /var/lib/boesfsd/code")


def test_a_dry_run_over_an_existing_function_leaves_it_as_it_is(deploy: Deploy) -> None:
    function = deploy(HELLO, memory=64)
    before = function.lab.bus.get_all(function.path, FUNCTION)
    changes = function.replace({"func.py": ECHO}, memory=65, dry_run=True)
    assert ["update", "setting", "memory"] in changes
    assert function.lab.bus.get_all(function.path, FUNCTION) == before
    assert function.call(b"x").text == "hello"


def test_list_functions_names_app_function_id_state_and_object(bus: Bus, deploy: Deploy) -> None:
    function = deploy(HELLO)
    row = [function.app, function.name, function.id, "idle", function.path]
    assert bus.manager("ListFunctions", "s", function.app) == [row]
    assert row in bus.manager("ListFunctions", "s", "")


def test_get_function_and_get_function_by_unit_find_the_object(bus: Bus, deploy: Deploy) -> None:
    function = deploy(HELLO)
    assert bus.manager("GetFunction", "ss", function.app, function.name) == function.path
    assert bus.manager("GetFunctionByUnit", "s", function.unit()) == function.path
    assert bus.manager("GetFunctionByUnit", "s", function.unit("socket")) == function.path


def test_check_says_what_the_host_can_do(bus: Bus) -> None:
    rows = {row[0]: row[1:] for row in bus.manager("Check")}
    assert rows["landlock"][0] == "ok"
    assert {state for state, *_ in rows.values()} <= {"ok", "warning", "error"}
    names = ["controllers", "user-namespaces", "favordynmods", "landlock", "enforcement", "listen", "runtimes"]
    assert list(rows) == names
    page = (TOP / "docs/man/org.boesfs.Faas1.5").read_text().replace("\\-", "-")
    assert f"id ({', '.join(rows)})" in page


def test_the_manager_s_properties_describe_the_daemon(bus: Bus) -> None:
    values = bus.get_all(ROOT, MANAGER)
    assert values["Enforcement"] == "landlock"
    assert values["Listen"] == ["127.0.0.1:8080"]
    assert values["Runtimes"] == ["python"]
    assert re.fullmatch(r"\d+\.\d+.*", values["Version"])
    assert values["NFunctions"] == len(bus.manager("ListFunctions", "s", "")) or values["NFunctions"] >= 0


def test_a_function_s_properties_tell_its_settings_and_counters(deploy: Deploy) -> None:
    function = deploy(HELLO, memory=77, timeout=7, cpu=0.5, config={"KEY": "value"})
    function.call(b"x")
    values = function.lab.bus.get_all(function.path, FUNCTION)
    assert (values["App"], values["Name"], values["Runtime"]) == (function.app, function.name, "python")
    assert values["Unit"] == function.unit()
    assert values["SocketPath"] == function.socket
    assert values["Config"] == {"KEY": "value"}
    assert values["Uid"] >= 1_879_048_192
    assert re.fullmatch("[0-9a-f]{64}", values["Digest"])
    assert {"memory": 77, "timeout": 7, "cpu": 0.5, "idle_timeout": 30, "concurrency": 4}.items() <= values[
        "Limits"
    ].items()
    assert (values["NCalls"], values["NErrors"], values["NRunning"], values["NQueued"]) == (1, 0, 0, 0)
    assert values["LastCallTimestamp"] > 1_700_000_000_000_000


def test_last_error_says_why_the_last_call_failed(deploy: Deploy) -> None:
    function = deploy("def handler(ctx, data):\n    raise ValueError('no good')\n")
    function.call()
    assert "no good" in function.get("LastError")
    assert function.get("NErrors") == 1


def test_get_managed_objects_has_every_app_and_function(bus: Bus, deploy: Deploy) -> None:
    function = deploy(HELLO)
    objects = bus.call(ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects")[0]
    assert objects[function.path][FUNCTION]["Name"] == function.name
    assert function.path in objects[dict(bus.manager("ListApps"))[function.app]][APP]["Functions"]


def test_names_with_dots_and_dashes_have_object_paths(deploy: Deploy) -> None:
    function = deploy(HELLO, name="a.b-c~d:e@f_1")
    assert function.get("Name") == "a.b-c~d:e@f_1"
    assert function.call(b"x").text == "hello"


# --- stop, start, cancel


def test_a_stopped_function_answers_503_and_a_started_one_answers_again(bus: Bus, deploy: Deploy) -> None:
    function = deploy(HELLO)
    bus.call(function.path, FUNCTION, "Stop")
    assert function.get("State") == "stopped"
    answer = function.call(b"x")
    assert (answer.status, answer.error) == (503, "Stopped")
    assert "retry-after" in answer.headers
    bus.call(function.path, FUNCTION, "Start")
    assert function.call(b"x").text == "hello"


def test_stop_of_an_app_stops_all_its_functions(bus: Bus, deploy: Deploy) -> None:
    first, second = deploy(HELLO), deploy(HELLO)
    path = dict(bus.manager("ListApps"))[first.app]
    first.call(b"x")
    bus.call(path, APP, "Stop")
    assert (first.get("State"), second.get("State")) == ("stopped", "stopped")
    assert first.direct(b"x").exit == 7
    bus.call(path, APP, "Start")
    assert first.direct(b"x").text == second.direct(b"x").text == "hello"


@punctual
def test_a_stopped_call_ends_at_its_caller_with_a_named_error(bus: Bus, deploy: Deploy) -> None:
    function = deploy(SLEEP)
    call = function.begin()
    function.running_call()
    bus.call(function.path, FUNCTION, "Stop")
    answer = function.lab.end(call, timeout=1)
    assert (answer.status, answer.error, answer.message) == (503, "Stopped", "The function was stopped")
    assert function.instances() == []


@punctual
def test_cancel_ends_the_call_with_a_named_error_and_its_instance_with_it(bus: Bus, deploy: Deploy) -> None:
    function = deploy("import time\ndef handler(ctx, data):\n    print('id', ctx.CallID())\n    time.sleep(20)\n")
    call = function.begin()
    function.running_call()
    call_id = function.await_line("id ")["BOESFS_CALL_ID"]
    bus.manager("Cancel", "s", call_id)
    answer = function.lab.end(call, timeout=1)
    assert (answer.status, answer.error, answer.message) == (503, "Cancelled", "The call was cancelled")
    assert answer.headers["fn-call-id"] == call_id
    wait_for(lambda: function.instances() == [])


@pytest.mark.parametrize("how", ["Cancel", "Stop", "Remove"])
@punctual
def test_an_ended_call_is_answered_within_100_ms_of_the_reply(bus: Bus, deploy: Deploy, how: str) -> None:
    function = deploy("import time\ndef handler(ctx, data):\n    print('begun')\n    time.sleep(20)\n")
    call = function.begin()
    call_id = function.await_line("begun")["BOESFS_CALL_ID"]
    if how == "Stop":
        bus.call(function.path, FUNCTION, "Stop")
    else:
        bus.manager(how, *{"Cancel": ("s", call_id), "Remove": ("ss", function.app, function.name)}[how])
    replied = time.monotonic()
    answer = function.lab.end(call, timeout=5)
    took(time.monotonic() - replied, 0.1)
    assert answer.status == 503
    assert answer.error == {"Cancel": "Cancelled"}.get(how, "Stopped")


# --- signals


def test_deploying_and_removing_are_announced(bus: Bus, deploy: Deploy) -> None:
    function = deploy(HELLO)
    digest = function.get("Digest")
    deployed = bus.await_signal(f"{MANAGER}.FunctionDeployed", lambda s: s[2][1] == function.name)
    assert deployed[2] == [function.app, function.name, function.path, digest]
    added = bus.await_signal("org.freedesktop.DBus.ObjectManager.InterfacesAdded", lambda s: s[2][0] == function.path)
    assert added[2][1][FUNCTION]["Id"] == function.id
    function.remove()
    bus.await_signal(f"{MANAGER}.FunctionRemoved", lambda s: s[2] == [function.app, function.name])
    bus.await_signal(
        "org.freedesktop.DBus.ObjectManager.InterfacesRemoved", lambda s: s[2] == [function.path, [FUNCTION]]
    )


def test_apps_are_announced(bus: Bus, lab: Lab) -> None:
    name = lab.unique("seen")
    path = bus.manager("CreateApp", "sa{sv}", name, {})
    bus.manager("RemoveApp", "s", name)
    bus.await_signal("org.freedesktop.DBus.ObjectManager.InterfacesAdded", lambda s: s[2][0] == path)
    bus.await_signal("org.freedesktop.DBus.ObjectManager.InterfacesRemoved", lambda s: s[2] == [path, [APP]])


def test_a_failed_call_is_announced_with_its_reason(bus: Bus, deploy: Deploy) -> None:
    function = deploy("def handler(ctx, data):\n    raise ValueError('sad')\n")
    call_id = function.call().headers["fn-call-id"]
    signal = bus.await_signal(f"{MANAGER}.InvocationFailed", lambda s: s[2][2] == call_id)
    assert signal[2][:2] == [function.app, function.name]
    assert signal[2][3] == "FunctionFailed"
    assert "sad" in signal[2][4]


def test_calls_change_properties_and_say_so(bus: Bus, deploy: Deploy) -> None:
    function = deploy(HELLO)
    function.call(b"x")
    bus.await_signal(
        f"{PROPERTIES}.PropertiesChanged",
        lambda s: s[0] == function.path
        and s[2][0] == FUNCTION
        and s[2][1].get("NCalls") == 1
        and s[2][1]["State"] == "active",
    )


def test_changed_settings_are_announced_as_properties(bus: Bus, deploy: Deploy) -> None:
    function = deploy(HELLO, memory=64)
    function.replace(memory=99)
    bus.await_signal(
        f"{PROPERTIES}.PropertiesChanged",
        lambda s: s[0] == function.path and s[2][1].get("Limits", {}).get("memory") == 99,
    )


def test_busctl_monitor_shows_the_signals(lab: Lab, app: str) -> None:
    out = lab.machine.root / "srv" / lab.unique("monitor")
    inside = f"/srv/{out.name}"
    lab.machine.shell(f"busctl --json=short monitor {NAME} > {inside} 2> {inside}.err & echo $! > {inside}.pid")
    wait_for(lambda: lab.bus.manager("ListApps") and out.read_text())  # it listens when it shows a call
    lab.deploy(app, HELLO)
    wait_for(lambda: '"member":"FunctionDeployed"' in out.read_text())
    lab.machine.shell(f"kill $(cat {inside}.pid)")


# --- named errors


@pytest.mark.parametrize(
    ("member", "signature", "body", "name"),
    [
        ("GetFunction", "ss", ["no-such-app", "f"], f"{ERROR}NoSuchApp"),
        ("RemoveApp", "s", ["no-such-app"], f"{ERROR}NoSuchApp"),
        ("ListFunctions", "s", ["no-such-app"], f"{ERROR}NoSuchApp"),
        ("Deploy", "sssa{sv}", ["no-such-app", "f", "/srv", {}], f"{ERROR}NoSuchApp"),
        ("Remove", "ss", ["no-such-app", "f"], f"{ERROR}NoSuchApp"),
        ("GetFunctionByUnit", "s", ["boesfsd.service"], f"{ERROR}NoSuchFunction"),
        ("GetFunctionByUnit", "s", ["boesfs-fn@nope:0.service"], f"{ERROR}NoSuchFunction"),
        ("Cancel", "s", ["01ARZ3NDEKTSV4RRFFQ69G5FAV"], f"{ERROR}NoSuchCall"),
        ("NoSuchMember", "", [], f"{STANDARD}UnknownMethod"),
    ],
)
def test_what_does_not_exist_is_a_named_error(
    bus: Bus, member: str, signature: str, body: list[Any], name: str
) -> None:
    assert refused(bus, member, signature, *body).name == name


def test_an_unknown_function_of_an_app_is_a_named_error(bus: Bus, app: str) -> None:
    assert refused(bus, "Remove", "ss", app, "nope").name == f"{ERROR}NoSuchFunction"
    assert refused(bus, "GetFunction", "ss", app, "nope").name == f"{ERROR}NoSuchFunction"


def test_an_app_or_function_that_exists_is_not_made_again(bus: Bus, deploy: Deploy) -> None:
    function = deploy(HELLO)
    assert refused(bus, "CreateApp", "sa{sv}", function.app, {}).name == f"{ERROR}AppExists"
    error = refused(bus, "Deploy", "sssa{sv}", function.app, function.name, function.source, {})
    assert error.name == f"{ERROR}FunctionExists"
    assert "replace" in error.text


@pytest.mark.parametrize("name", ["", "x" * 300, "..", "é", "a\nb", "a/b", "a b"])
def test_a_bad_name_of_an_app_is_refused(bus: Bus, name: str) -> None:
    assert refused(bus, "CreateApp", "sa{sv}", name, {}).name == f"{STANDARD}InvalidArgs"


@pytest.mark.parametrize("name", ["", "x" * 300, "..", ".", "é", "a\nb", "a/b", "a b", "a%b"])
def test_a_bad_name_of_a_function_is_refused(bus: Bus, app: str, name: str) -> None:
    assert refused(bus, "Deploy", "sssa{sv}", app, name, "/srv", {}).name == f"{STANDARD}InvalidArgs"
    assert refused(bus, "Remove", "ss", app, name).name == f"{STANDARD}InvalidArgs"


def test_the_longest_allowed_names_work(lab: Lab) -> None:
    app = lab.unique("a").ljust(255, "a")
    lab.bus.manager("CreateApp", "sa{sv}", app, {})
    function = lab.deploy(app, HELLO, name="f" * 255)
    assert function.call(b"x").text == "hello"
    lab.bus.manager("RemoveApp", "s", app)


def test_an_unknown_option_is_refused_by_name(bus: Bus, lab: Lab, app: str) -> None:
    source = lab.source({"func.py": HELLO})
    error = refused(bus, "Deploy", "sssa{sv}", app, "f", source, {"memroy": {"$": ["u", 5]}})
    assert error.name == f"{STANDARD}InvalidArgs"
    assert "memroy" in error.text
    error = refused(bus, "CreateApp", "sa{sv}", lab.unique("a"), {"colour": {"$": ["s", "red"]}})
    assert "colour" in error.text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("memory", ["s", "64"]), ("memory", ["i", -1]), ("memory", ["i", 9000]), ("memory", ["b", True]),
        ("memory", ["d", 64.5]), ("cpu", ["d", 0.0]), ("cpu", ["d", -1.0]), ("cpu", ["d", float("inf")]),
        ("cpuset", ["s", "x"]), ("cpuset", ["s", "5-1"]), ("cpuset", ["s", "7000"]), ("tasks", ["i", 1]),
        ("files", ["i", 1]), ("tmp_size", ["i", 0]), ("log_rate", ["i", 0]), ("timeout", ["i", 301]),
        ("idle_timeout", ["i", 3601]), ("concurrency", ["i", 0]), ("network", ["s", "some"]), ("network", ["i", 1]),
        ("ports", ["s", "80"]), ("ports", ["a{sai}", {"listen": [80]}]), ("ports", ["a{sai}", {"bind": [70000]}]),
        ("runtime", ["s", "cobol"]), ("config", ["s", "A=b"]), ("config", ["a{ss}", {"A=B": "c"}]),
        ("config", ["a{ss}", {"": "c"}]), ("replace", ["s", "yes"]), ("dry-run", ["i", 1]), ("memory", ["ai", [1]]),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_type_or_size_is_refused_by_key(
    bus: Bus, lab: Lab, app: str, key: str, value: list[Any]
) -> None:
    source = lab.source({"func.py": HELLO})
    error = refused(bus, "Deploy", "sssa{sv}", app, "f", source, {key: {"$": value}})
    assert error.name in (f"{STANDARD}InvalidArgs", f"{ERROR}InvalidManifest", f"{ERROR}Unsupported")
    assert key in error.text
    assert bus.manager("ListFunctions", "s", app) == []


@pytest.mark.parametrize(
    ("member", "signature", "body"),
    [
        ("CreateApp", "s", ["x"]),
        ("CreateApp", "sa{ss}", ["x", {}]),
        ("Deploy", "ssa{sv}", ["x", "y", {}]),
        ("Deploy", "", []),
        ("DeployArchive", "sssa{sv}", ["x", "y", "z", {}]),
        ("ListApps", "s", ["x"]),
        ("Cancel", "u", [5]),
        ("Remove", "sss", ["x", "y", "z"]),
    ],
)
def test_a_wrong_signature_is_refused_with_the_right_one(
    bus: Bus, member: str, signature: str, body: list[Any]
) -> None:
    error = refused(bus, member, signature, *body)
    assert error.name == f"{STANDARD}InvalidArgs"
    assert member in error.text


def test_an_unknown_object_interface_or_property_is_a_named_error(bus: Bus) -> None:
    def failing(path: str, interface: str, member: str, signature: str = "", *body: Any) -> str:
        with pytest.raises(BusError) as caught:
            bus.call(path, interface, member, signature, *body)
        return caught.value.name

    assert failing(f"{ROOT}/app/nope", APP, "Stop") == f"{STANDARD}UnknownObject"
    assert failing(f"{ROOT}/app/_zz", APP, "Stop") == f"{STANDARD}UnknownObject"
    assert failing("/", MANAGER, "ListApps") == f"{STANDARD}UnknownObject"
    assert failing(ROOT, "org.example.Other", "ListApps") == f"{STANDARD}UnknownMethod"
    assert failing(ROOT, FUNCTION, "Stop") == f"{STANDARD}UnknownMethod"
    assert failing(ROOT, PROPERTIES, "Get", "ss", MANAGER, "Nope") == f"{STANDARD}UnknownProperty"
    assert failing(ROOT, PROPERTIES, "Get", "s", MANAGER) == f"{STANDARD}InvalidArgs"


def test_properties_are_read_only(bus: Bus) -> None:
    with pytest.raises(BusError) as caught:
        bus.call(ROOT, PROPERTIES, "Set", "ssv", MANAGER, "Version", {"$": ["s", "2"]})
    assert caught.value.name == f"{STANDARD}PropertyReadOnly"


def test_a_call_that_wants_no_reply_is_done_all_the_same(bus: Bus, lab: Lab) -> None:
    name = lab.unique("quiet")
    bus.manager("CreateApp", "sa{sv}", name, {}, flags=1)
    wait_for(lambda: name in dict(bus.manager("ListApps")))
    bus.manager("RemoveApp", "s", name)


# --- who may


def test_an_ordinary_user_may_read(nobody: Bus, deploy: Deploy) -> None:
    function = deploy(HELLO)
    assert function.app in dict(nobody.manager("ListApps"))
    assert nobody.manager("GetFunction", "ss", function.app, function.name) == function.path
    assert nobody.get(function.path, FUNCTION, "Name") == function.name
    assert nobody.manager("Check")


@pytest.fixture
def changes(deploy: Deploy) -> Iterator[list[tuple[str, str, str, str, list[Any], list[str]]]]:
    """Every member that changes something: path, interface, member, signature, arguments, files."""
    function = deploy(HELLO)
    app = function.path.replace("/function/", "/app/").rsplit("/", 1)[0]
    yield [
        (ROOT, MANAGER, "CreateApp", "sa{sv}", ["by-nobody", {}], []),
        (ROOT, MANAGER, "RemoveApp", "s", [function.app], []),
        (ROOT, MANAGER, "Deploy", "sssa{sv}", [function.app, "by-nobody", function.source, {}], []),
        (ROOT, MANAGER, "DeployArchive", "ssha{sv}", [function.app, "by-nobody", 0, {}], ["/etc/passwd"]),
        (ROOT, MANAGER, "Remove", "ss", [function.app, function.name], []),
        (ROOT, MANAGER, "Cancel", "s", ["01ARZ3NDEKTSV4RRFFQ69G5FAV"], []),
        (app, APP, "Stop", "", [], []),
        (app, APP, "Start", "", [], []),
        (function.path, FUNCTION, "Stop", "", [], []),
        (function.path, FUNCTION, "Start", "", [], []),
    ]
    assert function.call(b"x").text == "hello"


def test_an_ordinary_user_may_change_nothing(nobody: Bus, changes: list[Any]) -> None:
    for path, interface, member, signature, body, files in changes:
        with pytest.raises(BusError) as caught:
            nobody.call(path, interface, member, signature, *body, files=files)
        assert caught.value.name in (f"{STANDARD}AccessDenied", f"{STANDARD}InteractiveAuthorizationRequired"), member


def test_polkit_is_asked_for_the_action_of_the_member(nobody: Bus) -> None:
    error = refused(nobody, "CreateApp", "sa{sv}", "by-nobody", {})
    assert error.name == f"{STANDARD}InteractiveAuthorizationRequired"
    assert "org.boesfs.faas1.manage-apps" in error.text


def test_with_interaction_allowed_and_no_agent_there_is_access_denied(nobody: Bus) -> None:
    assert refused(nobody, "CreateApp", "sa{sv}", "by-nobody", {}, flags=INTERACTIVE).name == f"{STANDARD}AccessDenied"


def test_members_outside_the_interface_file_do_not_pass_the_bus_policy(nobody: Bus) -> None:
    assert refused(nobody, "NoSuchMember", "").name == f"{STANDARD}AccessDenied"
    with pytest.raises(BusError) as caught:
        nobody.call(ROOT, PROPERTIES, "Set", "ssv", MANAGER, "Version", {"$": ["s", "2"]})
    assert caught.value.name == f"{STANDARD}AccessDenied"


def test_polkit_s_actions_are_those_of_the_interface_file(lab: Lab) -> None:
    wanted = set(re.findall(r'Action" value="([^"]+)"', XML.read_text()))
    known = set(lab.machine.shell("pkaction | grep org.boesfs").split())
    assert known == wanted


# --- descriptors


@pytest.mark.parametrize("what", ["unknown member", "wrong signature", "unknown object", "peer", "refused archive"])
def test_descriptors_sent_with_a_call_do_not_stay_open(bus: Bus, lab: Lab, app: str, what: str) -> None:
    file = lab.source({}) + "/func.yaml"

    def send() -> None:
        if what == "unknown member":
            bus.manager("NoSuchMember", "h", 0, files=[file])
        elif what == "wrong signature":
            bus.manager("CreateApp", "sh", "x", 0, files=[file])
        elif what == "unknown object":
            bus.call("/nowhere", MANAGER, "Cancel", "h", 0, files=[file])
        elif what == "peer":
            bus.call(ROOT, "org.freedesktop.DBus.Peer", "Ping", "h", 0, files=[file])
        else:
            bus.manager("DeployArchive", "ssha{sv}", app, "f", 0, {}, files=[file])

    for _ in range(50):
        with contextlib.suppress(BusError):
            send()
    wait_for(lambda: daemon_descriptors(lab, file), until=lambda now: now == 0)


def test_descriptors_sent_in_signals_do_not_stay_open(bus: Bus, lab: Lab) -> None:
    file = lab.source({}) + "/func.yaml"
    for _ in range(50):
        bus.call(ROOT, MANAGER, "Leaked", "h", 0, files=[file], signal=True)
    bus.manager("ListApps")
    wait_for(lambda: daemon_descriptors(lab, file), until=lambda now: now == 0)


def daemon_descriptors(lab: Lab, path: str) -> int:
    """How many descriptors of the file PATH boesfsd has open."""
    return lab.machine.shell(f"ls -l /proc/{lab.daemon_pid()}/fd 2>&1", check=False).count(f"-> {path}\n")


def test_many_calls_at_once_are_all_answered_though_the_answers_fill_the_socket(bus: Bus, lab: Lab) -> None:
    daemon = lab.daemon_pid()
    numbers = [bus.send(ROOT, "org.freedesktop.DBus.Introspectable", "Introspect") for _ in range(100)]
    answers = [bus.reply(number)[0] for number in numbers]
    assert sum(map(len, answers)) > 400_000 > len(answers[0])
    assert lab.daemon_pid() == daemon


def test_text_that_d_bus_cannot_carry_is_escaped_and_silences_nobody(lab: Lab, app: str) -> None:
    """A lone surrogate, which YAML can spell, in an error."""
    text = 'program: a\n"x\\udcff": 1\n'
    with pytest.raises(BusError) as error:
        lab.bus.manager("CreateApp", "sa{sv}", lab.unique("app"), {"policy": {"$": ["s", text]}})
    assert error.value.name == f"{ERROR}InvalidPolicy"
    assert "x\\udcff: a program decides alone" in error.value.text
    assert app in {name for name, _ in lab.bus.manager("ListApps")}
