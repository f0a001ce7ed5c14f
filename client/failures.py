"""An error as it may leave the site: a code and a fixed sentence, never a path or a name.

The full story stays in the site's log.
"""

from errno import EDQUOT, ENOSPC, EROFS

from common.errors import ConsentError, FedsegError, ReportedError
from common.messages import Failure

SENTENCES = {
    "StudyError": "the study cannot be used with this site's fedseg",
    "ProfileError": "the site's profile does not fit the study",
    "DatasetError": "a dataset of the site cannot be used",
    "CaseError": "a case of the site cannot be used",
    "IncompatibleWeightsError": "the weights are not those of the study's network at this site",
    "ConsentError": "the site's people have not allowed this",
    "RefusedError": "the site refuses the job",
    "TooLargeError": "a training step does not fit the memory of the site's device",
    "UpdateRefusedError": "the job's records are malformed",
    "RunError": "the site cannot go on with the run",
    "RunInUseError": "another process works on the run at this site",
    "AuditError": "the site's own records are not in order",
    "StorageError": "the site cannot write to its disk now",
    "WorkerError": "the site's worker cannot be reached",
    "MemoryError": "the site ran out of memory",
    "OutOfMemoryError": "the site's GPU ran out of memory",
}
CONSENT_SENTENCES = {
    "not approved": "the study waits for the site's approval",
    "denied": "the site has denied the study",
    "paused": "the site has paused the study",
    "withdrawn": "the site has withdrawn from the study",
    "hub went back": "the hub asks for an older round than the site was at; the site's people "
    "must approve the study anew",
    "expired": "the site's approval of the study has expired",
    "clock turned back": "the site's clock is behind its own records",
    "rounds used up": "the rounds that the site approved are used up",
    "too few cases": "the site has fewer cases than its approval asks for",
    "updates not permitted": "the site does not permit weights to leave",
    "metrics not permitted": "the site does not permit metrics to leave",
    "affinities not permitted": "the site does not permit class affinities to leave",
    "models not permitted": "the site does not permit the model that it trained alone to leave",
    "statistics not permitted": "the site does not permit intensity statistics to leave",
}
DISK = (EDQUOT, ENOSPC, EROFS)
UNKNOWN = "the site failed; its own log has the story"


def failure_of(error: BaseException) -> Failure:
    """Reduce an exception to what may leave a site."""
    if isinstance(error, ReportedError):
        return Failure(code=error.code, sentence=error.sentence)
    if isinstance(error, ConsentError):
        sentence = CONSENT_SENTENCES.get(error.reason, SENTENCES["ConsentError"])
        return Failure(code="ConsentError", sentence=sentence)
    if isinstance(error, OSError) and error.errno in DISK:
        return Failure(code="StorageError", sentence=SENTENCES["StorageError"])
    for kind in type(error).__mro__:  # the nearest kind that has a sentence
        if kind.__name__ in SENTENCES:
            return Failure(code=kind.__name__, sentence=SENTENCES[kind.__name__])
    code = "FedsegError" if isinstance(error, FedsegError) else "Exception"
    return Failure(code=code, sentence=UNKNOWN)
