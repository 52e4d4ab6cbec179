"""What the chaos tests disturb: real processes on loopback, and the load that they serve."""

import contextlib
import json
import os
import pathlib
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cli"))
import harness  # noqa: E402
from certificates import make_authority, make_certificate  # noqa: E402
from proxy import Proxy  # noqa: E402

# Isolated, so that what a stream says depends on nothing but its request; plans that change from token to token.
REQUEST = ("--batch-mode", "isolated", "--precision", "dynamic", "--temperature", "0.8")
# The name whose addresses are the executors.
NAME = "executors"


class Executor:
    """An executor at a fixed address that can be killed and started again."""

    def __init__(self, model, address, flags):
        self.model = model
        self.address = address
        self.flags = flags
        self.stack = None
        self.process = None

    def start(self):
        self.stack = contextlib.ExitStack()
        self.process, _ = self.stack.enter_context(
            harness.server("flexquant-executor", "--model", self.model, "--threads", 1, *self.flags,
                           listen=self.address))

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
        self.stack.close()

    def end(self, signal_number):
        self.process.send_signal(signal_number)
        self.process.wait(harness.LIMIT)
        self.stop()

    def restart_after(self, signal_number):
        self.end(signal_number)
        self.start()


class Certificates:
    """Of executors and controller, all of one authority."""

    def __init__(self, seconds):
        self.folder = harness.new_folder()
        make_authority(self.folder)
        self.renew(seconds)

    def renew(self, seconds=None):
        make_certificate(self.folder, "executor", NAME, seconds)
        make_certificate(self.folder, "controller", "flexquant-controller", seconds)

    def executor_flags(self):
        return ("--tls-cert", self.folder / "executor.crt", "--tls-key", self.folder / "executor.key",
                "--tls-client-ca", self.folder / "ca.crt")

    def controller_flags(self):
        return ("--executor-ca", self.folder / "ca.crt", "--executor-cert", self.folder / "controller.crt",
                "--executor-key", self.folder / "controller.key")


class Fleet:
    """Three executors, the last one behind a proxy, and a controller that finds them by a name, as in a cluster: what
    addresses it has is in a file that stands in for a name server (libnss-wrapper)."""

    FLAGS = ("--failover-seconds", "30", "--drain-seconds", "10", "--resolve-seconds", "0.2")

    def __init__(self, model, *flags, certificates=None, step_timeout=1):
        self.model = model
        self.flags = ("--step-timeout", step_timeout, *flags,
                      *(certificates.controller_flags() if certificates else ()))
        self.port = harness.free_port()
        executor_flags = certificates.executor_flags() if certificates else ()
        self.executors = [Executor(model, f"127.0.0.{host}:{self.port}", executor_flags) for host in (1, 2, 4)]
        self.hosts = harness.new_folder() / "hosts"
        self.listed = {f"127.0.0.{host}" for host in (1, 2, 3)}
        self.address = f"127.0.0.1:{harness.free_port()}"
        self.controller_stack = None
        self.controller = None
        self.proxy = None

    def __enter__(self):
        self.write_hosts()
        for executor in self.executors:
            executor.start()
        self.proxy = Proxy(f"127.0.0.3:{self.port}", self.executors[2].address)
        self.start_controller()
        return self

    def __exit__(self, *_):
        self.controller_stack.close()
        self.proxy.close()
        for executor in self.executors:
            executor.stop()

    def write_hosts(self):
        new = self.hosts.with_suffix(".new")
        new.write_text("".join(f"{host} {NAME}\n" for host in sorted(self.listed)))
        new.replace(self.hosts)

    def start_controller(self):
        self.controller_stack = contextlib.ExitStack()
        self.controller, _ = self.controller_stack.enter_context(
            harness.server("flexquant-controller", "--model", self.model, "--executor", f"dns:{NAME}:{self.port}",
                           *self.FLAGS, *self.flags, listen=self.address,
                           env={"LD_PRELOAD": "libnss_wrapper.so", "NSS_WRAPPER_HOSTS": str(self.hosts)}))

    def known(self):
        """{address: whether it is ready} of the executors that the controller knows."""
        status, out, _ = harness.flexquant("info", "--server", self.address, "--json")
        return {one["address"]: one["ready"] for one in json.loads(out)["executors"]} if status == 0 else {}

    def wait_ready(self, executors=3):
        """Until so many executors are ready."""
        harness.wait_for(lambda: sum(self.known().values()) >= executors, f"{executors} executors", limit=60)

    def leave_and_join(self, choice):
        """An executor is taken out of the name, hands over, ends, comes back and is listed again."""
        which = choice.randrange(2)
        host = f"127.0.0.{which + 1}"
        self.listed.remove(host)
        self.write_hosts()
        # The file's time has to change, and it is kept in seconds.
        harness.wait_for(lambda: f"{host}:{self.port}" not in self.known(), f"{host} forgotten", limit=60)
        self.executors[which].restart_after(signal.SIGTERM)
        time.sleep(1)
        self.listed.add(host)
        self.write_hosts()

    # The faults.
    def kill_executor(self, choice):
        self.executors[choice.randrange(3)].restart_after(signal.SIGKILL)

    def terminate_executor(self, choice):
        self.executors[choice.randrange(3)].restart_after(signal.SIGTERM)

    def freeze_executor(self, choice):
        process = self.executors[choice.randrange(3)].process
        process.send_signal(signal.SIGSTOP)
        time.sleep(choice.uniform(0.2, 2.5))
        process.send_signal(signal.SIGCONT)

    def cut_connection(self, _):
        self.proxy.cut()

    def hold_connection(self, choice):
        self.proxy.hold()
        time.sleep(choice.uniform(0.2, 2.5))
        self.proxy.go_on()

    def delay_connection(self, choice):
        self.proxy.delay(choice.uniform(0.001, 0.02))
        time.sleep(1)
        self.proxy.delay(0)

    def kill_controller(self, _):
        self.controller.send_signal(signal.SIGKILL)
        self.controller.wait(harness.LIMIT)
        self.controller_stack.close()
        self.start_controller()

    def usage(self):
        """(open descriptors, resident kB) of each process that serves."""
        figures = {}
        for name, process in [("controller", self.controller),
                              *((f"executor {i}", one.process) for i, one in enumerate(self.executors))]:
            folder = pathlib.Path(f"/proc/{process.pid}")
            pages = int((folder / "statm").read_text().split()[1])
            resident = pages * os.sysconf("SC_PAGE_SIZE") // 1024
            figures[name, process.pid] = len(list((folder / "fd").iterdir())), resident
        return figures


class Load:
    """Runs loadgen; what it sent is the same for the same seed."""

    def __init__(self, address, seed, *flags, requests=64, time_scale=0.3):
        self.folder = harness.new_folder()
        self.file = self.folder / "answers.jsonl"
        trace = ()
        conversation = harness.DATA / "traces/azure2023/AzureLLMInferenceTrace_conv.csv"
        if conversation.exists():
            trace = ("--trace", conversation, "--time-scale", time_scale, "--token-scale", "0.7",
                     "--max-prompt-tokens", 200, "--max-answer-tokens", 250)
        self.process = harness.start("flexquant", "loadgen", "--server", address, "--requests", requests,
                                     "--load-seed", seed, "--answers", self.file, *trace, *REQUEST, *flags)

    def running(self):
        return self.process.poll() is None

    def answers(self):
        status, _, err = harness.finish(self.process, limit=180)
        if status != 0:
            raise AssertionError(err)
        return [json.loads(line) for line in self.file.read_text().splitlines()]
