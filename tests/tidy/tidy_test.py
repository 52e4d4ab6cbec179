"""Checks the source tree against tests/tidy/rules.py, after checking that the rules find faults.

Usage: tidy_test.py SOURCE_DIR
"""

import pathlib
import sys
import unittest

import rules
import snippets

# Made by building, testing or git; everything else is ours.
SKIPPED_FOLDERS = {".git", "build", ".cache", "__pycache__"}
TEXT_BYTES_MAX = 1 << 20
# Holds the faults on purpose.
SNIPPETS_PATH = "tests/tidy/snippets.py"


def source_files(root):
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if SKIPPED_FOLDERS & set(relative.parts) or not path.is_file() or path.stat().st_size > TEXT_BYTES_MAX:
            continue
        data = path.read_bytes()
        if b"\0" in data:
            continue
        try:
            yield rules.SourceFile(relative.as_posix(), data.decode("utf-8"))
        except UnicodeDecodeError:
            continue


class RulesTest(unittest.TestCase):
    def test_every_rule_finds_its_faults(self):
        for rule, path, text in snippets.BAD:
            with self.subTest(rule=rule, path=path, text=text[:60]):
                found = {name for _, _, name, _ in rules.check(rules.SourceFile(path, text))}
                self.assertIn(rule, found)

    def test_every_rule_has_a_bad_snippet(self):
        self.assertEqual({rule.__name__ for rule in rules.RULES}, {rule for rule, _, _ in snippets.BAD})

    def test_good_code_passes(self):
        for path, text in snippets.GOOD:
            with self.subTest(path=path, text=text[:60]):
                self.assertEqual(list(rules.check(rules.SourceFile(path, text))), [])


class TreeTest(unittest.TestCase):
    root = None

    def test_tree(self):
        files = list(source_files(self.root))
        paths = {file.path for file in files}
        self.assertIn("tests/tidy/rules.py", paths)
        self.assertIn("common/precision.h", paths)
        faults = [f"{path}:{number}: {rule}: {message}" for file in files if file.path != SNIPPETS_PATH
                  for path, number, rule, message in rules.check(file)]
        if faults:
            self.fail(f"{len(faults)} faults in {len(files)} files:\n" + "\n".join(faults))


if __name__ == "__main__":
    TreeTest.root = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main()
