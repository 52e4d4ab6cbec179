"""flexquant top."""

import json
import re
import signal

import harness
import terminal

LONG = ("--prompt", "Once upon a time", "--max-tokens", 400, "--ignore-eos", "--precision", 8)


def without_escapes(text):
    return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", text)


class TopTest(harness.CliTest):
    def test_once_and_json(self):
        with harness.fleet(harness.stories(), executor_flags=("--threads", 1)) as (_, executor, _, server):
            out, _ = self.flexquant("top", "--server", server, "--once")
            self.assertRegex(out, rf"\A\S+ at {server}, version ")
            self.assertIn("requests: 0 running, 0 waiting", out)
            self.assertRegex(out, rf"\n{executor} +ready +0 \[\.+\]   0 % of \d+ tokens")
            self.assertNotIn("\x1b", out)
            out, _ = self.flexquant("top", "--server", server, "--once", "--json")
            told = json.loads(self.flexquant("info", "--server", server, "--json")[0])
            self.assertEqual(json.loads(out), told)
            self.assertEqual(len(out.splitlines()), 1)

    def test_load_is_seen(self):
        with harness.fleet(harness.stories(), executor_flags=("--threads", 1)) as (_, _, _, server):
            watching = harness.start("flexquant", "top", "--server", server, "--json", "--interval", 0.1)
            busy = None
            for _ in range(20):
                answer = harness.start("flexquant", "generate", "--server", server, *LONG)
                harness.finish(answer)
            watching.send_signal(signal.SIGINT)
            status, out, err = harness.finish(watching)
            self.assertEqual((status, err), (0, ""))
            pictures = [json.loads(line) for line in out.splitlines()]
            busy = [each for each in pictures if each["executors"][0]["running_sequences"] == 1]
            self.assertTrue(busy, pictures)
            self.assertGreater(max(each["executors"][0]["kv_blocks_used"] for each in busy), 0)

    def test_terminal(self):
        with harness.fleet(harness.stories()) as (_, executor, _, server):
            screen = terminal.Terminal("top", "--server", server, "--interval", 0.1, columns=60)
            screen.expect(r"\x1b\[\?1049h")
            picture = screen.expect(r"\x1b\[H(?s:.*?)\x1b\[J")[0]
            self.assertIn("requests: 0 running", picture)
            # A picture is drawn at the size that the terminal has then.
            screen.resize(40)
            for _ in range(3):
                picture = screen.expect(r"\x1b\[H(?s:.*?)\x1b\[J")[0]
            lines = re.split(r"\r+\n", without_escapes(picture))
            self.assertLessEqual(max(map(len, lines)), 40)
            self.assertTrue(any(executor[:13] in line for line in lines), lines)
            screen.type("\x03")
            self.assertEqual(screen.finish(), 0)
            self.assertTrue(screen.output.endswith("\x1b[?25h\x1b[?1049l"), screen.output[-40:])
            screen = terminal.Terminal("top", "--server", server)
            screen.expect("requests")
            screen.type("q")
            self.assertEqual(screen.finish(), 0)

    def test_server_goes_away(self):
        with harness.server("flexquant", "--model", harness.stories()) as (process, address):
            screen = terminal.Terminal("top", "--server", address, "--interval", 0.1)
            screen.expect("requests: 0 running")
            process.send_signal(signal.SIGKILL)
            screen.expect("UNAVAILABLE")
            screen.type("q")
            self.assertEqual(screen.finish(), 0)
        _, err = self.flexquant("top", "--server", address, "--once", status=1)
        self.assertIn(address, err)
        self.assertIn("--server", self.flexquant("top", status=2)[1])
