"""What a site's people decide: written into the site's own ledger, then told to the hub."""

import getpass
from collections.abc import Iterator
from pathlib import Path

from client.consent import Consent, Limits
from common.audit import signing_key
from common.errors import FedsegError, InputError
from deploy.supervise.offers import Offers
from deploy.supervise.site_folder import SiteFolder


def refresh(site: SiteFolder) -> tuple[Offers, str]:
    """Fetch the offers; return them, and why the hub was not reached if it was not."""
    offers = Offers(site.path / "offers")
    try:
        with site.hub() as hub:
            offers.keep(hub.studies())
    except FedsegError as error:
        return offers, str(error)
    return offers, ""


def decide(
    folder: Path, study: str, decision: str, *, limits: Limits | None = None, by: str = ""
) -> str:
    """Write a decision down and tell the hub; return a sentence for the person.

    The ledger counts, not the hub: where the hub cannot be reached it hears of it later.
    """
    site = SiteFolder.open(folder)
    offers, _ = refresh(site)
    offer = offers.find(study)
    consent = Consent(site.path / "consent", key=signing_key(site.keys.audit_key))
    consent.decide(offer.hash, decision, limits=limits, by=by or getpass.getuser())
    try:
        with site.hub() as hub:
            hub.decide(offer.hash, decision)
    except FedsegError as error:
        return f"study {offer.hash[:12]}: {decision}, written down here; {error}; told later"
    return f"study {offer.hash[:12]}: {decision}, written down here and told to the hub"


def fetch_run(site: SiteFolder, name: str, out: Path) -> Iterator[tuple[Path, int]]:
    """Fetch all files of a run that the hub has for this site."""
    with site.hub() as hub:
        found = [run for run in hub.runs() if run.run.startswith(name)]
        if len(found) != 1:
            raise InputError(f"run {name!r}: {len(found)} runs begin so; see fedseg site runs")
        out.mkdir(parents=True, exist_ok=True)
        for file in found[0].files:
            if Path(file).name != file:
                raise InputError(f"{file[:80]}: the hub names a file that is no plain name")
            yield out / file, hub.fetch(found[0].run, file, out / file)
