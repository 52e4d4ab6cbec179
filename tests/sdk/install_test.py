"""The C++ SDK as installed: its exports, and the example built by CMake's package and by pkg-config, then run against
a server. Usage: install_test.py BUILD_DIR"""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(os.environ["FLEXQUANT_SOURCE"])
sys.path.insert(0, str(SOURCE / "tests/cli"))
import harness  # noqa: E402

BUILD = pathlib.Path(sys.argv.pop(1))
EXAMPLE = SOURCE / "client/cpp/example"
STRICT = "-Wall -Wextra -Wpedantic -Wshadow -Werror"
# Without what the machine has installed elsewhere.
ENVIRONMENT = {name: value for name, value in os.environ.items()
               if name not in ("CMAKE_PREFIX_PATH", "PKG_CONFIG_PATH", "LD_LIBRARY_PATH")}


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=harness.LIMIT,
                          env={**ENVIRONMENT, **options.pop("env", {})}, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class InstallTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="flexquant-sdk-test-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        # Installed, then moved: nothing in it names where it was.
        run("cmake", "--install", BUILD, "--component", "sdk", "--prefix", cls.folder / "first")
        cls.prefix = cls.folder / "prefix"
        (cls.folder / "first").rename(cls.prefix)
        cls.library = next(cls.prefix.glob("**/libflexquant_client.so"))

    def check_runs(self, program):
        with harness.server("flexquant", "--model", harness.stories()) as (_, address):
            out = run(program, address, "Once upon a time", env={"LD_LIBRARY_PATH": str(self.library.parent)})
        text, report = out.rstrip().rsplit("\n", 1)
        self.assertGreater(len(text), 50)
        self.assertRegex(report, r"^[3-8](\.\d+)? bits a weight$")

    def test_installs_only_itself(self):
        names = {path.name for path in self.prefix.rglob("*") if not path.is_dir()}
        self.assertEqual({name for name in names if name.endswith(".h")}, {"client.h", "types.h", "status.h"})
        self.assertFalse([name for name in names if name.endswith(".a")])

    def test_exports_only_the_sdk(self):
        symbols = run("nm", "-DC", "--defined-only", self.library).splitlines()
        names = [line.split(" ", 2)[2] for line in symbols]
        self.assertIn("flexquant::SdkVersion()", names)
        public = ("flexquant::Client::", "flexquant::AnswerStream::", "flexquant::Cancellation::",
                  "flexquant::Status::ToString", "flexquant::StatusCodeName(", "flexquant::SdkVersion(")
        self.assertEqual([name for name in names if not name.startswith(public)], [])

    def test_registers_no_descriptors(self):
        needed = run("nm", "-DC", "--undefined-only", self.library)
        self.assertIn("google::protobuf::MessageLite", needed)
        self.assertNotRegex(needed, "AddDescriptors|DescriptorPool|AssignDescriptors")

    def test_headers_need_only_the_standard_library(self):
        for header in ("client.h", "types.h", "status.h"):
            source = self.folder / "header.cc"
            source.write_text(f"#include <flexquant/{header}>\n", encoding="utf-8")
            used = run("c++", "-std=c++17", *STRICT.split(), "-M", f"-I{self.prefix}/include", source)
            self.assertNotRegex(used, r"/(absl|grpc|grpcpp|google)/")

    def test_find_package(self):
        build = self.folder / "build"
        run("cmake", "-S", EXAMPLE, "-B", build, f"-DCMAKE_PREFIX_PATH={self.prefix}", f"-DCMAKE_CXX_FLAGS={STRICT}")
        run("cmake", "--build", build)
        self.check_runs(build / "flexquant-example")

    def test_pkg_config(self):
        flags = run("pkg-config", "--cflags", "--libs", "flexquant >= 0.1",
                    env={"PKG_CONFIG_PATH": str(self.library.parent / "pkgconfig")}).split()
        program = self.folder / "by-pkg-config"
        run("c++", "-std=c++17", *STRICT.split(), EXAMPLE / "main.cc", *flags, "-o", program)
        self.check_runs(program)


if __name__ == "__main__":
    unittest.main(verbosity=2)
