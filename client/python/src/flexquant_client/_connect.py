"""How both clients connect."""

import ipaddress
import pathlib
from dataclasses import dataclass
from typing import Any, List, Optional, Sequence, Tuple, Union

import grpc

from . import _errors
from ._types import Tls

_MAX_RECEIVE_BYTES = 64 << 20  # the protocol's limit of a response
_MAX_TOKEN_BYTES = 512
# gRPC makes a call again only while no part of an answer, not even its headers, has come.
_RETRY = """{"methodConfig": [{
  "name": [{"service": "flexquant.v1.InferenceService"}, {"service": "flexquant.v1.ModelService"}],
  "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
                  "retryableStatusCodes": ["UNAVAILABLE"]}}]}"""
_OPTIONS: List[Tuple[str, Any]] = [
    ("grpc.max_receive_message_length", _MAX_RECEIVE_BYTES),
    # A server that is just starting is found soon,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # and one whose machine went away is noticed during a long answer: servers accept these pings.
    ("grpc.keepalive_time_ms", 10000),
    ("grpc.keepalive_timeout_ms", 10000),
    ("grpc.http2.max_pings_without_data", 0),
]


@dataclass(frozen=True)
class Connection:
    """What a channel is made of."""

    target: str
    options: Sequence[Tuple[str, Any]]
    credentials: Optional[grpc.ChannelCredentials]  # None = plaintext
    metadata: Sequence[Tuple[str, str]]  # of each call


def _invalid(message: str) -> _errors.FlexQuantError:
    return _errors.make("INVALID_ARGUMENT", message)


def _ip_version(address: str) -> int:
    """4 or 6 of "IP:PORT"; 0 for anything else."""
    host, _, port = address.rpartition(":")
    try:
        ip = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return 0
    return ip.version if port.isdigit() and (ip.version == 4 or host.startswith("[")) else 0


def _target(addresses: Sequence[str], tls: Optional[Tls]) -> str:
    if not addresses:
        raise _invalid("no address of a server; needed: HOST:PORT")
    if len(addresses) == 1:
        return addresses[0]
    version = _ip_version(addresses[0])
    for address in addresses:
        if version == 0 or _ip_version(address) != version:
            raise _invalid(f"address {address!r} of several is not IP:PORT, all IPv4 or all IPv6; for names, give one "
                           "that has all addresses, as dns:///NAME:PORT")
    if tls is not None and not tls.server_name:
        raise _invalid("TLS with several addresses needs the name in the servers' certificates (Tls.server_name)")
    return f"ipv{version}:{','.join(addresses)}"


def _is_loopback(address: str) -> bool:
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read(path: str) -> Optional[bytes]:
    if not path:
        return None
    try:
        data = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise _invalid(f"{path}: {error.strerror}") from error
    if b"-----BEGIN " not in data:
        raise _invalid(f"{path} is not PEM")
    return data


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    if bool(tls.certificate_file) != bool(tls.key_file):
        raise _invalid("a client's certificate and its key go together (Tls.certificate_file, Tls.key_file)")
    return grpc.ssl_channel_credentials(_read(tls.ca_file), _read(tls.key_file), _read(tls.certificate_file))


def _check_token(token: str, addresses: Sequence[str], encrypted: bool, allow_plaintext: bool) -> None:
    if len(token) > _MAX_TOKEN_BYTES or any(not "!" <= each <= "~" for each in token):
        raise _invalid(f"the token is not 1 to {_MAX_TOKEN_BYTES} characters of printable ASCII without blanks")
    for address in addresses:
        if not encrypted and not allow_plaintext and not _is_loopback(address):
            raise _invalid(f"the token would go to {address} without TLS, where others could read it; use tls=Tls(), "
                           "or allow_plaintext_token=True if the network is safe")


def prepare(addresses: Union[str, Sequence[str]], tls: Optional[Tls], token: str, allow_plaintext_token: bool,
            retry: bool) -> Connection:
    """Checks and reads everything; connects to nothing."""
    every = [addresses] if isinstance(addresses, str) else list(addresses)
    target = _target(every, tls)
    options = list(_OPTIONS)
    metadata = []
    if token:
        _check_token(token, every, tls is not None, allow_plaintext_token)
        metadata.append(("authorization", f"Bearer {token}"))
    if retry:
        options.append(("grpc.service_config", _RETRY))
    if tls is not None and tls.server_name:
        options += [("grpc.ssl_target_name_override", tls.server_name), ("grpc.default_authority", tls.server_name)]
    return Connection(target, options, None if tls is None else _credentials(tls), metadata)
