"""Sites in network namespaces of their own, and what can happen to the wires to them."""

import json
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from os import geteuid, getpid
from pathlib import Path

NET = f"10.77.{getpid() % 250}"  # of this test run alone
HUB = f"{NET}.1"
WIRE = Path(__file__).with_name("wire.py")


def can_make_wires():
    """Whether this process may make network namespaces and tap devices."""
    if geteuid() != 0 or not shutil.which("ip") or not Path("/dev/net/tun").exists():
        return False
    name = f"fs-try-{getpid()}"
    made = _do("ip", "netns", "add", name, check=False)
    _do("ip", "netns", "del", name, check=False)
    return made.returncode == 0


def _do(*words, check=True):
    return subprocess.run(
        [shutil.which(words[0]), *words[1:]], check=check, capture_output=True
    )


class Wires:
    """One bridge at the hub and a wire to each site.

    Args:
        names: Of the sites.
    """

    def __init__(self, names):
        self.names = list(names)
        self._bridge = f"fs{getpid() % 10_000}"
        self._carriers = {}

    def space(self, name):
        """Return the name of a site's namespace."""
        return f"{self._bridge}-{self.names.index(name)}"

    def address(self, name):
        """Return a site's address."""
        return f"{NET}.{10 + self.names.index(name)}"

    def prefix(self):
        """Return, by site, the command that runs another in its namespace."""
        return {name: ("ip", "netns", "exec", self.space(name)) for name in self.names}

    def make(self):
        """Make everything."""
        _do("ip", "link", "add", self._bridge, "type", "bridge")
        _do("ip", "addr", "add", f"{HUB}/24", "dev", self._bridge)
        _do("ip", "link", "set", self._bridge, "up")
        for i, name in enumerate(self.names):
            self._connect(name, f"{self._bridge}a{i}", f"{self._bridge}b{i}")

    def _connect(self, name, here, there):
        space = self.space(name)
        _do("ip", "netns", "add", space)
        carrier = subprocess.Popen(
            [sys.executable, str(WIRE), here, there, str(self.names.index(name))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
        )  # fmt: skip
        self._carriers[name] = carrier
        assert carrier.stdout.readline() == b"ready\n"
        _do("ip", "link", "set", here, "master", self._bridge)
        _do("ip", "link", "set", here, "up")
        _do("ip", "link", "set", there, "netns", space)
        inside = ("ip", "-n", space)
        _do(*inside, "addr", "add", f"{self.address(name)}/24", "dev", there)
        _do(*inside, "link", "set", there, "up")
        _do(*inside, "link", "set", "lo", "up")

    def remove(self):
        """Remove everything, whatever there is of it."""
        for carrier in self._carriers.values():
            carrier.stdin.close()
            carrier.wait(5)
            carrier.stdout.close()
        for name in self.names:
            _do("ip", "netns", "del", self.space(name), check=False)
        _do("ip", "link", "del", self._bridge, check=False)

    def behave(self, name, **how):
        """Let a wire behave: delay (s), rate (bit/s), loss, duplicate, reorder (shares), cut."""
        self._carriers[name].stdin.write(json.dumps(how).encode() + b"\n")

    def cut_for(self, name, seconds, **before):
        """Pull a wire for some time; afterwards it behaves as before."""
        self.behave(name, **before, cut=True)
        time.sleep(seconds)
        self.behave(name, **before)


@contextmanager
def wires(names):
    """Yield the wires to these sites; remove them afterwards."""
    made = Wires(names)
    try:
        made.make()
        yield made
    finally:
        made.remove()
