"""flexquant chat: messages, commands, editing and history."""

import re
import stat

import harness
import terminal

TOKENS = ("--max-tokens", 24)


class ChatTest(harness.CliTest):
    def chat(self, text, *arguments, **options):
        return self.flexquant("chat", "--model", harness.chatty(), *TOKENS, *arguments, stdin=text.encode(), **options)

    def answer(self, prompt, *arguments):
        return self.generate(harness.chatty(), "--chat", "--prompt", prompt, *TOKENS, *arguments)["text"]

    def test_history_is_kept_and_cleared(self):
        _, err = self.chat("My name is Zoe.\n/report\nWhat is my name?\n/report\n/clear\nHi.\n/report\n/quit\nnever\n")
        prompts = [int(count) for count in re.findall(r"(\d+) prompt \+", err)]
        self.assertEqual(len(prompts), 3)
        self.assertGreater(prompts[1], prompts[0] + 10)
        self.assertLess(prompts[2], prompts[1])

    def test_model_without_template(self):
        _, err = self.flexquant("chat", "--model", harness.stories(), stdin=b"hi\n", status=1)
        self.assertIn("template", err)

    def test_messages_of_several_lines(self):
        expected = self.answer("Once\nupon a time").strip()
        for text in ("Once\\\nupon a time\n", '"""\nOnce\nupon a time\n"""\n', '"""Once\nupon a time"""\n',
                     'Once\\\nupon a time'):
            self.assertEqual(self.chat(text)[0].strip(), expected, text)
        # A block may begin with what would be a command.
        self.assertEqual(self.chat('"""/quit"""\n')[0].strip(), self.answer("/quit").strip())

    def test_precision_commands(self):
        first = self.answer("Once upon a time", "--precision", 8).strip()
        fewer = self.answer("Once upon a time", "--precision", 3).strip()
        self.assertNotEqual(first, fewer)
        out, err = self.chat("/bits 3\nOnce upon a time\n/report\n/clear\n/bits auto\nOnce upon a time\n",
                             "--precision", 8)
        self.assertEqual(re.sub(r"\s+", " ", out).strip(), re.sub(r"\s+", " ", f"{fewer} {first}"))
        self.assertIn(f"mean {(23 * 3 + 8) / 24:.2f} bits", err)  # the first token comes from the prompt's pass, at 8
        for wrong in ("/bits 7", "/bits", "/bits auto 3"):
            self.assertIn("/bits takes 3, 4, 5, 6, 8, 16", self.chat(wrong + "\n")[1])

    def test_budget(self):
        for wrong in ("/budget -1", "/budget", "/budget nan", "/budget low"):
            self.assertIn("above 0", self.chat(wrong + "\n")[1])
        # The model is not calibrated: the server refuses, and the chat goes on without the message.
        out, err = self.chat("/budget 0.02\nLost\n/bits 8\nOnce upon a time\n")
        self.assertIn("flexquant calibrate", err)
        self.assertEqual(out.strip(), self.answer("Once upon a time", "--precision", 8).strip())

    def test_stats(self):
        _, err = self.chat("/stats\n/bits 4\nOnce upon a time\n/bits 8\nTell me more\n/stats\n", "--ignore-eos")
        self.assertIn("no answer yet", err)
        last, everything = (re.search(rf"^{name} +(\d+) +(\d+) +([\d.]+) +([\d.]+) +- -$", err, re.MULTILINE)
                            for name in ("last answer", "all 2"))
        self.assertEqual((last[2], last[3]), ("24", "8.00"))
        self.assertEqual((everything[2], everything[3]), ("48", f"{(23 * 4 + 8 + 24 * 8) / 48:.2f}"))
        self.assertGreater(int(everything[1]), int(last[1]))
        self.assertGreater(float(everything[4]), 0)

    def test_unknown_command_gets_the_list(self):
        for wrong in ("/nonsense", "/stats now", "/", "/Quit"):
            _, err = self.chat(wrong + "\n")
            self.assertIn(f"{wrong} is no command", err)
            for command in ("/bits", "/budget", "/stats", "/report", "/clear", "/help", "/quit"):
                self.assertIn(f"\n{command} ", err)

    def test_legend(self):
        _, err = self.chat("/help\n", "--color", "always")
        self.assertEqual(err.count("bits: \x1b["), 2)
        self.assertNotIn("\x1b", self.chat("/help\n")[1])


class TerminalTest(harness.CliTest):
    def start(self, *arguments, model=None):
        self.state = harness.new_folder()
        self.run_again(*arguments, model=model)

    def run_again(self, *arguments, model=None):
        self.terminal = terminal.Terminal("chat", "--model", model or harness.chatty(), "--color", "never",
                                          *(arguments or TOKENS),
                                          env={"XDG_STATE_HOME": str(self.state), "HOME": str(self.state)})
        self.terminal.expect_prompt()

    def test_editing_and_history(self):
        self.start()
        self.terminal.type("/bots 4\x01\x1b[C\x1b[C\x04i\r")  # Ctrl-A, right twice, Ctrl-D deletes
        self.terminal.expect("every layer at 4 bits")
        self.terminal.expect_prompt()
        self.terminal.type("/bits 5 ü€\x7f\x7f\x7f\r")
        self.terminal.expect("every layer at 5 bits")
        self.terminal.expect_prompt()
        self.terminal.type("\x1b[A\x1b[A\r")
        self.terminal.expect("every layer at 4 bits")
        self.terminal.expect_prompt()
        self.terminal.type("/quit\r")
        self.assertEqual(self.terminal.finish(), 0)
        file = self.state / "flexquant/chat_history"
        self.assertEqual(stat.S_IMODE(file.stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(file.parent.stat().st_mode), 0o700)
        self.assertEqual(list(file.parent.iterdir()), [file])
        self.run_again()
        self.terminal.type("\x1b[A\x1b[A\r")
        self.terminal.expect("every layer at 4 bits")
        self.terminal.expect_prompt()
        self.terminal.type("\x04")
        self.assertEqual(self.terminal.finish(), 0)

    def test_ctrl_c_forgets_a_line_then_leaves(self):
        self.start()
        self.terminal.type("/bits 4")
        self.terminal.expect("/bits 4")
        self.terminal.type("\x03")
        self.terminal.expect_prompt()
        self.terminal.type('"""\r')
        self.terminal.expect_prompt(r"\. ")
        self.terminal.type("\x03")
        self.terminal.expect_prompt()
        self.terminal.type("/stats\r")
        self.terminal.expect("no answer yet")
        self.terminal.expect_prompt()
        self.terminal.type("\x03")
        self.assertEqual(self.terminal.finish(), 130)
        self.assertNotIn("every layer", self.terminal.output)

    def test_ctrl_c_stops_an_answer(self):
        self.start("--max-tokens", 4000, "--ignore-eos", model=harness.smollm2())  # slow enough to be stopped
        self.terminal.type("Once upon a time\r")
        self.terminal.expect(r"time\s+\w+")
        self.terminal.type("\x03")
        self.terminal.expect_prompt("\n> ")
        self.terminal.type("/stats\r")
        match = self.terminal.expect(r"last answer +\d+ +(\d+)")
        self.terminal.expect_prompt()
        self.assertGreater(int(match[1]), 0)
        self.assertLess(int(match[1]), 4000)
        self.terminal.type("/quit\r")
        self.assertEqual(self.terminal.finish(), 0)

    def test_history_that_cannot_be_kept(self):
        self.state = harness.new_folder() / "file"
        self.state.write_text("no folder")
        self.run_again()
        self.terminal.type("/stats\r")
        self.terminal.expect("are not kept.*no answer yet|no answer yet")
        self.terminal.expect_prompt()
        self.terminal.type("/stats\r")
        self.terminal.expect("no answer yet")
        self.terminal.expect_prompt()
        self.terminal.type("/quit\r")
        self.assertEqual(self.terminal.finish(), 0)
        self.assertEqual(self.terminal.output.count("are not kept"), 1)
