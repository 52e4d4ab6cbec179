"""A program on a terminal of its own."""

import fcntl
import os
import pty
import re
import select
import struct
import termios

import harness


class Terminal:
    """Runs `flexquant ARGUMENTS` with all three streams on a terminal, which it also controls: Ctrl-C works."""

    def __init__(self, *arguments, columns=100, env=None):
        self.pid, self.ours = pty.fork()
        if self.pid == 0:
            try:
                os.execve(harness.BIN / "flexquant", ["flexquant", *map(str, arguments)],
                          {**os.environ, "TERM": "xterm", **(env or {})})
            finally:
                os._exit(127)
        self.resize(columns)
        self.output = ""
        self.read_to = 0  # where the last expect() ended

    def resize(self, columns):
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def type(self, text):
        os.write(self.ours, text.encode())

    def _more(self, limit):
        if not select.select([self.ours], [], [], limit)[0]:
            raise AssertionError(f"nothing more within {limit} s after: {self.output[self.read_to:]!r}")
        try:
            chunk = os.read(self.ours, 65536)
        except OSError:  # how a terminal ends on Linux
            return False
        self.output += chunk.decode(errors="replace")
        return bool(chunk)

    def expect(self, pattern, limit=harness.LIMIT):
        """Reads on until the pattern comes; returns its match."""
        while not (match := re.compile(pattern).search(self.output, self.read_to)):
            if not self._more(limit):
                raise AssertionError(f"ended without {pattern!r}: {self.output!r}")
        self.read_to = match.end()
        return match

    def expect_prompt(self, pattern="> "):
        """Waits until what is typed reaches the program key by key: libedit sees to that after it showed the prompt."""
        self.expect(pattern)
        harness.wait_for(lambda: not termios.tcgetattr(self.ours)[3] & termios.ICANON,
                         "raw terminal", limit=30)

    def finish(self, limit=harness.LIMIT):
        """Exit status once it has ended."""
        while self._more(limit):
            pass
        os.close(self.ours)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
