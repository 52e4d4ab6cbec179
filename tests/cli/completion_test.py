"""flexquant completion and flexquant man, against what --help says."""

import re
import shutil
import subprocess

import harness

ALL = (("convert",), ("bench",), ("bench", "decode"), ("top",), ("token", "new"), ("completion",))


class TreeTest(harness.CliTest):
    def options(self, *command):
        """Option names of --help."""
        out, _ = self.flexquant(*command, "--help")
        words = [line.split()[0] for line in out.splitlines() if re.match(r" {2,4}-", line)]
        return {name for word in words for name in word.split(",") if name.startswith("-")}

    def commands(self):
        out, _ = self.flexquant("--help")
        return set(re.findall(r"^  (\w+)", out[out.index("Subcommands:"):], re.MULTILINE))

    def script(self, shell):
        return self.flexquant("completion", shell)[0]

    def bash(self, *words):
        """What bash offers for the last word."""
        quoted = " ".join(f"'{word}'" for word in ("flexquant", *words))
        text = (f"{self.script('bash')}\ncomplete -p flexquant >/dev/null || exit 1\n"
                f"COMP_WORDS=({quoted}) COMP_CWORD={len(words)}\n_flexquant\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n")
        done = subprocess.run(["bash", "--norc", "-u"], input=text, capture_output=True, text=True, check=False,
                              cwd=self.folder, timeout=harness.LIMIT)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return set(done.stdout.split())

    def setUp(self):
        self.folder = harness.new_folder()
        (self.folder / "model.gguf").touch()

    def test_bash(self):
        self.assertEqual(self.bash(""), self.commands())
        self.assertEqual(self.bash("ge"), {"generate"})
        for command in ALL:
            self.assertEqual(self.bash(*command, "--"),
                             {name for name in self.options(*command) if name.startswith("--")}, command)
        self.assertEqual(self.bash("bench", "d"), {"decode"})
        self.assertEqual(self.bash("generate", "--color", "a"), {"auto", "always"})
        self.assertEqual(self.bash("generate", "--color", "=", "n"), {"never"})
        self.assertEqual(self.bash("generate", "--color", "="), {"auto", "always", "never"})
        self.assertEqual(self.bash("convert", "mod"), {"model.gguf"})
        self.assertEqual(self.bash("generate", "--prompt-file", "m"), {"model.gguf"})
        self.assertEqual(self.bash("completion", ""), {"bash", "zsh", "fish"})
        # A value is no command.
        self.assertIn("--max-tokens", self.bash("generate", "--prompt", "chat", "--max-"))

    def test_fish(self):
        if shutil.which("fish") is None:
            self.skipTest("no fish")
        (self.folder / "script").write_text(self.script("fish"))

        def offers(line):
            done = subprocess.run(["fish", "--no-config", "-c", f"source script; complete -C {line!r}"],
                                  capture_output=True, text=True, check=False, cwd=self.folder, timeout=harness.LIMIT,
                                  env={"HOME": str(self.folder), "PATH": "/usr/bin:/bin"})
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            return {offer.split("\t")[0] for offer in done.stdout.splitlines()}

        self.assertEqual(offers("flexquant "), self.commands())
        self.assertEqual(offers("flexquant generate --color "), {"auto", "always", "never"})
        for command in ALL:
            self.assertEqual(offers(f"flexquant {' '.join(command)} --"),
                             {name for name in self.options(*command) if name.startswith("--")}, command)

    def test_zsh(self):
        if shutil.which("zsh") is None:
            self.skipTest("no zsh")
        script = self.script("zsh")
        # Completion itself needs a terminal: compadd and _files are stood in for.
        for words, expected in ((("",), self.commands()), (("bench", "decode", "--"), self.options("bench", "decode")),
                                (("generate", "--color", ""), {"auto", "always", "never"}),
                                (("convert", ""), {"FILES"})):
            quoted = " ".join(f"'{word}'" for word in ("flexquant", *words))
            text = ("compdef() { :; }\ncompadd() { shift; print -l -- $@; }\n_files() { print FILES; }\n"
                    f"{script}\nwords=({quoted}) CURRENT={len(words) + 1}\n_flexquant\n")
            done = subprocess.run(["zsh", "-f"], input=text, capture_output=True, text=True, check=False,
                                  timeout=harness.LIMIT)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertEqual(set(done.stdout.split()), expected)

    def test_usage(self):
        self.assertIn("bash", self.flexquant("completion", "tcsh", status=2)[1])
        self.flexquant("completion", status=2)
        self.flexquant("man", status=2)
        file = self.folder / "model.gguf"
        self.assertIn(str(file), self.flexquant("man", file / "below", status=1)[1])

    def test_man_pages(self):
        self.flexquant("man", self.folder / "man1")
        pages = {page.name: page for page in (self.folder / "man1").iterdir()}
        self.assertEqual({name for name in pages if name.count("-") == 1},
                         {f"flexquant-{command}.1" for command in self.commands()})
        self.assertIn("flexquant-bench-decode.1", pages)
        for command in ALL:
            text = pages[f"flexquant-{'-'.join(command)}.1"].read_text()
            for option in self.options(*command):
                self.assertIn(option.replace("-", "\\-"), text)
        if shutil.which("groff") is None:
            self.skipTest("no groff: pages are not rendered")
        for page in pages.values():
            done = subprocess.run(["groff", "-man", "-ww", "-Tutf8", page], capture_output=True, text=True, check=False,
                                  timeout=harness.LIMIT)
            self.assertEqual((done.returncode, done.stderr), (0, ""), page.name)
        shown = subprocess.run(["groff", "-man", "-Tascii", "-P-c", pages["flexquant-generate.1"]], capture_output=True,
                               text=True, check=True).stdout
        shown = re.sub(r".\x08", "", shown)
        self.assertIn("--color TEXT", shown)
        self.assertIn("one of auto, always, never", re.sub(r"\s+", " ", shown))
