"""The variables that lead connections through a web proxy."""

from collections.abc import Mapping

from deploy.doctor.finding import Finding, broken, fine, odd

LOOPBACK = ("127.0.0.1", "localhost")
PAIRS = ("https_proxy", "http_proxy", "no_proxy")


def proxy_variables(environment: Mapping[str, str]) -> Finding:
    """Say whether the proxy variables are set so that every part of fedseg reads the same.

    gRPC reads the lower-case spelling alone, other libraries the other one first. Without an
    exception for loopback, Flower's own processes ask the proxy for each other.
    """
    differ = [
        name
        for name in PAIRS
        if environment.get(name) and environment.get(name.upper())
        and environment[name] != environment[name.upper()]
    ]  # fmt: skip
    if differ:
        named = ", ".join(f"{name} and {name.upper()}" for name in differ)
        return broken("proxy", f"{named} are not the same", "set both to the same value")
    https, http = _value(environment, "https_proxy"), _value(environment, "http_proxy")
    if not https and not http:
        return fine("proxy", "none: the hub is reached directly")
    excepted = {part.strip() for part in _value(environment, "no_proxy").split(",")}
    if not {*LOOPBACK} <= excepted and "*" not in excepted:
        return odd(
            "proxy",
            f"no_proxy does not except {' and '.join(LOOPBACK)}; fedseg adds them for itself",
            f"no_proxy={','.join(LOOPBACK)} (and NO_PROXY)",
        )
    if not https:
        return odd(
            "proxy", "http_proxy is set, https_proxy is not", "set https_proxy: the hub is TLS"
        )
    return fine("proxy", f"{_without_password(https)}, loopback excepted")


def _value(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name) or environment.get(name.upper()) or ""


def _without_password(proxy: str) -> str:
    scheme, mark, rest = proxy.rpartition("//")
    return scheme + mark + rest.rpartition("@")[2]
