"""Lints proto/ with buf (rules in proto/buf.yaml), and checks that the linter finds faults in a bad file.

Usage: lint.py SOURCE_DIR WORK_DIR
buf comes from PyPI, pinned by version and hash, into a virtual environment under WORK_DIR that later runs reuse.
Exit status: 0 clean, 1 faults, 77 skipped because buf could not be installed (no network).
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

SKIPPED = 77

BAD_PROTO = """syntax = "proto3";

package flexquant.v1;

message bad_name {
  string CamelField = 1;
}
"""
# Two STANDARD rules and one COMMENTS rule, so that losing either set from buf.yaml is noticed.
EXPECTED_FAULTS = ("PascalCase", "lower_snake_case", "non-empty comment")


def install_buf(requirements, work_dir):
    """Returns buf's path, or None if it cannot be fetched."""
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:16]
    environment = work_dir / f"buf-{digest}"
    program = environment / "bin" / "buf"
    if program.exists():
        return program
    shutil.rmtree(environment, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    command = [environment / "bin" / "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:",
               "--require-hashes", "--retries", "1", "--requirement", requirements]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return program
    shutil.rmtree(environment, ignore_errors=True)
    if "DO NOT MATCH THE HASHES" in result.stderr:
        sys.exit(f"buf's wheel is not the pinned one:\n{result.stderr}")
    print(f"pip could not install buf:\n{result.stderr}")
    return None


def lint(buf, folder, cache_dir):
    environment = dict(os.environ, BUF_CACHE_DIR=str(cache_dir))
    return subprocess.run([buf, "lint", folder], capture_output=True, text=True, check=False, env=environment)


def self_test(buf, proto_dir, cache_dir):
    """Returns the expected faults that buf does not report for BAD_PROTO under our rules."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(proto_dir / "buf.yaml", folder)
        package = pathlib.Path(folder, "flexquant", "v1")
        package.mkdir(parents=True)
        (package / "bad.proto").write_text(BAD_PROTO, encoding="utf-8")
        result = lint(buf, folder, cache_dir)
    if result.returncode == 0:
        return list(EXPECTED_FAULTS)
    return [fault for fault in EXPECTED_FAULTS if fault not in result.stdout]


def main():
    source_dir, work_dir = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
    work_dir.mkdir(parents=True, exist_ok=True)
    buf = install_buf(source_dir / "tests" / "proto" / "requirements.txt", work_dir)
    if buf is None:
        print("SKIPPED: the protocols were not linted")
        return SKIPPED
    cache_dir = work_dir / "buf-cache"
    missed = self_test(buf, source_dir / "proto", cache_dir)
    if missed:
        print(f"The rules of proto/buf.yaml let a bad file pass; not reported: {', '.join(missed)}")
        return 1
    result = lint(buf, source_dir / "proto", cache_dir)
    print(result.stdout + result.stderr, end="")
    if result.returncode == 0:
        print("proto/ is clean")
    return 0 if result.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
