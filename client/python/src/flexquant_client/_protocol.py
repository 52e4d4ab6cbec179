"""Messages and methods of flexquant.v1, from descriptors that the build put beside this file.

They live in a descriptor pool of their own: a program may import generated code of the same protocol, or of google.rpc,
of any version, beside this package. And no generated Python code means none that fits only some versions of protobuf.
"""

import importlib.resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "flexquant.v1"


def _load() -> Any:
    data = importlib.resources.files(__package__).joinpath("flexquant.protoset").read_bytes()
    pool: Any = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_pool = _load()


def _message(name: str) -> Any:
    """A message's class. What it has is known at run time only."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(name))


GenerateRequest = _message(f"{_PACKAGE}.GenerateRequest")
GenerateStreamRequest = _message(f"{_PACKAGE}.GenerateStreamRequest")
GenerateStreamResponse = _message(f"{_PACKAGE}.GenerateStreamResponse")
AbortRequest = _message(f"{_PACKAGE}.AbortRequest")
AbortResponse = _message(f"{_PACKAGE}.AbortResponse")
TokenizeRequest = _message(f"{_PACKAGE}.TokenizeRequest")
TokenizeResponse = _message(f"{_PACKAGE}.TokenizeResponse")
DetokenizeRequest = _message(f"{_PACKAGE}.DetokenizeRequest")
DetokenizeResponse = _message(f"{_PACKAGE}.DetokenizeResponse")
GetServerInfoRequest = _message(f"{_PACKAGE}.GetServerInfoRequest")
GetServerInfoResponse = _message(f"{_PACKAGE}.GetServerInfoResponse")

RpcStatus = _message("google.rpc.Status")
BadRequest = _message("google.rpc.BadRequest")
ErrorInfo = _message("google.rpc.ErrorInfo")
RetryInfo = _message("google.rpc.RetryInfo")

INFERENCE = f"{_PACKAGE}.InferenceService"
MODEL = f"{_PACKAGE}.ModelService"
GENERATE_STREAM = f"/{INFERENCE}/GenerateStream"
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
# grpc.health.v1's messages have one field each: the request's service, the response's status, of which 1 = serving.
HEALTH_REQUEST = b"\x0a" + bytes([len(INFERENCE)]) + INFERENCE.encode()
HEALTH_SERVING = b"\x08\x01"
