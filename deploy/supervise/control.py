"""``python -m deploy.supervise.control HUB``: the control service of one hub."""

import logging
import sys
from pathlib import Path

from common.errors import FedsegError
from common.events import HUB, JsonLines
from deploy.provision.tokens import matches
from deploy.supervise.hub_folder import HubFolder
from deploy.supervise.joining import code_of_request
from server.auditing import audit
from server.control.enrolment import EnrolmentService, Invitations
from server.control.serve import build_server, serve
from server.control.service import ControlService

DAY = 86_400


def main() -> None:
    """Serve until told to end."""
    try:
        hub = HubFolder.open(Path(sys.argv[1]))
        HUB.setLevel(logging.INFO)
        HUB.addHandler(JsonLines(hub.path / "log" / "control.jsonl"))
        audit(hub.path)
        root = hub.root.read_text(encoding="ascii")
        invitations = Invitations(
            matches=matches,
            code=lambda request, node_key: code_of_request(request, node_key, root),
        )
        server = build_server(
            hub.control_socket,
            EnrolmentService(hub.registry, invitations, root),
            ControlService(hub.registry, hub.settings.certificate_days * DAY / 3),
        )
    except FedsegError as error:
        sys.exit(f"control: {error}")
    serve(server)


if __name__ == "__main__":
    main()
