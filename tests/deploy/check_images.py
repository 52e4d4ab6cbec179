"""Dockerfiles, the packages of the images, the compose file and prepare_model."""

import hashlib
import os
import pathlib
import re
import shutil
import sys
import tempfile
import unittest

import yaml

import common
import dockerfile

DOCKER = common.SOURCE / "deploy/docker"
FILES = (DOCKER / "Dockerfile", DOCKER / "Dockerfile.cuda")
# Come with every Debian, or with the packages that are listed.
BASE_PACKAGES = {"libc6", "libgcc-s1"}
sys.path.insert(0, str(common.SOURCE / "tests/cli"))
import harness  # noqa: E402  # pylint: disable=wrong-import-position


def stages():
    """Every image's stage: the last of each file, and those that have an entrypoint."""
    for path in FILES:
        for stage in dockerfile.parse(path.read_text(encoding="utf-8")):
            if stage.last("ENTRYPOINT"):
                yield stage


def faults_of_image(stage):
    found = []
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", stage.last("USER") or ""):
        found.append("user is not a number above 0")
    elif stage.instructions.index(next(each for each in stage.instructions if each.keyword == "USER")) < max(
            (index for index, each in enumerate(stage.instructions) if each.keyword in ("RUN", "COPY")), default=0):
        found.append("something is done after USER")
    if not dockerfile.exec_form(stage.last("ENTRYPOINT") or ""):
        found.append("the entrypoint is a shell's, which keeps signals from the program")
    if stage.last("HEALTHCHECK"):
        found.append("health is asked for by the orchestrator")
    runs = " ".join(each.value for each in stage.instructions if each.keyword == "RUN")
    if "install_runtime.sh" not in runs and "dpkg-query" not in runs:
        found.append("does not write down its packages")
    return found


def runtime_packages(image):
    lines = [line.split("#")[0].split() for line in
             (common.SOURCE / "deploy/runtime-packages.txt").read_text(encoding="utf-8").splitlines()]
    return {words[0] for words in lines if words and image in words[1].split(",")}


def needed_packages(program):
    """Debian packages of the shared libraries that a program names itself."""
    names = re.findall(r"NEEDED\s+(\S+)", common.run("objdump", "-p", common.BIN / program).stdout)
    paths = dict(re.findall(r"(\S+) => (\S+)", common.run("ldd", common.BIN / program).stdout))
    packages = set()
    names = [name for name in names if "cublas" not in name and not name.startswith("ld-linux")]
    candidates = {name: {str(path), str(path.resolve()), f"/usr{path}"}
                  for name in names for path in [pathlib.Path(paths.get(name, f"/lib/{name}"))]}
    found = dict(reversed(line.split(":", 1)) for line in re.sub(r":\w+: ", ":", common.run(
        "dpkg", "-S", *{path for each in candidates.values() for path in each}).stdout).splitlines())
    for name, places in candidates.items():
        owners = {found[path] for path in places if path in found}
        if not owners:
            raise AssertionError(f"{program} needs {name}, which is of no package")
        packages |= owners
    return packages - BASE_PACKAGES


class DockerfileTest(unittest.TestCase):
    def test_hadolint(self):
        for path in FILES:
            result = common.run(common.TOOLS / "hadolint", "--failure-threshold", "info", path)
            self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        with tempfile.NamedTemporaryFile("w", suffix="Dockerfile") as bad:
            bad.write("FROM debian\nRUN cd /x && apt-get install curl\n")
            bad.flush()
            result = common.run(common.TOOLS / "hadolint", "--failure-threshold", "info", bad.name)
        for rule in ("DL3006", "DL3014", "DL3008"):
            self.assertIn(rule, result.stdout)

    def test_images(self):
        found = {stage.name: stage for stage in stages()}
        self.assertEqual(set(found), set(common.PROGRAMS))
        for name, stage in found.items():
            self.assertEqual(faults_of_image(stage), [], name)
            self.assertEqual(dockerfile.exec_form(stage.last("ENTRYPOINT")),
                             [f"/usr/local/bin/{common.PROGRAMS[name]}"])
        for bad in ("USER app\nENTRYPOINT [\"/a\"]\nRUN dpkg-query", "USER 1:1\nENTRYPOINT /a\nRUN dpkg-query",
                    "ENTRYPOINT [\"/a\"]\nRUN dpkg-query", "RUN x\nUSER 1:1\nENTRYPOINT [\"/a\"]",
                    "RUN dpkg-query\nUSER 1:1\nHEALTHCHECK CMD x\nENTRYPOINT [\"/a\"]"):
            self.assertNotEqual(faults_of_image(dockerfile.parse(f"FROM a\n{bad}\n")[0]), [], bad)

    def test_context_has_what_is_built_and_nothing_else(self):
        ignore = (common.SOURCE / ".dockerignore").read_text(encoding="utf-8")
        kept = {path.relative_to(common.SOURCE).as_posix() for folder in ("client", "common", "controller", "executor",
                "kernels", "proto", "tools", "transport", "cmake", "deploy", "tests", "docs")
                for path in (common.SOURCE / folder).rglob("*")
                if path.is_file() and "__pycache__" not in path.parts
                and dockerfile.in_context(path.relative_to(common.SOURCE).as_posix(), ignore)}
        for path in common.SOURCE.rglob("CMakeLists.txt"):
            name = path.relative_to(common.SOURCE).as_posix()
            if not name.startswith(("tests/", "build/", ".")) and name != "CMakeLists.txt":
                self.assertIn(name, kept)
        for path in FILES:
            for each in (each for stage in dockerfile.parse(path.read_text(encoding="utf-8"))
                         for each in stage.instructions if each.keyword == "COPY" and not each.flags):
                for source in each.value.split()[:-1]:
                    self.assertTrue(source == "." or source in kept, source)
        self.assertFalse([name for name in kept if name.startswith(("tests/", "docs/", "deploy/helm/"))])
        self.assertFalse(dockerfile.in_context(".git/config", ignore) or dockerfile.in_context("build/x/y", ignore))

    @unittest.skipUnless(shutil.which("dpkg") and shutil.which("objdump"), "needs dpkg and objdump")
    def test_runtime_packages_are_those_that_programs_need(self):
        if "libgrpc" not in common.run("objdump", "-p", common.BIN / "flexquant-executor").stdout:
            self.skipTest("these programs are linked statically; the images' are not")
        for image, program in common.PROGRAMS.items():
            if image != "executor-cuda":
                extra = {"ca-certificates", "curl"} if image == "tools" else {"ca-certificates"}
                self.assertEqual(runtime_packages(image), needed_packages(program) | extra, image)


class ComposeTest(unittest.TestCase):
    def test_services(self):
        services = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))["services"]
        targets = {stage.name for stage in stages()}
        for name, service in services.items():
            self.assertTrue(service["read_only"] and service["cap_drop"] == ["ALL"], name)
            if "build" in service:
                self.assertIn(service["build"]["target"], targets)
                self.assertTrue((DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).exists())
            for other in service.get("depends_on", {}):
                self.assertIn(other, services)
            if program := {"controller": "flexquant-controller", "executor": "flexquant-executor"}.get(name):
                words = [re.sub(r"\$\{\w+:-(\w+)\}", r"\1", word) for word in service["command"]]
                words[1] = f"--model={words[1]}"
                self.assertIsNone(common.usage_error(program, words[1:]))
            if name == "gateway":
                program = "flexquant-gateway"
                self.assertIsNone(common.usage_error(program, [*service["command"], "--token-file=/token"]))
            if program:
                drain = re.search(r"--drain-seconds \w+:\w+ in \[[^]]*\]=(\d+)", common.help_text(program)).group(1)
                self.assertGreater(int(service["stop_grace_period"].rstrip("s")), int(drain))


class PrepareModelTest(unittest.TestCase):
    def prepare(self, *arguments, **variables):
        return common.run("sh", DOCKER / "prepare_model.sh", *arguments,
                          env={**os.environ, "PATH": f"{common.BIN}:{os.environ['PATH']}", **variables})

    def test_from_sources_and_path(self):
        harness.stories()  # skips if there is no model
        checkpoint = harness.STORIES / "stories260K.bin"
        digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            sources = folder / "sources.txt"
            flags = ("--group-size", "32", "--tokenizer", str(harness.STORIES / "tok512.bin"))
            if shutil.which("curl"):
                sources.write_text(f"m.bin {'0' * 64} {checkpoint.as_uri()}\n", encoding="utf-8")
                result = self.prepare("make", folder / "a/model", *flags, MODEL_SOURCES=str(sources))
                self.assertNotEqual(result.returncode, 0)
                self.assertIn("sha256 is not", result.stderr)
                self.assertEqual(list((folder / "a").iterdir()), [], "something was left behind")
                sources.write_text(f"# a comment\nm.bin {digest} {checkpoint.as_uri()}\n", encoding="utf-8")
                result = self.prepare("make", folder / "a/model", *flags, MODEL_SOURCES=str(sources),
                                      MODEL_NAME="named")
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertEqual([path.name for path in (folder / "a").iterdir()], ["model"])
                self.assertIn('"named"', (folder / "a/model/flexquant.json").read_text(encoding="utf-8"))
            # A leftover that is no package makes room; a package stays as it is.
            (folder / "b/model").mkdir(parents=True)
            result = self.prepare("make", folder / "b/model", *flags, MODEL_PATH=str(checkpoint))
            self.assertEqual(result.returncode, 0, result.stderr)
            before = (folder / "b/model/flexquant.json").stat()
            self.assertEqual(self.prepare("make", folder / "b/model", MODEL_PATH="/nowhere").returncode, 0)
            after = (folder / "b/model/flexquant.json").stat()
            self.assertEqual((after.st_ino, after.st_mtime_ns), (before.st_ino, before.st_mtime_ns))
            self.assertEqual(self.prepare("wait", folder / "b/model").returncode, 0)
            result = self.prepare("wait", folder / "none", MODEL_WAIT_SECONDS="0")
            self.assertEqual(result.returncode, 1)
            self.assertIn("no package", result.stderr)

    def test_bad_names_and_usage(self):
        with tempfile.TemporaryDirectory() as name:
            sources = pathlib.Path(name, "sources.txt")
            for bad in ("../m.bin", ".hidden"):
                sources.write_text(f"{bad} - https://example.org/m.bin\n", encoding="utf-8")
                result = self.prepare("make", f"{name}/model", MODEL_SOURCES=str(sources))
                self.assertNotEqual(result.returncode, 0)
                self.assertIn("not a plain file name", result.stderr)
        self.assertEqual(self.prepare("mend").returncode, 2)
