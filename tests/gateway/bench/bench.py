"""What a gateway costs beside the gRPC stream it stands in front of; an executor that computes nothing is behind both.

Usage: bench.py BIN MODEL [--streams 64] [--tokens 400] [--runs 7] [--cores CONTROLLER,GATEWAY,CLIENTS]
Controller and gateway have a core each; runs over gRPC and over HTTP take turns.
"""

import argparse
import os
import pathlib
import re
import signal
import statistics
import subprocess
import tempfile
import time
import urllib.request


def spread(values):
    ordered = sorted(values)
    return f"{statistics.median(ordered):,.0f} ({ordered[0]:,.0f} to {ordered[-1]:,.0f})"


class Servers:
    """A controller and a gateway, each on its core."""

    def __init__(self, options, step_us):
        self.bench = pathlib.Path(options.bin, "flexquant_gateway_bench")
        controller, gateway, self.clients = options.cores.split(",", 2)
        serve = ["taskset", "-c", controller, self.bench, "serve", options.model, str(step_us)]
        self.processes = [subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)]
        self.grpc = f"127.0.0.1:{int(self.processes[0].stdout.readline())}"
        with tempfile.TemporaryDirectory() as folder:
            port = pathlib.Path(folder, "port")
            self.processes.append(subprocess.Popen(
                ["taskset", "-c", gateway, pathlib.Path(options.bin, "flexquant-gateway"), "--server", self.grpc,
                 "--listen", "127.0.0.1:0", "--port-file", port, "--log-level", "warn"]))
            while not (port.exists() and port.read_text()):
                time.sleep(0.01)
            self.http = f"127.0.0.1:{port.read_text().strip()}"

    def load(self, kind, streams, tokens):
        """(tokens a second, median and 99th percentile of us to the first bytes)"""
        out = subprocess.run(["taskset", "-c", self.clients, self.bench, kind, getattr(self, kind), str(streams),
                              str(tokens)], capture_output=True, text=True, check=True).stdout
        return [float(word) for word in out.split()]

    def cpu_seconds(self):
        """Of the controller with its executor, of the gateway."""
        ticks = os.sysconf("SC_CLK_TCK")
        stats = [pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
                 for process in self.processes]
        return [(int(fields[11]) + int(fields[12])) / ticks for fields in stats]

    def forward(self):
        """Counts of the histogram from a token's arrival to its bytes' leaving, by upper bound in s."""
        text = urllib.request.urlopen(f"http://{self.http}/metrics").read().decode()
        return {float(bound): int(float(count)) for bound, count in
                re.findall(r'flexquant_gateway_forward_seconds_bucket\{le="([^"]+)"\} (\S+)', text)}

    def stop(self):
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
            process.wait()


def throughput(options):
    servers = Servers(options, 0)
    results = {"grpc": [], "http": []}
    cpu = {kind: [0, 0] for kind in results}
    for kind in results:  # not counted
        servers.load(kind, options.streams, options.tokens)
    for _ in range(options.runs):
        for kind, values in results.items():
            before = servers.cpu_seconds()
            values.append(servers.load(kind, options.streams, options.tokens))
            cpu[kind] = [total + after - start for total, after, start in
                         zip(cpu[kind], servers.cpu_seconds(), before)]
    tokens = options.runs * options.streams * options.tokens
    micros = {kind: [1e6 * seconds / tokens for seconds in both] for kind, both in cpu.items()}
    rates = {kind: [value[0] for value in values] for kind, values in results.items()}
    ratios = [http / grpc for http, grpc in zip(rates["http"], rates["grpc"])]
    print(f"{options.streams} streams of {options.tokens} tokens, tokens/s, median (least to most) of {options.runs}")
    print(f"  gRPC   {spread(rates['grpc'])}")
    print(f"  HTTP   {spread(rates['http'])}")
    print(f"  HTTP to gRPC  {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    print(f"  CPU time, us a token: controller and executor over gRPC {micros['grpc'][0]:.2f}, behind the gateway "
          f"{micros['http'][0]:.2f}; gateway {micros['http'][1]:.2f}")
    share = micros["grpc"][0] / max(micros["http"])
    print(f"  so with a core each, by CPU time: {share:.3f} of the gRPC stream's throughput")
    print(f"  from a stream's first token to its bytes, in the gateway: {servers.forward()}")
    servers.stop()


def first_byte(options):
    """One stream at a time over an executor that takes 2 ms a step: what the gateway adds to the first token's time."""
    servers = Servers(options, 2000)
    times = {"grpc": [], "http": []}
    for i in range(options.runs * 10):
        for kind, values in times.items():
            value = servers.load(kind, 1, 2)[1]
            if i > 0:
                values.append(value)
    added = [http - grpc for http, grpc in zip(times["http"], times["grpc"])]
    print("One stream, 2 ms a step, us to the first token's bytes, median (least to most)")
    for kind, values in times.items():
        print(f"  {kind}   {spread(values)}")
    print(f"  HTTP less gRPC, pairs {spread(added)}")
    print(f"  from the first token to its bytes, in the gateway: {servers.forward()}")
    servers.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin")
    parser.add_argument("model")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--cores", default="0,1,0-1", help="of the controller, the gateway and the clients")
    options = parser.parse_args()
    throughput(options)
    first_byte(options)


if __name__ == "__main__":
    main()
