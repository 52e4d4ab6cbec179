"""Clients and servers that go away, keys and limits, the end of a gateway."""

import json
import signal
import socket
import threading
import time

import harness
import stack

LONG = {"prompt": "Once upon a time", "max_tokens": 400, "ignore_eos": True}


class Open:
    """A request whose answer is read later."""

    def __init__(self, address, body, receive_buffer=None):
        host, port = address.split(":")
        self.socket = socket.socket()
        self.socket.settimeout(harness.LIMIT)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect((host, int(port)))
        text = json.dumps(body).encode()
        self.socket.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(text) + text)

    def rest(self):
        data = b""
        while piece := self.socket.recv(65536):
            data += piece
        self.socket.close()
        return data.decode()


class DisconnectTest(harness.CliTest):
    def wait_for_load(self, servers, running, waiting):
        harness.wait_for(lambda: servers.load() == {"running": running, "waiting": waiting},
                         f"{running} running and {waiting} waiting", limit=20)

    def test_clients_that_go_away(self):
        # 102 KV blocks of 16 tokens: the first prompt takes 32, and as long as the executor stands still others are
        # taken until 32 and one for each of them are more than is left. The first comes alone: many that come before
        # it has its blocks would all be taken.
        with stack.stack(executor_flags=("--kv-cache-mb", 1)) as servers:
            servers.executor.send_signal(signal.SIGSTOP)
            try:
                self.check_disconnects(servers)
            finally:
                servers.executor.send_signal(signal.SIGCONT)

    def check_disconnects(self, servers):
        # Whole and streamed, none with its first token.
        requests = []
        for come in 1, 46, 50:  # the last four after all others, which wait already
            requests += [Open(servers.address,
                              {"prompt": [1] + [300 + i] * 499, "max_tokens": 12, "stream": i % 2 == 0})
                         for i in range(len(requests), come)]
            harness.wait_for(lambda: sum(servers.load().values()) == come, f"{come} requests", limit=20)
            if come == 1:
                self.wait_for_load(servers, 1, 0)
        load = servers.load()
        self.assertGreaterEqual(load["waiting"], 4, load)
        start = time.monotonic()
        for request in requests[-4:]:  # the last to come wait
            request.socket.close()
            load["waiting"] -= 1
            self.wait_for_load(servers, **load)
        log = servers.controller_log
        self.assertEqual(log().count("status=CANCELLED"), 4)
        self.assertLess(time.monotonic() - start, 10)
        for request in requests[:-4]:
            request.socket.close()
        metric = f"flexquant_gateway_disconnects_total {len(requests)}"
        harness.wait_for(lambda: metric in servers.request("GET", "/metrics")[2], "the metric", limit=20)
        # The executor owes steps; once it has done them, nobody wants more.
        servers.executor.send_signal(signal.SIGCONT)
        self.wait_for_load(servers, 0, 0)
        self.assertEqual(log().count("status=CANCELLED"), len(requests))

    def test_a_client_that_goes_away_in_the_middle(self):
        with stack.stack() as servers:
            request = Open(servers.address, {**LONG, "stream": True, "n": 4})
            first = request.socket.recv(1000)
            self.assertIn(b" 200 ", first)
            servers.executor.send_signal(signal.SIGSTOP)
            request.socket.close()
            harness.wait_for(lambda: "error=CANCELLED" in servers.gateway_log(), "the line of the log", limit=20)
            servers.executor.send_signal(signal.SIGCONT)
            self.wait_for_load(servers, 0, 0)


class DrainTest(harness.CliTest):
    def test_running_answers_end(self):
        with stack.stack("--drain-seconds", 60) as servers:
            servers.executor.send_signal(signal.SIGSTOP)
            request = Open(servers.address, {**LONG, "stream": True})
            idle = socket.create_connection(tuple(servers.address.split(":")))
            harness.wait_for(lambda: servers.load()["running"] == 1, "the request", limit=20)
            servers.gateway.send_signal(signal.SIGTERM)
            harness.wait_for(lambda: "draining" in servers.gateway_log(), "the drain", limit=20)
            self.assertEqual(idle.recv(1), b"")
            self.assertIsNone(servers.gateway.poll())
            servers.executor.send_signal(signal.SIGCONT)
            text = request.rest()
            self.assertTrue(text.replace("\r", "").rstrip("0\n").endswith("data: [DONE]"), text[-200:])
            self.assertIn('"finish_reason":"length"', text)
            self.assertEqual(servers.gateway.wait(harness.LIMIT), 0)

    def test_answers_beyond_the_grace_end_with_an_error(self):
        with stack.stack("--drain-seconds", 0.2) as servers:
            servers.executor.send_signal(signal.SIGSTOP)
            try:
                stream = Open(servers.address, {**LONG, "stream": True})
                whole = Open(servers.address, LONG)
                harness.wait_for(lambda: servers.load()["running"] == 2, "the requests", limit=20)
                servers.gateway.send_signal(signal.SIGTERM)
                self.assertIn("shutting down", stream.rest())
                answer = whole.rest()
                self.assertTrue(answer.startswith("HTTP/1.1 503 "), answer)
                self.assertIn("shutting down", answer)
                self.assertEqual(servers.gateway.wait(20), 0)
            finally:
                servers.executor.send_signal(signal.SIGCONT)


class ServerTest(harness.CliTest):
    def test_a_server_that_is_not_there(self):
        server = f"127.0.0.1:{harness.free_port()}"
        with harness.server("flexquant-gateway", "--server", server, "--resume-seconds", 1) as (gateway, address):
            servers = stack.Stack(gateway, address, None, server, None)
            for method, path, body in [("GET", "/health", None), ("GET", "/v1/models", None),
                                       ("GET", "/v1/flexquant/server", None),
                                       ("POST", "/v1/completions", {"prompt": "x"})]:
                status, _, text = servers.request(method, path, body)
                self.assertEqual(status, 503, path)
                self.assertIn(server, json.loads(text)["error"]["message"])
            self.assertEqual(servers.request("GET", "/")[0], 200)

    def test_an_answer_goes_on_on_the_next_controller(self):
        port = harness.free_port()
        listen = f"127.0.0.1:{port}"
        with harness.server("flexquant-executor", "--model", harness.chatty(), "--threads", 1) as (executor, address):
            flags = ("flexquant-controller", "--model", harness.chatty(), "--executor", address)
            with harness.server(*flags, listen=listen) as (first, _):
                with harness.server("flexquant-gateway", "--server", listen) as (gateway, http):
                    servers = stack.Stack(gateway, http, first, listen, executor)
                    harness.wait_for(lambda: servers.request("GET", "/health")[0] == 200, "health")
                    body = {**LONG, "stream": True, "seed": 5, "flexquant": {"batch_mode": "isolated"}}
                    expected = Open(http, body).rest()
                    request = Open(http, body)
                    begun = request.socket.recv(2000).decode()
                    first.kill()
                    first.wait()
                    with harness.server(*flags, listen=listen):
                        text = begun + request.rest()
        self.assertEqual(texts(text), texts(expected))


def choices(response):
    """Texts by index of a stream with Connection: close."""
    body = response.encode().split(b"\r\n\r\n", 1)[1]
    data = b""
    begin = 0
    while size := int(body[begin:(end := body.index(b"\r\n", begin))], 16):
        data += body[end + 2:end + 2 + size]
        begin = end + 2 + size + 2
    result = {}
    for line in data.decode().split("\n"):
        if line.startswith("data: {"):
            choice = json.loads(line.removeprefix("data: "))["choices"][0]
            result[choice["index"]] = result.get(choice["index"], "") + choice["text"]
    return result


def texts(response):
    return choices(response)[0]


class KeysTest(harness.CliTest):
    def setUp(self):
        self.folder = harness.new_folder()
        entries = []
        self.tokens = {}
        for tenant, limits in [("blue", {}), ("busy", {"requests_per_minute": 1})]:
            out, _ = self.flexquant("token", "new", "--tenant", tenant)
            self.tokens[tenant], entry = out.splitlines()
            entries.append({**json.loads(entry), **limits})
        (self.folder / "tokens.json").write_text(json.dumps(entries))
        self.flags = ("--tokens", self.folder / "tokens.json")

    def ask(self, client):
        return client.completions.create(model="", prompt="Once", max_tokens=2)

    def test_keys_are_the_servers_tokens(self):
        with stack.stack(controller_flags=self.flags) as servers:
            self.assertEqual(self.ask(servers.openai(api_key=self.tokens["blue"])).usage.completion_tokens, 2)
            self.assertEqual(servers.openai(api_key=self.tokens["blue"]).models.list().data[0].id, "stories260K")
            import openai

            for key in ("wrong", "not printable \x7f", "x" * 600):
                with self.assertRaises(openai.AuthenticationError) as caught:
                    self.ask(servers.openai(api_key=key))
                self.assertEqual(caught.exception.code, "invalid_api_key")
            self.assertEqual(servers.request("POST", "/v1/completions", {"prompt": "x"})[0], 401)
            self.assertEqual(servers.request("GET", "/v1/models")[0], 401)
            busy = servers.openai(api_key=self.tokens["busy"])
            self.ask(busy)
            with self.assertRaises(openai.RateLimitError) as caught:
                self.ask(busy)
            self.assertGreater(int(caught.exception.response.headers["retry-after"]), 1)
            self.assertIn('tenant="blue"', servers.controller_log())
            for token in (*self.tokens.values(), "wrong"):
                self.assertNotIn(token, servers.gateway_log())

    def test_the_gateways_own_token(self):
        token_file = self.folder / "token"
        token_file.write_text(self.tokens["blue"] + "\n")
        with stack.stack("--token-file", token_file, controller_flags=self.flags) as servers:
            self.assertEqual(self.ask(servers.openai(api_key="any")).usage.completion_tokens, 2)
            self.assertEqual(servers.request("POST", "/v1/completions", {"prompt": "x"})[0], 200)


class ManyTest(harness.CliTest):
    def test_many_that_connect_at_a_time(self):
        with stack.stack() as servers:
            servers.gateway.send_signal(signal.SIGSTOP)
            host, port = servers.address.split(":")
            try:
                # Without room for them in the system's queue their first packets would be dropped, and sent again after
                # seconds.
                connections = [socket.create_connection((host, int(port)), timeout=0.9) for _ in range(64)]
            finally:
                servers.gateway.send_signal(signal.SIGCONT)
            for connection in connections:
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            for connection in connections:
                connection.settimeout(harness.LIMIT)
                self.assertIn(b" 200 ", connection.recv(100))
                connection.close()

    def test_a_client_that_reads_slowly(self):
        # 2.5 MB: more than the sockets' buffers hold.
        with stack.stack() as servers:
            body = {**LONG, "max_tokens": 500, "stream": True, "logprobs": 20, "n": 8, "seed": 3,
                    "flexquant": {"batch_mode": "isolated", "token_details": True}}
            expected = Open(servers.address, body).rest()
            slow = Open(servers.address, body, receive_buffer=4096)
            harness.wait_for(lambda: servers.load()["running"] > 0, "the request", limit=20)
            # Others are served meanwhile, also by the same thread of the gateway.
            for _ in range(4):
                self.assertTrue(texts(Open(servers.address, {**LONG, "stream": True, "max_tokens": 100}).rest()))
            in_flight = "\nflexquant_gateway_completions_in_flight 1\n"
            harness.wait_for(lambda: in_flight in servers.request("GET", "/metrics")[2], "the slow one alone", limit=20)
            self.assertEqual(choices(slow.rest()), choices(expected))

    def test_many_streams_at_a_time(self):
        with stack.stack() as servers:
            body = {**LONG, "max_tokens": 60, "stream": True, "temperature": 0,
                    "flexquant": {"batch_mode": "isolated"}}
            expected = texts(Open(servers.address, body).rest())
            answers = []
            threads = [threading.Thread(target=lambda: answers.append(texts(Open(servers.address, body).rest())))
                       for _ in range(32)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(harness.LIMIT)
            self.assertEqual(answers, [expected] * 32)
