"""``python -m deploy.systemd.keyless PART SITE``: a part of a site that needs no keys.

``fedseg site part`` first looks whether the site's keys are whole, also for the worker and the
messenger, which need none. Here they start where the keys are out of sight.
"""

import sys
from pathlib import Path

from common.errors import FedsegError, InputError
from deploy.provision.site_keys import SiteKeys
from deploy.supervise.part import become
from deploy.supervise.site import site_programs
from deploy.supervise.site_folder import SiteFolder

PARTS = ("worker", "executor")


def main() -> None:
    """Become the part."""
    try:
        name, folder = sys.argv[1:]
        if name not in PARTS:
            raise InputError(f"part {name!r}: expected one of {', '.join(PARTS)}")
        site = SiteFolder.open(Path(folder))
        # their paths alone, for the parts that do use them
        setattr(SiteFolder, "keys", SiteKeys(site.path / "keys"))  # noqa: B010 - a property
        become(site_programs(site), name)
    except (FedsegError, ValueError) as error:
        sys.exit(f"keyless: {error}")


if __name__ == "__main__":
    main()
