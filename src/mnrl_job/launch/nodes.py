"""Which machines train together: from the settings, else from what a scheduler puts into the environment.

Kubeflow Trainer sets `PET_*`, torchrun `GROUP_RANK` and its like, Slurm `SLURM_*`. An Indexed Job, and a JobSet, which
is made of such, tell a pod its index, and name its host `NAME-INDEX`: so node 0 is known, the number of nodes is not.
"""

import re
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

import psutil

from mnrl_job.config.service_links import is_address
from mnrl_job.config.setting_types import NodeRange, parse_node_range
from mnrl_job.config.settings import Settings, accepts
from mnrl_job.errors import SettingsError
from mnrl_job.launch import slurm

PORT = 29500
# Addresses that lie outside of any network (RFC 5737 and 3849): what leads there leads to other machines.
OUTSIDE = ("198.51.100.1", "2001:db8::1")
LAST_PORT = 65534  # under torchrun the next one is taken
TORCHRUN = "TORCHELASTIC_RUN_ID"
# Where torchrun runs in a TrainJob, it has formed a group of its own and starts us again when that changes.
NUM_NODES = ("GROUP_WORLD_SIZE", "PET_NNODES", "NNODES", *slurm.COUNT)
LOCAL = "LOCAL_WORLD_SIZE"
INDEX = "JOB_COMPLETION_INDEX"
RANK = ("GROUP_RANK", "PET_NODE_RANK", "NODE_RANK", INDEX, slurm.RANK)
MASTER_ADDR = (("PET_MASTER_ADDR", "PET_MASTER_PORT"), ("MASTER_ADDR", "MASTER_PORT"))


@dataclass(frozen=True, slots=True)
class Nodes:
    """The machines of a run, and which of them this is. Node 0 listens at `master_addr`:`port`."""

    min_nodes: int = 1
    max_nodes: int = 1
    rank: int = 0
    master_addr: str = ""
    port: int = PORT

    def __str__(self) -> str:
        return str(NodeRange(self.min_nodes, self.max_nodes))

    @property
    def is_first(self) -> bool:
        """Whether this node reports and publishes."""
        return self.rank == 0

    @property
    def is_single(self) -> bool:
        """Whether no other node can take part."""
        return self.max_nodes == 1

    @property
    def is_elastic(self) -> bool:
        """Whether nodes may come and go while it runs."""
        return self.min_nodes != self.max_nodes


SINGLE_NODE = Nodes()


def find_nodes(settings: Settings, environ: Mapping[str, str], full_name: Callable[[], str] = socket.getfqdn) -> Nodes:
    """Find out who takes part. A setting wins over the environment.

    Raises:
        SettingsError: something is missing or makes no sense; each variable is named, one a line.
    """
    nodes = settings.num_nodes or _num_nodes(environ)
    crowd = _crowded(environ)
    if nodes.max_nodes == 1:
        if crowd and settings.num_nodes is None and slurm.is_step(environ):
            raise SettingsError(crowd[0])
        return SINGLE_NODE
    rank, name = (settings.node_rank, "MNRL_NODE_RANK") if settings.node_rank is not None else _rank(environ)
    master = _master(settings, environ, full_name)
    told = f"{nodes} nodes" if nodes.min_nodes == nodes.max_nodes else f"{nodes.min_nodes} to {nodes.max_nodes} nodes"
    problems = {
        f"MNRL_NODE_RANK is required, the number of this node from 0, since there are {told}": rank is None,
        f"{name}={rank}: there are {told}, so the last is number {nodes.max_nodes - 1}": (rank or 0) >= nodes.max_nodes,
        f"MNRL_MASTER_ADDR is required, the host of node 0, since there are {told}": master is None,
        f"MNRL_RUN_ID is required, the same on all {told}; the name of the job would do": not settings.run_id,
    }
    wrong = [problem for problem, is_so in problems.items() if is_so] + crowd
    if wrong or rank is None or master is None:
        raise SettingsError("\n".join(wrong))
    return Nodes(nodes.min_nodes, nodes.max_nodes, rank, *master)


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


def _crowded(environ: Mapping[str, str]) -> list[str]:
    """What is wrong where a launcher starts several processes on a node."""
    local = f"{LOCAL}={environ[LOCAL]}" if environ.get(LOCAL) not in (None, "1") else None
    found = local or slurm.several_tasks(environ)
    return [f"{found}: start one process a node, it starts the workers itself"] if found else []


def _num_nodes(environ: Mapping[str, str]) -> NodeRange:
    name = next((name for name in NUM_NODES if environ.get(name)), None)
    if name is None:
        return NodeRange(1, 1)
    try:
        return parse_node_range(environ[name])
    except ValueError as error:
        expected = accepts("num_nodes")
        raise SettingsError(f"{name}={environ[name]!r} is invalid ({error}); expected {expected}") from None


def _rank(environ: Mapping[str, str]) -> tuple[int | None, str]:
    name = next((name for name in RANK if environ.get(name)), "")
    return (_number(name, environ[name]) if name else None), name


def _master(settings: Settings, environ: Mapping[str, str], full_name: Callable[[], str]) -> tuple[str, int] | None:
    if settings.master_addr:
        return _address("MNRL_MASTER_ADDR", settings.master_addr)
    for name, port in reversed(MASTER_ADDR) if TORCHRUN in environ else MASTER_ADDR:
        if environ.get(name):
            own = environ.get(port, "")  # a service called "master" gives the address of that
            number = _port(port, own) if own and not is_address(own) else PORT
            # torchrun itself listens at that port.
            return environ[name], number + (TORCHRUN in environ)
    host, _, domain = full_name().partition(".")
    index = environ.get(INDEX)
    if index and domain and host.endswith(f"-{index}"):
        return f"{host.removesuffix(index)}0.{domain}", PORT
    if first := slurm.first_host(environ):
        return first, PORT
    return None


def _address(name: str, text: str) -> tuple[str, int]:
    """`host`, `host:port`, `[address]:port`, or an IPv6 address as it is."""
    if text.count(":") > 1 and not text.startswith("["):
        return text, PORT
    found = re.fullmatch(r"(?:\[([^\[\]\s]+)\]|([^\[\]:\s]+))(?::([0-9]+))?", text)
    if not found:
        raise SettingsError(f"{name}={text!r} is invalid; expected host or host:port")
    return found[1] or found[2], _port(name, found[3]) if found[3] else PORT


def _port(name: str, text: str) -> int:
    port = _number(name, text)
    if not 0 < port <= LAST_PORT:
        raise SettingsError(f"{name}: {port} is invalid; expected a port from 1 to {LAST_PORT}")
    return port


def _number(name: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]+", text.strip()):
        raise SettingsError(f"{name}={text!r} is invalid; expected an integer")
    return int(text)
