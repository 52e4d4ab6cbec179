"""Starts the programs with the arguments that the chart gives them, with certificates and tokens, and asks them what
`helm test` asks."""

import json
import shutil
import sys
import unittest

import common
import grpc_health

sys.path.insert(0, str(common.SOURCE / "tests/cli"))
import certificates  # noqa: E402  # pylint: disable=wrong-import-position
import harness  # noqa: E402  # pylint: disable=wrong-import-position


def secret(folder, certificate, authority):
    """A Secret with a certificate, as it is mounted."""
    folder.mkdir()
    for suffix in ("crt", "key"):
        shutil.copy(f"{certificate}.{suffix}", folder / f"tls.{suffix}")
    shutil.copy(authority, folder / "ca.crt")
    return folder


def local(arguments, mounts, health="", **replaced):
    """The arguments with what is mounted here, on ports that the harness chooses, health on this one."""
    result = []
    for word in arguments:
        flag, _, value = word.partition("=")
        if flag in ("--listen", "--metrics-listen"):
            continue
        if flag == "--health-listen":
            word = f"{flag}={health}"
        if flag == "--model":
            word = f"{flag}={harness.stories()}"
        elif value.startswith("/"):
            mount = next(mount for mount in mounts if value.startswith(f"{mount}/"))
            word = f"{flag}={mounts[mount]}{value.removeprefix(mount)}"
        elif flag[2:] in replaced:
            word = f"{flag}={replaced[flag[2:]]}"
        result.append(word.replace("$(CPU_LIMIT)", "1"))
    return result


def answer(arguments):
    """What the command line prints; None while no executor is ready."""
    status, out, err = harness.flexquant(*arguments)
    if status == 0:
        return out
    if "UNAVAILABLE" not in err:
        raise AssertionError(err)
    return None


class ServingTest(unittest.TestCase):
    def probe(self, container, address):
        """Asks a server what the kubelet asks in its container: without certificate and token. `address` is where."""
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            service = container[name]["grpc"]["service"]
            harness.wait_for(lambda service=service: grpc_health.serving(address, service), service, limit=30)
        self.assertFalse(grpc_health.serving(address, "no.such.Service"))

    def ask(self, example, executor=(), controller=(), user=()):
        """The answer of an example's programs, which are probed before; the arguments are what is mounted in each."""
        containers = {container["name"]: container for _, _, spec in
                      common.pods(common.template("--values", str(common.CHART / f"examples/{example}.yaml")))
                      for container in spec["containers"]}
        args = {name: container.get("args", []) for name, container in containers.items()}
        self.assertRegex(next(word for word in args["controller"] if word.startswith("--executor=")),
                         r"^--executor=dns:[\w.$()-]+:\d+$")
        tls = any(word.startswith("--health-listen=") for word in args["executor"])
        health = {name: f"127.0.0.1:{harness.free_port()}" for name in ("executor", "controller")}
        flags = local(args["executor"], dict(executor), health["executor"])
        with harness.server("flexquant-executor", *flags) as (_, address):
            self.probe(containers["executor"], health["executor"] if tls else address)
            name = f"dns:127.0.0.1:{address.rsplit(':', maxsplit=1)[1]}"
            flags = local(args["controller"], dict(controller), health["controller"], executor=name)
            with harness.server("flexquant-controller", *flags) as (_, address):
                self.probe(containers["controller"], health["controller"] if tls else address)
                if "generate" not in args:
                    return True  # the chart asks nothing; ready means that the controller has the executor
                question = local(args["generate"], dict(user), server=address)
                return harness.wait_for(lambda: answer(question), "an answer", limit=30)

    def test_plaintext(self):
        self.assertTrue(self.ask("cpu-minimal"))

    def mounts(self):
        """What is mounted in executor, controller and user: Secrets with certificates of one authority, a token."""
        folder = harness.new_folder()
        certificates.make_authority(folder)
        secrets = {}
        for name in ("executor", "controller", "user"):
            certificates.make_certificate(folder, name, f"flexquant-{name}")
            secrets[name] = secret(folder / f"{name}-tls", folder / name, folder / "ca.crt")
        token, entry = harness.flexquant("token", "new", "--tenant", "blue")[1].splitlines()
        tokens = folder / "tokens"
        tokens.mkdir()
        (tokens / "tokens.json").write_text(json.dumps([json.loads(entry)]), encoding="utf-8")
        (tokens / "token").write_text(token, encoding="utf-8")
        return {"executor": {"/tls": secrets["executor"]},
                "controller": {"/tls": secrets["controller"], "/user-ca": secrets["user"], "/tokens": tokens},
                "user": {"/tls": secrets["controller"], "/user": secrets["user"], "/token": tokens}}

    def test_tls_and_tokens(self):
        self.assertTrue(self.ask("multi-controller", **self.mounts()))

    def test_tls_users_certificates_and_tokens(self):
        mounts = self.mounts()
        self.assertTrue(self.ask("tls-mtls-tokens", **mounts))
        (mounts["user"]["/token"] / "token").write_text("another", encoding="utf-8")
        with self.assertRaisesRegex(AssertionError, "UNAUTHENTICATED"):
            self.ask("tls-mtls-tokens", **mounts)
