"""Starts the programs under test, with time limits; converts each test model once a run."""

import atexit
import contextlib
import functools
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import unittest

SOURCE = pathlib.Path(os.environ.get("FLEXQUANT_SOURCE", pathlib.Path(__file__).resolve().parents[2]))
BIN = pathlib.Path(os.environ.get("FLEXQUANT_BIN", SOURCE / "build/release/bin"))
DATA = pathlib.Path(os.environ.get("FLEXQUANT_TEST_DATA", SOURCE.parent / "shared/data"))
STORIES = DATA.parent / "models/stories260K"
CACHE = pathlib.Path(os.environ.get("FLEXQUANT_CACHE", SOURCE / ".cache"))
SMOLLM2 = pathlib.Path(os.environ.get("FLEXQUANT_SMOLLM2_GGUF", CACHE / "SmolLM2-135M-Instruct.Q4_1.gguf"))
LIMIT = 120  # seconds a process may take

# Mistral's: its marks are plain text, so any tokenizer will do.
TEMPLATE = ("{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
            "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
            "{{ message['content'] + eos_token }}{% endif %}{% endfor %}")

_folder = pathlib.Path(tempfile.mkdtemp(prefix="flexquant-cli-test-"))
atexit.register(shutil.rmtree, _folder, ignore_errors=True)


class Clock:
    def __init__(self):
        self.start = time.monotonic()

    def seconds(self):
        return time.monotonic() - self.start


def wait_for(condition, what, limit=LIMIT):
    """Polls until condition() is true and returns its value."""
    clock = Clock()
    while not (value := condition()):
        if clock.seconds() > limit:
            raise AssertionError(f"{what}: not within {limit} s")
        time.sleep(0.01)
    return value


def start(program, *arguments, **options):
    """A process of ours. Its signals are not blocked or ignored, whatever this one's are."""
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([str(BIN / program), *map(str, arguments)], **options)


def finish(process, limit=LIMIT):
    """(status, stdout, stderr) once it has ended; killed and failed after `limit` seconds."""
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"{process.args} did not end within {limit} s\n{out!r}\n{err!r}") from None
    return process.returncode, out.decode(), err.decode()


def exit_status(result):
    """Of a run of tests: 0 passed, 1 failed, 77 all skipped; says what was skipped."""
    for test, reason in result.skipped:
        print(f"SKIPPED {test.id()}: {reason}")
    if not result.wasSuccessful():
        return 1
    return 77 if len(result.skipped) == result.testsRun else 0


def flexquant(*arguments, stdin=None, env=None):
    """Runs the command line to its end."""
    completed = subprocess.run([str(BIN / "flexquant"), *map(os.fsencode, map(str_or_bytes, arguments))],
                               input=stdin, stdin=subprocess.DEVNULL if stdin is None else None, capture_output=True,
                               timeout=LIMIT, env={**os.environ, **(env or {})}, check=False)
    return completed.returncode, completed.stdout.decode(), completed.stderr.decode()


def str_or_bytes(value):
    return value if isinstance(value, bytes) else str(value)


def free_port():
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def server(program, *arguments, listen="127.0.0.1:0", env=None):
    """A running server as (process, "HOST:PORT"); stopped at the end if it still runs."""
    with tempfile.TemporaryDirectory(dir=_folder) as folder:
        port_file = pathlib.Path(folder) / "port"
        with open(pathlib.Path(folder) / "log", "wb+") as log:
            command = ["serve"] if program == "flexquant" else []
            process = start(program, *command, *arguments, "--listen", listen, "--port-file", port_file, stdout=log,
                            stderr=log, env={**os.environ, **(env or {})})
            process.log = log.name
            try:
                wait_for(lambda: process.poll() is not None or (port_file.exists() and port_file.read_text()),
                         f"{program}'s port")
                if process.poll() is not None:
                    log.seek(0)
                    raise AssertionError(f"{program} ended with {process.returncode}: {log.read().decode()}")
                yield process, f"127.0.0.1:{port_file.read_text().strip()}"
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                    try:
                        process.wait(LIMIT)
                    except subprocess.TimeoutExpired:
                        process.kill()
                        process.wait()


@contextlib.contextmanager
def fleet(model, *controller_flags, executor_flags=()):
    """An executor and a controller as processes: (executor, its address, controller, its address), ready."""
    with server("flexquant-executor", "--model", model, *executor_flags) as (executor, executor_address):
        with server("flexquant-controller", "--model", model, "--executor", executor_address,
                    *controller_flags) as (controller, address):
            status, _, err = flexquant("info", "--server", address, "--wait", 60)
            assert status == 0, err
            yield executor, executor_address, controller, address


def new_folder():
    return pathlib.Path(tempfile.mkdtemp(dir=_folder))


def _convert(name, *arguments):
    package = _folder / name
    status, _, err = flexquant("convert", *arguments, package)
    assert status == 0, err
    return package


@functools.lru_cache(None)
def stories(reference=True):
    """Package of stories260K."""
    if not (STORIES / "stories260K.bin").exists():
        raise unittest.SkipTest(f"no {STORIES}/stories260K.bin")
    flags = ("--keep-reference",) if reference else ()
    return _convert(f"stories{int(reference)}", STORIES / "stories260K.bin", "--group-size", "32", *flags)


def _gguf_string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def add_chat_template(package):
    """To a package whose tokenizer has none."""
    tokenizer = package / "tokenizer.gguf"
    data = tokenizer.read_bytes()
    magic, version, tensors, fields = struct.unpack_from("<4sIQQ", data)
    string_type = struct.pack("<I", 8)
    tokenizer.write_bytes(struct.pack("<4sIQQ", magic, version, tensors, fields + 1) +
                          _gguf_string("tokenizer.chat_template") + string_type + _gguf_string(TEMPLATE) + data[24:])


@functools.lru_cache(None)
def chatty():
    """Package of stories260K with a chat template."""
    package = _folder / "chatty"
    shutil.copytree(stories(), package)
    add_chat_template(package)
    return package


def smollm2_gguf():
    if not SMOLLM2.exists():
        raise unittest.SkipTest(f"no {SMOLLM2}; tests/run.sh and deploy/quickstart.sh fetch it")
    return SMOLLM2


@functools.lru_cache(None)
def smollm2():
    """Package of SmolLM2-135M-Instruct with its reference, groups of 64."""
    return _convert("smollm2", smollm2_gguf(), "--group-size", "64", "--keep-reference")


def data(name):
    if not (DATA / name).exists():
        raise unittest.SkipTest(f"no {DATA / name}")
    return DATA / name


class CliTest(unittest.TestCase):
    def flexquant(self, *arguments, status=0, **options):
        """Runs the command line, expects `status`, returns (stdout, stderr)."""
        got, out, err = flexquant(*arguments, **options)
        self.assertEqual(got, status, f"{arguments}\n{out}\n{err}")
        return out, err

    def generate(self, where, *arguments):
        """The JSON object of `generate --json --token-info`; `where` is a package or an address."""
        flag = "--model" if isinstance(where, pathlib.Path) else "--server"
        out, _ = self.flexquant("generate", flag, where, "--json", "--token-info", *arguments)
        return json.loads(out)
