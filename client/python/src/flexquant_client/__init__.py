"""Client of FlexQuant, a language model service whose weight bits change per token and layer."""

from ._aio import AsyncAnswerStream, AsyncClient
from ._client import AnswerStream, Client
from ._errors import (
    AbortedError, CancelledError, DeadlineExceededError, FailedPreconditionError, FieldError, FlexQuantError,
    InvalidArgumentError, NotFoundError, PermissionDeniedError, ResourceExhaustedError, UnauthenticatedError,
    UnavailableError)
from ._types import (
    Answer, Audit, BatchMode, Calibration, ChatMessage, Delta, Dynamic, Event, Executor, Finished, FinishReason,
    FixedBits, GenerateRequest, LayerGroup, LayerGroupPlan, MaxMeanKl, NamedPlan, Plan, Policy, PositionLevels,
    Precision, PrecisionReport, Prompt, RandomLevels, Sampling, ServerInfo, Started, Stop, TargetMeanBits, Tls, Token,
    TokenLogprob, Usage)
from ._version import __version__

__all__ = [
    "AbortedError", "Answer", "AnswerStream", "AsyncAnswerStream", "AsyncClient", "Audit", "BatchMode", "Calibration",
    "CancelledError", "ChatMessage", "Client", "DeadlineExceededError", "Delta", "Dynamic", "Event", "Executor",
    "FailedPreconditionError", "FieldError", "Finished", "FinishReason", "FixedBits", "FlexQuantError",
    "GenerateRequest", "InvalidArgumentError", "LayerGroup", "LayerGroupPlan", "MaxMeanKl", "NamedPlan",
    "NotFoundError", "PermissionDeniedError", "Plan", "Policy", "PositionLevels", "Precision", "PrecisionReport",
    "Prompt", "RandomLevels", "ResourceExhaustedError", "Sampling", "ServerInfo", "Started", "Stop", "TargetMeanBits",
    "Tls", "Token", "TokenLogprob", "UnauthenticatedError", "UnavailableError", "Usage", "__version__",
]
