"""Which machines train together: from the settings, else from what a scheduler puts into the environment.

Kubeflow Trainer sets `PET_*`, torchrun `GROUP_RANK` and its like. An Indexed Job, and a JobSet, which is made of such,
tell a pod its index, and name its host `NAME-INDEX`: so the first node is known, and the number of nodes is not.
"""

import re
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

import psutil

from mnrl_job.errors import SettingsError
from mnrl_job.runtime.service_links import is_address
from mnrl_job.settings import Settings

PORT = 29500
# Addresses that lie outside of any network (RFC 5737 and 3849): what leads there leads to other machines.
OUTSIDE = ("198.51.100.1", "2001:db8::1")
LAST_PORT = 65533  # two more are needed at most
COUNT = ("PET_NNODES", "GROUP_WORLD_SIZE", "NNODES")
LOCAL = "LOCAL_WORLD_SIZE"
INDEX = "JOB_COMPLETION_INDEX"
RANK = ("PET_NODE_RANK", "GROUP_RANK", "NODE_RANK", INDEX)
MASTER = (("PET_MASTER_ADDR", "PET_MASTER_PORT"), ("MASTER_ADDR", "MASTER_PORT"))


@dataclass(frozen=True, slots=True)
class Nodes:
    """The machines of a run, and which of them this is. Workers meet at `master`:`port`, supervisors one port above."""

    count: int = 1
    rank: int = 0
    master: str = ""
    port: int = PORT

    @property
    def is_first(self) -> bool:
        """Whether this node reports and publishes."""
        return self.rank == 0


ALONE = Nodes()


def find_nodes(settings: Settings, environ: Mapping[str, str], full_name: Callable[[], str] = socket.getfqdn) -> Nodes:
    """Find out who takes part. A setting wins over the environment.

    Raises:
        SettingsError: something is missing or makes no sense; each variable is named, one a line.
    """
    count = settings.nodes or _count(environ)
    if count == 1:
        return ALONE
    rank, name = (settings.node_rank, "MNRL_NODE_RANK") if settings.node_rank is not None else _rank(environ)
    master = _master(settings, environ, full_name)
    beyond = rank is not None and rank >= count
    crowd = environ.get(LOCAL) not in (None, "1")
    problems = {
        f"MNRL_NODE_RANK is required, the number of this node from 0, since there are {count} nodes": rank is None,
        f"{name}={rank}: there are {count} nodes, so the last is number {count - 1}": beyond,
        f"MNRL_MASTER is required, the host of node 0, since there are {count} nodes": master is None,
        f"MNRL_RUN_ID is required, the same on all {count} nodes; the name of the job would do": not settings.run_id,
        f"{LOCAL}={environ.get(LOCAL)}: start one process a node, it starts the workers itself": crowd,
    }
    if any(problems.values()) or rank is None or master is None:
        raise SettingsError("\n".join(problem for problem, is_so in problems.items() if is_so))
    return Nodes(count, rank, *master)


def interface_to(host: str) -> str | None:
    """The network interface by which a host is reached; gloo would take the one of this machine's own name.

    Debian and Ubuntu give a machine's own name the address 127.0.1.1, which no other machine reaches. Node 0 then takes
    the interface that leads outside. Who gives a loopback address itself has all nodes on one machine.

    Returns:
        None where there is none, or the host is not known.
    """
    own = _own_addresses(host)
    if own and all(map(_is_loopback, own)) and not (host == "localhost" or _is_loopback(host)):
        own = [address for outside in OUTSIDE for address in _own_addresses(outside)] or _addresses_in_use()
    chosen = next((address for address in own if not _is_loopback(address)), next(iter(own), None))
    known = psutil.net_if_addrs().items()
    return next((name for name, found in known if chosen in [one.address.partition("%")[0] for one in found]), None)


def _own_addresses(host: str) -> list[str]:
    """The addresses of this machine on the ways to each of a host's."""
    own = []
    with suppress(OSError):  # it is not known; whoever needs it will say so
        for family, kind, _, _, address in socket.getaddrinfo(host, PORT, type=socket.SOCK_DGRAM):
            with suppress(OSError), socket.socket(family, kind) as probe:
                probe.connect(address)  # sends nothing
                own.append(str(probe.getsockname()[0]))
    return own


def _addresses_in_use() -> list[str]:
    """Those of interfaces that are up and lead to other machines."""
    up = {name for name, facts in psutil.net_if_stats().items() if facts.isup}
    internet = (socket.AF_INET, socket.AF_INET6)
    every = [one for name, found in psutil.net_if_addrs().items() if name in up for one in found]
    return [one.address for one in every if one.family in internet and not _is_loopback(one.address)]


def _is_loopback(address: str) -> bool:
    with suppress(ValueError):  # it is a name
        return ip_address(address.partition("%")[0]).is_loopback
    return False


def _count(environ: Mapping[str, str]) -> int:
    name = next((name for name in COUNT if environ.get(name)), None)
    if name is None:
        return 1
    fewest, _, most = environ[name].partition(":")
    if most not in ("", fewest):
        raise SettingsError(f"{name}={environ[name]!r}: the number of nodes must not change; give one, as in 2")
    count = _number(name, fewest)
    if count < 1:
        raise SettingsError(f"{name}={environ[name]!r} is not accepted; expected a whole number of at least 1")
    return count


def _rank(environ: Mapping[str, str]) -> tuple[int | None, str]:
    name = next((name for name in RANK if environ.get(name)), "")
    return (_number(name, environ[name]) if name else None), name


def _master(settings: Settings, environ: Mapping[str, str], full_name: Callable[[], str]) -> tuple[str, int] | None:
    if settings.master:
        return _address("MNRL_MASTER", settings.master)
    for name, port in MASTER:
        if environ.get(name):
            own = environ.get(port, "")  # a service called "master" gives the address of that
            number = _port(port, own) if own and not is_address(own) else PORT
            # torchrun itself listens at that port.
            return environ[name], number + ("TORCHELASTIC_RUN_ID" in environ)
    host, _, domain = full_name().partition(".")
    index = environ.get(INDEX)
    if index and domain and host.endswith(f"-{index}"):
        return f"{host.removesuffix(index)}0.{domain}", PORT
    return None


def _address(name: str, text: str) -> tuple[str, int]:
    """`host`, `host:port`, `[address]:port`, or an IPv6 address as it is."""
    if text.count(":") > 1 and not text.startswith("["):
        return text, PORT
    found = re.fullmatch(r"(?:\[([^\[\]\s]+)\]|([^\[\]:\s]+))(?::([0-9]+))?", text)
    if not found:
        raise SettingsError(f"{name}={text!r} is not accepted; expected host or host:port")
    return found[1] or found[2], _port(name, found[3]) if found[3] else PORT


def _port(name: str, text: str) -> int:
    port = _number(name, text)
    if not 0 < port <= LAST_PORT:
        raise SettingsError(f"{name}: {port} is not accepted; expected a port from 1 to {LAST_PORT}")
    return port


def _number(name: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]+", text.strip()):
        raise SettingsError(f"{name}={text!r} is not accepted; expected a whole number")
    return int(text)
