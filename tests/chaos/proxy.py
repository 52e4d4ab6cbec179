"""A TCP proxy on loopback that can cut, hold and delay what passes through it."""

import asyncio
import contextlib
import threading


def _host_and_port(address):
    host, port = address.rsplit(":", 1)
    return host, int(port)


class Proxy:
    """Forwards each connection on `address` to `target` (both "HOST:PORT"). Methods may be called from any thread."""

    def __init__(self, address, target):
        self._target = _host_and_port(target)
        self._loop = asyncio.new_event_loop()
        self._writers = set()
        self._held = None
        self._lost = set()
        self._delay = 0.0
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, *_host_and_port(address)), self._loop).result()

    def cut(self):
        """Ends every connection; new ones are accepted."""
        self._call(self._cut)

    def hold(self):
        """Nothing passes from now on, though connections stay open."""
        self._call(self._hold)

    def lose(self):
        """Nothing passes any more through the connections that stand, and neither end is told; new ones work."""
        self._call(self._lose)

    def go_on(self):
        self._call(self._go_on)

    def delay(self, seconds):
        """Each piece of data waits so long."""
        self._delay = seconds

    def close(self):
        self.go_on()
        self.cut()
        self._call(self._server.close)
        asyncio.run_coroutine_threadsafe(self._finish(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _call(self, function):
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (function(), done.set()))
        if not done.wait(10):
            raise AssertionError("the proxy does not answer")

    def _cut(self):
        for writer in self._writers:
            writer.transport.abort()

    def _lose(self):
        self._lost |= self._writers

    def _hold(self):
        self._held = self._held or asyncio.Event()

    def _go_on(self):
        if self._held:
            self._held.set()
        self._held = None

    async def _finish(self):
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(tasks, timeout=5)

    async def _serve(self, reader, writer):
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        writers = {writer, up_writer}
        self._writers |= writers
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await asyncio.gather(self._pump(reader, up_writer), self._pump(up_reader, writer))
        self._writers -= writers
        self._lost -= writers
        for end in writers:
            end.transport.abort()

    async def _pump(self, reader, writer):
        while data := await reader.read(65536):
            if self._delay:
                await asyncio.sleep(self._delay)
            while self._held:
                await self._held.wait()
            if writer not in self._lost:
                writer.write(data)
                await writer.drain()
        if writer not in self._lost:
            writer.write_eof()
