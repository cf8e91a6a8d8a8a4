# SPDX-License-Identifier: Apache-2.0
"""Private networks, through pyroute2: a named network namespace for a function, with a veth to the host. Runs as
boesfs-net@ID.service, which alone has the rights for it:

    python3 -m boesfsd.network up|down FUNCTION-ID

The addresses come from the function's uid: the host has the even one of a /31 below 100.96.0.0, the function the odd.
Whether the host forwards and translates further is the admin's firewall's business.
"""

import ipaddress
import sys
from pathlib import Path

from pyroute2 import IPRoute, NetNS, netns
from pyroute2.netlink.exceptions import NetlinkError

from boesfsd import config
from boesfsd.plan import PLANS
from boesfsd.plan import netns as namespace_path

BASE = int(ipaddress.IPv4Address("100.96.0.0"))
INSIDE = "eth0"


def host_link(uid: int) -> str:
    """Name of the host's end (at most 15 characters)."""
    return f"boesfs{uid:x}"[:15]


def addresses(uid: int, first_uid: int) -> tuple[str, str]:
    """(host's, function's) address."""
    number = BASE + 2 * (uid - first_uid)
    return str(ipaddress.IPv4Address(number)), str(ipaddress.IPv4Address(number + 1))


def up(function_id: str, uid: int, first_uid: int) -> None:
    """Make namespace, veth, addresses and default route; what a broken run left is replaced."""
    down(function_id, uid)
    name, link = namespace_path(function_id).name, host_link(uid)
    host, inside = addresses(uid, first_uid)
    netns.create(name)
    try:
        with IPRoute() as here, NetNS(name) as there:
            here.link("add", ifname=link, kind="veth", peer={"ifname": INSIDE, "net_ns_fd": name})
            index = here.link_lookup(ifname=link)[0]
            here.addr("add", index=index, address=host, prefixlen=31)
            here.link("set", index=index, state="up")
            index = there.link_lookup(ifname=INSIDE)[0]
            there.link("set", index=there.link_lookup(ifname="lo")[0], state="up")
            there.addr("add", index=index, address=inside, prefixlen=31)
            there.link("set", index=index, state="up")
            there.route("add", dst="default", gateway=host)
    except BaseException:
        down(function_id, uid)
        raise


def down(function_id: str, uid: int | None) -> None:
    """Remove all of it; what is not there is fine. Without a uid the veth goes with the namespace that it ends in."""
    if uid is not None:
        with IPRoute() as here:
            for index in here.link_lookup(ifname=host_link(uid)):
                here.link("del", index=index)
    path = namespace_path(function_id)
    if path.exists():
        netns.remove(path.name)


def _uid_of(function_id: str) -> int | None:
    """From the function's plan; None when the function is gone."""
    try:
        lines = (PLANS / f"{function_id}.plan").read_text().splitlines()
    except FileNotFoundError:
        return None
    return next((int(line.split("\t")[1]) for line in lines if line.startswith("user\t")), None)


def main() -> None:
    """Entry point of boesfs-net@.service."""
    verb, function_id = sys.argv[1:]
    if Path(function_id).name != function_id:
        raise SystemExit("boesfs-net: bad function id")
    try:
        uid = _uid_of(function_id)
        if verb == "up" and uid is not None:
            up(function_id, uid, config.load().uid_range[0])
        else:
            down(function_id, uid)
    except (OSError, NetlinkError) as error:
        raise SystemExit(f"boesfs-net: cannot {verb} the network of {function_id}: {error}") from error


if __name__ == "__main__":
    main()
