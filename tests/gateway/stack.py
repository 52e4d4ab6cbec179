"""A gateway, a controller and an executor as processes, over a model that can chat."""

import contextlib
import http.client
import json
import pathlib
import unittest

import harness

class Stack:
    """Addresses and processes."""

    def __init__(self, gateway, address, controller, server, executor):
        self.gateway = gateway
        self.address = address
        self.url = f"http://{address}"
        self.controller = controller
        self.server = server
        self.executor = executor

    def request(self, method, path, body=None, headers=None):
        """(status, headers, text) of one request over a connection of its own."""
        host, port = self.address.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=harness.LIMIT)
        try:
            headers = {"Content-Type": "application/json", **(headers or {})}
            text = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
            connection.request(method, path, text, headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read().decode()
        finally:
            connection.close()

    def load(self):
        """What the server says it has to do."""
        status, _, text = self.request("GET", "/v1/flexquant/server")
        assert status == 200, text
        return json.loads(text)["load"]

    def controller_log(self):
        return pathlib.Path(self.controller.log).read_text()

    def gateway_log(self):
        return pathlib.Path(self.gateway.log).read_text()

    def openai(self, **options):
        """OpenAI's client, which does not try again."""
        try:
            import openai
        except ImportError:
            raise unittest.SkipTest("no OpenAI client") from None
        return openai.OpenAI(base_url=f"{options.pop('url', self.url)}/v1",
                             **{"api_key": "none", "max_retries": 0, "timeout": harness.LIMIT, **options})


@contextlib.contextmanager
def stack(*gateway_flags, controller_flags=(), executor_flags=()):
    with harness.server("flexquant-executor", "--model", harness.chatty(), "--threads", 1,
                        *executor_flags) as (executor, executor_address):
        with harness.server("flexquant-controller", "--model", harness.chatty(), "--executor", executor_address,
                            *controller_flags) as (controller, server):
            with harness.server("flexquant-gateway", "--server", server, *gateway_flags) as (gateway, address):
                result = Stack(gateway, address, controller, server, executor)
                harness.wait_for(lambda: result.request("GET", "/health")[0] == 200, "health")
                yield result


def shared_stack(case, *gateway_flags):
    """setUpClass of tests that change nothing: one stack for all of them."""
    context = stack(*gateway_flags)
    case.stack = context.__enter__()
    case.addClassCleanup(context.__exit__, None, None, None)
