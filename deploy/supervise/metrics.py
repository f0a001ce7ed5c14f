"""``python -m deploy.supervise.metrics FOLDER``: a hub's or a site's figures for Prometheus.

Listens on loopback. ``/metrics`` has the figures, ``/health`` answers 200 where everything runs
and 503 where not. Names of sites, runs and studies are in it; no name of a case is.
"""

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from common.errors import FedsegError
from deploy.provision.authority import Authorities
from deploy.supervise.hub_folder import HubFolder
from deploy.supervise.site_folder import SiteFolder
from deploy.supervise.status import read_programs
from server.registry import ADMITTED, SEEN_SECONDS, ProgressRow, RunRow, SiteRow

HOST = "127.0.0.1"


def _gauge(name: str, words: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"fedseg_{name}", words, labels=labels)


def _program_metrics(folder: Path) -> Iterator[Metric]:
    ready = _gauge("program_ready", "Whether a program can do its work.", "program")
    starts = _gauge("program_starts", "How often it was started.", "program")
    for name, program in read_programs(folder).items():
        ready.add_metric([name], float(bool(program.get("ready"))))
        starts.add_metric([name], float(program.get("starts", 0)))
    yield ready
    yield starts


@final
@dataclass(frozen=True)
class HubCollector:
    """Figures of a hub."""

    hub: HubFolder

    def collect(self) -> Iterator[Metric]:
        """Yield the figures of now."""
        yield from _program_metrics(self.hub.path)
        yield from self._sites()
        yield from self._runs()
        yield from self._authorities()

    def _authorities(self) -> Iterator[Metric]:
        """Yield when what shuts everybody out ends; nothing for a user who may not look."""
        ends = _gauge("hub_ends", "End of the revocation list or certificate.", "what")
        try:
            authorities = Authorities.open(self.hub.pki)
            ends.add_metric(["revocation list"], authorities.crl_expires().timestamp())
            ends.add_metric(["certificate"], authorities.server_expires().timestamp())
        except (FedsegError, OSError):
            return
        yield ends

    def _sites(self) -> Iterator[Metric]:
        now = time.time()
        up = _gauge("site_up", "Whether a site reported within a minute.", "site")
        ready = _gauge("site_ready", "Whether a site can work.", "site")
        ends = _gauge("site_certificate_ends", "End of its certificate, Unix time.", "site")
        clock = _gauge("site_clock_offset_seconds", "Its clock minus the hub's.", "site")
        for site in self.hub.registry.rows(SiteRow, state=ADMITTED):
            up.add_metric([site.name], float(now - site.seen < SEEN_SECONDS))
            ready.add_metric([site.name], float(site.ready))
            ends.add_metric([site.name], site.certificate_ends)
            clock.add_metric([site.name], site.clock_offset)
        yield from (up, ready, ends, clock)

    def _runs(self) -> Iterator[Metric]:
        state = _gauge("run_state", "1 for the state that a run is in.", "run", "state")
        closed = _gauge("run_rounds_closed", "Rounds that a run closed.", "run")
        done = _gauge("run_steps_done", "Steps that a site did of its round.", "run", "site")
        total = _gauge("run_steps_total", "Steps of a site's round.", "run", "site")
        received = _gauge("run_bytes_in", "Bytes that a site received.", "run", "site")
        sent = _gauge("run_bytes_out", "Bytes that a site sent.", "run", "site")
        for run in self.hub.registry.rows(RunRow):
            state.add_metric([run.run, run.state], 1.0)
            closed.add_metric([run.run], float(run.round))
        for row in self.hub.registry.rows(ProgressRow):
            where = [row.run, row.site]
            if row.phase == "training":
                done.add_metric(where, float(row.done))
                total.add_metric(where, float(row.total))
            received.add_metric(where, float(row.bytes_in))
            sent.add_metric(where, float(row.bytes_out))
        yield from (state, closed, done, total, received, sent)


@final
@dataclass(frozen=True)
class SiteCollector:
    """Figures of a site."""

    site: SiteFolder

    def collect(self) -> Iterator[Metric]:
        """Yield the figures of now."""
        yield from _program_metrics(self.site.path)
        ends = _gauge("certificate_ends", "End of the site's certificate, Unix time.")
        ends.add_metric([], self.site.keys.expires().timestamp())
        yield ends
        try:
            told = json.loads((self.site.path / "run" / "agent.json").read_text("utf-8"))
        except (OSError, ValueError):
            return
        reached = _gauge("hub_reached", "Whether the hub answered last.")
        reached.add_metric([], float(told.get("hub") == "reached"))
        yield reached
        for name, words in (("round", "Round of the work under way."),
                            ("done", "Steps or cases done of it."),
                            ("total", "Steps or cases of it.")):  # fmt: skip
            figure = _gauge(f"work_{name}", words)
            figure.add_metric([], float(told.get("worker", {}).get(name, 0)))
            yield figure


def serve_metrics(
    collector: HubCollector | SiteCollector, healthy: Callable[[], bool], port: int
) -> ThreadingHTTPServer:
    """Return a server on loopback, not yet serving.

    Args:
        collector: Of the figures.
        healthy: Whether everything runs.
        port: To listen on.
    """
    registry = CollectorRegistry()
    registry.register(collector)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._say(200, generate_latest(registry), CONTENT_TYPE_LATEST)
            elif self.path == "/health":
                self._say(200 if healthy() else 503, b"", "text/plain")
            else:
                self._say(404, b"", "text/plain")

        def _say(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep quiet: a scraper asks every few seconds."""

    return ThreadingHTTPServer((HOST, port), Handler)


def main() -> None:
    """Serve until told to end."""
    folder = Path(sys.argv[1])
    collector: HubCollector | SiteCollector
    try:
        if (folder / "hub.json").exists():
            hub = HubFolder.open(folder)
            collector, port = HubCollector(hub), hub.settings.metrics_port
        else:
            site = SiteFolder.open(folder)
            collector, port = SiteCollector(site), site.settings.metrics_port
    except FedsegError as error:
        sys.exit(f"metrics: {error}")

    def healthy() -> bool:
        held = read_programs(folder)
        return bool(held) and all(program.get("ready") for program in held.values())

    server = serve_metrics(collector, healthy, port)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever(poll_interval=0.5)


if __name__ == "__main__":
    main()
