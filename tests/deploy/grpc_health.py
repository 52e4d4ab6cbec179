"""Asks grpc.health.v1 as the kubelet does: HTTP/2 without TLS, no certificate, no token. By hand, as Python brings no
HTTP/2 and two small messages need no library."""

import socket
import struct

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
ACK, END_STREAM, END_HEADERS = 1, 1, 4


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def text(value):
    return bytes([len(value)]) + value.encode()


def header(name, value):
    return b"\x00" + text(name) + text(value)  # literal, not indexed


def read(connection, size):
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise ConnectionError("the server closed the connection")
        data += more
    return data


def serving(address, service, timeout=5):
    """Whether the server says SERVING of the service; False too for what it does not know. OSError: no connection."""
    host, port = address.rsplit(":", 1)
    name = service.encode()
    message = b"\x0a" + bytes([len(name)]) + name
    headers = b"".join(header(*pair) for pair in (
        (":method", "POST"), (":scheme", "http"), (":path", "/grpc.health.v1.Health/Check"), (":authority", address),
        ("content-type", "application/grpc"), ("te", "trailers")))
    with socket.create_connection((host, int(port)), timeout) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0) +
                           frame(HEADERS, END_HEADERS, 1, headers) +
                           frame(DATA, END_STREAM, 1, b"\x00" + struct.pack(">I", len(message)) + message))
        answer = b""
        while True:
            top = read(connection, 9)
            kind, flags = top[3], top[4]
            payload = read(connection, int.from_bytes(top[:3], "big"))
            if kind == SETTINGS and not flags & ACK:
                connection.sendall(frame(SETTINGS, ACK, 0))
            elif kind == PING and not flags & ACK:
                connection.sendall(frame(PING, ACK, 0, payload))
            elif kind == DATA:
                answer += payload
            elif kind in (RESET, GOAWAY):
                raise ConnectionError(f"the server ended the call: frame {kind}, {payload!r}")
            if kind in (DATA, HEADERS) and flags & END_STREAM:
                return answer[5:] == b"\x08\x01"  # the message behind its length: status = SERVING
