"""Reads Dockerfiles and .dockerignore: enough to check ours and to perform their steps without a container engine."""

import dataclasses
import fnmatch
import json
import re


@dataclasses.dataclass(frozen=True)
class Instruction:
    keyword: str  # upper case
    flags: tuple  # "--name=value", before the value
    value: str


@dataclasses.dataclass
class Stage:
    name: str
    base: str
    instructions: list

    def last(self, keyword):
        """Value of the last instruction of this kind, or None."""
        return next((each.value for each in reversed(self.instructions) if each.keyword == keyword), None)


def substitute(text, arguments):
    return re.sub(r"\$\{(\w+)\}", lambda match: arguments.get(match.group(1), match.group(0)), text)


def instructions(text):
    """Logical lines: comments gone, continuations joined."""
    joined = re.sub(r"\\\n", " ", "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")))
    for line in joined.splitlines():
        if not line.strip():
            continue
        keyword, rest = line.strip().split(None, 1)
        flags = []
        while match := re.match(r"(--[\w-]+=\S+)\s+", rest):
            flags.append(match.group(1))
            rest = rest[match.end():]
        yield Instruction(keyword.upper(), tuple(flags), rest.strip())


def parse(text):
    """Stages in order. ARGs before the first FROM are filled in; a base that is an earlier stage is its name."""
    arguments, stages = {}, []
    for each in instructions(text):
        if each.keyword == "ARG" and not stages:
            name, _, value = each.value.partition("=")
            arguments[name] = value
        elif each.keyword == "FROM":
            base, *alias = re.split(r"\s+(?i:as)\s+", substitute(each.value, arguments))
            stages.append(Stage(alias[0] if alias else str(len(stages)), base, []))
        else:
            stages[-1].instructions.append(each)
    return stages


def exec_form(value):
    """The words of a JSON array, or None for the shell form."""
    try:
        words = json.loads(value)
    except ValueError:
        return None
    return words if isinstance(words, list) and all(isinstance(word, str) for word in words) else None


def in_context(path, ignore_text):
    """Whether .dockerignore leaves a file (with forward slashes, from the context's root) in the context."""
    kept = True
    for line in ignore_text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        pattern = line.lstrip("!")
        parts = path.split("/")
        prefixes = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        if pattern.startswith("**/"):
            hit = any(fnmatch.fnmatch(part, pattern[3:]) for part in parts)
        else:
            hit = any(prefix.count("/") == pattern.count("/") and fnmatch.fnmatch(prefix, pattern)
                      for prefix in prefixes)
        if hit:
            kept = line.startswith("!")
    return kept
