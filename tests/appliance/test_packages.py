# SPDX-License-Identifier: Apache-2.0
"""The packages that the project is built on are loaded by the running daemon and its units, not only named in the tree
(tests/unit/test_house.py); what they are for is what other tests show. libbpf is at work in tests/vm, where BoesFS is;
aiohttp joins when its job comes: Fn's API."""

from conftest import OwnLab
from lab import HELLO

OF_THE_DAEMON = ("sdnotify", "dbus_next", "aiosqlite", "jsonschema")
PREPARE = """
mkdir -p /etc/systemd/system/boesfsd.service.d /etc/systemd/system/boesfs-net@.service.d
printf '[Service]\\nExecStart=\\nExecStart=/usr/bin/python3 -I -X importtime /usr/sbin/boesfsd\\n' \
    > /etc/systemd/system/boesfsd.service.d/watch.conf
printf '[Service]\\nExecStart=\\nExecStart=/usr/bin/python3 -I -X importtime /usr/lib/boesfs/boesfs-net up %%i\\n' \
    > /etc/systemd/system/boesfs-net@.service.d/watch.conf
systemctl daemon-reload
"""


def test_every_named_package_is_at_work_in_the_appliance(own_lab: OwnLab) -> None:
    with own_lab("packages", prepare=PREPARE) as own:
        app = own.app()
        function = own.deploy(app, HELLO, network="private")
        assert function.call(b"x").text == "hello"
        own.machine.run("journalctl", "--sync")
        daemon = own.machine.shell("journalctl -q -o cat -u boesfsd")
        for package in OF_THE_DAEMON:
            assert f" {package}\n" in daemon, package
        assert " pyroute2\n" in own.machine.shell("journalctl -q -o cat -u 'boesfs-net@*'")
        # pystemd: in the daemon for signals, in its worker for calls
        for process in own.machine.shell("cat /sys/fs/cgroup/system.slice/boesfsd.service/cgroup.procs").split():
            assert "pystemd/dbuslib" in own.machine.shell(f"cat /proc/{process}/maps")
