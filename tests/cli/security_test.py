"""TLS, tokens and what is refused: the programs as an operator runs them."""

import contextlib
import json
import pathlib
import signal
import subprocess

import harness
from certificates import make_authority, make_certificate

EXECUTOR_TLS = ("--tls-cert", "executor.crt", "--tls-key", "executor.key", "--tls-client-ca", "ca.crt")
CONTROLLER_TLS = ("--tls-cert", "controller.crt", "--tls-key", "controller.key")
TO_EXECUTOR = ("--executor-ca", "ca.crt", "--executor-cert", "controller.crt", "--executor-key", "controller.key")


def in_folder(folder, flags):
    """Flags with the paths of the files among them."""
    return [str(folder / flag) if (folder / flag).is_file() else flag for flag in flags]


class SecurityTest(harness.CliTest):
    def setUp(self):
        self.folder = harness.new_folder()

    def certificates(self):
        make_authority(self.folder)
        make_certificate(self.folder, "executor", "flexquant-executor")
        make_certificate(self.folder, "controller", "flexquant-controller")

    def new_token(self, tenant):
        out, err = self.flexquant("token", "new", "--tenant", tenant)
        token, entry = out.splitlines()
        self.assertNotIn(token, err)
        self.assertNotIn(token, entry)
        return token, json.loads(entry)

    def write(self, name, text):
        (self.folder / name).write_text(text)
        return self.folder / name

    @contextlib.contextmanager
    def fleet(self, *controller_flags, executor_flags=EXECUTOR_TLS, to_executor=TO_EXECUTOR):
        """Both servers with TLS, at trace level: (controller's address, their processes)."""
        package = harness.stories()
        with harness.server("flexquant-executor", "--model", package, "--log-level", "trace",
                            *in_folder(self.folder, executor_flags)) as (executor, executor_address):
            with harness.server("flexquant-controller", "--model", package, "--executor", executor_address,
                                "--log-level", "trace", *in_folder(self.folder, to_executor),
                                *in_folder(self.folder, controller_flags)) as (controller, address):
                yield address, (executor, controller)

    def test_tls_and_tokens(self):
        self.certificates()
        token, entry = self.new_token("blue")
        wrong, _ = self.new_token("blue")
        tokens = self.write("tokens.json", json.dumps([entry]))
        token_file = self.write("token", token + "\n")
        ca = ("--ca", self.folder / "ca.crt")
        with self.fleet(*CONTROLLER_TLS, "--tokens", "tokens.json") as (address, processes):
            self.flexquant("info", "--server", address, *ca, "--wait", 30, "--token-file", token_file)
            generate = ("generate", "--server", address, *ca, "--prompt", "Once", "--max-tokens", 4)
            self.flexquant(*generate, "--token-file", token_file)
            self.flexquant(*generate, env={"FLEXQUANT_TOKEN": token})
            _, err = self.flexquant(*generate, env={"FLEXQUANT_TOKEN": ""}, status=1)
            self.assertIn("--token-file", err)
            _, err = self.flexquant(*generate, env={"FLEXQUANT_TOKEN": wrong}, status=1)
            self.assertIn("UNAUTHENTICATED", err)
            self.assertNotIn(wrong, err)
            # A token that is taken out of the file is soon no good.
            tokens.write_text("[]")
            harness.wait_for(lambda: harness.flexquant(*generate, "--token-file", token_file)[0] == 1,
                             "the token's end", limit=30)
            self.assert_no_secrets(processes, token, wrong)

    def assert_no_secrets(self, processes, *secrets):
        """Once the servers have ended, so that their logs are whole."""
        for process in processes:
            process.send_signal(signal.SIGTERM)
            process.wait(harness.LIMIT)
            log = pathlib.Path(process.log).read_text()
            self.assertNotEqual(log, "")
            for secret in secrets:
                self.assertNotIn(secret, log)
            self.assertNotIn("PRIVATE KEY", log)

    def test_executor_takes_only_its_controller(self):
        self.certificates()
        make_certificate(self.folder, "controller", "somebody-else")
        with self.fleet() as (address, _):
            _, err = self.flexquant("info", "--server", address, "--wait", 1, status=1)
            self.assertIn("not ready", err)
            _, err = self.flexquant("info", "--server", address, status=1)
            self.assertIn("somebody-else", err)
        with self.fleet(executor_flags=(*EXECUTOR_TLS, "--allow-client", "somebody-else"),
                        to_executor=(*TO_EXECUTOR, "--executor-server-name", "flexquant-executor")) as (address, _):
            self.flexquant("info", "--server", address, "--wait", 30)

    def test_replaced_certificates_are_taken_over(self):
        self.certificates()
        with self.fleet(*CONTROLLER_TLS) as (address, _):
            old_ca = self.write("old-ca.crt", (self.folder / "ca.crt").read_text())
            self.flexquant("info", "--server", address, "--ca", old_ca, "--wait", 30)
            make_authority(self.folder)
            make_certificate(self.folder, "controller", "flexquant-controller")
            harness.wait_for(lambda: harness.flexquant("info", "--server", address, "--ca", self.folder / "ca.crt")[0]
                             == 0, "the new certificate", limit=30)
            self.flexquant("info", "--server", address, "--ca", old_ca, status=1)

    def test_refusals_at_the_start(self):
        self.certificates()
        package = harness.stories()

        def check(program, *flags, parts, status=1):
            command = ["serve"] if program == "flexquant" else []
            more = ["--executor", "127.0.0.1:1"] if program == "flexquant-controller" else []
            process = harness.start(program, *command, "--model", package, *more, *in_folder(self.folder, flags))
            got, _, err = harness.finish(process)
            self.assertEqual(got, status, err)
            for part in parts:
                self.assertIn(part, err)

        for program in ("flexquant-executor", "flexquant-controller", "flexquant"):
            with self.subTest(program=program):
                check(program, "--listen", "0.0.0.0:0", parts=["--tls-cert", "--allow-plaintext"])
                check(program, "--listen", "127.0.0.1:0", "--tls-cert", "absent.crt", "--tls-key", "executor.key",
                      "--tls-client-ca", "ca.crt", parts=["absent.crt"])
                check(program, "--listen", "127.0.0.1:0", "--tls-cert", "controller.crt", "--tls-key", "executor.key",
                      "--tls-client-ca", "ca.crt", parts=["executor.key", "not the key"])
        check("flexquant-executor", "--listen", "127.0.0.1:0", "--tls-cert", "executor.crt",
              "--tls-key", "executor.key", parts=["--tls-client-ca"])
        self.write("tokens.json", '[{"tenant": "blue"}]')
        check("flexquant-controller", "--listen", "127.0.0.1:0", "--tokens", "tokens.json",
              parts=["tokens.json", "sha256"])

    def test_clients_keep_their_tokens(self):
        somewhere = ("info", "--server", "192.0.2.1:50051")
        _, err = self.flexquant(*somewhere, env={"FLEXQUANT_TOKEN": "secret-token"}, status=1)
        self.assertIn("without TLS", err)
        self.assertIn("--allow-plaintext-token", err)
        self.assertNotIn("secret-token", err)
        for token in ("", "two words", "x" * 1000):
            token_file = self.write("token", token)
            _, err = self.flexquant("info", "--server", "127.0.0.1:1", "--token-file", token_file, status=1)
            self.assertIn("INVALID_ARGUMENT", err)
        self.flexquant("info", "--model", harness.stories(), "--token-file", token_file, status=2)
        _, err = self.flexquant("token", "new", "--tenant", "two words", status=1)
        self.assertIn("tenant", err)
