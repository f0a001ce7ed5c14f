"""How a call of the control service ends when something is wrong."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from common.errors import FedsegError, InputError
from common.events import HUB, emit

F = TypeVar("F", bound=Callable[..., Any])


def answering(call: F) -> F:
    """Answer a wrong request with its sentence, and a failure of the hub with a fixed one."""

    @functools.wraps(call)
    def answered(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return call(self, request, context)
        except InputError as error:
            return context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except FedsegError as error:
            emit(HUB, "control_failed", call=call.__name__, reason=str(error))
            return context.abort(
                grpc.StatusCode.UNAVAILABLE, "the hub cannot answer now; try again"
            )

    return answered  # type: ignore[return-value]
