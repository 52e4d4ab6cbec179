"""HTTP itself: curl, headers, limits, pages of other origins, metrics, TLS."""

import contextlib
import http.client
import json
import re
import socket
import subprocess

import certificates
import harness
import stack

BODY = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}


def curl(*arguments):
    done = subprocess.run(["curl", "--silent", "--show-error", "--max-time", str(harness.LIMIT), *arguments],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class HttpTest(harness.CliTest):
    @classmethod
    def setUpClass(cls):
        stack.shared_stack(cls, "--cors-origin", "https://chat.example.com", "--max-body-mb", 0.1,
                           "--max-connections", 12)

    def post(self, body, **options):
        return self.stack.request("POST", "/v1/completions", body, **options)

    def error(self, answer, status):
        self.assertEqual(answer[0], status, answer[2])
        error = json.loads(answer[2])["error"]
        self.assertEqual(set(error), {"message", "type", "param", "code"})
        self.assertTrue(error["message"])
        return error

    def test_curl_streams(self):
        lines = curl("--no-buffer", "--include", f"{self.stack.url}/v1/completions", "--header",
                     "Content-Type: application/json", "--compressed", "--data",
                     json.dumps({**BODY, "stream": True})).replace("\r", "").split("\n")
        self.assertEqual(lines[0], "HTTP/1.1 200 OK")
        self.assertIn("Content-Type: text/event-stream", lines)
        events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        self.assertEqual(events[-1], "[DONE]")
        text = "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1])
        self.assertEqual(text, json.loads(self.post(BODY)[2])["choices"][0]["text"])

    def test_a_connection_serves_several_requests(self):
        connection = http.client.HTTPConnection(self.stack.address, timeout=harness.LIMIT)
        with contextlib.closing(connection):
            for stream in (False, True, False):
                connection.request("POST", "/v1/completions", json.dumps({**BODY, "stream": stream}),
                                   {"Content-Type": "application/json"})
                used = connection.sock
                response = connection.getresponse()
                self.assertEqual(response.status, 200)
                response.read()
                self.assertIs(connection.sock, used)

    def test_bad_requests(self):
        self.assertEqual(self.error(self.post("{"), 400)["param"], "body")
        self.error(self.post("[]"), 400)
        self.error(self.post("[" * 50000), 400)
        self.error(self.post(b'{"prompt": "\xff"}'), 400)
        self.error(self.post("{}"), 400)
        self.assertIn("--max-body-mb", self.error(self.post({"prompt": "x" * 200_000}), 413)["message"])
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        self.assertIn("application/json", self.error(self.post(json.dumps(BODY), headers=form), 415)["message"])
        self.error(self.stack.request("GET", "/v1/completions"), 404)
        self.error(self.stack.request("GET", "/nothing"), 404)
        self.error(self.stack.request("DELETE", "/v1/models"), 404)
        for path in ("/assets/../gateway.cc", "/assets/", "/assets/%2e%2e/x", "/index.html"):
            self.error(self.stack.request("GET", path), 404)

    def test_garbage_is_not_answered_with_an_answer(self):
        host, port = self.stack.address.split(":")
        for garbage in (b"\x16\x03\x01\x02\x00\x01", b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\n\r\n",
                        b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
                        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 40000 + b"\r\n"):
            with socket.create_connection((host, int(port)), timeout=harness.LIMIT) as connection:
                with contextlib.suppress(OSError):  # it may hang up before it has read all
                    connection.sendall(garbage)
                    connection.shutdown(socket.SHUT_WR)
                    self.assertNotIn(b" 200 ", connection.recv(4096))
        self.assertEqual(self.stack.request("GET", "/health")[0], 200)

    def test_a_body_that_is_not_read_is_no_request(self):
        host, port = self.stack.address.split(":")
        hidden = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
        for head in (b"POST /v1/completions HTTP/1.1\r\nContent-Type: text/plain\r\n", b"GET /health HTTP/1.1\r\n",
                     b"OPTIONS / HTTP/1.1\r\n"):
            with socket.create_connection((host, int(port)), timeout=harness.LIMIT) as connection:
                connection.sendall(head + b"Host: x\r\nContent-Length: %d\r\n\r\n" % len(hidden) + hidden)
                answer = b""
                while piece := connection.recv(4096):
                    answer += piece
            self.assertEqual(answer.count(b"HTTP/1.1 "), 1, answer)

    def test_pages_that_call_under_another_name(self):
        page = {"Origin": "http://evil.example:8080", "Host": "evil.example:8080"}
        self.assertIn("--cors-origin", self.error(self.post(BODY, headers=page), 403)["message"])
        own = {"Origin": self.stack.url, "Host": self.stack.address}
        self.assertEqual(self.post(BODY, headers=own)[0], 200)
        self.assertEqual(self.post(BODY, headers={"Host": "a-name-of-mine"})[0], 200)  # no browser's

    def test_page(self):
        status, headers, text = self.stack.request("GET", "/")
        self.assertEqual(status, 200)
        self.assertEqual(headers["Content-Type"], "text/html; charset=utf-8")
        self.assertIn("<html", text)
        policy = headers["Content-Security-Policy"]
        self.assertIn("default-src 'none'", policy)
        self.assertNotIn("unsafe", policy)
        self.assertEqual(headers["X-Content-Type-Options"], "nosniff")
        self.assertEqual(headers["Referrer-Policy"], "no-referrer")
        status, again, text = self.stack.request("GET", "/", headers={"If-None-Match": headers["ETag"]})
        self.assertEqual((status, text, again["ETag"]), (304, "", headers["ETag"]))
        self.assertEqual(self.stack.request("GET", "/assets/index.html")[1]["ETag"], headers["ETag"])
        # Every file is there, as what it is, and all that the page names.
        types = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml",
                 ".html": "text/html; charset=utf-8"}
        folder = harness.SOURCE / "client/gateway/page"
        for path in folder.iterdir():
            status, headers, text = self.stack.request("GET", f"/assets/{path.name}")
            self.assertEqual((status, headers["Content-Type"]), (200, types[path.suffix]), path)
            self.assertEqual(text, path.read_text())
        for name in re.findall(r'(?:src|href)="/?(assets/[^"]+)"', (folder / "index.html").read_text()):
            self.assertEqual(self.stack.request("GET", f"/{name}")[0], 200, name)

    def test_server(self):
        status, headers, text = self.stack.request("GET", "/v1/flexquant/server")
        self.assertEqual(status, 200)
        self.assertEqual(headers["Cache-Control"], "no-store")
        server = json.loads(text)
        self.assertEqual((server["model"], server["context_tokens"], server["precisions"], server["calibrated"]),
                         ("stories260K", 512, [3, 4, 5, 6, 8], False))
        self.assertIn({"name": "uniform-4", "mean_bits": 4}, server["named_plans"])
        self.assertIs(server["chat"], True)
        self.assertTrue(server["executors"][0]["ready"])
        self.assertGreater(server["executors"][0]["kv_blocks"], 0)

    def test_other_origins(self):
        preflight = {"Origin": "https://chat.example.com", "Access-Control-Request-Method": "POST",
                     "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os"}
        status, headers, _ = self.stack.request("OPTIONS", "/v1/chat/completions", headers=preflight)
        self.assertEqual(status, 204)
        self.assertEqual(headers["Access-Control-Allow-Origin"], "https://chat.example.com")
        self.assertIn("POST", headers["Access-Control-Allow-Methods"])
        self.assertIn("x-stainless-os", headers["Access-Control-Allow-Headers"])
        self.assertEqual(headers["Vary"], "Origin")
        status, headers, _ = self.post(BODY, headers={"Origin": "https://chat.example.com"})
        self.assertEqual((status, headers["Access-Control-Allow-Origin"]), (200, "https://chat.example.com"))
        for headers in (preflight, {}):
            answer = self.stack.request("OPTIONS", "/v1/models", headers={**headers, "Origin": "https://evil.example"})
            self.assertIsNone(answer[1]["Access-Control-Allow-Origin"])

    def test_metrics(self):
        def metrics():
            status, headers, text = self.stack.request("GET", "/metrics")
            self.assertEqual(status, 200)
            self.assertTrue(headers["Content-Type"].startswith("text/plain; version=0.0.4"))
            return text

        self.post(BODY)
        counter = r'flexquant_gateway_requests_total\{route="/v1/completions",status="200"\} [1-9]'
        harness.wait_for(lambda: re.search(counter, metrics()), "the counter", limit=20)
        harness.wait_for(lambda: "\nflexquant_gateway_completions_in_flight 0\n" in metrics(), "the gauge", limit=20)
        # Paths are the clients' to choose; routes are not.
        self.stack.request("GET", "/a-path-of-mine")
        harness.wait_for(lambda: 'route="other",status="404"' in metrics(), "the other route", limit=20)
        self.assertNotIn("a-path-of-mine", metrics())

    def test_log_has_a_line_a_request(self):
        _, headers, _ = self.post({**BODY, "prompt": "The secret is"})
        name = headers["x-request-id"]
        # It is written once the answer is sent.
        harness.wait_for(lambda: name in self.stack.gateway_log(), "the line", limit=20)
        line = next(line for line in self.stack.gateway_log().splitlines() if name in line)
        for word in ('path="/v1/completions"', "status=200", "answer_tokens=8", "ttft_ms="):
            self.assertIn(word, line)
        self.assertIn(name, self.stack.controller_log())
        self.assertNotIn("secret", self.stack.gateway_log())

    def test_more_connections_than_allowed(self):
        host, port = self.stack.address.split(":")
        with contextlib.ExitStack() as held:
            for _ in range(12):
                held.enter_context(socket.create_connection((host, int(port)), timeout=harness.LIMIT))

            def full():
                # Each connection is counted on a thread of its own: one of those above may have come too late.
                held.enter_context(socket.create_connection((host, int(port)), timeout=harness.LIMIT))
                with contextlib.suppress(OSError, http.client.HTTPException):
                    return self.stack.request("GET", "/metrics")[0] == 503
                return False

            harness.wait_for(full, "a refusal")
        harness.wait_for(lambda: self.stack.request("GET", "/health")[0] == 200, "a free connection")


class TlsTest(harness.CliTest):
    def test_tls_and_client_certificates(self):
        folder = harness.new_folder()
        certificates.make_authority(folder)
        certificates.make_certificate(folder, "gateway", "gateway")
        certificates.make_certificate(folder, "user", "user")
        tls = ("--tls-cert", folder / "gateway.crt", "--tls-key", folder / "gateway.key")
        with stack_with_tls(*tls) as address:
            self.assertIn("ok", curl("--cacert", folder / "ca.crt", f"https://{address}/health"))
            body = json.dumps({**BODY, "stream": True})
            text = curl("--cacert", folder / "ca.crt", f"https://{address}/v1/completions", "--header",
                        "Content-Type: application/json", "--data", body)
            self.assertTrue(text.endswith("data: [DONE]\n\n"))
        with stack_with_tls(*tls, "--tls-client-ca", folder / "ca.crt") as address:
            with self.assertRaises(AssertionError):
                curl("--cacert", folder / "ca.crt", f"https://{address}/health")
            self.assertIn("ok", curl("--cacert", folder / "ca.crt", "--cert", folder / "user.crt", "--key",
                                     folder / "user.key", f"https://{address}/health"))

    def test_flags_that_would_be_unsafe_are_refused(self):
        for flags, words in [(("--listen", "0.0.0.0:0"), "--tls-cert"), (("--listen", "unix:socket"), "HOST:PORT"),
                             (("--listen", "127.0.0.1"), "HOST:PORT"),
                             (("--token-file", "/dev/null"), "--token-file")]:
            status, _, err = harness.finish(harness.start("flexquant-gateway", "--server", "127.0.0.1:1", *flags))
            self.assertEqual(status, 1, flags)
            self.assertIn(words, err)


@contextlib.contextmanager
def stack_with_tls(*flags):
    with harness.server("flexquant", "--model", harness.chatty()) as (_, server):
        with harness.server("flexquant-gateway", "--server", server, *flags) as (_, address):
            yield address
