"""Hosts made of one machine: network namespaces, joined by cables, each with a /dev/shm of its own."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from serving.conftest import TIED

HELD = "mount -t tmpfs tmpfs /dev/shm && echo made && exec sleep infinity"
HOST = "SERVING_TESTS_HOST"  # where a process is to run: a process of Hosts.held
NAMESPACES = {"net": 0x40000000, "mnt": 0x20000}  # of a host, as setns(2) knows them


class Hosts:
    """Two hosts on a network of their own; this machine has a cable to the first one, and to the second one if asked.

    The first one has two interfaces, of which the one that comes first in most lists does not lead to the second host.
    """

    def __init__(self):
        number = os.getpid()
        network = f"10.{64 + number // 256 % 128}.{number % 256}"
        self.names = [f"ms{number}a", f"ms{number}b"]
        self.outside, self.address = f"{network}.1", f"{network}.129"  # of the first host, for us and for the other
        self.other = f"{network}.130"  # of the second host, for the first
        self.held: list[subprocess.Popen] = []  # of each host a process that keeps it, and its /dev/shm
        first, second = self.names
        self.commands = [
            *(f"netns add {name}" for name in self.names),
            *(f"-n {name} link set lo up" for name in self.names),
            f"link add {first} type veth peer name aaa netns {first}",
            f"link add cable netns {first} type veth peer name cable netns {second}",
            f"addr add {network}.2/25 dev {first}",
            f"-n {first} addr add {self.outside}/25 dev aaa",
            f"-n {first} addr add {self.address}/25 dev cable",
            f"-n {second} addr add {self.other}/25 dev cable",
            f"link set {first} up",
            f"-n {first} link set aaa up",
            *(f"-n {name} link set cable up" for name in self.names),
        ]

    def start(self):
        if not shutil.which("ip"):
            pytest.skip("hosts of one machine want the command ip (Debian: iproute2)")
        for command in self.commands:
            done = subprocess.run(["ip", *command.split()], capture_output=True, text=True, check=False)
            if done.returncode:
                self.stop()
                pytest.skip(f"network namespaces cannot be made here: ip {command}: {done.stderr.strip()}")
        for name in self.names:
            command = [sys.executable, "-c", TIED, shutil.which("ip"), "netns", "exec", name, "sh", "-c", HELD]
            self.held.append(subprocess.Popen(command, stdout=subprocess.PIPE))
            assert self.held[-1].stdout.readline() == b"made\n"
        return self

    def also_to_second(self) -> str:
        """Lay a cable from this machine to the second host, which `cut` leaves -> the host's address on it."""
        number, name = os.getpid(), self.names[1]
        network = f"10.{192 + number // 256 % 60}.{number % 256}"
        for command in (
            f"link add {name} type veth peer name aaa netns {name}",
            f"addr add {network}.2/25 dev {name}",
            f"-n {name} addr add {network}.1/25 dev aaa",
            f"link set {name} up",
            f"-n {name} link set aaa up",
        ):
            subprocess.run(["ip", *command.split()], check=True)
        return f"{network}.1"

    def also_by_ipv6(self) -> str:
        """Give both hosts addresses of IPv6 too -> the first one's; the test is skipped where there is none."""
        found = [f"fd00:{os.getpid() % 65536:x}::{host}" for host in (1, 2)]
        for name, address in zip(self.names, found, strict=True):
            command = ["ip", "-n", name, "addr", "add", f"{address}/64", "dev", "cable", "nodad"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"no IPv6 here: {done.stderr.strip()}")
        return found[0]

    def stop(self):
        for process in self.held:
            process.kill()
            process.communicate()
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    def cut(self) -> None:
        """Take the cable between the hosts away."""
        self._cable("down")

    def mend(self) -> None:
        self._cable("up")

    def _cable(self, state: str) -> None:
        subprocess.run(["ip", "-n", self.names[1], "link", "set", "cable", state], check=True)

    def inside(self, host: int) -> list[str]:
        """What comes before a command that is to run on a host."""
        return [shutil.which("nsenter"), "--target", str(self.held[host].pid), "--net", "--mount"]


def move_in() -> None:
    """Let this process, which has one thread and was started on this machine, run on the host that HOST names."""
    if HOST not in os.environ:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    for name, kind in NAMESPACES.items():
        with Path(f"/proc/{os.environ[HOST]}/ns/{name}").open() as namespace:
            if libc.setns(namespace.fileno(), kind):
                raise OSError(ctypes.get_errno(), f"setns of {namespace.name}: {os.strerror(ctypes.get_errno())}")


def is_on(host: str, process: int) -> bool:
    """Whether a process runs on a host, as HOST names it."""
    first, second = (Path(f"/proc/{one}/ns/net").stat() for one in (host, process))
    return first.st_ino == second.st_ino
