"""Every error that fedseg raises on purpose, as one tree.

FedsegError
├── InputError            exit 2: a file or an argument that a person can mend
│   ├── StudyError        a study file, with every problem found in it
│   ├── ProfileError      a site's profile
│   ├── DatasetError      a dataset folder that cannot be used at all
│   └── CaseError         one case; it is set aside and the rest goes on
├── RefusedError          exit 3: something asked for that policy does not allow
│   ├── ConsentError               a site's people have not allowed it
│   ├── IncompatibleWeightsError   weights that are not those of this study's network
│   ├── TooLargeError              a training step that cannot fit a device's memory
│   └── UpdateRefusedError         a site's update that must not count
└── RunError              exit 4: a run that cannot go on
    ├── AuditError        an audit log that was changed, or a record that it cannot hold
    ├── DamagedError      a file of a run that is not what was written there
    ├── QuorumError       too few sites remain
    ├── ReportedError     the site's worker failed, and has said so in words that may leave
    ├── RunInUseError     another process works in the run's folder
    ├── StorageError      a file that cannot be written now: disk full, no permission
    └── WorkerError       the site's worker cannot be reached

A message reads ``where: what is wrong, what was expected; what to do``.
"""

from collections.abc import Sequence
from pathlib import Path

RESTORE = "restore it from a backup, or start a new run"


class FedsegError(Exception):
    """Root of the tree; ``exit_code`` is what the command line ends with."""

    exit_code = 4


class InputError(FedsegError):
    """Something given by a person is wrong."""

    exit_code = 2


class FileProblemsError(InputError):
    """All the problems of one file.

    Attributes:
        problems: One sentence each, each naming its place in the file.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class StudyError(FileProblemsError):
    """A study that cannot be trained as it is written."""


class ProfileError(FileProblemsError):
    """A site's profile that cannot be used as it is written."""


class DatasetError(InputError):
    """A dataset folder that cannot be used at all."""


class CaseError(InputError):
    """One case that cannot be used.

    Attributes:
        reason: A fixed word for the hub's accounting; never a path, a name or a value.
        detail: The whole story, for the site's own log.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(detail)


class RefusedError(FedsegError):
    """Something that policy does not allow."""

    exit_code = 3


class TooLargeError(RefusedError):
    """A training step that cannot fit the memory of the device."""


class ConsentError(RefusedError):
    """A job that the site's own people have not allowed.

    Attributes:
        reason: One of a few fixed words for the hub; never a path, a name or a number.
    """

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


class IncompatibleWeightsError(RefusedError):
    """Weights whose names, shapes, types or kinds are not those of the study's network."""


class UpdateRefusedError(RefusedError):
    """A site's update that must not count; the message says why."""


class RunError(FedsegError):
    """A run that cannot go on."""


class AuditError(RunError):
    """An audit log that was changed by other hands, or a record that it cannot hold."""


class DamagedError(RunError):
    """A file of a run that is not what was written there, or is missing.

    Attributes:
        path: The file.
        what: What is wrong with it.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        super().__init__(f"{path}: {what}; {RESTORE}")


class QuorumError(RunError):
    """Fewer sites than the study needs."""


class ReportedError(RunError):
    """A failure that a site's worker has already reduced to what may leave the site.

    Attributes:
        code: Of the failure.
        sentence: Of the failure.
    """

    def __init__(self, code: str, sentence: str) -> None:
        self.code, self.sentence = code, sentence
        super().__init__(f"{code}: {sentence}")


class RunInUseError(RunError):
    """Another process works in the run's folder."""


class StorageError(RunError):
    """A file that cannot be written now; nothing was changed, and trying again may help."""


class WorkerError(RunError):
    """The site's worker cannot be reached, or ends each time that it is asked."""
