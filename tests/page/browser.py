"""Headless Chromium, driven through chromedriver's WebDriver interface with the standard library alone."""

import base64
import contextlib
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # WebDriver's name for a reference to an element
KEYS = {"enter": "\ue007", "shift": "\ue008", "escape": "\ue00c", "left": "\ue012", "right": "\ue014", "tab": "\ue004"}
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the driver is on this machine
LIMIT = 20  # seconds that something on the page may take


def installed():
    return bool(shutil.which("chromium") and shutil.which("chromedriver"))


@contextlib.contextmanager
def chromium(profile):
    """A Browser with a fresh profile in the folder; ended at the end."""
    driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True)
    browser = None
    try:
        port = next(found.group(1) for line in driver.stdout
                    if (found := re.search(r"successfully on port (\d+)", line)))
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                 "--disable-background-networking", "--hide-scrollbars", "--window-size=1280,1000", "--lang=en",
                 f"--user-data-dir={profile}"]
        browser = Browser(f"http://127.0.0.1:{port}", {
            "browserName": "chrome", "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"binary": shutil.which("chromium"), "args": flags}})
        yield browser
    finally:
        if browser is not None:
            browser.call("DELETE", "")
        driver.terminate()
        driver.wait()
        driver.stdout.close()


class Browser:
    def __init__(self, driver, capabilities):
        self.session = f"{driver}/session"
        answer = self.call("POST", "", {"capabilities": {"alwaysMatch": capabilities}})
        self.session += f"/{answer['sessionId']}"

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.session + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with DIRECT.open(request, timeout=60) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def run(self, script, *arguments):
        """The value of a script, which may be a promise: `return document.title`."""
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def find(self, selector):
        return self.call("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]

    def click(self, selector):
        self.call("POST", f"/element/{self.find(selector)}/click", {})

    def type(self, selector, text):
        self.call("POST", f"/element/{self.find(selector)}/value", {"text": text})

    def press(self, *names):
        """Presses keys of KEYS together, as at a keyboard: wherever the focus is."""
        actions = [{"type": "keyDown", "value": KEYS[name]} for name in names]
        actions += [{"type": "keyUp", "value": KEYS[name]} for name in reversed(names)]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def hover(self, selector):
        origin = {ELEMENT: self.find(selector)}
        move = {"type": "pointerMove", "duration": 0, "origin": origin, "x": 0, "y": 0}
        self.call("POST", "/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": [move]}]})

    def devtools(self, command, **parameters):
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def log(self):
        """What the console said since the last call."""
        return self.call("POST", "/se/log", {"type": "browser"})

    def wait(self, condition, what=None):
        """The value of a JavaScript expression once it is true."""
        end = time.monotonic() + LIMIT
        while not (value := self.run(f"return ({condition})")):
            if time.monotonic() > end:
                raise AssertionError(f"not within {LIMIT} s: {what or condition}")
            time.sleep(0.03)
        return value

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.call("GET", "/screenshot")))
