"""Themes, phones, names of controls: what holds whatever is shown."""

import json

import fixture

CONTROLS = {"button", "textbox", "searchbox", "radio", "slider", "combobox", "spinbutton", "checkbox", "link", "meter",
            "radiogroup", "image", "region", "complementary", "DisclosureTriangle"}
# Contrast of an element's text against what it lies on, as drawn on a canvas.
CONTRAST = """
  const [selector] = arguments;
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const draw = (...colors) => {
    for (const color of colors) {
      canvas.fillStyle = color;
      canvas.fillRect(0, 0, 1, 1);
    }
    return [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)];
  };
  return import(new URL('assets/scale.js', location.href)).then(({contrast}) => [...document.querySelectorAll(selector)]
    .filter((each) => each.checkVisibility() && each.innerText.trim() !== '').map((each) => {
      const backgrounds = [];
      for (let at = each; at; at = at.parentElement) backgrounds.unshift(getComputedStyle(at).backgroundColor);
      const style = getComputedStyle(each);
      return [contrast(draw(...backgrounds), draw(...backgrounds, style.color)), each.outerHTML.slice(0, 90)];
    }));"""
WIDER = """
  return [...document.querySelectorAll('body *')].filter((each) => !each.closest('.table-holder, .hidden, .skip, svg')
      && (each.getBoundingClientRect().right > innerWidth + 0.5
          || each.matches('.thread, .columns, #side') && each.scrollWidth > each.clientWidth))
      .map((each) => each.outerHTML.slice(0, 90));"""


class LooksTest(fixture.PageTest):
    def two_answers(self):
        self.plain_text(60)
        self.browser.click("#compare")
        self.choose("fixed", 8, column=1)
        self.ask()

    def prefer(self, **preferences):
        """What the system asks for, such as color_scheme="dark"; without motion, so that no colour is in between."""
        features = {"prefers-reduced-motion": "reduce",
                    **{f"prefers-{name.replace('_', '-')}": value for name, value in preferences.items()}}
        self.browser.devtools("Emulation.setEmulatedMedia",
                              features=[{"name": name, "value": value} for name, value in features.items()])

    def check_contrast(self):
        found = self.browser.run(CONTRAST, ".token, p, dt, dd span, h1, h2, button:not(:disabled), legend, summary, "
                                           "label.field, .segments label:not(:has(:disabled)) .segment, output, "
                                           "figcaption span")
        self.assertGreater(len(found), 100)
        self.assertEqual([each for each in found if each[0] < 4.5], [])

    def background(self):
        return self.browser.run("return getComputedStyle(document.body).backgroundColor")

    def test_themes(self):
        self.prefer(color_scheme="light")
        self.open()
        self.two_answers()
        light = self.background()
        self.check_contrast()
        self.prefer(color_scheme="dark")
        dark = self.background()
        self.assertNotEqual(light, dark)
        self.check_contrast()
        self.screenshot("dark")
        self.set("#theme", "light")
        self.assertEqual(self.background(), light)
        self.browser.run("location.reload()")
        self.browser.wait("document.documentElement.dataset.theme === 'light' && document.readyState === 'complete'")
        self.assertEqual(self.background(), light, "the choice is kept")
        self.set("#theme", "system")
        self.assertEqual(self.background(), dark)

    def test_motion_can_be_off(self):
        self.open()
        moving = "return getComputedStyle(document.querySelector('#send')).transitionDuration"
        self.assertNotEqual(self.browser.run(moving), "0s")
        self.prefer(reduced_motion="reduce")
        self.assertEqual(self.browser.run(moving), "0s")

    def test_phone(self):
        self.browser.devtools("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1,
                              mobile=True)
        self.open()
        self.check_width()
        self.two_answers()
        self.check_width()
        self.ask()
        box = self.browser.run("return document.querySelector('.turn:last-child').getBoundingClientRect().toJSON()")
        self.assertTrue(80 < box["top"] < 300, f"the newest turn is in sight: {box}")
        self.screenshot("phone_side_by_side")
        self.browser.click("#compare")
        self.ask("x" * 120)
        self.check_width()
        self.screenshot("phone")
        self.browser.run("document.querySelector('.tokens').append('y'.repeat(120))")  # a token may be as long
        self.check_width()
        self.assertFalse(self.browser.run("return document.querySelector('#side').checkVisibility()"))
        self.browser.click("#settings-toggle")
        self.assertTrue(self.browser.run("return document.querySelector('#temperature').checkVisibility()"))
        self.check_width()
        self.browser.press("escape")
        self.assertFalse(self.browser.run("return document.querySelector('#side').checkVisibility()"))

    def check_width(self):
        size = self.browser.run("""
          const {scrollWidth, scrollHeight} = document.scrollingElement;
          return [scrollWidth, scrollHeight];""")
        self.assertEqual(size, [360, 740], "the page itself does not scroll")
        self.assertEqual(self.browser.run(WIDER), [])

    def test_controls_have_names(self):
        self.open()
        self.two_answers()
        nodes = self.browser.devtools("Accessibility.getFullAXTree")["nodes"]
        roles = [node["role"]["value"] for node in nodes if not node["ignored"]]
        for role, least in (("radio", 8), ("slider", 1), ("textbox", 3), ("button", 3), ("image", 2), ("meter", 1)):
            self.assertGreaterEqual(roles.count(role), least, role)
        unnamed = [node for node in nodes if not node["ignored"] and node["role"]["value"] in CONTROLS
                   and not node.get("name", {}).get("value")]
        self.assertEqual(unnamed, [], json.dumps(unnamed)[:2000])
        faults = self.browser.run("""
          const ids = [...document.querySelectorAll('[id]')].map((each) => each.id);
          const refers = ['aria-describedby', 'aria-labelledby', 'aria-controls', 'for'];
          return {
            twice: ids.filter((id, at) => ids.indexOf(id) !== at),
            nowhere: refers.flatMap((name) => [...document.querySelectorAll(`[${name}]`)].map(
                (each) => each.getAttribute(name))).filter((id) => !document.getElementById(id)),
            jumps: [...document.querySelectorAll('[tabindex]')].filter((each) => each.tabIndex > 0).length,
            language: document.documentElement.lang, headings: document.querySelectorAll('h1').length,
            live: document.querySelectorAll('.turn [aria-live], .turn [role=status], .turn [role=log]').length,
          };""")
        self.assertEqual(faults, {"twice": [], "nowhere": [], "jumps": 0, "language": "en", "headings": 1, "live": 0})

    def test_keyboard_reaches_everything_in_order(self):
        self.open()
        focused = "return document.activeElement.id || document.activeElement.className"
        reached = []
        while "theme" not in reached or reached[0] != "skip":
            self.browser.press("tab")
            reached.append(self.browser.run(focused))
            self.assertLess(len(reached), 40, reached)
            if reached[-1] == "skip":
                reached = ["skip"]
        expected = ["skip", "compare", "clear", "precision-0-dial", "thread", "prompt", "send", "system", "temperature",
                    "max-tokens", "api-key", "theme"]
        self.assertEqual([name for name in reached if name in expected], expected, reached)

    def test_policy_of_the_page(self):
        self.open()
        policy = self.browser.run("""
          return fetch(location.href).then((response) => response.headers.get('content-security-policy'))""")
        for part in ("default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"):
            self.assertIn(part, policy)
        self.assertNotIn("unsafe", policy)
        self.assertEqual(self.browser.run("""
          return performance.getEntriesByType('resource').map((each) => new URL(each.name).origin)
              .filter((origin) => origin !== location.origin)"""), [], "nothing comes from elsewhere")
        # The tests themselves would see a violation: the console tells of it.
        self.browser.run("""document.body.insertAdjacentHTML('beforeend', '<p style="color: red"></p>')""")
        self.assertEqual([entry["source"] for entry in self.browser.log()], ["security"])
