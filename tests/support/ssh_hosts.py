"""Three hosts with OpenSSH's own server on this machine, for tests of runners over SSH.

Where namespaces are permitted, each host has its own network, processes, user, ``/home`` and
``/tmp``: its address is not the driver's, it does not reach the driver's loopback interface, and it
can end with all of its processes at once. Two hosts and the driver are on one network. The third
is on a network with the second only, and is reached through it (``ProxyJump``)::

    driver 10.213.N.1 ─┬─ gpu1 10.213.N.11
                       └─ gpu2 10.213.N.12 ─── gpu3 10.214.N.13

Elsewhere the hosts are servers on ports of the loopback interface, with a home each, and tests of
what they cannot do are skipped. No user is made and nothing is changed on this machine: what the
hosts have is in their namespaces, which the kernel removes with their processes; and these are
killed with the tests, also if the tests are killed.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support.ssh_host_common import Host, keygen, program
from tests.support.ssh_host_loopback import LoopbackHost
from tests.support.ssh_host_namespaces import NamespaceHost, Network, no_namespaces

#: The names of the hosts, which the driver's ``~/.ssh/config`` knows.
NAMES = ("gpu1", "gpu2", "gpu3")


def missing() -> str:
    """Return why there can be no hosts here; empty if there can."""
    absent = [name for name in ("ssh-keygen", "sshd") if program(name) is None]
    return f"not installed: {', '.join(absent)} (Debian: openssh-server)" if absent else ""


class SshHosts(Mapping[str, Host]):
    """Hosts by their names, and the home of a driver whose SSH configuration knows them.

    Parameters
    ----------
    folder : Path
        For keys and configuration.
    why : str, optional
        Why the hosts have no namespaces; empty if they have.

    Attributes
    ----------
    home : Path
        The driver's home: ``HOME`` has to name it.
    driver : str
        The address at which hosts reach the driver.
    """

    def __init__(self, folder: Path, *, why: str = "") -> None:
        self.why = why
        self.home = folder / "home"
        self.driver = "127.0.0.1"
        self._hosts: dict[str, Host] = {}
        self._stack = contextlib.ExitStack()
        (self.home / ".ssh").mkdir(mode=0o700, parents=True)
        keygen(self.home / ".ssh" / "id_ed25519")
        try:
            for host in self._made(folder):
                self._hosts[host.name] = host
                host.start()
                host.reached()
        except BaseException:
            self.close()
            raise
        self.trust()

    def _made(self, folder: Path) -> Iterator[Host]:
        if self.why:
            yield from (LoopbackHost(name, folder) for name in NAMES)
            return
        network = self._stack.enter_context(Network(folder))
        self.driver = network.driver
        yield NamespaceHost(NAMES[0], folder, network)
        second = NamespaceHost(NAMES[1], folder, network)
        yield second
        yield NamespaceHost(NAMES[2], folder, network, jump=second)

    def trust(self) -> None:
        """Write the driver's ``~/.ssh/config`` and ``known_hosts``."""
        ssh = self.home / ".ssh"
        lines = []
        for host in self.values():
            lines += [
                f"Host {host.name}",
                f"    HostName {host.address}",
                f"    Port {host.port}",
                f"    User {host.user}",
                f"    IdentityFile {ssh / 'id_ed25519'}",
                f"    UserKnownHostsFile {ssh / 'known_hosts'}",
            ]
            lines += [f"    ProxyJump {host.jump.name}"] if host.jump else []
        (ssh / "config").write_text("\n".join([*lines, ""]))
        (ssh / "known_hosts").write_text("".join(host.known_line for host in self.values()))

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._hosts)

    def __len__(self) -> int:
        return len(self._hosts)

    def environment(self) -> dict[str, str]:
        """Return the variables of a driver that uses these hosts."""
        return {"HOME": str(self.home), "SSH_AUTH_SOCK": ""}

    def restore(self) -> None:
        """Undo what a test has done to the hosts, and trust them again."""
        for host in self.values():
            host.restore()
        self.trust()

    def left(self) -> list[str]:
        """Return what is on the hosts that was not there when they started."""
        return [f"{host.name}: {thing}" for host in self.values() for thing in host.left()]

    def close(self) -> None:
        """End all of them."""
        # All at once: the kernel takes its time with each.
        for host in self.values():
            if host.process is not None:
                host.process.kill()
        for host in self.values():
            host.kill()
        self._stack.close()


@contextlib.contextmanager
def ssh_hosts() -> Iterator[SshHosts]:
    """Start the hosts, and end them."""
    with tempfile.TemporaryDirectory(prefix="ssh-hosts-") as folder:
        os.chmod(folder, 0o755)
        hosts = SshHosts(Path(folder), why=no_namespaces())
        try:
            yield hosts
        finally:
            hosts.close()
