# SPDX-License-Identifier: Apache-2.0
"""Sources and archives: what is taken, and what is refused with the path or key that is wrong."""

from collections.abc import Callable

import pytest
from lab import ERROR, HELLO, MANIFEST, BusError, Deployed, Lab

Deploy = Callable[..., Deployed]
PACKERS = {
    "tar": "tar -cf @ -C {source} .",
    "tar.gz": "tar -czf @ -C {source} .",
    "tar.zst": "tar --zstd -cf @ -C {source} .",
    "zip": "cd {source} && zip -qr @ .",
}


def refused(lab: Lab, app: str, source: str) -> BusError:
    """The error of deploying the directory SOURCE; nothing is left of the attempt."""
    with pytest.raises(BusError) as caught:
        lab.bus.manager("Deploy", "sssa{sv}", app, "f", source, {})
    assert lab.bus.manager("ListFunctions", "s", app) == []
    return caught.value


def archive_refused(lab: Lab, app: str, file: str) -> BusError:
    """The error of deploying the archive FILE."""
    with pytest.raises(BusError) as caught:
        lab.bus.manager("DeployArchive", "ssha{sv}", app, "f", 0, {}, files=[file])
    assert lab.bus.manager("ListFunctions", "s", app) == []
    return caught.value


@pytest.mark.parametrize("kind", PACKERS)
def test_an_archive_is_deployed_like_the_tree_it_was_made_of(lab: Lab, deploy: Deploy, kind: str) -> None:
    tree = deploy({"func.py": HELLO, "bin/tool": "#!/bin/sh\necho\n"})
    file = f"/srv/{lab.unique('archive')}.{kind}"
    lab.machine.shell(PACKERS[kind].format(source=tree.source).replace("@", file))
    path, changes = lab.bus.manager("DeployArchive", "ssha{sv}", tree.app, "packed", 0, {}, files=[file])
    assert ["create", "function", f"{tree.app}/packed"] in changes
    packed = Deployed(lab, tree.app, "packed", "", path, changes)
    assert packed.get("Digest") == tree.get("Digest")
    assert packed.call(b"x").text == "hello"


def test_an_archive_replaces_a_function_and_takes_options(lab: Lab, deploy: Deploy) -> None:
    function = deploy(HELLO, memory=64)
    file = f"/srv/{lab.unique('archive')}.tar"
    source = lab.source({"func.py": "def handler(ctx, data):\n    return 'packed'\n"})
    lab.machine.shell(f"tar -cf {file} -C {source} .")
    options = {"replace": {"$": ["b", True]}, "memory": {"$": ["u", 70]}}
    lab.bus.manager("DeployArchive", "ssha{sv}", function.app, function.name, 0, options, files=[file])
    assert function.call(b"x").text == "packed"
    assert function.get("Limits")["memory"] == 70


@pytest.mark.parametrize(
    ("script", "named"),
    [
        ("ln -s /etc/passwd link", "link"),
        ("ln -s ../../etc/passwd link", "link"),
        ("ln -s . a; ln -s a/../.. link", "link"),
        ("mkfifo pipe", "pipe"),
        ("mknod device c 1 3", "device"),
        ("touch set-uid; chmod 4755 set-uid", "set-uid"),
        ("touch set-gid; chmod 2755 set-gid", "set-gid"),
        ("touch 'new\nline'", "line"),
        ("python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('sock')\"", "sock"),
    ],
    ids=[
        "absolute link",
        "link out",
        "link of a link out",
        "pipe",
        "device",
        "set-uid",
        "set-gid",
        "newline",
        "socket",
    ],
)
def test_a_tree_with_a_trick_is_refused_by_path(lab: Lab, app: str, script: str, named: str) -> None:
    source = lab.source({"func.py": HELLO})
    lab.machine.shell(f"cd {source} && {script}")
    error = refused(lab, app, source)
    assert error.name == f"{ERROR}InvalidCode"
    assert named in error.text


@pytest.mark.parametrize(
    ("member", "named"),
    [
        ("i = tarfile.TarInfo('/etc/evil'); t.addfile(i)", "/etc/evil"),
        ("i = tarfile.TarInfo('../evil'); t.addfile(i)", "../evil"),
        ("i = tarfile.TarInfo('a/../../evil'); t.addfile(i)", "evil"),
        ("i = tarfile.TarInfo('l'); i.type = tarfile.SYMTYPE; i.linkname = '/etc'; t.addfile(i)", "'l'"),
        ("i = tarfile.TarInfo('h'); i.type = tarfile.LNKTYPE; i.linkname = 'func.py'; t.addfile(i)", "'h'"),
        ("i = tarfile.TarInfo('d'); i.type = tarfile.CHRTYPE; t.addfile(i)", "'d'"),
        ("i = tarfile.TarInfo('f'); i.type = tarfile.FIFOTYPE; t.addfile(i)", "'f'"),
        ("i = tarfile.TarInfo('s'); i.mode = 0o4755; t.addfile(i)", "'s'"),
        ("i = tarfile.TarInfo('func.py'); t.addfile(i)", "func.py"),
        ("i = tarfile.TarInfo('func.py/below'); t.addfile(i)", "func.py/below"),
        (
            "i = tarfile.TarInfo('l'); i.type = tarfile.SYMTYPE; i.linkname = 'sub'; t.addfile(i); "
            "t.addfile(tarfile.TarInfo('l/x'))",
            "l/x",
        ),
        ("i = tarfile.TarInfo('x' * 300); t.addfile(i)", "xxx"),
        ("i = tarfile.TarInfo('/'.join('d' * 200)); t.addfile(i)", "d/d/d"),
    ],
)  # fmt: skip
def test_an_archive_with_a_trick_is_refused_by_path(lab: Lab, app: str, member: str, named: str) -> None:
    source, file = lab.source({"func.py": HELLO}), f"/srv/{lab.unique('trick')}.tar"
    script = (
        "import sys, tarfile\nt = tarfile.open(sys.argv[2], 'w')\n"
        "for n in ('func.py', 'func.yaml'):\n    t.add(sys.argv[1] + '/' + n, n)\n"
    )
    lab.python(script + member + "\nt.close()\n", source, file)
    error = archive_refused(lab, app, file)
    assert error.name == f"{ERROR}InvalidCode"
    assert named in error.text


def test_a_zip_that_leads_out_is_refused_by_path(lab: Lab, app: str) -> None:
    file = f"/srv/{lab.unique('trick')}.zip"
    lab.python(
        "import sys, zipfile\nz = zipfile.ZipFile(sys.argv[1], 'w')\nz.writestr('../evil', 'x')\nz.close()\n", file
    )
    error = archive_refused(lab, app, file)
    assert error.name == f"{ERROR}InvalidCode"
    assert "evil" in error.text


@pytest.mark.parametrize(
    "make",
    [
        "head -c 100000 /dev/urandom > @",
        ": > @",
        "printf 'PK\\003\\004broken' > @",
        "tar -cz -C {source} . | head -c 200 > @",
        "tar --zstd -c -C {source} . | head -c 100 > @",
        "tar -c -C {source} . | head -c 1500 > @",
        "tar -cz -C {source} . > @ && dd if=/dev/zero of=@ bs=1 seek=60 count=9 conv=notrunc",
        "tar -cz -C {source} . > @ && truncate -s -8 @ && printf 12345678 >> @",
        "cd {source} && head -c 100000 /dev/urandom > x && zip -q @ x func.py"
        " && dd if=/dev/zero of=@ bs=1 seek=500 count=9 conv=notrunc",
    ],
    ids=[
        "noise",
        "empty",
        "broken zip",
        "cut gz",
        "cut zst",
        "cut tar",
        "damaged gz",
        "wrong sum in gz",
        "damaged zip",
    ],
)
def test_an_archive_that_cannot_be_read_is_refused(lab: Lab, app: str, make: str) -> None:
    source, file = lab.source({"func.py": HELLO * 100}), f"/srv/{lab.unique('broken')}"
    lab.machine.shell(make.format(source=source).replace("@", file))
    assert archive_refused(lab, app, file).name in (f"{ERROR}InvalidCode", f"{ERROR}InvalidManifest")


def test_a_descriptor_of_a_directory_or_pipe_is_refused(lab: Lab, app: str) -> None:
    assert "regular" in archive_refused(lab, app, "/srv").text
    assert "regular" in archive_refused(lab, app, "/dev/null").text


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a: [1, 2\n", "line"),
        ("\tx: 1\n", "line 1"),
        ("- a\n- b\n", "map"),
        ("", "map"),
        ("schema_version: 1\n", "schema_version"),
        ("runtime: python\n", "schema_version"),
        (MANIFEST + "memory: lots\n", "memory"),
        (MANIFEST + "memory: -1\n", "memory"),
        (MANIFEST + "timeout: 1e9\n", "timeout"),
        (MANIFEST + "colour: red\n", "colour"),
        (MANIFEST + "config: [a]\n", "config"),
        (MANIFEST + "entrypoint: [a]\n", "entrypoint"),
        (MANIFEST + "entrypoint: 'a \"b'\n", "entrypoint"),
        (MANIFEST + "x: &a [1]\ny: *a\n", "aliases"),
        (MANIFEST + "x: !!python/object/apply:os.system ['id']\n", "python/object"),
        ("schema_version: 20180708\nruntime: cobol\n", "cobol"),
        ("schema_version: 20180708\n", "runtime"),
        (MANIFEST + "expects: {config: [{name: NEEDED}]}\n", "NEEDED"),
        (MANIFEST + "ports: {bind: [80]}\n", "ports"),
        (MANIFEST + "config: {A: \"x\\0y\"}\n", "config"),
        ("[" * 5000, "func.yaml"),
        ("x" * 300_000, "256"),
    ],
)  # fmt: skip
def test_a_wrong_func_yaml_is_refused_and_says_where(lab: Lab, app: str, text: str, named: str) -> None:
    error = refused(lab, app, lab.source({"func.py": HELLO, "func.yaml": text}))
    assert error.name == f"{ERROR}InvalidManifest"
    assert named in error.text


@pytest.mark.parametrize("text", ["policy: {kill: 3, rules: []}\n", "policy: p.yaml\n"])
def test_a_policy_that_nobody_would_enforce_is_refused(lab: Lab, app: str, text: str) -> None:
    """This appliance has no BoesFS; tests/vm has it, and test_landlock what is kept without."""
    files = {"func.py": HELLO, "func.yaml": MANIFEST + text, "p.yaml": "kill: 3\n"}
    error = refused(lab, app, lab.source(files))
    assert error.name == f"{ERROR}InvalidPolicy"
    assert "nobody counts denials" in error.text
    assert "set enforcement = boesfs in boesfsd.conf" in error.text


def test_a_func_yaml_that_is_no_text_is_refused(lab: Lab, app: str) -> None:
    error = refused(lab, app, lab.source({"func.py": HELLO, "func.yaml": b"\xff\xfe\x00"}))
    assert error.name == f"{ERROR}InvalidManifest"


def test_every_key_of_fn_s_func_yaml_is_taken(deploy: Deploy) -> None:
    manifest = (
        MANIFEST + "version: 0.0.1\nbuild_image: fnproject/python:3.12-dev\nrun_image: fnproject/python:3.12\n"
        "entrypoint: /python/bin/fdk /function/func.py handler\ncontent_type: text/plain\ntype: sync\nmemory: 96\n"
        "timeout: 20\nidle_timeout: 40\nconfig: {A: b, N: 5, T: true}\nannotations: {x: [1]}\nbuild: [make]\n"
        "expects: {config: [{name: A, required: true}]}\ntriggers: [{name: t, type: http, source: /t}]\n"
        "signing_details: {image_compartment_id: x}\ndeploy: {oci: {}}\n"
    )
    function = deploy({"func.py": HELLO, "func.yaml": manifest})
    assert function.call(b"x").text == "hello"
    assert function.get("Config") == {"A": "b", "N": "5", "T": "true"}
    assert {"memory": 96, "timeout": 20, "idle_timeout": 40}.items() <= function.get("Limits").items()


def test_options_go_over_func_yaml(deploy: Deploy) -> None:
    function = deploy({"func.py": HELLO, "func.yaml": MANIFEST + "memory: 96\ntimeout: 20\n"}, memory=97)
    assert {"memory": 97, "timeout": 20}.items() <= function.get("Limits").items()


@pytest.mark.parametrize("source", ["relative/path", "/nonexistent", "/etc/passwd", ""])
def test_a_source_that_is_no_directory_is_refused(lab: Lab, app: str, source: str) -> None:
    error = refused(lab, app, source)
    assert error.name in (f"{ERROR}InvalidCode", "org.freedesktop.DBus.Error.InvalidArgs")


def test_symbolic_links_inside_the_source_are_kept(lab: Lab, app: str) -> None:
    source = lab.source({"real.py": HELLO})
    lab.machine.shell(f"cd {source} && mkdir sub && ln -s real.py func.py && ln -s ../real.py sub/up")
    path, changes = lab.busctl_deploy(app, "f", source, {})
    assert Deployed(lab, app, "f", source, path, changes).call(b"x").text == "hello"


def test_a_source_below_a_home_directory_can_be_read(lab: Lab, app: str) -> None:
    source = lab.source({"func.py": HELLO})
    lab.machine.shell(f"mkdir -p /root/{app} && cp -r {source} /root/{app}/f && chmod -R go= /root/{app}")
    path, changes = lab.busctl_deploy(app, "f", f"/root/{app}/f", {})
    assert Deployed(lab, app, "f", source, path, changes).call(b"x").text == "hello"


def test_two_deployments_of_one_name_at_once_make_one_function(lab: Lab, app: str) -> None:
    source = lab.source({"func.py": HELLO})
    numbers = [
        lab.bus.send("/org/boesfs/Faas1", "org.boesfs.Faas1.Manager", "Deploy", "sssa{sv}", app, "f", source, {})
        for _ in range(5)
    ]
    ends = []
    for number in numbers:
        try:
            ends.append(lab.bus.reply(number)[0])
        except BusError as error:
            ends.append(error.name)
    assert ends.count(f"{ERROR}FunctionExists") == 4
    assert len(lab.bus.manager("ListFunctions", "s", app)) == 1
