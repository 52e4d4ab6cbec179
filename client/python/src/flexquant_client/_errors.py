"""Errors of calls, with what the server said about them."""

from dataclasses import dataclass
from typing import Any, Dict, Optional, Sequence, Tuple, Type

import grpc

from . import _protocol

_NUMBERS: Dict[str, int] = {code.name: code.value[0] for code in grpc.StatusCode}


@dataclass(frozen=True)
class FieldError:
    """A field of the request that the server refused."""

    field: str  # its path in flexquant.v1, such as "sampling.top_p"
    description: str


class FlexQuantError(Exception):
    """A call that failed."""

    def __init__(self, code: str, message: str, field_errors: Sequence[FieldError] = (), reason: str = "",
                 retry_delay: Optional[float] = None) -> None:
        super().__init__(code, message)
        self.code = code  # gRPC's name, such as "INVALID_ARGUMENT"
        self.message = message  # for people: the offending value and the remedy
        self.field_errors: Tuple[FieldError, ...] = tuple(field_errors)
        self.reason = reason  # of the server's ErrorInfo, such as "EXECUTOR_LOST"; or empty
        self.retry_delay = retry_delay  # seconds after which the same call may succeed, if the server knows

    @property
    def code_number(self) -> int:
        """gRPC's number of the code."""
        return _NUMBERS[self.code]

    @property
    def field(self) -> str:
        """Path of the first field that was refused; or empty."""
        return self.field_errors[0].field if self.field_errors else ""

    def __str__(self) -> str:
        text = f"{self.code}: {self.message}"
        for error in self.field_errors:
            text += f"\n  {error.field}: {error.description}"
        if self.retry_delay is not None:
            text += f"\n  try again in {self.retry_delay:g} s"
        return text


class CancelledError(FlexQuantError):
    """The answer was cancelled here, or aborted by its request id."""


class InvalidArgumentError(FlexQuantError, ValueError):
    """A field of the request is wrong; see field_errors."""


class DeadlineExceededError(FlexQuantError, TimeoutError):
    """The call's timeout went by."""


class NotFoundError(FlexQuantError, LookupError):
    """No such model, plan or request."""


class ResourceExhaustedError(FlexQuantError):
    """A limit of the tenant or the server; see retry_delay."""


class FailedPreconditionError(FlexQuantError):
    """Not with this model, for example because it is not calibrated."""


class AbortedError(FlexQuantError):
    """The executor was lost, or another call took this request's place; see reason."""


class UnavailableError(FlexQuantError, ConnectionError):
    """The server cannot be reached or is not ready."""


class UnauthenticatedError(FlexQuantError):
    """The server does not know the token."""


class PermissionDeniedError(FlexQuantError):
    """The caller may not do this."""


_CLASSES: Dict[str, Type[FlexQuantError]] = {
    "CANCELLED": CancelledError,
    "INVALID_ARGUMENT": InvalidArgumentError,
    "DEADLINE_EXCEEDED": DeadlineExceededError,
    "NOT_FOUND": NotFoundError,
    "RESOURCE_EXHAUSTED": ResourceExhaustedError,
    "FAILED_PRECONDITION": FailedPreconditionError,
    "ABORTED": AbortedError,
    "UNAVAILABLE": UnavailableError,
    "UNAUTHENTICATED": UnauthenticatedError,
    "PERMISSION_DENIED": PermissionDeniedError,
}


def make(code: str, message: str, **details: Any) -> FlexQuantError:
    """The error of a code."""
    return _CLASSES.get(code, FlexQuantError)(code, message, **details)


def from_rpc(error: Any, server: str) -> FlexQuantError:
    """The error that a grpc.RpcError or AioRpcError stands for; `server` is named where gRPC does not."""
    code = error.code().name
    message = error.details() or ""
    trailing = {key: value for key, value in error.trailing_metadata() or ()}
    packed = trailing.get("grpc-status-details-bin")
    if packed is None:
        if code == "UNAVAILABLE":
            message = (f"server {server}: {message}; is it running, is this its address, and do both sides agree on "
                       "TLS?")
        return make(code, message)
    fields, reason, delay = [], "", None
    for detail in _protocol.RpcStatus.FromString(packed).details:
        kind = detail.type_url.rpartition("/")[2]
        if kind == "google.rpc.BadRequest":
            fields += [FieldError(each.field, each.description)
                       for each in _protocol.BadRequest.FromString(detail.value).field_violations]
        elif kind == "google.rpc.ErrorInfo":
            reason = _protocol.ErrorInfo.FromString(detail.value).reason
        elif kind == "google.rpc.RetryInfo":
            wait = _protocol.RetryInfo.FromString(detail.value).retry_delay
            delay = wait.seconds + wait.nanos * 1e-9
    return make(code, message, field_errors=fields, reason=reason, retry_delay=delay)
