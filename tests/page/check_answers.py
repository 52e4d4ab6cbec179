"""Conversations, precision settings, token details, side by side, stop."""

import fixture

# Lets the server's state say whether the model has a chat template, and the page ask for it.
OFFER_CHAT = """
  const real = window.fetch;
  window.fetch = async (url, options) => {
    const response = await real(url, options);
    if (!String(url).endsWith('flexquant/server')) return response;
    return Response.json({...await response.json(), chat: arguments[0]});
  };
  document.dispatchEvent(new Event('visibilitychange'));"""
SAID = "document.querySelector('#status').textContent"


class AnswersTest(fixture.PageTest):
    def test_chat(self):
        self.open()
        self.assertEqual(self.text("#model"), "stories260K\ncalibrated")
        self.set("#system", "Be kind.")
        self.set("#max-tokens", "40")
        self.set("#temperature", "0")
        self.assertTrue(self.browser.run("return document.activeElement.id === 'prompt'"))
        self.browser.type("#prompt", "Tell me")
        self.browser.press("shift", "enter")
        self.send("a story.")
        self.assertIn(self.outcome(), ("done", "length"))
        first = "".join(text for text, _ in self.tokens())
        self.assertGreater(len(first), 20)
        self.assertEqual(self.text(".tokens").strip(), first.strip())
        self.assertEqual(self.browser.run(f"return {SAID}").strip(), first.strip(), "heard once it is whole")
        self.ask("Go on.")
        sent = self.browser.run("return window.sent")
        self.assertTrue(all(request["url"].endswith("v1/chat/completions") for request in sent))
        self.assertEqual([(message["role"], message["content"]) for message in sent[1]["body"]["messages"]],
                         [("system", "Be kind."), ("user", "Tell me\na story."), ("assistant", first),
                          ("user", "Go on.")])
        body = sent[0]["body"]
        self.assertEqual((body["temperature"], body["max_tokens"], body["model"]), (0, 40, "stories260K"))
        self.assertEqual(body["flexquant"], {"precision": {"max_mean_kl": 0.01}, "token_details": True})
        facts = self.facts()
        self.assertRegex(facts["Speed"], r"^\d+(\.\d)? tokens/s\n\d+ tokens$")
        self.assertRegex(facts["First token"], r"^\d+(\.\d)? m?s$")
        self.assertRegex(facts["Weight bytes"], r"^\d+ %\n[\d.]+ MB; 8 bits: [\d.]+ MB$")
        self.assertRegex(facts["Predicted KL"], r"^[\d.]+ nats\n✓ within the budget$")
        self.assertRegex(facts["Measured KL"], r"^[\d.e-]+ nats\n\d+ audits?")
        self.browser.click("#clear")
        self.assertEqual(self.browser.run("return document.querySelectorAll('.turn').length"), 0)
        self.ask("Again.")
        self.assertEqual(len(self.browser.run("return window.sent.at(-1).body.messages")), 2)

    def test_dial_and_fixed_bits(self):
        self.open()
        self.plain_text(64)
        means = []
        for presses in (-20, 40):
            self.browser.run("document.querySelector('.dial').focus()")
            for _ in range(abs(presses)):
                self.browser.press("right" if presses > 0 else "left")
            self.ask()
            widths = self.widths()
            self.assertEqual(len(widths), 63)
            means.append(sum(widths) / len(widths))
            self.assertAlmostEqual(float(self.facts()["Mean bits"].split("\n")[0]), means[-1], delta=0.2)
        self.assertGreater(len(set(widths)), 1, "they change from token to token")
        self.assertLess(means[1], means[0] - 0.3, "a larger budget costs fewer bits")
        self.assertEqual(self.text(".reading"), "KL ≤ 0.1 nats")
        budgets = [request["body"]["flexquant"]["precision"] for request in self.browser.run("return window.sent")]
        self.assertEqual(budgets, [{"max_mean_kl": 0.001}, {"max_mean_kl": 0.1}])
        self.choose("fixed", 4)
        self.ask()
        self.assertEqual(set(self.widths()), {4})
        self.assertAlmostEqual(float(self.facts()["Mean bits"].split("\n")[0]), 4, delta=0.1)
        bars = self.browser.run("""
          const histogram = [...document.querySelectorAll('.histogram')].at(-1);
          return [...histogram.querySelectorAll('.bar')].map((bar) => bar.title)""")
        self.assertEqual(bars, ["63 tokens at about 4 bits", "1 token at about 8 bits"])
        self.choose("dynamic")
        self.ask()
        self.assertEqual(self.browser.run("return window.sent.at(-1).body.flexquant.precision"), {"policy": "dynamic"})

    def test_token_details(self):
        self.open()
        self.plain_text(40)
        self.ask()
        self.screenshot("answer")
        rows = self.browser.run(fixture.TABLE, 0)
        self.assertEqual(len(rows), 40)
        self.browser.run("document.querySelector('.thread').scrollTop = 0")
        self.browser.wait("document.querySelector('#tooltip').hidden")
        self.browser.hover('.token[data-index="3"]')
        shown = self.text("#tooltip")
        self.assertIn(f"{rows[3][2]} bits", shown)
        self.assertIn(f"Entropy\n{rows[3][3]} nats", shown)
        for name in ("Probability", "Most likely token", "Margin", "Level on the ladder"):
            self.assertRegex(shown, f"{name}\n[\\d.]+")
        self.screenshot("token")
        self.browser.press("escape")
        self.assertTrue(self.browser.run("return document.querySelector('#tooltip').hidden"))
        # The keyboard: one stop of the Tab key, arrows within it.
        self.assertEqual(self.browser.run("return document.querySelectorAll('.token[tabindex=\"0\"]').length"), 1)
        self.browser.run("document.querySelector('.token[tabindex=\"0\"]').focus()")
        for _ in range(4):
            self.browser.press("right")
        self.browser.press("left")
        focused = self.browser.run("""
          const {dataset, attributes} = document.activeElement;
          return [dataset.index, attributes['aria-describedby'].value]""")
        self.assertEqual(focused, ["3", "tooltip"])
        self.assertEqual(self.text("#tooltip"), shown)
        strip = self.browser.run("return document.querySelector('.strip svg').getAttribute('aria-label')")
        self.assertRegex(strip, r"^Bits of 40 tokens: [\d.]+ on average, from [\d.]+ to [\d.]+\. Entropy: highest at ")
        heights = self.browser.run("""
          return [...document.querySelectorAll('.strip rect')].map((bar) => bar.height.baseVal.value)""")
        for row, height in zip(rows, heights, strict=True):
            self.assertAlmostEqual(float(row[2]), height * 8 / 100, delta=0.06)

    def test_measured_tokens_say_so(self):
        self.open()
        self.plain_text(100)
        self.ask()
        measured = [row[0] for row in self.browser.run(fixture.TABLE, 0) if row[5]]
        self.assertGreater(len(measured), 0)
        self.assertLess(len(measured), 100)
        marked = self.browser.run("return [...document.querySelectorAll('.token.audited')].map((each) => "
                                  "String(Number(each.dataset.index) + 1))")
        self.assertLessEqual(set(marked), set(measured))
        self.assertGreater(len(marked), 0)
        self.browser.run("document.querySelector('.token.audited').focus()")
        self.assertRegex(self.text("#tooltip"), r"KL, measured\n[\d.e-]+ nats")

    def test_side_by_side(self):
        self.open()
        self.plain_text(48)
        self.ask("Lily")
        self.browser.click("#compare")
        self.choose("fixed", 3, column=1)
        self.ask()
        self.assertEqual(set(self.widths(1)), {3})
        self.assertGreater(len(set(self.widths(0))), 1)
        self.assertRegex(self.text("#comparison"), r"^B read \d+ % fewer weight bytes a token than A\.$")
        bodies = [request["body"] for request in self.browser.run("return window.sent")][1:]
        self.assertEqual([body["flexquant"]["batch_mode"] for body in bodies], ["isolated", "isolated"])
        self.assertEqual(bodies[0]["seed"], bodies[1]["seed"])
        self.assertEqual(bodies[1]["flexquant"]["precision"], {"bits": 3})
        for column in (0, 1):
            self.assertIn("Predicted KL" if column == 0 else "Mean bits", self.facts(column))
        self.screenshot("side_by_side")
        self.browser.click("#in-turn")
        self.ask()
        self.assertRegex(self.text("#comparison"), r" weight bytes a token than A and wrote ([\d.]+ times )?as fast\.$")
        times = self.browser.run("""
          return performance.getEntriesByType('resource').filter((each) => each.name.includes('completions')).slice(-2)
              .map((each) => [each.startTime, each.responseEnd])""")
        self.assertLessEqual(times[0][1], times[1][0], "the second began after the first")
        self.browser.click("#compare")
        self.assertTrue(self.browser.run("return document.querySelectorAll('.column')[1].hidden"))

    def test_stop(self):
        self.open()
        self.plain_text(400)
        for stop in (lambda: self.browser.press("escape"), lambda: self.browser.click("#stop")):
            with fixture.slowed(fixture.site(True)[1]):
                self.send("Once upon a time")
                self.browser.wait("document.querySelectorAll('.turn:last-child .token').length > 3")
                self.assertEqual(self.browser.run(f"return {SAID}"), "Answering.", "not each token is read out")
                stop()
                self.assertEqual(self.outcome(), "stopped")
            tokens = len(self.tokens())
            self.assertLess(tokens, 400)
            self.assertGreater(tokens, 3)
            self.assertIn("Stopped.", self.text(".turn:last-child"))
        self.ask()
        self.assertGreater(len(self.tokens()), tokens)

    def test_api_key_lasts_as_long_as_the_tab(self):
        self.open()
        self.plain_text(4)
        self.set("#api-key", "secret-key")
        self.ask()
        headers = self.browser.run("return window.sent.at(-1).headers")
        self.assertEqual(headers["Authorization"], "Bearer secret-key")
        kept = self.browser.run("return [Object.values({...sessionStorage}), Object.values({...localStorage}), "
                                "document.cookie, location.href]")
        self.assertEqual(kept[0], ["secret-key"])
        self.assertNotIn("secret-key", str(kept[1:]))
        self.reload()
        self.assertEqual(self.browser.run("return document.querySelector('#api-key').value"), "secret-key")

    def test_without_calibration_or_chat_template(self):
        self.open(calibrated=False)
        self.assertEqual(self.text("#model"), "stories260K\nnot calibrated")
        budget = self.browser.run("""
          const input = document.querySelector('.modes input[value=budget]');
          const reason = document.getElementById(input.getAttribute('aria-describedby'));
          return [input.disabled, document.querySelector('.dial').disabled, reason.innerText]""")
        self.assertEqual(budget[:2], [True, True])
        self.assertIn("flexquant calibrate", budget[2])
        self.network_errors = True
        self.browser.run(OFFER_CHAT, True)
        self.browser.wait("!document.querySelector('#mode-chat').disabled")
        self.browser.click("#mode-chat")
        self.send("Tell me a story.")
        self.assertEqual(self.outcome(), "failed")
        self.assertRegex(self.text(".turn .failure p"), "^The model has no chat template .*Plain text, in the settings")
        self.browser.run(OFFER_CHAT, False)
        self.browser.wait("document.querySelector('#mode-text').checked")
        self.assertTrue(self.browser.run("return document.querySelector('#mode-chat').disabled"))
        self.assertIn("no chat template", self.text("#mode-note"))
        self.plain_text(60)
        self.ask()
        self.assertEqual(self.browser.run("return window.sent.at(-1).body.flexquant.precision"), {"policy": "dynamic"})
        self.assertGreater(len(set(self.widths())), 1)
        self.assertNotIn("Predicted KL", self.facts())
        self.screenshot("not_calibrated")
