"""What has come of an answer, so that another call can go on with it: state is in the request."""

import time
from typing import Any, Optional

from . import _convert
from ._errors import FlexQuantError
from ._types import Event

PAUSE = 0.2  # seconds between two attempts to take a stream up again


class Deadline:
    """A time limit that several calls share."""

    def __init__(self, timeout: Optional[float]) -> None:
        self._end = None if timeout is None else time.monotonic() + timeout

    def left(self) -> Optional[float]:
        """Seconds; None without a limit."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())


class Progress:
    """Of one answer."""

    def __init__(self, request: Any, resume_for: float, deadline: Deadline) -> None:
        self.request = request  # that the next call sends
        self.deadline = deadline
        self.finished = False
        self._resume_for = resume_for
        self._wants_tokens = request.output.token_info
        self._started = False
        self._last_event = time.monotonic()
        if resume_for > 0:
            request.output.token_info = True  # resuming needs the signals

    def take(self, message: Any) -> Optional[Event]:
        """The event as the user of one uninterrupted stream would see it; None if such a user sees nothing."""
        self._last_event = time.monotonic()
        self.finished = message.HasField("finished")
        if self._resume_for <= 0:
            return _convert.event(message)
        if message.HasField("started"):
            if self._started:
                return None
            self._started = True
            self._keep_values(message.started)
        elif message.HasField("delta"):
            for token in message.delta.tokens:
                self.request.resume.tokens.add(id=token.id, entropy_nats=token.entropy_nats,
                                               top1_probability=token.top1_probability, margin=token.margin)
            if not self._wants_tokens:
                message.delta.ClearField("tokens")
        return _convert.event(message)

    def may_go_on(self, error: FlexQuantError) -> bool:
        """Whether a call that ended like this is to be followed by another one: the answer has begun, and what was
        lost is the server or its last executor, not the request."""
        lost = error.code == "UNAVAILABLE" or (error.code == "ABORTED" and error.reason == "EXECUTOR_LOST")
        left = self.deadline.left()
        return (self._started and lost and time.monotonic() + PAUSE <= self._last_event + self._resume_for
                and (left is None or left > PAUSE))

    def _keep_values(self, started: Any) -> None:
        """The values in force, which the server chose where the request did not."""
        self.request.request_id = started.request_id
        self.request.sampling.CopyFrom(started.effective.sampling)
        self.request.precision.CopyFrom(started.effective.precision)
        self.request.stop.max_tokens = started.effective.stop.max_tokens
        self.request.resume.kl_factor = started.kl_factor
        self.request.resume.backend_kl = started.backend_kl
