"""The blocking client."""

import threading
from types import TracebackType
from typing import Any, Callable, Iterator, Optional, Sequence, Tuple, Type, Union

import grpc

from . import _connect, _convert, _errors, _protocol, _resume
from ._types import Answer, ChatMessage, Delta, Event, GenerateRequest, Prompt, ServerInfo, Tls


class AnswerStream:
    """An answer event by event: Started, any number of Delta, Finished. Iterate over it, or over texts(). The call is
    made with the first event read; one event is read at a time, and what is not read waits at the server. Leaving a
    ``with`` block before the end cancels the answer. For one thread, but cancel() may be called from any."""

    def __init__(self, client: "Client", request: Any, timeout: Optional[float]) -> None:
        self._client = client
        self._progress = _resume.Progress(request, client.resume_for, _resume.Deadline(timeout))
        self._builder = _convert.AnswerBuilder()
        self._call: Any = None
        self._cancelled = threading.Event()
        self._ended = False

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        while not self._ended:
            try:
                message = next(self._open())
            except StopIteration:
                self._ended = True
                if not self._progress.finished:
                    raise _errors.make("INTERNAL", "the server ended the answer without its last message") from None
            except grpc.RpcError as error:
                self._after(_errors.from_rpc(error, self._client.target))
            else:
                event = self._progress.take(message)
                if event is not None:
                    self._builder.add(event)
                    return event
        raise StopIteration

    def texts(self) -> Iterator[str]:
        """The answer's text piece by piece, as it comes."""
        for event in self:
            if isinstance(event, Delta) and event.text:
                yield event.text

    @property
    def answer(self) -> Answer:
        """The whole answer, once everything was read. RuntimeError before."""
        answer = self._builder.answer()
        if answer is None:
            raise RuntimeError("the answer has not been read to its end")
        return answer

    def cancel(self) -> None:
        """Ends the answer: reading it raises CancelledError."""
        self._cancelled.set()
        call = self._call
        if call is not None:
            call.cancel()

    def __enter__(self) -> "AnswerStream":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        if not self._ended:
            self._ended = True
            self.cancel()

    def _open(self) -> Any:
        if self._call is None:
            self._call = self._client._stream_call(self._progress.request, self._progress.deadline.left())
            if self._cancelled.is_set():  # before there was a call to cancel
                self._call.cancel()
        return self._call

    def _after(self, failure: _errors.FlexQuantError) -> None:
        """Makes the next call possible, or raises."""
        if self._cancelled.is_set() or not self._progress.may_go_on(failure):
            self._ended = True
            raise failure from None
        self._cancelled.wait(_resume.PAUSE)
        self._call = None


class Client:
    """A connection to a server; thread-safe. Connects on first use.

    addresses: HOST:PORT, a name of gRPC's such as "dns:///NAME:PORT", or several IP:PORT of servers of the same model,
        all IPv4 or all IPv6: the first that can be reached is used, and when it is lost the next.
    tls: None = plaintext.
    token: bearer token of each call. Without TLS only to this machine, unless allow_plaintext_token.
    retry: a call that ends with UNAVAILABLE before anything came is made again, four times at most.
    resume_for: an answer that is lost after it began is taken up again where it stood, until nothing has come for so
        many seconds; in isolated mode exactly the tokens follow that would have come. 0 = it ends with the error.

    Raises InvalidArgumentError for addresses, token or files that cannot be used. Calls raise FlexQuantError; `timeout`
    is in seconds, resumptions included, None = no limit.
    """

    def __init__(self, addresses: Union[str, Sequence[str]], *, tls: Optional[Tls] = None, token: str = "",
                 allow_plaintext_token: bool = False, retry: bool = True, resume_for: float = 30.0) -> None:
        self._connection = _connect.prepare(addresses, tls, token, allow_plaintext_token, retry)
        self.resume_for = resume_for
        target, options = self._connection.target, self._connection.options
        if self._connection.credentials is None:
            self._channel = grpc.insecure_channel(target, options=options)
        else:
            self._channel = grpc.secure_channel(target, self._connection.credentials, options=options)

    @property
    def target(self) -> str:
        """gRPC's name of the server."""
        return self._connection.target

    def close(self) -> None:
        """Ends the connection and every call."""
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()

    def wait_ready(self, timeout: Optional[float] = None) -> None:
        """Waits until the server is ready."""
        deadline = _resume.Deadline(timeout)
        while True:
            call: Callable[..., Any] = self._channel.unary_stream(_protocol.HEALTH_WATCH)
            watch = call(_protocol.HEALTH_REQUEST, timeout=deadline.left(), wait_for_ready=True)
            try:
                if any(state == _protocol.HEALTH_SERVING for state in watch):
                    return
                raise _errors.make("INTERNAL", "the server ended its health watch")
            except grpc.RpcError as error:
                failure = _errors.from_rpc(error, self.target)
                if failure.code != "UNAVAILABLE":
                    raise failure from None
            finally:
                watch.cancel()

    def server_info(self, timeout: Optional[float] = None) -> ServerInfo:
        """The server, its model and its limits."""
        response = self._call(_protocol.MODEL, "GetServerInfo", _protocol.GetServerInfoRequest(),
                              _protocol.GetServerInfoResponse, timeout)
        return _convert.server_info(response.server_info)

    def generate(self, request: Union[GenerateRequest, Prompt], *, timeout: Optional[float] = None) -> Answer:
        """The whole answer."""
        stream = self.stream(request, timeout=timeout)
        with stream:
            for _ in stream:
                pass
        return stream.answer

    def stream(self, request: Union[GenerateRequest, Prompt], *, timeout: Optional[float] = None) -> AnswerStream:
        """The answer as it comes. `timeout` begins now."""
        return AnswerStream(self, _convert.request_message(request), timeout)

    def abort(self, request_id: str, *, timeout: Optional[float] = None) -> None:
        """Ends a running or waiting request by the id that its client chose. NotFoundError if there is none."""
        self._call(_protocol.INFERENCE, "Abort", _protocol.AbortRequest(request_id=request_id), _protocol.AbortResponse,
                   timeout)

    def tokenize(self, text: Union[str, Sequence[ChatMessage]], *, add_special: bool = False,
                 parse_special: bool = False, timeout: Optional[float] = None) -> Tuple[int, ...]:
        """Token ids of a text, or of a conversation after the chat template. add_special: begin-of-sequence if the
        model has it; parse_special: special tokens written out in the text are read as such (both for texts only)."""
        response = self._call(_protocol.INFERENCE, "Tokenize", _convert.tokenize_message(
            text, add_special, parse_special), _protocol.TokenizeResponse, timeout)
        return tuple(response.token_ids)

    def detokenize(self, token_ids: Sequence[int], *, timeout: Optional[float] = None) -> str:
        """Their text; incomplete code points become U+FFFD."""
        response = self._call(_protocol.INFERENCE, "Detokenize", _protocol.DetokenizeRequest(token_ids=token_ids),
                              _protocol.DetokenizeResponse, timeout)
        text: str = response.text
        return text

    def _call(self, service: str, method: str, request: Any, response: Any, timeout: Optional[float]) -> Any:
        call: Callable[..., Any] = self._channel.unary_unary(
            f"/{service}/{method}", request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString)
        try:
            return call(request, timeout=timeout, metadata=self._connection.metadata)
        except grpc.RpcError as error:
            raise _errors.from_rpc(error, self.target) from None

    def _stream_call(self, request: Any, timeout: Optional[float]) -> Any:
        call: Callable[..., Any] = self._channel.unary_stream(
            _protocol.GENERATE_STREAM, request_serializer=_protocol.GenerateStreamRequest.SerializeToString,
            response_deserializer=_protocol.GenerateStreamResponse.FromString)
        return call(_protocol.GenerateStreamRequest(request=request), timeout=timeout,
                    metadata=self._connection.metadata)
