"""What the page shows of the server, and what it says when something is wrong with it."""

import fixture
import harness


class ServerTest(fixture.PageTest):
    REQUESTS = """performance.getEntriesByType('resource')
                  .filter((each) => each.name.endsWith('flexquant/server')).length"""

    def test_load_is_followed_while_it_can_be_seen(self):
        self.open()
        self.hurry()
        self.assertEqual(self.text(".executor .ready"), "ready")
        self.assertRegex(self.text(".executors"), r"\n0 of \d+ KV blocks$")
        self.plain_text(400)
        with fixture.slowed(fixture.site(True)[1]):
            self.send("Once upon a time")
            self.browser.wait("document.querySelector('.load dd').innerText === '1'", "a running request")
            self.assertRegex(self.text(".executors"), r"\n[1-9]\d* of \d+ KV blocks$")
            # Not as a pointer does it: on a busy machine the answer may be over and the button gone.
            self.browser.run("document.querySelector('#stop').click()")
        self.browser.wait("document.querySelector('.load dd').innerText === '0'", "no running request")
        self.browser.run("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
        self.browser.run("document.dispatchEvent(new Event('visibilitychange'))")
        pause = "return new Promise((resolve) => setTimeout(resolve, arguments[0]))"
        self.browser.run(pause, 3000)  # for one that was under way
        before = self.browser.run(f"return {self.REQUESTS}")
        self.browser.run(pause, 5000)
        self.assertEqual(self.browser.run(f"return {self.REQUESTS}"), before)
        self.browser.run("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
        self.browser.wait(f"{self.REQUESTS} > {before}")

    def test_server_that_wants_a_key(self):
        self.network_errors = True
        out, _ = self.flexquant("token", "new", "--tenant", "blue")
        token, entry = out.splitlines()
        tokens = harness.new_folder() / "tokens.json"
        tokens.write_text(f"[{entry}]")
        with fixture.serve(True, "--tokens", tokens) as (_, server), fixture.gateway(server) as (_, address):
            self.browser.open(f"http://{address}/")
            self.browser.wait("document.querySelector('#model').innerText === 'API key needed'")
            self.assertIn("did not accept the API key", self.text("#server"))
            self.set("#api-key", token)
            self.browser.wait("document.querySelector('#model[data-state=good]')")
            self.plain_text(8)
            self.ask()


class TroubleTest(fixture.PageTest):
    def setUp(self):
        super().setUp()
        self.network_errors = True

    def failure(self):
        self.assertEqual(self.outcome(), "failed")
        return self.text(".turn:last-child .failure p")

    def test_server_that_dies_and_comes_back(self):
        with fixture.serve(True) as (process, server), fixture.gateway(server) as (front, address):
            self.open(address=f"http://{address}/")
            self.plain_text(16)
            process.kill()
            process.wait()
            self.send("Once upon a time")
            self.assertRegex(self.failure(), r"^The model server is not ready\. [A-Z].*[.?]$")
            self.assertTrue(self.browser.run("return document.querySelector('.failure[role=alert]') !== null"))
            self.screenshot("failure")
            with fixture.serve(True, listen=server):
                harness.wait_for(lambda: harness.flexquant("info", "--server", server)[0] == 0, "the server")
                self.browser.click(".turn .failure button")
                self.assertIn(self.outcome(), ("done", "length"))
                self.assertEqual(len(self.tokens()), 16)
                self.assertEqual(self.browser.run("return document.querySelectorAll('.turn').length"), 1)
            self.hurry()
            front.kill()
            front.wait()
            self.send("Once more")
            self.assertIn("cannot be reached", self.failure())
            self.browser.wait("document.querySelector('#server').innerText.includes('cannot be reached')")
            self.assertEqual(self.browser.run("return document.querySelector('#model').dataset.state"), "bad")

    def test_gateway_that_dies_while_it_answers(self):
        with fixture.serve(True) as (process, server), fixture.gateway(server) as (front, address):
            self.open(address=f"http://{address}/")
            self.plain_text(400)
            with fixture.slowed(process):
                self.send("Once upon a time")
                self.browser.wait("document.querySelectorAll('.turn .token').length > 3")
                front.kill()
                self.assertIn("before the answer was complete", self.failure())
            self.assertGreater(len(self.tokens()), 3, "what came stays")

    def test_refusals(self):
        self.open()
        self.plain_text(8)
        self.set("#prompt", "Once upon a time " * 200)  # typing would take long
        self.send("there was")
        self.assertRegex(self.failure(), r"^[A-Z].*512.*\.$")
        self.set("#temperature", "9")
        self.browser.type("#prompt", "Once")
        self.browser.press("enter")
        self.assertEqual(self.browser.run("return document.activeElement.id"), "temperature")
        self.assertEqual(self.browser.run("return window.sent.length"), 1, "what the page sees is not sent")
