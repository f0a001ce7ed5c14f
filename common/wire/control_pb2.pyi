from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JoinRequest(_message.Message):
    __slots__ = ("site", "secret", "request_pem", "node_key", "audit_key", "version")
    SITE_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    REQUEST_PEM_FIELD_NUMBER: _ClassVar[int]
    NODE_KEY_FIELD_NUMBER: _ClassVar[int]
    AUDIT_KEY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    site: str
    secret: bytes
    request_pem: str
    node_key: str
    audit_key: str
    version: str
    def __init__(self, site: _Optional[str] = ..., secret: _Optional[bytes] = ..., request_pem: _Optional[str] = ..., node_key: _Optional[str] = ..., audit_key: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class JoinReply(_message.Message):
    __slots__ = ("state", "certificate_pem", "root_pem", "sentence")
    STATE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    ROOT_PEM_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    state: str
    certificate_pem: str
    root_pem: str
    sentence: str
    def __init__(self, state: _Optional[str] = ..., certificate_pem: _Optional[str] = ..., root_pem: _Optional[str] = ..., sentence: _Optional[str] = ...) -> None: ...

class StudiesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Offer(_message.Message):
    __slots__ = ("hash", "study", "offered", "round_bytes", "note")
    HASH_FIELD_NUMBER: _ClassVar[int]
    STUDY_FIELD_NUMBER: _ClassVar[int]
    OFFERED_FIELD_NUMBER: _ClassVar[int]
    ROUND_BYTES_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    hash: str
    study: str
    offered: float
    round_bytes: int
    note: str
    def __init__(self, hash: _Optional[str] = ..., study: _Optional[str] = ..., offered: _Optional[float] = ..., round_bytes: _Optional[int] = ..., note: _Optional[str] = ...) -> None: ...

class StudiesReply(_message.Message):
    __slots__ = ("offers",)
    OFFERS_FIELD_NUMBER: _ClassVar[int]
    offers: _containers.RepeatedCompositeFieldContainer[Offer]
    def __init__(self, offers: _Optional[_Iterable[_Union[Offer, _Mapping]]] = ...) -> None: ...

class DecideRequest(_message.Message):
    __slots__ = ("hash", "decision", "decided")
    HASH_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    DECIDED_FIELD_NUMBER: _ClassVar[int]
    hash: str
    decision: str
    decided: float
    def __init__(self, hash: _Optional[str] = ..., decision: _Optional[str] = ..., decided: _Optional[float] = ...) -> None: ...

class DecideReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Progress(_message.Message):
    __slots__ = ("run", "round", "phase", "done", "total", "bytes_in", "bytes_out")
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    BYTES_IN_FIELD_NUMBER: _ClassVar[int]
    BYTES_OUT_FIELD_NUMBER: _ClassVar[int]
    run: str
    round: int
    phase: str
    done: int
    total: int
    bytes_in: int
    bytes_out: int
    def __init__(self, run: _Optional[str] = ..., round: _Optional[int] = ..., phase: _Optional[str] = ..., done: _Optional[int] = ..., total: _Optional[int] = ..., bytes_in: _Optional[int] = ..., bytes_out: _Optional[int] = ...) -> None: ...

class ReportRequest(_message.Message):
    __slots__ = ("version", "ready", "reason", "progress", "clock", "instance")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    version: str
    ready: bool
    reason: str
    progress: _containers.RepeatedCompositeFieldContainer[Progress]
    clock: float
    instance: str
    def __init__(self, version: _Optional[str] = ..., ready: bool = ..., reason: _Optional[str] = ..., progress: _Optional[_Iterable[_Union[Progress, _Mapping]]] = ..., clock: _Optional[float] = ..., instance: _Optional[str] = ...) -> None: ...

class ReportReply(_message.Message):
    __slots__ = ("clock", "renew", "sentences")
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    RENEW_FIELD_NUMBER: _ClassVar[int]
    SENTENCES_FIELD_NUMBER: _ClassVar[int]
    clock: float
    renew: bool
    sentences: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, clock: _Optional[float] = ..., renew: bool = ..., sentences: _Optional[_Iterable[str]] = ...) -> None: ...

class RunsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RunSummary(_message.Message):
    __slots__ = ("run", "hash", "name", "state", "round", "rounds", "files", "sentence")
    RUN_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    run: str
    hash: str
    name: str
    state: str
    round: int
    rounds: int
    files: _containers.RepeatedScalarFieldContainer[str]
    sentence: str
    def __init__(self, run: _Optional[str] = ..., hash: _Optional[str] = ..., name: _Optional[str] = ..., state: _Optional[str] = ..., round: _Optional[int] = ..., rounds: _Optional[int] = ..., files: _Optional[_Iterable[str]] = ..., sentence: _Optional[str] = ...) -> None: ...

class RunsReply(_message.Message):
    __slots__ = ("runs",)
    RUNS_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[RunSummary]
    def __init__(self, runs: _Optional[_Iterable[_Union[RunSummary, _Mapping]]] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("run", "file")
    RUN_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    run: str
    file: str
    def __init__(self, run: _Optional[str] = ..., file: _Optional[str] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("request_pem",)
    REQUEST_PEM_FIELD_NUMBER: _ClassVar[int]
    request_pem: str
    def __init__(self, request_pem: _Optional[str] = ...) -> None: ...

class RenewReply(_message.Message):
    __slots__ = ("state", "certificate_pem")
    STATE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    state: str
    certificate_pem: str
    def __init__(self, state: _Optional[str] = ..., certificate_pem: _Optional[str] = ...) -> None: ...
