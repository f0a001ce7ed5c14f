"""A wire between two tap devices that behaves as it is told, one JSON object a line.

``python wire.py ONE OTHER SEED``: frames go both ways with a delay (seconds), at a rate (bits a
second), some lost, doubled or overtaken (shares), or not at all (cut). In user space, so that it
works where the kernel has no netem.
"""

import fcntl
import heapq
import json
import os
import selectors
import struct
import sys
import time

import numpy as np

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
LARGEST_FRAME, LARGEST_QUEUE = 65_536, 1_000
PERFECT = {
    "delay": 0.0,
    "rate": 0.0,
    "loss": 0.0,
    "duplicate": 0.0,
    "reorder": 0.0,
    "cut": False,
}


def tap(name):
    """Open a tap device, made if it is not there."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
    return device


class Direction:
    """Frames on their way from one end to the other."""

    def __init__(self, out, chance):
        self.out, self.chance = out, chance
        self.queue, self.count, self.free_at = [], 0, 0.0

    def take(self, frame, how):
        """Decide what becomes of a frame."""
        if how["cut"] or self.chance.random() < how["loss"] or len(self.queue) > LARGEST_QUEUE:
            return
        for _ in range(1 + (self.chance.random() < how["duplicate"])):
            now = time.monotonic()
            begin = max(now, self.free_at)
            self.free_at = begin + (len(frame) * 8 / how["rate"] if how["rate"] else 0.0)
            due = self.free_at + how["delay"]
            if self.chance.random() < how["reorder"]:
                due = max(now, due - how["delay"] * 0.7)  # overtakes those before it
            self.count += 1
            heapq.heappush(self.queue, (due, self.count, frame))

    def deliver(self, now):
        """Send what is due."""
        while self.queue and self.queue[0][0] <= now:
            frame = heapq.heappop(self.queue)[2]
            try:
                os.write(self.out, frame)
            except OSError:
                continue  # the other end is down or full: lost, as on a wire

    def wait(self, now):
        """Return the seconds until something is due."""
        return max(0.0, self.queue[0][0] - now) if self.queue else 1.0


def main():
    """Carry frames until the standard input ends."""
    one, other = tap(sys.argv[1]), tap(sys.argv[2])
    chance = np.random.default_rng(int(sys.argv[3]))
    ways = {one: Direction(other, chance), other: Direction(one, chance)}
    how = dict(PERFECT)
    selector = selectors.DefaultSelector()
    for device in ways:
        selector.register(device, selectors.EVENT_READ)
    os.set_blocking(0, False)
    selector.register(0, selectors.EVENT_READ)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    orders = b""
    while True:
        now = time.monotonic()
        for key, _ in selector.select(min(way.wait(now) for way in ways.values())):
            if key.fd == 0:
                more = os.read(0, 65_536)
                if not more:
                    return
                *lines, orders = (orders + more).split(b"\n")
                for line in lines:
                    how = {**PERFECT, **json.loads(line)}
                continue
            while True:
                try:
                    frame = os.read(key.fd, LARGEST_FRAME)
                except (BlockingIOError, OSError):
                    break
                ways[key.fd].take(frame, how)
        now = time.monotonic()
        for way in ways.values():
            way.deliver(now)


if __name__ == "__main__":
    main()
