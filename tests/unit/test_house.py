# SPDX-License-Identifier: Apache-2.0
"""The rules of the house: who imports whom, licences, linters, and lists that must say the same."""

import ast
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
from samples import ROOT

from boesfsd.bus import connection as bus_connection
from boesfsd.bus.connection import read_xml
from boesfsd.bus.objects import AppObject, FunctionObject, ManagerObject
from boesfsd.errors import TABLE

PACKAGE = ROOT / "boesfsd"
XML = PACKAGE / "bus/org.boesfs.Faas1.xml"
RANKS = (
    {"__init__"},
    {"errors", "model", "config", "documents"},
    {"options", "manifest", "units", "runtimes", "layout", "plan", "policy"},
    {"store", "bundle", "systemd", "network", "kernel", "host", "calls", "journal", "notify", "wire"},
    {"invoke", "functions", "policies", "audit", "changes", "doctor", "learning", "live", "programs", "runs", "strays"},
    {"bus", "web", "ctl", "sandbox"},
    {"daemon", "setup"},
    {"__main__"},
)
LEAVES, PURE, ADAPTERS = RANKS[1], RANKS[2], RANKS[3]
WRAPPED = {
    "pystemd": "systemd",
    "sdnotify": "notify",
    "dbus_next": "bus.connection",
    "aiosqlite": "store",
    "pyroute2": "network",
    "jsonschema": "documents",
    "httptools": "wire",
    "uvloop": "daemon",
    "yaml": "documents",
    "_boesfs_bpf": "kernel",
}
EXPORTED = {
    "org.boesfs.Faas1.Manager": ManagerObject,
    "org.boesfs.Faas1.App": AppObject,
    "org.boesfs.Faas1.Function": FunctionObject,
}


def modules() -> dict[str, Path]:
    """Modules by dotted name below boesfsd; a package by its own name."""
    return {
        ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): file
        for file in sorted(PACKAGE.rglob("*.py"))
    }


def imports(file: Path) -> Iterator[str]:
    """Dotted names of all that FILE imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def rank(module: str) -> int:
    room = module.split(".")[0]
    return next(index for index, rooms in enumerate(RANKS) if room in rooms)


# --- rooms


def test_every_module_has_its_room() -> None:
    rooms = {name.split(".")[0] for name in modules()}
    assert rooms == set().union(*RANKS)


@pytest.mark.parametrize("module", modules())
def test_imports_point_one_way(module: str) -> None:
    known = {name.split(".")[0] for name in modules()}
    for name in imports(modules()[module]):
        head, _, rest = name.partition(".")
        if head != "boesfsd":
            continue
        room = rest.split(".")[0] if rest.split(".")[0] in known else "__init__"
        inside = room == module.split(".")[0] and (module.count(".") or module in ("bus", "web"))
        assert inside or rank(room) <= rank(module), f"{module} imports {name}"
        if rank(module) < rank("invoke"):  # leaves, pure modules and adapters
            same = rank(room) == rank(module) and module in ADAPTERS
            assert not same, f"adapter {module} imports adapter {room}"


def test_there_is_no_circle() -> None:
    edges = {
        module: {name.split(".")[1] for name in imports(file) if name.startswith("boesfsd.")} - {module.split(".")[0]}
        for module, file in modules().items()
    }
    done: set[str] = set()
    while ready := {module for module in edges.keys() - done if not (edges[module] & edges.keys()) - done}:
        done |= ready
    assert edges.keys() - done == set()


@pytest.mark.parametrize("package", WRAPPED)
def test_a_third_party_package_is_imported_by_one_module(package: str) -> None:
    importers = {
        module for module, file in modules().items() if any(name.split(".")[0] == package for name in imports(file))
    }
    assert importers == {WRAPPED[package]}


def test_no_other_package_is_imported() -> None:
    allowed = {*WRAPPED, "boesfsd", *sys.stdlib_module_names}
    for module, file in modules().items():
        assert {name.split(".")[0] for name in imports(file)} <= allowed, module


@pytest.mark.parametrize("module", [name for name in modules() if name.split(".")[0] in LEAVES | PURE])
def test_leaves_and_pure_modules_touch_nothing_outside(module: str) -> None:
    outside = {"asyncio", "os", "shutil", "socket", "sqlite3", "subprocess", "threading", "multiprocessing", "signal"}
    assert not {name.split(".")[0] for name in imports(modules()[module])} & outside


def test_only_the_store_speaks_sqlite_and_the_invoke_path_speaks_neither_sqlite_nor_d_bus() -> None:
    importers = {m for m, file in modules().items() if any(name.split(".")[0] == "sqlite3" for name in imports(file))}
    assert importers == {"store"}
    for module in ("invoke", "web", "wire"):
        names = {name.split(".")[1] for name in imports(modules()[module]) if name.startswith("boesfsd.")}
        assert not names & {"store", "systemd", "bus"}, module


# --- licences and linters


def tracked() -> list[Path]:
    out = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    files = [ROOT / name.decode() for name in out.split(b"\0") if name]
    return [file for file in files if file.is_file() and not file.is_symlink()]


def can_carry_a_licence(file: Path) -> bool:
    """Not licences themselves, not text that is compared byte by byte, not formats without comments: debian/copyright
    tells of those of Debian's."""
    inside = file.relative_to(ROOT)
    if inside.parts[:2] == ("packaging", "debian"):
        return file.read_text().startswith("#!")
    if inside.parts[0] == "LICENSES" or "golden" in inside.parts or file.suffix in (".json", ".svg", ".txt"):
        return False
    return file.name != ".gitignore" and b"\0" not in file.read_bytes()[:1000]


def licence_of(file: Path) -> str:
    """What runs in the kernel is GPL, all else Apache."""
    inside = file.relative_to(ROOT)
    places = (("kmod",), ("bpf",), ("tests", "vm", "kernel", "policy"), ("examples", "programs"))
    in_kernel = any(inside.parts[: len(place)] == place for place in places)
    return "GPL-2.0-only" if in_kernel else "Apache-2.0"


def test_every_file_says_its_licence_on_line_1_or_below_a_first_line_that_must_be_first() -> None:
    missing = []
    for file in filter(can_carry_a_licence, tracked()):
        lines = [*file.read_text().splitlines()[:2], "", ""]
        place = 1 if lines[0].startswith(("#!", "<?xml")) else 0
        if f"SPDX-License-Identifier: {licence_of(file)}" not in lines[place]:
            missing.append(str(file.relative_to(ROOT)))
    assert missing == []


def test_the_licence_texts_are_there() -> None:
    assert "Apache License" in (ROOT / "LICENSES/Apache-2.0.txt").read_text()
    assert "GNU GENERAL PUBLIC LICENSE" in (ROOT / "LICENSES/GPL-2.0-only.txt").read_text()


def tool(*command: str) -> None:
    process = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr


def test_ruff_finds_nothing() -> None:
    tool("ruff", "check", "--no-cache", ".")


def test_ruff_would_format_nothing_anew() -> None:
    tool("ruff", "format", "--no-cache", "--check", ".")


def test_mypy_strict_finds_nothing() -> None:
    tool("mypy")


def test_modules_stay_small() -> None:
    """anchors.md 4.2: 400 lines are a smell."""
    long = {m: n for m, file in modules().items() if (n := len(file.read_text().splitlines())) > 600}
    assert long == {}


@pytest.mark.parametrize("module", modules())
def test_every_module_says_what_it_owns(module: str) -> None:
    tree = ast.parse(modules()[module].read_text())
    docstring = ast.get_docstring(tree)
    assert docstring
    assert docstring.count("\n") <= 15


# --- D-Bus: the XML, the objects, the bus policy, polkit


def members() -> Iterator[tuple[str, str, str]]:
    """(interface, kind, name) of the XML."""
    for interface in ET.parse(XML).getroot().iter("interface"):
        for member in interface:
            if isinstance(member.tag, str):
                yield interface.get("name", ""), member.tag, member.get("name", "")


def test_the_xml_has_members_of_the_three_interfaces() -> None:
    assert {interface for interface, _, _ in members()} == EXPORTED.keys()


def test_every_member_is_told_in_a_sentence_right_before_it() -> None:
    lines = XML.read_text().splitlines()
    untold = []
    for index, line in enumerate(lines):
        found = re.match(r'\s*<(method|property|signal) name="(\w+)"', line)
        if found and not re.fullmatch(r"\s*(<!-- [A-Z].*|.*[^>])?\.? ?.*[.] -->", lines[index - 1]):
            untold.append(found[2])
    assert untold == []


@pytest.mark.parametrize("interface", EXPORTED)
def test_every_method_has_the_python_method_that_serves_it(interface: str) -> None:
    described = read_xml()[interface].methods.values()
    served = {
        name
        for name, value in vars(EXPORTED[interface]).items()
        if callable(value) and not name.startswith("_") and name != "properties"
    }
    assert {method.attribute for method in described} == served


@pytest.mark.parametrize("interface", EXPORTED)
def test_every_property_has_its_value(interface: str) -> None:
    tree = ast.parse((PACKAGE / "bus/objects.py").read_text())
    (body,) = [
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == EXPORTED[interface].__name__
    ]
    (function,) = [node for node in body.body if isinstance(node, ast.FunctionDef) and node.name == "properties"]
    keys = {
        key.value
        for node in ast.walk(function)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant)
    }
    if interface.endswith("Manager"):
        daemon = (PACKAGE / "daemon.py").read_text()
        keys |= set(re.findall(r'^            "([A-Z]\w+)": ', daemon, re.MULTILINE))
    assert keys == read_xml()[interface].properties.keys()


def test_what_changes_something_has_an_action_and_what_only_tells_has_none() -> None:
    for interface in read_xml().values():
        for method in interface.methods.values():
            tells = method.name.startswith(("List", "Get", "Check"))
            assert bool(method.action) != tells, method.name


def test_every_member_takes_and_gives_valid_signatures() -> None:
    from dbus_next.signature import SignatureTree  # noqa: PLC0415 (only here)

    for interface in read_xml().values():
        for method in interface.methods.values():
            SignatureTree(method.takes)
            SignatureTree(method.gives)
        for signature in (*interface.properties.values(), *interface.signals.values()):
            SignatureTree(signature)


def test_every_signal_that_is_sent_is_described() -> None:
    sent = set(
        re.findall(r'_service\.emit\(\s*ManagerObject\.interface,\s*"(\w+)"', (PACKAGE / "bus/objects.py").read_text())
    )
    assert sent == read_xml()["org.boesfs.Faas1.Manager"].signals.keys()


def standard_methods() -> set[tuple[str, str]]:
    text = f"<node>{bus_connection.STANDARD_INTERFACES}{bus_connection.OBJECT_MANAGER_XML}</node>"
    return {
        (interface.get("name", ""), method.get("name", ""))
        for interface in ET.fromstring(text).iter("interface")
        for method in interface.iter("method")
    }


def test_the_bus_policy_lets_anybody_send_just_the_members_of_the_xml_and_the_standard_ones() -> None:
    (default,) = ET.parse(ROOT / "etc/org.boesfs.Faas1.conf").getroot().findall("policy[@context='default']")
    allowed = [(r.get("send_interface", ""), r.get("send_member", "")) for r in default if r.get("send_member")]
    described = {(interface, name) for interface, kind, name in members() if kind == "method"}
    standard = standard_methods() - {("org.freedesktop.DBus.Properties", "Set")}  # all properties are read-only
    assert len(allowed) == len(set(allowed))
    assert set(allowed) == described | standard


def test_the_bus_policy_begins_with_no_and_adds_nothing_wide() -> None:
    root = ET.parse(ROOT / "etc/org.boesfs.Faas1.conf").getroot()
    (default,) = root.findall("policy[@context='default']")
    assert (default[0].tag, default[0].attrib) == ("deny", {"send_destination": "org.boesfs.Faas1"})
    for rule in default[1:]:
        assert rule.attrib == {"receive_sender": "org.boesfs.Faas1"} or rule.get("send_member")
    owners = [policy.attrib for policy in root if any(rule.get("own") for rule in policy)]
    assert owners == [{"user": "root"}]


def test_polkit_knows_just_the_actions_that_the_xml_names() -> None:
    named = {method.action for interface in read_xml().values() for method in interface.methods.values()} - {""}
    known = {action.get("id", "") for action in ET.parse(ROOT / "etc/org.boesfs.faas1.policy").getroot().iter("action")}
    assert named == known


def test_polkit_asks_for_an_admin_and_says_what_for() -> None:
    for action in ET.parse(ROOT / "etc/org.boesfs.faas1.policy").getroot().iter("action"):
        assert action.findtext("description")
        assert action.findtext("message")
        answers = {item.tag: item.text for item in action.findall("defaults/*")}
        assert answers.keys() == {"allow_any", "allow_inactive", "allow_active"}
        assert set(answers.values()) <= {"no", "auth_admin", "auth_admin_keep"}


def test_the_bus_starts_the_daemon_by_its_unit() -> None:
    text = (ROOT / "etc/org.boesfs.Faas1.service").read_text()
    assert "Name=org.boesfs.Faas1\n" in text
    assert "SystemdService=boesfsd.service\n" in text
    assert (ROOT / "units/boesfsd.service").is_file()


def test_standard_d_bus_errors_are_named_as_the_bus_names_them() -> None:
    from dbus_next.constants import ErrorType  # noqa: PLC0415 (only here)

    known = {item.value for item in ErrorType} | {"org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"}
    assert {kind.name for kind in TABLE.values() if kind.name.startswith("org.freedesktop.")} <= known


# --- what is installed


def test_every_unit_that_is_named_exists() -> None:
    """Ours, in the code and in other units."""
    there = {file.name for file in (ROOT / "units").iterdir()}
    text = "".join(file.read_text() for file in [*(ROOT / "units").iterdir(), *PACKAGE.rglob("*.py")])
    named = {name.replace("%i", "") for name in re.findall(r"\bboesfs[a-z-]*@?\.(?:service|socket|slice)\b", text)}
    assert named <= there


def test_every_file_of_etc_is_installed() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for file in (ROOT / "etc").rglob("*"):
        if file.is_file():
            inside = str(file.relative_to(ROOT))
            assert inside in makefile or f"{file.parent.relative_to(ROOT)}/*{file.suffix}" in makefile, inside
