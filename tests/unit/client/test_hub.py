"""What a site's people are told where the hub is not reached."""

import grpc
import pytest

from client.hub import _told
from common.errors import RefusedError, RunError


class Failed:
    """As much of a failed call as is looked at."""

    def __init__(self, code, details):
        self._code, self._details = code, details

    def code(self):
        return self._code

    def details(self):
        return self._details


VERIFY = "ipv4:1.2.3.4:443: SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED: "
TOLD = [
    ("UNAUTHENTICATED", "", RefusedError, "revoked or has expired"),
    ("PERMISSION_DENIED", "no such study", RefusedError, "hub h:443: no such study"),
    ("RESOURCE_EXHAUSTED", "", RunError, "wait a minute"),
    ("DEADLINE_EXCEEDED", "", RunError, "did not answer"),
    ("UNAVAILABLE", "connection refused", RunError, "cannot be reached: connection refused"),
    ("UNAVAILABLE", VERIFY + "certificate is not yet valid", RunError, r"clock says \d{4}-.*set it right"),
    ("UNAVAILABLE", VERIFY + "certificate has expired", RunError, "or tell the coordinator"),
    ("UNAVAILABLE", VERIFY + "self signed certificate", RunError, "not from this federation's"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "details", "kind", "words"), TOLD)
def test_a_call_that_failed_is_told_in_words(code, details, kind, words):
    error = _told(Failed(grpc.StatusCode[code], details), "h:443")

    assert type(error) is kind
    with pytest.raises(kind, match=words):
        raise error
