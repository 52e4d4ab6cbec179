"""Writes docs/reference from the programs' own flags, the .proto files' comments and what running servers export.

    python3 tools/make_reference.py [--bin build/release/bin] [--model PACKAGE] [cli|protocol|metrics ...]

`metrics` needs a package of any model (--model) to start servers with. tests/docs says when a file is out of date.
"""

import argparse
import contextlib
import pathlib
import re
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

SOURCE = pathlib.Path(__file__).resolve().parents[1]
REFERENCE = SOURCE / "docs/reference"
SERVERS = ("flexquant-controller", "flexquant-executor", "flexquant-gateway")
PROTOCOLS = (("Public protocol", "flexquant/v1"), ("Protocol between controller and executors",
                                                   "flexquant/executor/v1"))
NOTE = "<!-- Made by tools/make_reference.py; change {} instead. -->\n"


def output(*command):
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


def cli(binaries):
    text = "# Command line\n" + NOTE.format("the flags' texts")
    text += ("What `--help` says of every program; `flexquant man FOLDER` writes it as manual pages, `flexquant "
             "completion SHELL` makes a shell complete it.\n\n")
    text += output(binaries / "flexquant", "man", "--markdown")
    for server in SERVERS:
        shown = output(binaries / server, "--help").replace(f"{binaries}/", "").strip()
        text += f"\n## {server}\n```\n{shown}\n```\n"
    return text


class ProtoFile:
    """The declarations of one .proto file in buf's style: each on lines of its own, its comment before it."""

    FIELD = re.compile(r"(?P<label>repeated |optional )?(?P<type>[\w.]+) (?P<name>\w+) = (?P<number>\d+)")
    RPC = re.compile(r"rpc (\w+)\((stream )?(\w+)\) returns \((stream )?(\w+)\)")

    def __init__(self, path):
        self.lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        self.comment = []
        self.sections = []  # [heading, comment, rows, kind]
        self.oneof = ""
        for line in self.lines:
            self._take(line)

    def _take(self, line):
        if line.startswith("//"):
            self.comment.append(line[2:].strip())
            return
        comment, self.comment = " ".join(part or "<br>" for part in self.comment), []
        if block := re.match(r"(service|message|enum) (\w+) \{", line):
            self.sections.append([f"{block[1]} {block[2]}", comment, [], block[1]])
        elif oneof := re.match(r"oneof (\w+) \{", line):
            self.oneof = oneof[1]
            self.oneof_comment = comment
        elif line == "}":
            self.oneof = ""
        elif self.sections:
            self._add_row(line, comment)

    def _add_row(self, line, comment):
        kind, rows = self.sections[-1][3], self.sections[-1][2]
        if rpc := self.RPC.match(line):
            rows.append((f"`{rpc[1]}`", f"{rpc[2] or ''}`{rpc[3]}`", f"{rpc[4] or ''}`{rpc[5]}`", comment))
        elif kind == "enum" and (value := re.match(r"(\w+) = (\d+)", line)):
            rows.append((f"`{value[1]}`", value[2], comment))
        elif kind == "message" and (field := self.FIELD.match(line)):
            if self.oneof:
                comment = f"One of `{self.oneof}`{': ' + self.oneof_comment if self.oneof_comment else '.'} {comment}"
                self.oneof_comment = ""
            rows.append((f"`{field['name']}`", f"{field['label'] or ''}`{field['type']}`", field["number"], comment))

    def markdown(self):
        heads = {"service": ("call", "request", "response", "what"), "message": ("field", "type", "number", "what"),
                 "enum": ("value", "number", "what")}
        text = ""
        for heading, comment, rows, kind in self.sections:
            text += f"\n#### {heading}\n{escape(comment)}\n"
            if rows:
                text += "\n" + table(heads[kind], rows)
        return text


def escape(text):
    return text.replace("|", "\\|").replace("<", "&lt;").replace("&lt;br>", "<br>")


def table(heads, rows):
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(escape(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def protocol():
    text = "# Protocols\n" + NOTE.format("the .proto files")
    text += "Clients use the public one; servers offer gRPC reflection and `grpc.health.v1` beside it.\n"
    for title, folder in PROTOCOLS:
        text += f"\n## {title}\n"
        for path in sorted((SOURCE / "proto" / folder).glob("*.proto")):
            text += f"\n### {folder}/{path.name}\n{ProtoFile(path).markdown()}"
    return text


@contextlib.contextmanager
def server(binaries, folder, program, *flags):
    """A running server as the port in its port file."""
    port_file = folder / f"{program}.port"
    with open(folder / f"{program}.log", "wb") as log:
        process = subprocess.Popen([binaries / program, *map(str, flags), "--listen", "127.0.0.1:0", "--port-file",
                                    port_file], stdout=log, stderr=log)
        try:
            yield wait_for_port(process, port_file, pathlib.Path(log.name))
        finally:
            process.terminate()
            process.wait(60)


def wait_for_port(process, file, log):
    deadline = time.monotonic() + 60
    while not file.exists() or not file.read_text(encoding="utf-8"):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"no port in {file}: {log.read_text(encoding='utf-8')}")
        time.sleep(0.01)
    return file.read_text(encoding="utf-8").strip()


def get(url, body=None):
    headers = {"Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as response:
            return response.read().decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()


def families(text):
    """[(name, type, labels, help)] of a scrape, by name."""
    helps = dict(re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE))
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    rows = []
    for name in sorted(types):
        labels = set()
        for sample in re.findall(rf"^{re.escape(name)}(?:_bucket|_sum|_count)?\{{([^}}]*)\}}", text, re.MULTILINE):
            labels |= set(re.findall(r'(\w+)="', sample))
        labels -= {"le", "quantile", "model_name"}
        rows.append((f"`{name}`", types[name], ", ".join(f"`{label}`" for label in sorted(labels)),
                     helps.get(name, "")))
    return rows


def metrics(binaries, model):
    """From servers that had an answer and a refusal, so that every family has a sample that it can have so soon."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        start = lambda *words: stack.enter_context(server(binaries, folder, *words))
        executor = start("flexquant-executor", "--model", model, "--threads", 1)
        metrics_file = folder / "metrics.port"
        controller = start("flexquant-controller", "--model", model, "--executor", f"127.0.0.1:{executor}",
                           "--metrics-listen", "127.0.0.1:0", "--metrics-port-file", metrics_file)
        output(binaries / "flexquant", "info", "--server", f"127.0.0.1:{controller}", "--wait", 60)
        gateway = start("flexquant-gateway", "--server", f"127.0.0.1:{controller}")
        url = f"http://127.0.0.1:{gateway}"
        get(f"{url}/v1/completions", b'{"prompt": "Once", "max_tokens": 4, "stream": true}')
        get(f"{url}/v1/completions", b'{"prompt": "Once", "flexquant": {"precision": {"plan": "none"}}}')
        controller_rows = families(get(f"http://127.0.0.1:{metrics_file.read_text(encoding='utf-8').strip()}/metrics"))
        gateway_rows = families(get(f"{url}/metrics"))
    heads = ("metric", "type", "labels", "what")
    return ("# Metrics\n" + NOTE.format("the metrics' help texts") +
            "What running servers export; [monitoring.md](../monitoring.md) says how to read it. Histograms have "
            "`_bucket`, `_sum` and `_count`.\n\n## Controller\n`--metrics-listen`; every metric has the label "
            "`model_name`, too.\n\n" + table(heads, controller_rows) +
            "\n## Gateway\n`/metrics` of its own port.\n\n" + table(heads, gateway_rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=SOURCE / "build/release/bin")
    parser.add_argument("--model", type=pathlib.Path, help="package to serve; without it metrics.md stays as it is")
    parser.add_argument("names", nargs="*", help="cli, protocol, metrics; default: all")
    flags = parser.parse_args()
    makers = {"cli": lambda: cli(flags.bin.resolve()), "protocol": protocol}
    if flags.model is not None:
        makers["metrics"] = lambda: metrics(flags.bin.resolve(), flags.model)
    for name in flags.names or makers:
        if name not in makers:
            parser.error(f"no {name}: there are {', '.join(makers)}" +
                         ("" if flags.model else "; metrics needs --model"))
        (REFERENCE / f"{name}.md").write_text(makers[name](), encoding="utf-8")


if __name__ == "__main__":
    main()
