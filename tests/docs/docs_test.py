"""Runs the commands of docs/tutorial.md and docs/how-to, and compares docs/reference with what would be made today.

A block that begins with ```sh is run, all blocks of a page in one bash and one folder. A line before it says otherwise:
  <!-- not run: REASON -->     the block is left out
  <!-- in tests: COMMANDS -->  these run in its place: what it downloads or what takes long
Fixed ports of the pages become free ones.
"""

import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cli"))
import harness  # noqa: E402

sys.path.insert(0, str(harness.SOURCE / "tools"))
import make_reference  # noqa: E402

DOCS = harness.SOURCE / "docs"
PAGES = [DOCS / "tutorial.md", *sorted((DOCS / "how-to").glob("*.md"))]
BLOCK = re.compile(r"(?:^<!-- (?P<marker>not run|in tests): (?P<text>[^\n]*) -->\n)?^```(?P<language>\w*)\n"
                   r"(?P<commands>.*?)^```$", re.MULTILINE | re.DOTALL)
PORTS = re.compile(r"127\.0\.0\.1:(\d+)")
TEXT_BYTES = 40000


class Page:
    def __init__(self, path, text):
        self.path = path
        self.blocks = [match.groupdict() for match in BLOCK.finditer(text)]

    def script(self):
        """What is run, and why what is left out is."""
        commands, left_out = [], []
        for block in self.blocks:
            if block["language"] != "sh":
                raise AssertionError(f"{self.path.name}: a block that does not begin with ```sh: {block['commands']}")
            if block["marker"] == "not run":
                left_out.append(f"{self.path.name}: {block['commands'].splitlines()[0]} ...: {block['text']}")
            else:
                commands.append(block["text"] if block["marker"] else block["commands"])
        return "\n".join(commands), left_out


class CommandsTest(unittest.TestCase):
    def run_script(self, script, folder):
        ports = {}
        script = PORTS.sub(lambda match: f"127.0.0.1:{ports.setdefault(match[1], harness.free_port())}", script)
        chat = shlex.join([sys.executable, "-B", "-c", "import harness, pathlib, sys\n"
                           "harness.add_chat_template(pathlib.Path(sys.argv[1]))"])
        (folder / "script").write_text(f'add_chat_template() {{ {chat} "$1"; }}\nPS4="+ "\nset -x\n{script}\n')
        text = harness.data("text/tinyshakespeare.txt").read_bytes()[:TEXT_BYTES]
        (folder / "book.txt").write_bytes(text)
        environment = {**os.environ, "PATH": f"{harness.BIN}:{os.environ['PATH']}", "TEXT": str(folder / "book.txt"),
                       "STORIES": str(harness.STORIES / "stories260K.bin"), "HOME": str(folder),
                       "PYTHONPATH": str(pathlib.Path(harness.__file__).parent)}
        work = folder / "work"
        work.mkdir()
        # A session of its own, so that its servers can be stopped together; a file, which they may keep open.
        with open(folder / "output", "wb+") as output:
            process = subprocess.Popen(["bash", "-euo", "pipefail", folder / "script"], cwd=work, env=environment,
                                       stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
            try:
                status = process.wait(harness.LIMIT)
            except subprocess.TimeoutExpired:
                status = "not ended in time"
            finally:
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                process.wait()
            output.seek(0)
            return status, output.read().decode(errors="replace")

    def test_pages(self):
        harness.stories()  # skips without the model
        for path in PAGES:
            with self.subTest(path.name):
                clock = harness.Clock()
                script, left_out = Page(path, path.read_text(encoding="utf-8")).script()
                for reason in left_out:
                    print("NOT RUN", reason)
                status, output = self.run_script(script, harness.new_folder())
                self.assertEqual(status, 0, output)
                print(f"{path.name}: {clock.seconds():.0f} s")

    def test_a_command_that_fails_is_found(self):
        harness.stories()
        page = Page(pathlib.Path("page.md"), "```sh\necho one\n```\n<!-- in tests: flexquant inspect nowhere -->\n"
                    "```sh\ntrue\n```\n```sh\necho two\n```\n<!-- not run: no reason -->\n```sh\nexit 0\n```\n")
        script, left_out = page.script()
        self.assertEqual(left_out, ["page.md: exit 0 ...: no reason"])
        status, output = self.run_script(script, harness.new_folder())
        self.assertEqual(status, 1, output)
        self.assertIn("nowhere", output)
        self.assertNotIn("two", output)
        with self.assertRaises(AssertionError):
            Page(pathlib.Path("page.md"), "```\nflexquant\n```\n").script()


class ReferenceTest(unittest.TestCase):
    def check(self, name, text, *flags):
        path = DOCS / "reference" / f"{name}.md"
        renew = " ".join(["python3 tools/make_reference.py", *flags, name])
        committed = path.read_text(encoding="utf-8") if path.exists() else ""
        if committed != text:
            different = next((f"{number}: {new!r}" for number, (old, new) in
                              enumerate(zip(committed.splitlines() + [None], text.splitlines()), 1) if old != new),
                             "the end")
            self.fail(f"docs/reference/{name}.md is out of date at line {different}; renew it with\n  {renew}")

    def test_command_line(self):
        self.check("cli", make_reference.cli(harness.BIN))

    def test_protocol(self):
        text = make_reference.protocol()
        self.check("protocol", text)
        # Nothing of the files is left out, whatever the parser thinks.
        for path in (harness.SOURCE / "proto").glob("flexquant/**/*.proto"):
            for name in re.findall(r"^ +(?:repeated |optional )?[\w.]+ (\w+) = \d+", path.read_text(), re.MULTILINE):
                self.assertIn(f"| `{name}` |", text)

    def test_metrics(self):
        text = make_reference.metrics(harness.BIN, harness.stories(reference=False))
        self.check("metrics", text, "--model PACKAGE")
        for path in (DOCS / "monitoring.md", DOCS / "gateway.md", *PAGES):
            for name in re.findall(r"`((?:flexquant_|vllm:)\w+)(?:`|\{)", path.read_text(encoding="utf-8")):
                if not name.startswith("flexquant_simulate"):
                    self.assertIn(f"| `{name}` |", text, path.name)

    def test_indexes(self):
        index = (DOCS / "README.md").read_text(encoding="utf-8")
        for path in sorted(DOCS.glob("**/*.md")):
            if path.name != "README.md":
                self.assertIn(f"]({path.relative_to(DOCS)})", index)


def main():
    result = unittest.main(verbosity=2, exit=False).result
    return harness.exit_status(result)


if __name__ == "__main__":
    sys.exit(main())
