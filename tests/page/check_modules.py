"""The page's modules without the page: what they compute."""

import fixture

SSE = """
  return import(new URL('assets/sse.js', location.href)).then(({SseParser}) => {
    const text = arguments[0];
    return [...Array(text.length + 1).keys()].map((cut) => {
      const parser = new SseParser();
      return [...parser.push(text.slice(0, cut)), ...parser.push(text.slice(cut))];
    });
  });"""
SCALE = """
  return import(new URL('assets/scale.js', location.href)).then((scale) => {
    const luminance = (color) => scale.contrast(color, [0, 0, 0]);
    const backgrounds = {light: [255, 255, 255], dark: [23, 28, 35]};
    return Object.entries(backgrounds).map(([theme, background]) => [3, 4, 5, 5.5, 6, 7, 8].map((bits) => {
      const color = scale.bitsColor(bits, theme);
      return [luminance(color), scale.contrast(color, background), scale.bitsWeight(bits)];
    }));
  });"""


class ModulesTest(fixture.PageTest):
    def setUp(self):
        super().setUp()
        self.open()

    def call(self, module, expression):
        return self.browser.run(f"return import(new URL('assets/{module}.js', location.href)).then((module) => "
                                f"{expression})")

    def test_events_may_be_cut_anywhere(self):
        stream = (": comment\n\ndata: {\"a\": 1}\r\n\r\nevent: x\ndata:two\ndata:  lines\nid: 7\n\n"
                  "data: [DONE]\n\ndata: cut")
        for events in self.browser.run(SSE, stream):
            self.assertEqual(events, ['{"a": 1}', "two\n lines", "[DONE]"])

    def test_numbers(self):
        for expression, expected in (
            ("formatBits(5.26)", "5.3"), ("formatBits(8)", "8"), ("formatNats(0.00834)", "0.0083"),
            ("formatNats(0)", "0"), ("formatNats(2.345)", "2.35"), ("formatNats(0.0000123)", "1.2e-5"),
            ("formatBytes(999)", "999 B"), ("formatBytes(1500)", "1.5 kB"), ("formatBytes(999600)", "1.0 MB"),
            ("formatBytes(12.4e9)", "12 GB"), ("formatShare(0.004)", "0.4 %"), ("formatShare(0.655)", "66 %"),
            ("formatDuration(84.4)", "84 ms"), ("formatDuration(2300)", "2.3 s"), ("formatRate(4.26)", "4.3"),
            ("formatCount(1, 'token')", "1 token"), ("formatCount(1234, 'token')", "1,234 tokens"),
            ("visibleText(' a b\\n')", "␣a b↵"), ("visibleText('')", "(no text of its own)"),
        ):
            with self.subTest(expression=expression):
                self.assertEqual(self.call("format", f"module.{expression}"), expected)

    def test_dial_is_logarithmic(self):
        budgets = self.call("precision", "[0, 10, 20, 30, 40].map(module.dialToKl)")
        self.assertEqual(budgets, [0.001, 0.0032, 0.01, 0.032, 0.1])

    def test_colours_can_be_told_apart(self):
        for colors in self.browser.run(SCALE):
            lightness, contrasts, weights = zip(*colors)
            one_way = (sorted(lightness), sorted(lightness, reverse=True))
            self.assertIn(list(lightness), one_way, "lightness goes one way")
            self.assertGreater(max(lightness) / min(lightness), 1.5)
            self.assertGreater(min(contrasts), 3, "against the card that they lie on")
            self.assertEqual(list(weights), sorted(set(weights)), "more bits, thicker line")

    def test_errors_are_sentences(self):
        for arguments, expected in (
            ("'no executor is ready', 503", "The model server is not ready. No executor is ready."),
            ("undefined, 500", "The server answered with status 500."),
            ("'CANCELLED', 499", "The server answered with status 499."),
            ("'no chat template', 501", "No chat template. Plain text, in the settings, needs no chat template."),
            ("'temperature must be at most 2', 400", "Temperature must be at most 2."),
            ("'too many', 429, '3'", "The server is at its limit. Try again in 3 s. Too many."),
            ("'', 401", "The server did not accept the API key. Enter one in the settings."),
        ):
            with self.subTest(arguments=arguments):
                self.assertEqual(self.call("api", f"module.errorSentence({arguments})"), expected)

    def test_comparison(self):
        sides = """{precision: {weight_bytes_read: 800}, timing: {tokens: 10, first: 0, last: 900}},
                   {precision: {weight_bytes_read: 300}, timing: {tokens: 5, first: 0, last: 200}}"""
        self.assertEqual(self.call("report", f"module.compareReports({sides}, true)"),
                         "B read 25 % fewer weight bytes a token than A and wrote 2.00 times as fast.")
        self.assertEqual(self.call("report", f"module.compareReports({sides}, false)"),
                         "B read 25 % fewer weight bytes a token than A.")
        self.assertEqual(self.call("report", "module.compareReports({timing: {}}, {timing: {}}, true)"), "")
