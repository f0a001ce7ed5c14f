"""A tap in a site's own programs: what they send to the hub, before it is encrypted.

Put into every Python process of a site through ``sitecustomize``: whatever is written to a TLS
socket (Flower's node), and every message given to a gRPC channel with TLS (the control service).
"""

import os
from pathlib import Path

SITECUSTOMIZE = """
import os, ssl
FOLDER = os.environ.get("TAPPED", "")
def keep(kind, data):
    with open(os.path.join(FOLDER, f"{os.getpid()}.{kind}"), "ab") as file:
        file.write(bytes(data) + b"\\n")
def tapped(owner, name):
    honest = getattr(owner, name)
    def call(self, data, *others, **named):
        keep("tls", data)
        return honest(self, data, *others, **named)
    setattr(owner, name, call)
if FOLDER:
    for owner, name in ((ssl.SSLSocket, "send"), (ssl.SSLSocket, "write"), (ssl.SSLObject, "write")):
        tapped(owner, name)
    import grpc
    honest = grpc.secure_channel
    class Tap(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor,
              grpc.StreamUnaryClientInterceptor, grpc.StreamStreamClientInterceptor):
        def intercept_unary_unary(self, go_on, details, request):
            keep("grpc", request.SerializeToString()); return go_on(details, request)
        intercept_unary_stream = intercept_unary_unary
        def intercept_stream_unary(self, go_on, details, requests):
            def each():
                for request in requests:
                    keep("grpc", request.SerializeToString()); yield request
            return go_on(details, each())
        intercept_stream_stream = intercept_stream_unary
    def secure_channel(*arguments, **named):
        return grpc.intercept_channel(honest(*arguments, **named), Tap())
    grpc.secure_channel = secure_channel
"""


def environment(folder: Path) -> dict[str, str]:
    """Prepare a folder and return what a site's processes need to be tapped."""
    kept = folder / "kept"
    kept.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    return {"PYTHONPATH": before_all(folder), "TAPPED": str(kept)}


def before_all(folder: Path) -> str:
    """Return a search path with a folder before whatever is on it already."""
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))


def sent(folder: Path) -> dict[str, bytes]:
    """Return what was sent over TLS and over gRPC, all processes together."""
    kept = folder / "kept"
    return {
        kind: b"".join(path.read_bytes() for path in sorted(kept.glob(f"*.{kind}")))
        for kind in ("tls", "grpc")
    }
