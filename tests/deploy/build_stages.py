"""Performs the stages of deploy/docker/Dockerfile without a container engine: each stage is a Debian root made by
debootstrap, COPY and RUN happen in it as the file says, and the results are then run as containers run them: as the
image's user, with a read-only root, SIGTERM to the program itself.

Usage: build_stages.py [--target NAME]... [--model CHECKPOINT] [--ccache FOLDER] [--keep FOLDER]
Needs root, debootstrap and minutes. --model: a small model that is converted and served (default: only --version).
"""

import argparse
import os
import pathlib
import shutil
import shlex
import subprocess
import sys
import tempfile
import time

import dockerfile

SOURCE = pathlib.Path(__file__).resolve().parents[2]
SUITE = "bookworm"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LIMIT = 60  # seconds that a program may take to start or to stop


def run(*command, **options):
    return subprocess.run([str(word) for word in command], check=True, **options)


def host_sources():
    """This machine's apt lines for Debian 12."""
    lines = run("apt-get", "indextargets", "--format", "$(LABEL)|$(CODENAME)|deb $(REPO_URI) $(RELEASE) $(COMPONENT)",
                "Created-By: Packages", capture_output=True, text=True).stdout.splitlines()
    return sorted({line.split("|")[2] for line in lines if line.startswith("Debian") and f"|{SUITE}" in line})


def make_base(folder):
    """What stands for debian:12-slim, with this machine's settings for apt."""
    sources = host_sources()
    mirror = next(line.split()[1] for line in sources if line.split()[2] == SUITE)
    extra = ["--include=ca-certificates"] if mirror.startswith("https") else []
    proxy = run("bash", "-c", "eval \"$(apt-config shell p Acquire::http::Proxy)\"; echo \"${p:-}\"",
                capture_output=True, text=True).stdout.strip()
    run("debootstrap", "--variant=minbase", *extra, SUITE, folder, mirror, stdout=subprocess.DEVNULL,
        env={**os.environ, **({"http_proxy": proxy} if proxy else {})})
    (folder / "etc/apt/sources.list").write_text("\n".join(sources) + "\n", encoding="utf-8")
    settings = run("apt-config", "dump", capture_output=True, text=True).stdout.splitlines()
    (folder / "etc/apt/apt.conf.d/90host").write_text(
        "\n".join(line for line in settings if line.startswith(("Acquire::http", "Acquire::Retries"))) + "\n",
        encoding="utf-8")
    for path in ("etc/apt/auth.conf.d", "etc/apt/keyrings", "etc/apt/trusted.gpg.d", "usr/local/share/ca-certificates",
                 "etc/resolv.conf", "etc/hosts"):
        if pathlib.Path("/", path).exists():
            run("mkdir", "-p", (folder / path).parent)
            run("cp", "-rLT", f"/{path}", folder / path)


def enter(root, command, *, user="0:0", read_only=False, binds=(), env=None):
    """What runs `command` (a list) as a container's process 1 in `root`; its mounts end with it."""
    uid, gid = user.split(":")
    quoted = shlex.quote(str(root))
    script = "\n".join([
        "set -e", f"mount --bind {quoted} {quoted}", f"mount -t proc proc {quoted}/proc",
        f"mount -t tmpfs -o mode=1777 tmpfs {quoted}/tmp",
        *(f"mount --bind {shlex.quote(str(source))} {quoted}{target}" for source, target in binds),
        *([f"mount -o remount,bind,ro {quoted}"] if read_only else []),
        f'exec chroot --userspec={uid}:{gid} --groups={gid} {quoted} /usr/bin/env -i "$@"'])
    variables = [f"{name}={value}" for name, value in {"PATH": PATH, "LANG": "C.UTF-8", **(env or {})}.items()]
    return ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "bash", "-c", script,
            "enter", *variables, *command]


def copy(instruction, root, workdir, context, roots):
    sources = instruction.value.split()
    target = sources.pop()
    origin = context
    for flag in instruction.flags:
        name, _, value = flag.partition("=")
        if name == "--from":
            origin = roots[value]
    destination = root / os.path.join(workdir, target).lstrip("/")
    if target.endswith("/") or len(sources) > 1 or target == ".":
        destination.mkdir(parents=True, exist_ok=True)
    for source in sources:
        path = origin / source.lstrip("/")
        if path.is_dir():
            shutil.copytree(path, destination, symlinks=True, dirs_exist_ok=True)
        else:
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, destination)


def perform(stage, root, context, roots, ccache):
    """Does what the instructions of a stage say in its root."""
    workdir, variables = "/", {"HOME": "/tmp", "CCACHE_NOHASHDIR": "1"}
    for each in stage.instructions:
        if each.keyword == "WORKDIR":
            workdir = each.value
            (root / workdir.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif each.keyword == "ENV":
            name, _, value = each.value.partition("=")
            variables[name] = value
        elif each.keyword == "COPY":
            copy(each, root, workdir, context, roots)
        elif each.keyword == "RUN":
            print(f"   RUN {each.value[:100]}", flush=True)
            binds = []
            caches = [flag.split("target=")[1] for flag in each.flags if flag.startswith("--mount=type=cache,")]
            for target in caches:
                (root / target.lstrip("/")).mkdir(parents=True, exist_ok=True)
                binds += [(ccache, target)] if ccache else []
            command = enter(root, ["sh", "-c", f"cd {workdir} && {each.value}"], binds=binds,
                            env={**variables, "CCACHE_BASEDIR": workdir})
            with open(root.parent / f"{stage.name}.log", "ab") as log:
                if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False).returncode:
                    log.flush()
                    sys.exit(f"{stage.name}: RUN failed: {each.value}\n" + pathlib.Path(log.name).read_text(
                        encoding="utf-8", errors="replace")[-3000:])


class Container:
    """An image's entrypoint with arguments, as its user, with a read-only root and an own /tmp."""

    def __init__(self, stage, root, *arguments, binds=(), entrypoint=None):
        words = [entrypoint] if entrypoint else dockerfile.exec_form(stage.last("ENTRYPOINT"))
        command = enter(root, [*words, *arguments], user=stage.last("USER"), read_only=True, binds=binds)
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True)

    def finish(self, expected=0, timeout=LIMIT):
        out, _ = self.process.communicate(timeout=timeout)
        if self.process.returncode != expected:
            sys.exit(f"{self.process.args[-6:]} ended with {self.process.returncode}, not {expected}:\n{out}")
        return out

    def terminate(self):
        """SIGTERM to process 1 of the container, whose end must be orderly."""
        pid = self.process.pid
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        run("kill", "-TERM", children.split()[0])
        return self.finish()


def serve(stages, roots, work, checkpoint):
    """Converts the model, serves it with a controller and an executor, asks, stops both."""
    models, tmp = work / "models", work / "shared-tmp"
    source = checkpoint.parent
    for folder in (models, tmp):
        folder.mkdir()
        os.chown(folder, 10001, 10001)
    for root in roots.values():
        for name in ("models", "source", "ports"):
            (root / name).mkdir(exist_ok=True)
    binds = [(models, "/models"), (source, "/source"), (tmp, "/ports")]
    convert = Container(stages["tools"], roots["tools"], "-c",
                        f"MODEL_PATH=/source/{checkpoint.name} prepare_model make /models/m --group-size 32",
                        binds=binds, entrypoint="sh")
    print(convert.finish(timeout=600), flush=True)

    def port(name, container):
        deadline = time.monotonic() + LIMIT
        while not (tmp / name).exists() or not (tmp / name).read_text(encoding="ascii").strip():
            if container.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{name} did not start: {container.process.communicate()[0]}")
            time.sleep(0.05)
        return (tmp / name).read_text(encoding="ascii").strip()

    executor = Container(stages["executor-cpu"], roots["executor-cpu"], "--model", "/models/m", "--listen",
                         "127.0.0.1:0", "--port-file", "/ports/executor", binds=binds)
    address = f"127.0.0.1:{port('executor', executor)}"
    controller = Container(stages["controller"], roots["controller"], "--model", "/models/m", "--listen", "127.0.0.1:0",
                           "--port-file", "/ports/controller", "--executor", address, "--metrics-listen", "127.0.0.1:0",
                           binds=binds)
    server = f"127.0.0.1:{port('controller', controller)}"
    print(Container(stages["tools"], roots["tools"], "info", "--server", server, "--wait", "30").finish(), flush=True)
    answer = Container(stages["tools"], roots["tools"], "generate", "--server", server, "--prompt", "Once upon",
                       "--max-tokens", "20", "--precision", "4").finish()
    if "4 bits" not in answer:
        sys.exit(f"the answer does not say that it ran at 4 bits:\n{answer}")
    print(answer, flush=True)
    controller.terminate()
    executor.terminate()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", default=[])
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--ccache", type=pathlib.Path)
    parser.add_argument("--keep", type=pathlib.Path, help="make the roots here and leave them")
    flags = parser.parse_args()
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        sys.exit("build_stages.py needs root and debootstrap (apt-get install debootstrap)")
    stages = {stage.name: stage for stage in dockerfile.parse(
        (SOURCE / "deploy/docker/Dockerfile").read_text(encoding="utf-8"))}
    targets = flags.target or [name for name in stages if name != "build"]
    with tempfile.TemporaryDirectory(prefix="flexquant-images-") as temporary:
        work = flags.keep or pathlib.Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        context, base = work / "context", work / "base"
        ignore = (SOURCE / ".dockerignore").read_text(encoding="utf-8")
        files = run("git", "-C", SOURCE, "ls-files", "-co", "--exclude-standard", capture_output=True,
                    text=True).stdout.splitlines()
        for name in files:
            if dockerfile.in_context(name, ignore):
                (context / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(SOURCE / name, context / name)
        print("== base", flush=True)
        make_base(base)
        roots = {}
        for name in ("build", *targets):
            start = time.monotonic()
            print(f"== {name}", flush=True)
            roots[name] = work / name
            run("cp", "-a", "--reflink=auto", base, roots[name])
            perform(stages[name], roots[name], context, roots, flags.ccache)
            size = run("du", "-sxm", roots[name], capture_output=True, text=True).stdout.split()[0]
            print(f"== {name}: {time.monotonic() - start:.0f} s, {size} MB", flush=True)
        for name in targets:
            print(f"{name}: {Container(stages[name], roots[name], '--version').finish().strip()}", flush=True)
        if flags.model:
            serve(stages, roots, work, flags.model.resolve())
    print("the stages build, and the images' programs run")


if __name__ == "__main__":
    main()
