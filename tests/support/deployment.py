"""Folders of a hub and a site, and what the files that deploy them say."""

import os
import re
import shutil
from datetime import UTC, datetime

import pytest
import yaml

from deploy.provision.nginx import SBIN
from deploy.provision.site_keys import SiteKeys
from deploy.supervise.desk import make_hub
from deploy.supervise.hub_folder import HubSettings
from deploy.supervise.permissions import HUB_USERS, SITE_USERS
from deploy.supervise.site_folder import SiteFolder, SiteSettings, free_port
from tests.support.studies import ROOT

DEPLOY = ROOT / "deploy"
FIRST = {"hub": 6100, "site": 6200}
NEEDS_NGINX = pytest.mark.skipif(
    shutil.which("nginx", path=os.pathsep.join([os.environ["PATH"], *SBIN])) is None,
    reason="nginx is not installed",
)
USERS = {"hub": HUB_USERS, "site": SITE_USERS}


def compose(side):
    """Return the services of a compose file."""
    return yaml.safe_load((DEPLOY / "compose" / side / "compose.yaml").read_text())["services"]


def mounts_of(service):
    """Yield a service's mounts: the variable, the path below it, whether it may write."""
    for volume in service["volumes"]:
        source, _, mode = re.fullmatch(r"(\$\{[^}]+\}[^:]*):([^:]+)(?::(ro))?", volume).groups()
        name, _, below = source.partition("}")
        yield name.removeprefix("${"), below.strip("/"), mode != "ro"


def new_hub(folder):
    hub = make_hub(folder, HubSettings(address="localhost:8443", listen="127.0.0.1"))
    run = hub.runs / "20270101-kidneys"
    (run / "journal").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (hub.path / "flower" / "state.db").touch()
    return hub


def new_site(folder, pki):
    folder.mkdir(mode=0o700)
    keys, now = SiteKeys.create(folder / "keys"), datetime.now(UTC)
    issued = pki.issue_site(keys.csr("A"), "A", now=now)
    keys.install(issued.pem, site="A", now=now, root_pem=pki.files.root.read_bytes())
    profile = folder.parent / "profile.yaml"
    profile.write_text("name: A\n")
    return SiteFolder.create(
        folder,
        SiteSettings(
            site="A", address="localhost:8443", fingerprint="0" * 64, profile=str(profile),
            runtime_port=free_port(), metrics_port=free_port(),
        ),
    )  # fmt: skip
