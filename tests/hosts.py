"""Hosts of their own on one machine: network namespaces with addresses and names (iproute2), joined by a switch."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NAMES = Path("/etc/netns")
MOUNTS, NETWORK = 0x00020000, 0x40000000  # CLONE_NEWNS and CLONE_NEWNET


@dataclass(frozen=True)
class Host:
    """A host: the name of its namespace and of its end of the cable."""

    name: str
    address: str

    def command(self, *command: str) -> list[str]:
        """A command as this host runs it."""
        return ["ip", "netns", "exec", self.name, *command]

    def enter(self) -> None:
        """Move this process there for good, as `command` would have begun it."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path("/run/netns", self.name).open() as network:
            if libc.setns(network.fileno(), NETWORK) or libc.unshare(MOUNTS):
                raise OSError(ctypes.get_errno(), f"cannot enter {self.name}")
        for words in (["--make-rslave", "/"], ["--bind", NAMES / self.name / "hosts", "/etc/hosts"]):
            subprocess.run(["mount", *words], check=True)

    def cable(self, state: str) -> None:
        """Plug it in (`up`) or pull it out (`down`)."""
        ip("-n", self.name, "link", "set", "cable", state)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def why_not() -> str:
    """Why there can be no hosts here; empty where there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need iproute2"
    try:
        with several_hosts(2):
            return ""
    except (OSError, subprocess.CalledProcessError) as error:
        return f"network namespaces cannot be made here: {getattr(error, 'stderr', None) or error}"


@contextmanager
def several_hosts(count: int) -> Iterator[tuple[Host, ...]]:
    """`node-0`, `node-1` and so on, as they call one another."""
    hosts = tuple(Host(f"mnrl-{os.getpid()}-{number}", f"10.9.0.{number + 1}") for number in range(count))
    switch = f"mnrl-{os.getpid()}-switch"
    try:
        ip("netns", "add", switch)
        ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", switch, "link", "set", "bridge", "up")
        for number, host in enumerate(hosts):
            ip("netns", "add", host.name)
            _name(host, hosts)
            port = f"port-{number}"
            ip("-n", host.name, "link", "add", "cable", "type", "veth", "peer", "name", port, "netns", switch)
            ip("-n", switch, "link", "set", port, "master", "bridge", "up")
            ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "cable")
            ip("-n", host.name, "link", "set", "lo", "up")
            host.cable("up")
        yield hosts
    finally:
        for name in (*(host.name for host in hosts), switch):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
            shutil.rmtree(NAMES / name, ignore_errors=True)


def _name(own: Host, hosts: tuple[Host, ...]) -> None:
    """A host's own name stands for loopback, as on Debian and Ubuntu."""
    (NAMES / own.name).mkdir(parents=True)
    reached = ("127.0.1.1" if host is own else host.address for host in hosts)
    names = "".join(f"{address} node-{at}\n" for at, address in enumerate(reached))
    (NAMES / own.name / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
