"""deploy/quickstart.sh as a user with a warm cache runs it."""

import os
import pathlib
import signal
import subprocess

import harness


# The servers have sessions of their own, but the script's environment; other tests' servers may run beside them.
MARK = ("FLEXQUANT_TEST_RUN", str(os.getpid()))


def servers():
    """Programs of this test's scripts that are running."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
            program = os.path.basename((process / "cmdline").read_bytes().split(b"\0")[0].decode())
        except OSError:
            continue  # it has just ended
        if "=".join(MARK).encode() in environment and program in ("flexquant-controller", "flexquant-executor"):
            found.append(program)
    return sorted(found)


class QuickstartTest(harness.CliTest):
    def start(self, *prompt):
        release = harness.SOURCE / "build/release/bin"
        if not release.exists() or harness.BIN.resolve() != release.resolve():
            self.skipTest("these are not the programs of build/release, which the quickstart builds")
        harness.smollm2_gguf()
        return subprocess.Popen([str(harness.SOURCE / "deploy/quickstart.sh"), *prompt], cwd="/", text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                env={**os.environ, "FLEXQUANT_CACHE": str(harness.CACHE),
                                     **dict([MARK])}, start_new_session=True)

    def test_answers(self):
        self.start().communicate(timeout=300)  # makes what is missing
        clock = harness.Clock()
        process = self.start("Why", "is the sky blue?")
        out, err = process.communicate(timeout=harness.LIMIT)
        self.assertEqual(process.returncode, 0, err)
        print(f"second run: {clock.seconds():.1f} s", flush=True)
        self.assertIn("sky", out)
        self.assertNotIn("\x1b", out)
        self.assertIn("> Why is the sky blue?", err)
        self.assertIn("uncalibrated", err)
        self.assertGreaterEqual(err.count(" bits "), 2, err)

    def test_ctrl_c_stops_everything(self):
        process = self.start("Tell me a very long story about the sea, in at least ten chapters.")
        self.assertTrue(process.stdout.read(1))
        self.assertEqual(servers(), ["flexquant-controller", "flexquant-executor"])
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130)
        self.assertEqual(servers(), [])
