"""Bad input of every kind: the exit status and what the message says, case ignored."""

import json
import pathlib
import shutil

import harness

FAILED, USAGE = 1, 2
PROMPT = ("--prompt", "Once upon a time", "--max-tokens", "4")


class BadInputTest(harness.CliTest):
    def check(self, status, parts, *arguments, **options):
        with self.subTest(arguments=arguments):
            out, err = self.flexquant(*arguments, status=status, **options)
            self.assertEqual(out, "")
            for part in parts:
                self.assertIn(part.lower(), err.lower())

    def test_usage(self):
        package = harness.stories()
        for parts, arguments in (
            (["subcommand"], []),
            (["subcommand"], ["frobnicate"]),
            (["--model", "--server"], ["generate", *PROMPT]),
            (["--model", "--server"], ["generate", "--model", package, "--server", "127.0.0.1:1", *PROMPT]),
            (["--threads", "--server"], ["generate", "--server", "127.0.0.1:1", "--threads", "2", *PROMPT]),
            (["'7'", "3, 4, 5, 6, 8"], ["generate", "--model", package, "--precision", "7", *PROMPT]),
            (["plan:", "name"], ["generate", "--model", package, "--precision", "plan:", *PROMPT]),
            (["--entropy-high", "dynamic"],
             ["generate", "--model", package, "--precision", "4", "--entropy-high", "1", *PROMPT]),
            (["--isa", "avx9"], ["generate", "--model", package, "--isa", "avx9", *PROMPT]),
            (["--temperature", "warm"], ["generate", "--model", package, "--temperature", "warm", *PROMPT]),
            (["--group-size", "48"], ["convert", "a", "b", "--group-size", "48"]),
            (["DEST"], ["convert", "a"]),
            (["--against", "--threads"],
             ["bench", "--model", package, "--against", "x.gguf", "--rival-python", "python3"]),
            (["--model", "--random"], ["bench", "load"]),
            (["--tensor-parallel", "--kernels"], ["bench", "decode", "--tensor-parallel", "2", "--kernels"]),
            (["--random", "--model"], ["bench", "load", "--random", "--model", package]),
            (["--shapes", "--random"], ["bench", "load", "--model", package, "--shapes", "llama-3.2-1b"]),
        ):
            self.check(USAGE, parts, *arguments)

    def test_requests(self):
        package = harness.stories(reference=False)
        long_prompt = harness.new_folder() / "long.txt"
        long_prompt.write_text("Once upon a time. " * 2000)
        for parts, arguments in (
            (["INVALID_ARGUMENT", "temperature", "nan"], ["--temperature", "nan"]),
            (["INVALID_ARGUMENT", "temperature", "-1", "100"], ["--temperature", "-1"]),
            (["INVALID_ARGUMENT", "temperature", "inf"], ["--temperature", "inf"]),
            (["INVALID_ARGUMENT", "top_p", "2"], ["--top-p", "2"]),
            (["INVALID_ARGUMENT", "min_p"], ["--min-p", "-0.5"]),
            (["INVALID_ARGUMENT", "repetition_penalty", "0"], ["--repetition-penalty", "0"]),
            (["INVALID_ARGUMENT", "max_tokens", "0"], ["--max-tokens", "0"]),
            (["INVALID_ARGUMENT", "min_bits", "7"], ["--min-bits", "7"]),
            (["INVALID_ARGUMENT", "min_bits", "max_bits"], ["--min-bits", "6", "--max-bits", "4"]),
            (["INVALID_ARGUMENT", "min_bits"], ["--precision", "4", "--min-bits", "3"]),
            (["INVALID_ARGUMENT", "entropy_high_nats"], ["--entropy-high", "0"]),
            (["INVALID_ARGUMENT", "reference"], ["--precision", "16"]),
            (["NOT_FOUND", "nope", "uniform-4"], ["--precision", "plan:nope"]),
            (["stop_strings"], ["--stop", "x" * 300]),
        ):
            self.check(FAILED, parts, "generate", "--model", package, "--prompt", "Once", *arguments)
        self.check(FAILED, ["512", "tokens"], "generate", "--model", package, "--prompt-file", long_prompt)
        self.check(FAILED, ["UTF-8", "byte 4"], "generate", "--model", package, "--prompt", b"Once\xff")
        self.check(FAILED, ["template"], "generate", "--model", package, "--chat", *PROMPT)
        self.check(FAILED, ["no-such-file"], "generate", "--model", package, "--prompt-file", "no-such-file")

    def test_nobody_answers(self):
        address = f"127.0.0.1:{harness.free_port()}"
        self.check(FAILED, ["UNAVAILABLE", address], "generate", "--server", address, *PROMPT)
        self.check(FAILED, ["UNAVAILABLE", address], "info", "--server", address)
        self.check(FAILED, ["DEADLINE_EXCEEDED", address, "nothing answers"], "info", "--server", address,
                   "--wait", 0.3)

    def test_port_in_use(self):
        package = harness.stories()
        with harness.server("flexquant", "--model", package) as (_, address):
            self.check(FAILED, [address, "taken"], "serve", "--model", package, "--listen", address)
            for program, flags in (("flexquant-executor", ()), ("flexquant-controller", ("--executor", address))):
                process = harness.start(program, "--model", package, "--listen", address, *flags)
                status, _, err = harness.finish(process)
                self.assertEqual(status, 1, err)
                self.assertIn(address, err)


class BadSourceTest(harness.CliTest):
    """Sources that cannot be converted leave nothing behind."""

    def check(self, source, *parts, flags=()):
        folder = harness.new_folder()
        with self.subTest(source=source):
            _, err = self.flexquant("convert", source, folder / "package", *flags, status=1)
            for part in parts:
                self.assertIn(part.lower(), err.lower())
            self.assertEqual(list(folder.iterdir()), [])

    def file(self, name, contents):
        path = harness.new_folder() / name
        path.write_bytes(contents)
        return path

    def test_files(self):
        self.check("no-such-model.gguf", "NOT_FOUND", "no-such-model.gguf")
        self.check(self.file("empty.gguf", b""), "empty.gguf")
        self.check(self.file("magic.gguf", b"NOPE" + bytes(60)), "magic.gguf", "magic")
        self.check(self.file("version.gguf", b"GGUF" + (99).to_bytes(4, "little") + bytes(56)), "version", "99")
        huge = b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 16
        self.check(self.file("huge.gguf", huge), "huge.gguf")
        self.check(harness.new_folder(), "config.json")

    def test_truncated_gguf(self):
        whole = harness.smollm2_gguf().read_bytes()
        for size in (20, 5000, len(whole) // 2, len(whole) - 1):
            self.check(self.file(f"cut{size}.gguf", whole[:size]), f"cut{size}.gguf")

    def test_truncated_checkpoint(self):
        harness.stories()
        folder = harness.new_folder()
        shutil.copy(harness.STORIES / "tok512.bin", folder)
        whole = (harness.STORIES / "stories260K.bin").read_bytes()
        for size in (0, 10, 28, len(whole) // 2):
            cut = folder / f"cut{size}.bin"
            cut.write_bytes(whole[:size])
            self.check(cut, cut.name)
        nonsense = folder / "nonsense.bin"
        nonsense.write_bytes(b"\xff" * len(whole))
        self.check(nonsense, nonsense.name)

    def test_nan_weights(self):
        harness.stories()
        folder = harness.new_folder()
        shutil.copy(harness.STORIES / "tok512.bin", folder)
        whole = bytearray((harness.STORIES / "stories260K.bin").read_bytes())
        whole[28:32] = b"\x00\x00\xc0\x7f"
        (folder / "nan.bin").write_bytes(whole)
        self.check(folder / "nan.bin", "embed_tokens")

    def test_destination_exists(self):
        harness.stories()
        folder = harness.new_folder()
        destination = folder / "package"
        source = harness.STORIES / "stories260K.bin"
        self.flexquant("convert", source, destination)
        _, err = self.flexquant("convert", source, destination, status=1)
        self.assertIn("ALREADY_EXISTS", err)
        self.flexquant("convert", source, destination, "--force", "--name", "again")
        out, _ = self.flexquant("inspect", destination, "--json", "--verify")
        self.assertIn("again", out)
        (folder / "precious").mkdir()
        (folder / "precious" / "thesis.txt").write_text("mine")
        self.flexquant("convert", source, folder / "precious", "--force", status=1)
        self.assertEqual((folder / "precious" / "thesis.txt").read_text(), "mine")


class BadPackageTest(harness.CliTest):
    """Packages that are damaged: inspect, generate and serve name the file."""

    def damaged(self, change):
        package = harness.new_folder() / "package"
        shutil.copytree(harness.stories(), package)
        change(package)
        return package

    def check(self, package, *parts):
        generate = ["generate", "--model", package, *PROMPT]
        for arguments in (["inspect", package], generate, ["serve", "--model", package]):
            with self.subTest(arguments=arguments):
                _, err = self.flexquant(*arguments, status=1)
                for part in parts:
                    self.assertIn(part.lower(), err.lower())

    def edit(self, package, **values):
        path = package / "flexquant.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    def test_missing(self):
        self.check(pathlib.Path("no-such-package"), "NOT_FOUND", "no-such-package")
        self.check(harness.new_folder(), "flexquant.json")
        self.check(harness.STORIES / "README.md", "README.md")

    def test_damaged(self):
        def cut(package):
            path = package / "model.safetensors"
            path.write_bytes(path.read_bytes()[:-100])

        def no_header(package):
            (package / "model.safetensors").write_bytes(b"\xff" * 64)

        self.check(self.damaged(cut), "model.safetensors")
        self.check(self.damaged(no_header), "model.safetensors")
        self.check(self.damaged(lambda package: (package / "model.safetensors").unlink()), "model.safetensors")
        self.check(self.damaged(lambda package: (package / "flexquant.json").write_text("{")), "flexquant.json")
        self.check(self.damaged(lambda package: (package / "config.json").write_text("[]")), "config.json")
        self.check(self.damaged(lambda package: self.edit(package, format_version=999)), "999", "version")

    def test_flipped_bit(self):
        def flip(package):
            path = package / "model.safetensors"
            contents = bytearray(path.read_bytes())
            contents[-1] ^= 1
            path.write_bytes(contents)

        package = self.damaged(flip)
        self.flexquant("inspect", package)
        _, err = self.flexquant("inspect", package, "--verify", status=1)
        self.assertIn("DATA_LOSS", err)
        self.assertIn("checksum", err)
