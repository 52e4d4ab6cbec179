"""Signals, health, and processes that die: real servers, real signals."""

import json
import os
import signal
import subprocess

import harness

LONG = ("--prompt", "Tell me a long story.", "--chat", "--max-tokens", "4000", "--ignore-eos")


def start_long_answer(address, *flags):
    """A `generate` whose first text has arrived."""
    process = harness.start("flexquant", "generate", "--server", address, *LONG, *flags)
    first = os.read(process.stdout.fileno(), 1)
    assert first, process.communicate()[1].decode()
    return process


class InterruptTest(harness.CliTest):
    def check_generate(self, signal_number, status):
        process = harness.start("flexquant", "generate", "--model", harness.smollm2(), *LONG)
        self.assertTrue(os.read(process.stdout.fileno(), 1))
        process.send_signal(signal_number)
        got, _, err = harness.finish(process, limit=15)
        self.assertEqual(got, status, err)
        for part in ("mean", "bits", "cut short", "to the first token", "stopped"):
            self.assertIn(part, err)

    def test_generate_ctrl_c(self):
        self.check_generate(signal.SIGINT, 130)

    def test_generate_sigterm(self):
        self.check_generate(signal.SIGTERM, 143)

    def test_generate_json_ctrl_c(self):
        with harness.server("flexquant", "--model", harness.smollm2()) as (_, address):
            process = harness.start("flexquant", "generate", "--server", address, *LONG, "--json", "--token-info")
            # The answer has begun once the server holds a request; its text is a second question's delay away.
            with self.assertRaises(subprocess.TimeoutExpired):
                process.wait(3)
            process.send_signal(signal.SIGINT)
            status, out, err = harness.finish(process, limit=15)
            self.assertEqual(status, 130, err)
            answer = json.loads(out)
            self.assertFalse(answer["complete"])
            self.assertEqual(len(answer["tokens"]), len(answer["token_ids"]))
            self.assertEqual(answer["usage"]["generated_tokens"], len(answer["token_ids"]))
            # The server is free for the next one.
            self.generate(address, "--prompt", "Hi", "--max-tokens", 2)

    def test_convert_ctrl_c(self):
        folder = harness.new_folder()
        process = harness.start("flexquant", "convert", harness.smollm2_gguf(), folder / "package", "--threads", 1)
        for line in process.stderr:
            if b" %" in line:
                break
        process.send_signal(signal.SIGINT)
        status, _, err = harness.finish(process, limit=30)
        self.assertEqual(status, 130, err)
        self.assertEqual(list(folder.iterdir()), [])

    def test_prompt_ctrl_c(self):
        reader, writer = os.pipe()
        process = harness.start("flexquant", "chat", "--model", harness.smollm2(), stdin=reader)
        os.close(reader)
        os.read(process.stderr.fileno(), 1)
        process.send_signal(signal.SIGINT)
        status, _, err = harness.finish(process, limit=15)
        os.close(writer)
        self.assertEqual(status, 130, err)


class ServerTest(harness.CliTest):
    def test_info_and_health(self):
        with harness.fleet(harness.stories()) as (_, executor_address, _, address):
            out, _ = self.flexquant("info", "--server", address, "--json")
            info = json.loads(out)
            self.assertEqual(info["precisions"], [3, 4, 5, 6, 8])
            self.assertTrue(info["has_reference"])
            self.assertEqual([executor["address"] for executor in info["executors"]], [executor_address])
            self.assertTrue(info["executors"][0]["ready"])
            self.assertIn("uniform-4", [plan["name"] for plan in info["named_plans"]])
            self.assertEqual(len(info["layer_groups"]), 4 * 5 + 1)
            embedded, _ = self.flexquant("info", "--model", harness.stories(), "--json")
            self.assertEqual(json.loads(embedded)["model_revision"], info["model_revision"])
            self.assertIn("3 4 5 6 8 16 bits", self.flexquant("info", "--server", address)[0])

    def test_tensor_parallel_executor(self):
        """Ranks answer as one rank does; the command line embeds them, too, and says what cannot be cut."""
        package = harness.stories()
        answer = ("generate", "--prompt", "Once upon a time", "--max-tokens", 40, "--ignore-eos", "--temperature", 0,
                  "--precision", 8)
        alone, _ = self.flexquant(*answer, "--model", package)
        with harness.fleet(package, executor_flags=("--tensor-parallel", 2)) as (executor, _, _, address):
            self.assertEqual(self.flexquant(*answer, "--server", address)[0], alone)
            info, _ = self.flexquant("info", "--server", address)
            self.assertIn("tensor parallel 2", info)
            self.assertIsNone(executor.poll())
        self.assertEqual(self.flexquant(*answer, "--model", package, "--tensor-parallel", 4)[0], alone)
        _, err = self.flexquant(*answer, "--model", package, "--tensor-parallel", 5, status=1)
        self.assertIn("allowed: 1, 2, 3, 4, 8", err)

    def test_not_ready_without_executor(self):
        nobody = f"127.0.0.1:{harness.free_port()}"
        with harness.server("flexquant-controller", "--model", harness.stories(), "--executor", nobody) as (_, address):
            _, err = self.flexquant("info", "--server", address, "--wait", 0.5, status=1)
            self.assertIn("not ready", err)
            _, err = self.flexquant("generate", "--server", address, "--prompt", "Once", status=1)
            self.assertIn("UNAVAILABLE", err)

    def lose_midway(self, address, process):
        """Kills `process` while an answer comes; returns what checks that not a byte of the answer differs for it."""
        answer = ("generate", "--prompt", "Once upon a time", "--max-tokens", 150, "--ignore-eos", "--temperature", 0.8,
                  "--seed", 5, "--batch-mode", "isolated", "--precision", "dynamic", "--server", address)
        undisturbed, _ = self.flexquant(*answer)
        client = harness.start("flexquant", *answer)
        begun = os.read(client.stdout.fileno(), 40).decode()
        process.send_signal(signal.SIGKILL)
        process.wait(harness.LIMIT)

        def check():
            status, out, err = harness.finish(client)
            self.assertEqual(status, 0, err)
            self.assertEqual(begun + out, undisturbed)
        return check

    def test_executor_killed_and_restarted(self):
        """A stream outlives its executor."""
        package = harness.smollm2()
        with harness.fleet(package) as (executor, executor_address, _, address):
            check = self.lose_midway(address, executor)
            _, err = self.flexquant("generate", "--prompt", "Hi", "--server", address, status=1)
            self.assertIn("UNAVAILABLE", err)
            with harness.server("flexquant-executor", "--model", package, listen=executor_address):
                check()

    def test_no_executor_comes_back(self):
        package = harness.smollm2()
        with harness.fleet(package, "--failover-seconds", 0.5) as (executor, _, _, address):
            client = start_long_answer(address, "--resume-seconds", 0)
            executor.send_signal(signal.SIGKILL)
            status, _, err = harness.finish(client, limit=30)
            self.assertEqual(status, 1, err)
            # ABORTED, not UNAVAILABLE: tokens have been sent, so a client must not retry by itself.
            self.assertIn("ABORTED", err)
            self.assertIn("executor", err)
            _, err = self.flexquant("info", "--server", address, "--wait", 0.3, status=1)
            self.assertIn("not ready", err)

    def test_controller_killed_and_restarted(self):
        """A client takes its stream up again."""
        package = harness.smollm2()
        with harness.fleet(package) as (_, executor_address, controller, address):
            check = self.lose_midway(address, controller)
            with harness.server("flexquant-controller", "--model", package, "--executor", executor_address,
                                listen=address):
                check()

    def test_controller_killed_for_good(self):
        with harness.fleet(harness.smollm2()) as (_, _, controller, address):
            client = start_long_answer(address, "--resume-seconds", 1)
            controller.send_signal(signal.SIGKILL)
            status, _, err = harness.finish(client, limit=30)
            self.assertEqual(status, 1, err)
            self.assertIn("UNAVAILABLE", err)

    def test_sigterm_lets_answers_end(self):
        with harness.fleet(harness.smollm2()) as (executor, _, controller, address):
            client = harness.start("flexquant", "generate", "--server", address, "--prompt", "Once",
                                   "--max-tokens", 100,
                                   "--ignore-eos")
            self.assertTrue(os.read(client.stdout.fileno(), 1))
            controller.send_signal(signal.SIGTERM)
            status, _, err = harness.finish(client)
            self.assertEqual(status, 0, err)
            self.assertIn("100 answer", err)
            self.assertEqual(controller.wait(harness.LIMIT), 0)
            executor.send_signal(signal.SIGTERM)
            self.assertEqual(executor.wait(harness.LIMIT), 0)

    def test_sigterm_of_serve(self):
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            with harness.server("flexquant", "--model", harness.stories()) as (process, address):
                self.generate(address, "--prompt", "Once", "--max-tokens", 2)
                process.send_signal(signal_number)
                self.assertEqual(process.wait(harness.LIMIT), 0)
