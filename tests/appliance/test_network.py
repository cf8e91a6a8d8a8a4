# SPDX-License-Identifier: Apache-2.0
"""network: none, host, private; and lists of ports."""

from collections.abc import Callable

import pytest
from lab import PROBE, Deployed, Lab, wait_for
from test_sandbox import TRY

Deploy = Callable[..., Deployed]
INTERFACES = "import socket; result = sorted(name for _, name in socket.if_nameindex())"
ADDRESS = (
    "import socket, fcntl, struct; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
    "result = socket.inet_ntoa(fcntl.ioctl(s, 0x8915, struct.pack('256s', b'eth0'))[20:24])"  # SIOCGIFADDR
)
CONNECT = TRY + "import socket; result = attempt(lambda: socket.create_connection(({address!r}, {port}), 2))"
BIND = TRY + "import socket; s = socket.socket(); result = attempt(lambda: s.bind(('127.0.0.1', {port})))"


def test_network_host_has_the_host_s_interfaces_and_reaches_its_loopback(lab: Lab, deploy: Deploy) -> None:
    function = deploy(PROBE, network="host")
    host = sorted(lab.machine.shell("ls /sys/class/net").split())
    assert [name for name in function.probe(INTERFACES) if not name.startswith("boesfs")] == [
        name for name in host if not name.startswith("boesfs")
    ]
    assert function.probe(CONNECT.format(address="127.0.0.1", port=8080)) == "done"


def test_network_host_brings_certificates_and_a_resolver_file(deploy: Deploy) -> None:
    assert deploy(PROBE, network="host").probe("import os; result = len(os.listdir('/etc/ssl/certs')) > 10") is True


def test_network_private_has_a_veth_with_an_address_that_the_host_reaches(lab: Lab, deploy: Deploy) -> None:
    function = deploy(PROBE, network="private")
    assert function.probe(INTERFACES) == ["eth0", "lo"]
    address = function.probe(ADDRESS)
    assert address.startswith("100.")
    listener = (
        "import socket, threading\nl = socket.create_server(('0.0.0.0', 9000))\n"
        "threading.Thread(target=lambda: l.accept()[0].sendall(b'from inside'), daemon=True).start()\nresult = 1\n"
    )
    function.probe(listener)
    script = f"import socket; print(socket.create_connection(('{address}', 9000), 3).recv(99).decode())"
    assert lab.python(script).strip() == "from inside"


def test_network_private_does_not_reach_the_host_s_loopback(deploy: Deploy) -> None:
    function = deploy(PROBE, network="private")
    assert function.probe(CONNECT.format(address="127.0.0.1", port=8080)) == "ECONNREFUSED"


def test_two_private_networks_have_different_addresses(deploy: Deploy) -> None:
    assert deploy(PROBE, network="private").probe(ADDRESS) != deploy(PROBE, network="private").probe(ADDRESS)


def test_a_private_network_goes_with_its_function(lab: Lab, deploy: Deploy) -> None:
    function = deploy(PROBE, network="private")
    function.probe("result = 1")
    link = f"boesfs{function.get('Uid'):x}"
    assert link in lab.machine.shell("ls /sys/class/net")
    assert lab.show(f"boesfs-net@{function.id}.service", "ActiveState")["ActiveState"] == "active"
    function.remove()
    assert link not in lab.machine.shell("ls /sys/class/net")
    assert function.id not in lab.machine.shell("ls /run/netns")
    assert lab.show(f"boesfs-net@{function.id}.service", "ActiveState")["ActiveState"] == "inactive"


def test_the_network_changes_with_a_new_deployment(lab: Lab, deploy: Deploy) -> None:
    function = deploy(PROBE, network="none")
    assert function.probe(INTERFACES) == ["lo"]
    function.replace(network="private")
    assert function.probe(INTERFACES) == ["eth0", "lo"]
    function.replace(network="none")
    wait_for(lambda: function.probe(INTERFACES) == ["lo"])
    assert function.id not in lab.machine.shell("ls /run/netns")


def test_only_listed_ports_may_be_connected_to(deploy: Deploy) -> None:
    function = deploy(PROBE, network="host", ports={"connect": [8080]})
    assert function.probe(CONNECT.format(address="127.0.0.1", port=8080)) == "done"
    assert function.probe(CONNECT.format(address="127.0.0.1", port=8081)) == "EACCES"
    assert function.probe(BIND.format(port=0)) == "done"


def test_only_listed_ports_may_be_bound(deploy: Deploy) -> None:
    function = deploy(PROBE, network="host", ports={"bind": [18234]})
    assert function.probe(BIND.format(port=18234)) == "done"
    assert function.probe(BIND.format(port=18235)) == "EACCES"
    assert function.probe(CONNECT.format(address="127.0.0.1", port=8080)) == "done"


def test_an_empty_list_of_ports_closes_that_direction(deploy: Deploy) -> None:
    function = deploy(PROBE, network="host", ports={"connect": [], "bind": []})
    assert function.probe(CONNECT.format(address="127.0.0.1", port=8080)) == "EACCES"
    assert function.probe(BIND.format(port=0)) == "EACCES"


def test_ports_without_a_network_are_refused(lab: Lab, app: str) -> None:
    with pytest.raises(AssertionError, match="ports"):
        lab.deploy(app, PROBE, ports={"connect": [80]})


def test_a_lost_private_network_is_made_again_at_the_next_deployment(lab: Lab, deploy: Deploy) -> None:
    function = deploy(PROBE, network="private")
    lab.machine.run("ip", "netns", "del", f"boesfs-{function.id}")
    lab.machine.run("systemctl", "stop", f"boesfs-net@{function.id}.service")
    assert function.call("result = 1").status == 502
    function.replace(network="private")
    assert function.probe(INTERFACES) == ["eth0", "lo"]
