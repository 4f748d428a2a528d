"""The nodes of a run: from the settings, else from the environment variables of a scheduler.

Kubeflow Trainer sets `PET_*`, torchrun `GROUP_RANK` and others, Slurm `SLURM_*`. Indexed Jobs, and JobSets, which
consist of them, set a pod's index and name its host `NAME-INDEX`, which gives the host of node 0 but not the number of
nodes.
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
from mnrl_job.config.settings import accepts
from mnrl_job.errors import SettingsError
from mnrl_job.launch import slurm

PORT = 29500
# Addresses reserved for documentation (RFC 5737 and 3849): the route to them is the one to other machines.
EXTERNAL = ("198.51.100.1", "2001:db8::1")
LAST_PORT = 65534  # under torchrun the next one is used
TORCHRUN = "TORCHELASTIC_RUN_ID"
# In a TrainJob, torchrun has its own rendezvous, and restarts this process when the number of nodes changes.
NUM_NODES = ("GROUP_WORLD_SIZE", "PET_NNODES", "NNODES", *slurm.COUNT)
LOCAL_SIZE = "LOCAL_WORLD_SIZE"
INDEX = "JOB_COMPLETION_INDEX"
RANK = ("GROUP_RANK", "PET_NODE_RANK", "NODE_RANK", INDEX, slurm.RANK)
MASTER_ADDR = (("PET_MASTER_ADDR", "PET_MASTER_PORT"), ("MASTER_ADDR", "MASTER_PORT"))


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes of a run, and the rank of this one. Node 0 listens on `master_addr`:`port`."""

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
        return self.max_nodes == 1

    @property
    def is_elastic(self) -> bool:
        """Whether nodes may join and leave during the run."""
        return self.min_nodes != self.max_nodes


SINGLE_NODE = Nodes()


def find_nodes(
    num_nodes: NodeRange | None,
    node_rank: int | None,
    master_addr: str,
    run_id: str,
    environ: Mapping[str, str],
    full_name: Callable[[], str] = socket.getfqdn,
) -> Nodes:
    """The nodes of the run. Settings take precedence over the environment.

    Raises:
        SettingsError: something is missing or inconsistent; each variable is named, one a line.
    """
    nodes = num_nodes or _num_nodes(environ)
    multiple_tasks = _multiple_tasks(environ)
    if nodes.max_nodes == 1:
        # A batch script, which srun did not start, has only the variables of the job.
        if multiple_tasks and num_nodes is None and environ.get(slurm.STEP_TASKS):
            raise SettingsError(multiple_tasks[0])
        return SINGLE_NODE
    rank, name = (node_rank, "MNRL_NODE_RANK") if node_rank is not None else _rank(environ)
    master = _address("MNRL_MASTER_ADDR", master_addr) if master_addr else _find_master(environ, full_name)
    count = f"{nodes} nodes" if nodes.min_nodes == nodes.max_nodes else f"{nodes.min_nodes} to {nodes.max_nodes} nodes"
    checks = {
        f"MNRL_NODE_RANK is required with {count}: the rank of this node, counted from 0": rank is None,
        f"{name}={rank} is invalid with {count}; expected at most {nodes.max_nodes - 1}": (rank or 0)
        >= nodes.max_nodes,
        f"MNRL_MASTER_ADDR is required with {count}: the host of node 0": master is None,
        f"MNRL_RUN_ID is required with {count}: the same on all nodes, such as the name of the job": not run_id,
    }
    problems = [problem for problem, applies in checks.items() if applies] + multiple_tasks
    if problems or rank is None or master is None:
        raise SettingsError("\n".join(problems))
    return Nodes(nodes.min_nodes, nodes.max_nodes, rank, *master)


def interface_to(host: str) -> str | None:
    """The network interface to reach a host, None if it is not known; gloo would use that of this machine's own name.

    Debian and Ubuntu resolve a machine's own name to 127.0.1.1, which other machines cannot reach. Node 0 then uses the
    interface to external addresses. If the host is given as a loopback address, all nodes are on one machine.
    """
    own = _own_addresses(host)
    if own and all(map(_is_loopback, own)) and not (host == "localhost" or _is_loopback(host)):
        own = [address for external in EXTERNAL for address in _own_addresses(external)] or _addresses_in_use()
    chosen = next((address for address in own if not _is_loopback(address)), next(iter(own), None))
    for name, addresses in psutil.net_if_addrs().items():
        if chosen in [address.address.partition("%")[0] for address in addresses]:
            return name
    return None


def _own_addresses(host: str) -> list[str]:
    """The addresses of this machine from which a host's are reached."""
    own = []
    with suppress(OSError):  # the host is not known; connecting to it will fail
        for family, kind, _, _, address in socket.getaddrinfo(host, PORT, type=socket.SOCK_DGRAM):
            with suppress(OSError), socket.socket(family, kind) as probe:
                probe.connect(address)  # sends nothing
                own.append(str(probe.getsockname()[0]))
    return own


def _addresses_in_use() -> list[str]:
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    internet = (socket.AF_INET, socket.AF_INET6)
    return [
        address.address
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if name in up and address.family in internet and not _is_loopback(address.address)
    ]


def _is_loopback(address: str) -> bool:
    with suppress(ValueError):  # it is a host name
        return ip_address(address.partition("%")[0]).is_loopback
    return False


def _multiple_tasks(environ: Mapping[str, str]) -> list[str]:
    """The problem if a launcher starts several processes per node."""
    local = f"{LOCAL_SIZE}={environ[LOCAL_SIZE]}" if environ.get(LOCAL_SIZE) not in (None, "1") else None
    cause = local or slurm.multiple_tasks(environ)
    return [f"{cause}: start one process per node; it starts the workers itself"] if cause else []


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


def _find_master(environ: Mapping[str, str], full_name: Callable[[], str]) -> tuple[str, int] | None:
    for name, port_name in reversed(MASTER_ADDR) if TORCHRUN in environ else MASTER_ADDR:
        if environ.get(name):
            text = environ.get(port_name, "")
            # A Kubernetes service called "master" sets MASTER_PORT to its address.
            port = _port(port_name, text) if text and not is_address(text) else PORT
            # torchrun itself listens on that port.
            return environ[name], port + (TORCHRUN in environ)
    host, _, domain = full_name().partition(".")
    index = environ.get(INDEX)
    if index and domain and host.endswith(f"-{index}"):
        return f"{host.removesuffix(index)}0.{domain}", PORT
    if first := slurm.first_host(environ):
        return first, PORT
    return None


def _address(name: str, text: str) -> tuple[str, int]:
    """Parse `host`, `host:port`, `[address]:port`, or a plain IPv6 address."""
    if text.count(":") > 1 and not text.startswith("["):
        return text, PORT
    match = re.fullmatch(r"(?:\[([^\[\]\s]+)\]|([^\[\]:\s]+))(?::([0-9]+))?", text)
    if not match:
        raise SettingsError(f"{name}={text!r} is invalid; expected host or host:port")
    return match[1] or match[2], _port(name, match[3]) if match[3] else PORT


def _port(name: str, text: str) -> int:
    port = _number(name, text)
    if not 0 < port <= LAST_PORT:
        raise SettingsError(f"{name}: {port} is invalid; expected a port from 1 to {LAST_PORT}")
    return port


def _number(name: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]+", text.strip()):
        raise SettingsError(f"{name}={text!r} is invalid; expected an integer")
    return int(text)
