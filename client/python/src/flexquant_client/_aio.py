"""The client for asyncio."""

import asyncio
from types import TracebackType
from typing import Any, AsyncIterator, Callable, Optional, Sequence, Tuple, Type, Union

import grpc
import grpc.aio

from . import _connect, _convert, _errors, _protocol, _resume
from ._types import Answer, ChatMessage, Delta, Event, GenerateRequest, Prompt, ServerInfo, Tls

_END: Any = getattr(grpc.aio, "EOF")  # the type stubs do not have it


class AsyncAnswerStream:
    """AnswerStream for ``async for`` and ``async with``. Cancelling the task that reads it cancels the answer."""

    def __init__(self, client: "AsyncClient", request: Any, timeout: Optional[float]) -> None:
        self._client = client
        self._progress = _resume.Progress(request, client.resume_for, _resume.Deadline(timeout))
        self._builder = _convert.AnswerBuilder()
        self._call: Any = None
        self._cancelled = False
        self._ended = False

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while not self._ended:
            try:
                message = await self._read()
            except grpc.aio.AioRpcError as error:
                await self._after(_errors.from_rpc(error, self._client.target))
                continue
            if message is _END:
                self._ended = True
                if not self._progress.finished:
                    raise _errors.make("INTERNAL", "the server ended the answer without its last message")
                break
            event = self._progress.take(message)
            if event is not None:
                self._builder.add(event)
                return event
        raise StopAsyncIteration

    async def texts(self) -> AsyncIterator[str]:
        """The answer's text piece by piece, as it comes."""
        async for event in self:
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
        """Ends the answer: reading it raises CancelledError (this package's)."""
        self._cancelled = True
        if self._call is not None:
            self._call.cancel()

    async def __aenter__(self) -> "AsyncAnswerStream":
        return self

    async def __aexit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                        trace: Optional[TracebackType]) -> None:
        if not self._ended:
            self._ended = True
            self.cancel()

    async def _read(self) -> Any:
        if self._cancelled:
            self._ended = True
            raise _errors.make("CANCELLED", "the answer was cancelled here")
        if self._call is None:
            self._call = self._client._stream_call(self._progress.request, self._progress.deadline.left())
        try:
            return await self._call.read()
        except asyncio.CancelledError:
            if self._cancelled:  # by cancel(), not the task
                self._ended = True
                raise _errors.make("CANCELLED", "the answer was cancelled here") from None
            self._ended = True
            self._call.cancel()
            raise

    async def _after(self, failure: _errors.FlexQuantError) -> None:
        """Makes the next call possible, or raises."""
        if self._cancelled or not self._progress.may_go_on(failure):
            self._ended = True
            raise failure from None
        self._call = None
        await asyncio.sleep(_resume.PAUSE)


class AsyncClient:
    """Client for asyncio, with the same arguments and methods. For the event loop of its first call."""

    def __init__(self, addresses: Union[str, Sequence[str]], *, tls: Optional[Tls] = None, token: str = "",
                 allow_plaintext_token: bool = False, retry: bool = True, resume_for: float = 30.0) -> None:
        self._connection = _connect.prepare(addresses, tls, token, allow_plaintext_token, retry)
        self.resume_for = resume_for
        self._made: Any = None

    @property
    def target(self) -> str:
        """gRPC's name of the server."""
        return self._connection.target

    async def close(self) -> None:
        """Ends the connection and every call."""
        if self._made is not None:
            await self._made.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                        trace: Optional[TracebackType]) -> None:
        await self.close()

    async def wait_ready(self, timeout: Optional[float] = None) -> None:
        """Waits until the server is ready."""
        deadline = _resume.Deadline(timeout)
        while True:
            call: Callable[..., Any] = self._channel().unary_stream(_protocol.HEALTH_WATCH)
            watch = call(_protocol.HEALTH_REQUEST, timeout=deadline.left(), wait_for_ready=True)
            try:
                async for state in watch:
                    if state == _protocol.HEALTH_SERVING:
                        return
                raise _errors.make("INTERNAL", "the server ended its health watch")
            except grpc.aio.AioRpcError as error:
                failure = _errors.from_rpc(error, self.target)
                if failure.code != "UNAVAILABLE":
                    raise failure from None
            finally:
                watch.cancel()

    async def server_info(self, timeout: Optional[float] = None) -> ServerInfo:
        """The server, its model and its limits."""
        response = await self._call(_protocol.MODEL, "GetServerInfo", _protocol.GetServerInfoRequest(),
                                    _protocol.GetServerInfoResponse, timeout)
        return _convert.server_info(response.server_info)

    async def generate(self, request: Union[GenerateRequest, Prompt], *, timeout: Optional[float] = None) -> Answer:
        """The whole answer."""
        stream = self.stream(request, timeout=timeout)
        async with stream:
            async for _ in stream:
                pass
        return stream.answer

    def stream(self, request: Union[GenerateRequest, Prompt], *, timeout: Optional[float] = None) -> AsyncAnswerStream:
        """The answer as it comes. `timeout` begins now."""
        return AsyncAnswerStream(self, _convert.request_message(request), timeout)

    async def abort(self, request_id: str, *, timeout: Optional[float] = None) -> None:
        """Ends a running or waiting request by the id that its client chose. NotFoundError if there is none."""
        await self._call(_protocol.INFERENCE, "Abort", _protocol.AbortRequest(request_id=request_id),
                         _protocol.AbortResponse, timeout)

    async def tokenize(self, text: Union[str, Sequence[ChatMessage]], *, add_special: bool = False,
                       parse_special: bool = False, timeout: Optional[float] = None) -> Tuple[int, ...]:
        """As Client.tokenize."""
        response = await self._call(_protocol.INFERENCE, "Tokenize", _convert.tokenize_message(
            text, add_special, parse_special), _protocol.TokenizeResponse, timeout)
        return tuple(response.token_ids)

    async def detokenize(self, token_ids: Sequence[int], *, timeout: Optional[float] = None) -> str:
        """Their text; incomplete code points become U+FFFD."""
        response = await self._call(_protocol.INFERENCE, "Detokenize", _protocol.DetokenizeRequest(token_ids=token_ids),
                                    _protocol.DetokenizeResponse, timeout)
        text: str = response.text
        return text

    def _channel(self) -> Any:
        """Made by the first call: it belongs to the running event loop."""
        if self._made is None:
            target, options = self._connection.target, self._connection.options
            if self._connection.credentials is None:
                self._made = grpc.aio.insecure_channel(target, options=options)
            else:
                self._made = grpc.aio.secure_channel(target, self._connection.credentials, options=options)
        return self._made

    async def _call(self, service: str, method: str, request: Any, response: Any, timeout: Optional[float]) -> Any:
        call: Callable[..., Any] = self._channel().unary_unary(
            f"/{service}/{method}", request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString)
        try:
            return await call(request, timeout=timeout, metadata=self._connection.metadata)
        except grpc.aio.AioRpcError as error:
            raise _errors.from_rpc(error, self.target) from None

    def _stream_call(self, request: Any, timeout: Optional[float]) -> Any:
        call: Callable[..., Any] = self._channel().unary_stream(
            _protocol.GENERATE_STREAM, request_serializer=_protocol.GenerateStreamRequest.SerializeToString,
            response_deserializer=_protocol.GenerateStreamResponse.FromString)
        return call(_protocol.GenerateStreamRequest(request=request), timeout=timeout,
                    metadata=self._connection.metadata)
