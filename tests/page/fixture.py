"""One browser and the servers behind it, for every check of a run."""

import contextlib
import functools
import os
import pathlib
import shutil
import struct
import signal
import sys
import threading

import browser

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cli"))
import harness  # noqa: E402  of tests/cli

RUNNING = contextlib.ExitStack()  # ends what was started
SCREENSHOTS = pathlib.Path(os.environ.get("FLEXQUANT_SCREENSHOTS", harness.new_folder()))
SMALL = ("--tokens", 512, "--holdout", 256, "--window", 128, "--rungs", 8)
# stories260K has none; Llama 2's needs no special tokens.
CHAT_TEMPLATE = (
    r"{% if messages[0]['role'] == 'system' %}{% set system_message = '<<SYS>>\n' + messages[0]['content'] + "
    r"'\n<</SYS>>\n\n' %}{% endif %}{% for message in messages %}{% if message['role'] == 'user' %}{{ bos_token + "
    r"'[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + "
    r"message['content'] + ' ' + eos_token }}{% endif %}{% endfor %}")
RECORD = """
  window.sent = [];
  const real = window.fetch;
  window.fetch = (url, options) => {
    if (options && options.method === 'POST') {
      window.sent.push({url: String(url), body: JSON.parse(options.body), headers: options.headers});
    }
    return real(url, options);
  };"""
# The last answer's table of tokens, which is also the strip's text alternative: [number, text, bits, ...] a token.
TABLE = """
  const column = document.querySelectorAll('.column')[arguments[0]];
  const details = [...column.querySelectorAll('.numbers')].at(-1);
  details.open = true;
  return new Promise((resolve) => setTimeout(() => resolve(
      [...details.querySelectorAll('tbody tr')].map((row) => [...row.cells].map((cell) => cell.textContent))), 50));"""


@functools.lru_cache(None)
def chromium():
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    return RUNNING.enter_context(browser.chromium(harness.new_folder()))


def add_chat_template(tokenizer):
    """Puts the template among a GGUF file's metadata, which begin after 24 bytes and are counted in front of them."""
    data = tokenizer.read_bytes()
    magic, version, tensors, pairs = struct.unpack_from("<4sIQQ", data)
    name, value, string_type = b"tokenizer.chat_template", CHAT_TEMPLATE.encode(), 8
    pair = struct.pack("<Q", len(name)) + name + struct.pack("<IQ", string_type, len(value)) + value
    tokenizer.write_bytes(struct.pack("<4sIQQ", magic, version, tensors, pairs + 1) + pair + data[24:])


@functools.lru_cache(None)
def package(calibrated):
    """stories260K: calibrated and with a chat template, or neither."""
    if not calibrated:
        return harness.stories()
    folder = harness.new_folder() / "model"
    shutil.copytree(harness.stories(), folder)
    status, _, err = harness.flexquant("calibrate", folder, "--text", harness.data("text/tiny.utf8"), *SMALL)
    assert status == 0, err
    add_chat_template(folder / "tokenizer.gguf")
    return folder


def serve(calibrated, *flags, **options):
    """A context of (process, address)."""
    return harness.server("flexquant", "--model", package(calibrated), "--audit-rate", "0.3", *flags, **options)


def gateway(server, *flags, **options):
    """A context of (process, address)."""
    return harness.server("flexquant-gateway", "--server", server, *flags, **options)


@functools.lru_cache(None)
def site(calibrated):
    """(the page's address, the process with the model) of servers that last for the whole run."""
    process, server = RUNNING.enter_context(serve(calibrated))
    _, address = RUNNING.enter_context(gateway(server))
    return f"http://{address}/", process


@contextlib.contextmanager
def slowed(process):
    """Stops a process most of the time: the test model answers before anybody could stop it."""
    done = threading.Event()

    def hold():
        while not done.is_set() and process.poll() is None:
            process.send_signal(signal.SIGSTOP)
            done.wait(0.1)
            process.send_signal(signal.SIGCONT)
            done.wait(0.002)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        yield
    finally:
        done.set()
        holder.join()


class PageTest(harness.CliTest):
    """A fresh page in `self.browser`; at the end the console must have said nothing but what was expected."""

    def setUp(self):
        if not (harness.BIN / "flexquant-gateway").exists():
            self.skipTest("no flexquant-gateway in this build")
        self.browser = chromium()
        self.network_errors = False  # whether the console may tell of failed requests
        self.browser.devtools("Emulation.clearDeviceMetricsOverride")
        self.browser.devtools("Emulation.setEmulatedMedia", features=[])

    def tearDown(self):
        said = [entry for entry in self.browser.log()
                if not (self.network_errors and entry["source"] == "network")]
        self.assertEqual(said, [])

    def open(self, calibrated=True, address=None):
        self.browser.open(address or site(calibrated)[0])
        if self.browser.run("return localStorage.length + sessionStorage.length") > 0:
            self.browser.run("localStorage.clear(); sessionStorage.clear(); location.reload();")
        self.ready()

    def reload(self):
        self.browser.run("location.reload()")
        self.ready()

    def ready(self):
        self.browser.wait("document.readyState === 'complete' && document.querySelector('#model[data-state=good]')",
                          "the server's state on the page")
        self.browser.run(RECORD)

    def hurry(self):
        """Makes 2 s between two looks at the server 0.2 s."""
        self.browser.run("""
          const real = window.setTimeout;
          window.setTimeout = (action, delay) => real(action, delay / 10);
          document.dispatchEvent(new Event('visibilitychange'));""")

    def set(self, selector, value):
        self.browser.run("""
          const field = document.querySelector(arguments[0]);
          field.value = arguments[1];
          field.dispatchEvent(new Event('input', {bubbles: true}));
          field.dispatchEvent(new Event('change', {bubbles: true}));""", selector, value)

    def choose(self, mode, bits=None, column=0):
        """The precision's setting, as with the mouse."""
        self.browser.run("""
          const column = document.querySelectorAll('.column')[arguments[0]];
          column.querySelector(`.modes input[value=${arguments[1]}]`).click();
          if (arguments[2]) column.querySelector(`.widths input[value="${arguments[2]}"]`).click();""",
                         column, mode, bits)

    def plain_text(self, tokens):
        """Greedy: the same answers in each run, and stories of more than 100 tokens."""
        self.set("#max-tokens", str(tokens))
        self.set("#temperature", "0")
        self.browser.run("document.querySelector('#mode-text').click()")

    def send(self, prompt):
        self.browser.type("#prompt", prompt)
        self.browser.press("enter")

    def outcome(self):
        """How the last turn ended, once it did."""
        return self.browser.wait("document.querySelector('#stop').hidden && "
                                 "document.querySelector('.column:not([hidden]) .turn:last-child').dataset.outcome",
                                 "the end of an answer")

    def ask(self, prompt="Once upon a time"):
        self.send(prompt)
        self.assertIn(self.outcome(), ("done", "length"))

    def tokens(self, column=0):
        """(text, bits) of the last answer's tokens."""
        return [(row[1], float(row[2])) for row in self.browser.run(TABLE, column)]

    def widths(self, column=0):
        """Bits of the last answer's tokens but the first, which the prefill computes at the top precision."""
        return [bits for _, bits in self.tokens(column)[1:]]

    def facts(self, column=0):
        """The last report by name, each with what stands beneath: "5.4\\n33 changes"."""
        return self.browser.run("""
          const column = document.querySelectorAll('.column')[arguments[0]];
          const report = [...column.querySelectorAll('.facts')].at(-1);
          return Object.fromEntries([...report.children].map(
              (fact) => [fact.firstChild.textContent, fact.lastChild.innerText]));""", column)

    def text(self, selector):
        return self.browser.run("return document.querySelector(arguments[0]).innerText", selector)

    def screenshot(self, name):
        self.browser.screenshot(SCREENSHOTS / f"{name}.png")
