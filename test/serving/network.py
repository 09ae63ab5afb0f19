"""Hosts made of one machine: network namespaces, joined by cables, each with a /dev/shm of its own."""

import os
import shutil
import subprocess

import pytest

MOUNTED = ("sh", "-c", 'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh")


class Hosts:
    """Two hosts on a network of their own; this machine has a cable to the first one only.

    The first one has two interfaces, of which the one that comes first in most lists does not lead to the second host.
    """

    def __init__(self):
        number = os.getpid()
        network = f"10.{64 + number // 256 % 128}.{number % 256}"
        self.names = [f"ms{number}a", f"ms{number}b"]
        self.outside, self.address = f"{network}.1", f"{network}.129"  # of the first host, for us and for the other
        first, second = self.names
        self.commands = [
            *(f"netns add {name}" for name in self.names),
            *(f"-n {name} link set lo up" for name in self.names),
            f"link add {first} type veth peer name aaa netns {first}",
            f"link add cable netns {first} type veth peer name cable netns {second}",
            f"addr add {network}.2/25 dev {first}",
            f"-n {first} addr add {self.outside}/25 dev aaa",
            f"-n {first} addr add {self.address}/25 dev cable",
            f"-n {second} addr add {network}.130/25 dev cable",
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
        return self

    def stop(self):
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
        return [shutil.which("ip"), "netns", "exec", self.names[host], *MOUNTED]
