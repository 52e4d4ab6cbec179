"""The Python SDK against real servers; run by python_test.py."""

import asyncio
import concurrent.futures
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import flexquant_client as fq
import grpc
import pytest
from flexquant_client import _protocol
from google.protobuf import descriptor_pb2, descriptor_pool

SOURCE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "tests/cli"))
import certificates  # noqa: E402
import harness  # noqa: E402

STORY = "Once upon a time"
# Always the same, and more than a connection's window: a server cannot be done before somebody reads.
LONG = fq.GenerateRequest(STORY, stop=fq.Stop(max_tokens=400, ignore_eos=True), batch_mode=fq.BatchMode.ISOLATED,
                          precision=fq.Precision(fq.Dynamic()), token_info=True, top_logprobs=20)


def serve(*flags, **options):
    return harness.server("flexquant", "--model", harness.stories(), "--threads", 1, *flags, **options)


@pytest.fixture(scope="module", name="address")
def shared_server():
    with serve() as (_, address):
        yield address


@pytest.fixture(name="client")
def connected(address):
    with fq.Client(address) as client:
        yield client


@contextlib.contextmanager
def frozen(process):
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def test_generate(client):
    client.wait_ready(timeout=30)
    request = fq.GenerateRequest(STORY, stop=fq.Stop(max_tokens=12), token_info=True, top_logprobs=3,
                                 precision=fq.Precision(fq.FixedBits(4)), request_id="mine")
    answer = client.generate(request, timeout=60)
    assert answer.started.request_id == "mine"
    assert answer.started.precision.policy == fq.FixedBits(4)
    assert answer.started.sampling.temperature == 0
    assert answer.usage.generated_tokens == len(answer.token_ids) == len(answer.tokens) == 12
    assert answer.finished.reason is fq.FinishReason.LENGTH
    assert answer.finished.stop_cause == "max_tokens"
    assert answer.usage.time_to_first_token > 0
    for token, token_id in zip(answer.tokens, answer.token_ids):
        assert token.id == token_id == token.top[0].id, "greedy"
        assert len(token.top) == 3
    assert answer.report.policy == "fixed"
    assert answer.report.calibration is fq.Calibration.UNCALIBRATED
    assert 0 < answer.report.weight_bytes_read < answer.report.weight_bytes_top
    assert sum(answer.report.histogram.values()) == 12
    assert client.generate(STORY).text.startswith(answer.text[:8])


def test_stream_is_the_same_answer(client):
    whole = client.generate(LONG)
    with client.stream(LONG) as stream:
        with pytest.raises(RuntimeError):
            assert stream.answer
        events = list(stream)
    assert isinstance(events[0], fq.Started)
    assert isinstance(events[-1], fq.Finished)
    assert all(isinstance(each, fq.Delta) for each in events[1:-1])
    assert "".join(each.text for each in events[1:-1]) == whole.text == stream.answer.text
    assert stream.answer.token_ids == whole.token_ids
    with client.stream(STORY) as stream:
        assert "".join(stream.texts()) == stream.answer.text


def test_every_policy(client):
    info = client.server_info()
    policies = [fq.FixedBits(info.precisions[0]), fq.NamedPlan(info.named_plans[0].name),
                fq.LayerGroupPlan((5,) * len(info.layer_groups)), fq.Dynamic(0.5, 1.5, 1.0), fq.RandomLevels(3),
                fq.PositionLevels(4)]
    for policy in policies:
        request = fq.GenerateRequest(STORY, stop=fq.Stop(max_tokens=2), precision=fq.Precision(policy), token_info=True)
        answer = client.generate(request)
        assert answer.started.precision.policy == policy
        has_ladder = isinstance(policy, (fq.Dynamic, fq.RandomLevels, fq.PositionLevels))
        assert (answer.tokens[1].level is not None) == has_ladder
    for policy in (fq.MaxMeanKl(0.01), fq.TargetMeanBits(5.0)):
        with pytest.raises(fq.FailedPreconditionError):
            client.generate(fq.GenerateRequest(STORY, precision=fq.Precision(policy)))
    bounded = fq.GenerateRequest(STORY, stop=fq.Stop(max_tokens=2), precision=fq.Precision(fq.Dynamic(), 4, 6))
    assert client.generate(bounded).started.precision.max_bits == 6


def test_tokens(client):
    token_ids = client.tokenize(STORY, add_special=True)
    assert client.detokenize(client.tokenize(STORY)).strip() == STORY
    one = fq.Stop(max_tokens=4)
    assert client.generate(fq.GenerateRequest(token_ids, stop=one)).text == client.generate(
        fq.GenerateRequest(STORY, stop=one)).text


def test_bad_input(client):
    with pytest.raises(fq.InvalidArgumentError) as caught:
        client.generate(fq.GenerateRequest(STORY, sampling=fq.Sampling(top_p=2)))
    assert "top_p" in caught.value.field
    assert caught.value.code == "INVALID_ARGUMENT"
    assert caught.value.code_number == 3
    assert "top_p" in str(caught.value)
    with pytest.raises(fq.NotFoundError):
        client.generate(fq.GenerateRequest(STORY, precision=fq.Precision(fq.NamedPlan("none"))))
    with pytest.raises(fq.NotFoundError):
        client.abort("nobody's")
    with pytest.raises(TypeError):
        client.generate([STORY])
    with pytest.raises(fq.InvalidArgumentError):
        client.generate([])


def test_async(address):
    async def main():
        async with fq.AsyncClient(address) as client:
            await client.wait_ready(timeout=30)
            one, two = await asyncio.gather(client.generate(LONG), client.generate(LONG))
            assert one.text == two.text
            stream = client.stream(LONG)
            async with stream:
                text = "".join([each async for each in stream.texts()])
            assert text == one.text == stream.answer.text
            assert await client.detokenize(await client.tokenize(STORY)) != ""
            assert (await client.server_info()).vocab_size > 0
            with pytest.raises(fq.InvalidArgumentError):
                await client.generate(fq.GenerateRequest(STORY, sampling=fq.Sampling(top_p=2)))
            with pytest.raises(fq.NotFoundError):
                await client.abort("nobody's")
            with pytest.raises(fq.DeadlineExceededError):
                await client.generate(LONG, timeout=0)

    asyncio.run(main())


def test_abort(address):
    request = fq.GenerateRequest(**{**LONG.__dict__, "request_id": "aborted"})
    with fq.Client(address) as client, client.stream(request) as stream:
        next(stream)
        client.abort("aborted")  # at once: the answer takes a fraction of a second
        with pytest.raises(fq.CancelledError):
            list(stream)
        harness.wait_for(lambda: client.server_info().running_requests == 0, "its end", 10)

    async def main():
        async with fq.AsyncClient(address) as client, client.stream(request) as stream:
            await stream.__anext__()
            await client.abort("aborted")
            with pytest.raises(fq.CancelledError):
                async for _ in stream:
                    pass

    asyncio.run(main())


def ends(client, request_id):
    """The server does not know the request any more."""
    def gone():
        try:
            client.abort(request_id)
        except fq.NotFoundError:
            return True
        return False
    return harness.wait_for(gone, "the end of the request", 10)


def test_cancel_and_deadline():
    request = fq.GenerateRequest(**{**LONG.__dict__, "request_id": "mine"})
    with serve() as (process, address), fq.Client(address) as client:
        client.generate(STORY)
        with client.stream(request) as stream:
            assert isinstance(next(stream), fq.Started)
            with frozen(process):
                with concurrent.futures.ThreadPoolExecutor() as pool:
                    rest = pool.submit(list, stream)
                    stream.cancel()
                    with pytest.raises(fq.CancelledError):
                        rest.result(timeout=30)
        assert ends(client, "mine")
        with frozen(process), pytest.raises(fq.DeadlineExceededError):
            client.generate(STORY, timeout=0.1)

        async def cancelled_task():
            async with fq.AsyncClient(address) as asynchronous:
                await asynchronous.generate(STORY)
                stream = asynchronous.stream(request)
                assert isinstance(await stream.__anext__(), fq.Started)

                async def read():
                    async for _ in stream:
                        pass

                with frozen(process):
                    task = asyncio.create_task(read())
                    await asyncio.sleep(0)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                stream = asynchronous.stream(request)
                assert isinstance(await stream.__anext__(), fq.Started)
                with frozen(process):
                    stream.cancel()
                    with pytest.raises(fq.CancelledError):
                        await read()

        asyncio.run(cancelled_task())
        assert ends(client, "mine")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_goes_on_after_the_server_was_killed(client, asynchronous):
    expected = client.generate(LONG)
    port = harness.free_port()
    listen = f"127.0.0.1:{port}"
    with contextlib.ExitStack() as servers:
        first, address = servers.enter_context(serve(listen=listen))

        def restart():
            first.send_signal(signal.SIGKILL)
            first.wait()
            servers.enter_context(serve(listen=listen))

        def check(stream, call):
            assert stream.answer.token_ids == expected.token_ids
            assert stream.answer.text == expected.text
            assert stream.answer.tokens == expected.tokens
            assert stream._call is not call, "the first call had already sent everything"

        def blocking():
            with fq.Client(address) as other, other.stream(LONG) as stream:
                events = iter(stream)
                while not isinstance(next(events), fq.Delta):
                    pass
                first.send_signal(signal.SIGSTOP)
                call = stream._call
                restart()
                for _ in events:
                    pass
                check(stream, call)

        async def waiting():
            async with fq.AsyncClient(address) as other, other.stream(LONG) as stream:
                while not isinstance(await stream.__anext__(), fq.Delta):
                    pass
                first.send_signal(signal.SIGSTOP)
                call = stream._call
                restart()
                async for _ in stream:
                    pass
                check(stream, call)

        if asynchronous:
            asyncio.run(waiting())
        else:
            blocking()


class FailingService(grpc.GenericRpcHandler):
    """GenerateStream that ends with UNAVAILABLE before its first message, as often as it is told."""

    def __init__(self, failures):
        self.failures = failures
        self.calls = 0

    def service(self, handler_call_details):
        return grpc.unary_stream_rpc_method_handler(
            self.generate, request_deserializer=_protocol.GenerateStreamRequest.FromString,
            response_serializer=_protocol.GenerateStreamResponse.SerializeToString)

    def generate(self, _request, context):
        self.calls += 1
        if self.calls <= self.failures:
            context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
        yield _protocol.GenerateStreamResponse(started={"request_id": "id"})
        yield _protocol.GenerateStreamResponse(delta={"text": "a"})
        yield _protocol.GenerateStreamResponse(finished={"stop_cause": "eos"})


@contextlib.contextmanager
def failing(failures):
    service = FailingService(failures)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool, handlers=[service])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield service, f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


def test_retry():
    with failing(2) as (service, address), fq.Client(address) as client:
        assert client.generate(STORY).text == "a"
        assert service.calls == 3
    with failing(1) as (service, address), fq.Client(address, retry=False) as client:
        with pytest.raises(fq.UnavailableError) as caught:
            client.generate(STORY)
        assert service.calls == 1
        assert address in caught.value.message


def test_several_addresses(address):
    nobody = f"127.0.0.1:{harness.free_port()}"
    with fq.Client([nobody, address]) as client:
        assert client.generate(STORY).text
    with fq.Client(nobody, retry=False) as client:
        with pytest.raises(fq.UnavailableError) as caught:
            client.generate(STORY)
        assert nobody in caught.value.message


def new_token(tenant):
    status, out, _ = harness.flexquant("token", "new", "--tenant", tenant)
    assert status == 0
    token, entry = out.splitlines()
    return token, json.loads(entry)


def test_tls_and_token(tmp_path):
    certificates.make_authority(tmp_path)
    for name in ("server", "client"):
        certificates.make_certificate(tmp_path, name, name)
    (token, blue), (limited_token, red) = new_token("blue"), new_token("red")
    (tmp_path / "tokens.json").write_text(json.dumps([blue, {**red, "requests_per_minute": 1}]))
    ca, cert, key = (str(tmp_path / name) for name in ("ca.crt", "client.crt", "client.key"))
    with serve("--tls-cert", tmp_path / "server.crt", "--tls-key", tmp_path / "server.key", "--tls-client-ca", ca,
               "--tokens", tmp_path / "tokens.json") as (_, address):
        with fq.Client(address, tls=fq.Tls(ca, cert, key), token=token) as client:
            client.wait_ready(timeout=30)
            assert client.generate(STORY).text
        with fq.Client([address, address], tls=fq.Tls(ca, cert, key, "server"), token=token) as client:
            assert client.generate(STORY).text, "by the name in the certificate"
        with fq.Client(address, tls=fq.Tls(ca, cert, key), token=limited_token) as client:
            assert client.generate(STORY).text
            with pytest.raises(fq.ResourceExhaustedError) as caught:
                client.generate(STORY)
            assert 0 < caught.value.retry_delay <= 60
        with fq.Client(address, tls=fq.Tls(ca, cert, key)) as client:
            with pytest.raises(fq.UnauthenticatedError):
                client.generate(STORY)
        with fq.Client(address, tls=fq.Tls(ca), token=token, retry=False) as client:
            with pytest.raises(fq.UnavailableError):
                client.generate(STORY)

        async def main():
            async with fq.AsyncClient(address, tls=fq.Tls(ca, cert, key), token=token) as client:
                assert (await client.generate(STORY)).text

        asyncio.run(main())


@pytest.mark.parametrize("arguments, named", [
    ({"addresses": []}, "no address"),
    ({"addresses": ["127.0.0.1:1", "host:1"]}, "host:1"),
    ({"addresses": ["127.0.0.1:1", "[::1]:1"]}, "[::1]:1"),
    ({"addresses": ["127.0.0.1:1", "127.0.0.1:2"], "tls": fq.Tls()}, "server_name"),
    ({"addresses": "192.0.2.1:1", "token": "t"}, "without TLS"),
    ({"addresses": ["127.0.0.1:1", "192.0.2.1:1"], "token": "t"}, "192.0.2.1"),
    ({"addresses": "127.0.0.1:1", "token": "a b"}, "printable ASCII"),
    ({"addresses": "127.0.0.1:1", "tls": fq.Tls("/absent.crt")}, "/absent.crt"),
    ({"addresses": "127.0.0.1:1", "tls": fq.Tls(certificate_file="a.crt")}, "key"),
])
def test_what_cannot_be_used_is_named(arguments, named):
    for kind in (fq.Client, fq.AsyncClient):
        with pytest.raises(fq.InvalidArgumentError) as caught:
            kind(**arguments)
        assert named in caught.value.message


def test_report_for_people():
    report = fq.PrecisionReport("<b>", {3: 30, 8: 10}, 4.25, 500_000, 1_000_000, 7, fq.Calibration.CALIBRATED,
                                max_mean_kl=0.01, predicted_mean_kl=0.004, within_budget=True,
                                audit=fq.Audit(12, 0.003, 0.001, 0.005))
    lines = str(report).splitlines()
    assert lines[0] == "<b>: mean 4.25 bits a weight, 7 changes of plan (calibrated)"
    assert lines[1].split()[:5] == ["3", "bits", "30", "tokens", "75"]
    assert lines[1].count("█") > lines[2].count("█") > 0
    assert "within" in str(report) and "0.001 to 0.005" in str(report) and "50 %" in str(report)
    html = report._repr_html_()
    assert "<b>" not in html and "&lt;b&gt;" in html
    assert html.count("<tr>") == 2 + 3
    assert str(fq.PrecisionReport("fixed")).startswith("fixed: mean 0.00"), "no token generated"


def test_beside_other_code_of_the_protocol():
    other = descriptor_pb2.FileDescriptorProto(name="flexquant/v1/model.proto", package="flexquant.v1")
    message = other.message_type.add(name="ServerInfo")
    message.field.add(name="mine", number=1, type="TYPE_STRING", label="LABEL_OPTIONAL")
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(other.SerializeToString())
    assert pool.FindMessageTypeByName("flexquant.v1.ServerInfo").fields[0].name == "mine"
    assert _protocol.GetServerInfoResponse().server_info.vocab_size == 0


def test_examples(address):
    python = os.environ["FLEXQUANT_SDK_PYTHON"]
    for example in sorted((SOURCE / "client/python/examples").glob("*.py")):
        done = subprocess.run([python, example, address], capture_output=True, text=True, timeout=60, check=False,
                              env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"})
        assert done.returncode == 0, done.stderr
        assert "bits" in done.stdout and len(done.stdout) > 100, done.stdout


def test_version_and_contents_of_the_wheel():
    project = (SOURCE / "CMakeLists.txt").read_text()
    assert f"VERSION {fq.__version__} " in project
    assert os.environ["FLEXQUANT_SDK_WHEEL"].endswith(f"flexquant_client-{fq.__version__}-py3-none-any.whl")
    folder = pathlib.Path(fq.__file__).parent
    assert (folder / "py.typed").exists() and (folder / "flexquant.protoset").exists()


def test_types():
    done = subprocess.run([sys.executable, "-m", "mypy", "--strict", "--python-version", "3.9", "src/flexquant_client",
                           "examples"], cwd=SOURCE / "client/python", capture_output=True, text=True, check=False,
                          env={**os.environ, "MYPYPATH": "src"})
    assert done.returncode == 0, done.stdout + done.stderr
