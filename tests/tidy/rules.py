"""The rules of the source tree. A rule is a function of a SourceFile that yields (line number, message)."""

import dataclasses
import functools
import re

LINE_LENGTH_MAX = 120
FILE_LINES_MAX = 500
# Files that may be longer, each with its reason.
LONG_FILES = {}

CPP_SUFFIXES = (".h", ".cc", ".cu", ".cuh")
CODE_SUFFIXES = CPP_SUFFIXES + (".proto", ".py", ".sh", ".js", ".css")

# Folders that a folder's files may include from.
LAYERS = {
    "common": {"common"},
    "kernels": {"common", "kernels"},
    "proto": {"common", "proto"},
    "transport": {"common", "proto", "transport"},
    "executor": {"common", "kernels", "proto", "transport", "executor"},
    "controller": {"common", "proto", "transport", "controller"},
    "client": {"common", "kernels", "proto", "transport", "executor", "controller", "client"},
    "tools": {"common", "kernels", "proto", "transport", "executor", "controller", "client", "tools"},
    "tests": {"common", "kernels", "proto", "transport", "executor", "controller", "client", "tools", "tests"},
}
LIBRARIES = ("common", "kernels", "proto", "transport", "executor", "controller")
# Where generated protocol headers may be included: the edge of each program, never its inner loops.
PROTOCOL_FOLDERS = ("proto", "client", "tools", "tests")
PROTOCOL_FILES = re.compile(
    r"(controller|executor)/(\w+/)*\w*(service|session|validation|client|factory|server|call|stream|proto)\w*\.(h|cc)")
PROTOCOL_HEADER = re.compile(r"(grpc/|grpcpp/|google/(protobuf|rpc)/|.*\.pb\.h$)")
GENERATED_HEADER = re.compile(r".*\.pb\.h$")
GPU_HEADER = re.compile(r"(cuda|cublas|nccl|cooperative_groups)\w*(\.h|/.*|$)")


@dataclasses.dataclass(frozen=True)
class SourceFile:
    path: str  # from the repository's root, with forward slashes
    text: str

    @property
    def folder(self):
        return self.path.split("/")[0] if "/" in self.path else ""

    @property
    def is_cpp(self):
        return self.path.endswith(CPP_SUFFIXES)

    @property
    def is_code(self):
        return self.path.endswith(CODE_SUFFIXES)

    @property
    def is_program(self):
        return self.path.endswith("/main.cc")

    @functools.cached_property
    def lines(self):
        return self.text.splitlines()

    @functools.cached_property
    def code_lines(self):
        """C++ lines with comments and the contents of literals blanked."""
        return blank_comments_and_literals(self.text).splitlines()

    @functools.cached_property
    def includes(self):
        """(line number, included path) of every #include."""
        pattern = re.compile(r'\s*#\s*include\s*["<]([^">]+)[">]')
        matches = ((number, pattern.match(line)) for number, line in enumerate(self.lines, 1))
        return [(number, match.group(1)) for number, match in matches if match]


def blank_comments_and_literals(text):
    pattern = re.compile(
        r'//[^\n]*|/\*.*?\*/|R"(?P<tag>[^\s()\\]*)\(.*?\)(?P=tag)"'
        r'|"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])\'(?:\\.|[^\'\\\n])+\'', re.DOTALL)
    return pattern.sub(lambda match: re.sub(r"[^\n]", " ", match.group(0)), text)


def find(pattern, lines, message):
    for number, line in enumerate(lines, 1):
        match = re.search(pattern, line)
        if match:
            yield number, message.format(match.group(0).strip())


def layering(file):
    if not file.is_cpp or file.folder not in LAYERS:
        return
    for number, include in file.includes:
        target = include.split("/")[0]
        if "/" in include and target in LAYERS and target not in LAYERS[file.folder]:
            yield number, f"{file.folder} must not include {include}; it may use {sorted(LAYERS[file.folder])}"


def reference_kernels(file):
    if not file.is_cpp or file.folder in ("tests", "tools") or file.path.startswith("kernels/reference/"):
        return
    for number, include in file.includes:
        if include.startswith("kernels/reference/"):
            yield number, f"{include} is an oracle for tests and benchmarks only"


def protocol_headers(file):
    if not file.is_cpp:
        return
    for number, include in file.includes:
        if file.folder in ("common", "kernels") and PROTOCOL_HEADER.match(include):
            yield number, f"{file.folder} knows no gRPC and no protocol messages: {include}"
        elif (GENERATED_HEADER.match(include) and file.folder not in PROTOCOL_FOLDERS
              and not PROTOCOL_FILES.fullmatch(file.path)):
            yield number, f"{include} belongs in services, validation, clients and factories; use domain types here"


def kernels_are_pure(file):
    if not file.is_cpp or file.folder != "kernels" or file.path.startswith("kernels/reference/"):
        return
    banned = re.compile(r"(spdlog/.*|thread|mutex|future|iostream|common/thread_pool\.h)")
    for number, include in file.includes:
        if banned.fullmatch(include):
            yield number, f"kernels never log or spawn threads: {include}"
    yield from find(r"\b(malloc|calloc|realloc|aligned_alloc|posix_memalign)\s*\(", file.code_lines,
                    "kernels never allocate; callers pass a workspace: {}")


def gpu_headers(file):
    if file.path.endswith((".h", ".cc")) and file.folder in ("common", "controller", "client", "proto", "transport"):
        for number, include in file.includes:
            if GPU_HEADER.match(include) and not file.path.startswith("common/cuda/"):
                yield number, f"{file.folder} builds without a GPU toolkit: {include}"


def header_guard(file):
    if not file.path.endswith((".h", ".cuh")):
        return
    guard = "FLEXQUANT_" + re.sub(r"[^A-Za-z0-9]", "_", file.path).upper() + "_"
    directives = [line for line in file.lines if line.startswith("#")]
    if directives[:2] != [f"#ifndef {guard}", f"#define {guard}"] or directives[-1:] != [f"#endif  // {guard}"]:
        yield 1, f"header guard is not {guard} (#ifndef, #define, '#endif  // {guard}')"


def line_length(file):
    if file.is_code:
        for number, line in enumerate(file.lines, 1):
            if len(line) > LINE_LENGTH_MAX:
                yield number, f"{len(line)} characters; at most {LINE_LENGTH_MAX}"


def file_length(file):
    if file.is_code and len(file.lines) > FILE_LINES_MAX and file.path not in LONG_FILES:
        yield len(file.lines), f"more than {FILE_LINES_MAX} lines; split it, or give a reason in LONG_FILES"


def whitespace(file):
    if file.is_code or file.path.endswith((".md", ".txt", ".cmake")):
        yield from find(r"[ \t]+$", file.lines, "trailing blanks")
        if file.text and not file.text.endswith("\n"):
            yield len(file.lines), "no newline at the end"
    if file.is_cpp:
        yield from find(r"\t", file.lines, "tab")


def process_ends(file):
    """Only programs end the process; libraries return a Status, and FQ_CHECK is the one place that aborts."""
    if file.is_cpp and file.folder != "tests" and not file.is_program and file.path != "common/check.h":
        yield from find(r"(?<![\w.>:])(?:std::|::)?(?:_?exit|_Exit|quick_exit|abort|terminate)\s*\(", file.code_lines,
                        "'{}' ends the process; return an absl::Status or use FQ_CHECK")


def printing(file):
    if not file.is_cpp or file.folder not in LIBRARIES or file.is_program or file.path == "common/check.h":
        return
    yield from find(r"(?<![\w.>:])(?:std::|::)?(?:v?f?printf|f?puts|putchar|perror)\s*\(", file.code_lines,
                    "'{}' prints from a library; return it, or log it with spdlog")
    yield from find(r"\bstd::(?:cout|cerr|clog)\b", file.code_lines, "'{}' prints from a library; log with spdlog")


def unsafe_calls(file):
    if file.is_cpp:
        yield from find(
            r"(?<![\w.>:])(?:std::|::)?(?:gets|strcpy|strcat|sprintf|vsprintf|strtok|atoi|atol|atof|rand|srand"
            r"|system|tmpnam|mktemp|setjmp|longjmp)\s*\(", file.code_lines, "banned call '{}'")


def sleeps_in_tests(file):
    if file.is_cpp and file.folder == "tests":
        yield from find(r"\b(?:sleep_for|sleep_until|SleepFor|usleep|nanosleep)\s*\(", file.code_lines,
                        "'{}' in a test: wait for the event, not for time")


def machine_paths(file):
    yield from find(r"(?<![\w.}~-])/(?:work|root|Users|opt/wheels|home/\w+)/[\w.]", file.lines,
                    "absolute path of one machine: {}")
    if file.is_code:
        yield from find(r"(?<![\w.}])/tmp/\w", file.lines, "fixed path under /tmp: {}; make a fresh folder")


def registry_hosts(file):
    yield from find(
        r"\b(?:pypi\.org|(?:[\w-]+\.)*pythonhosted\.org|(?:deb|security|ftp)\.debian\.org|archive\.ubuntu\.com"
        r"|registry\.npmjs\.org|index\.crates\.io|proxy\.golang\.org|[\w.-]*artifactory[\w.-]*\.\w+"
        r"|https?://\d+\.\d+\.\d+\.\d+\S*/simple)\b", file.lines,
        "registry host {}; leave the choice to the machine's own settings")


def unfinished(file):
    yield from find(r"\b(?:TO(?:DO)|FIX(?:ME)|XX(?:X))\b", file.lines, "'{}': finish it or leave it out")


def provenance(file):
    """The text speaks of the project, not of how or by whom it was written."""
    yield from find(
        r"(?i)\b(?:issues? #?\d+|(?:later|earlier|next|previous|follow-up) issues?)\b|(?:^|[\s(])#\d{1,5}(?![\w-])"
        r"|\b(?:sub-?agent|coding (?:agent|session))s?\b",
        file.lines, "speaks of the work, not of the project: {}")


RULES = (layering, reference_kernels, protocol_headers, kernels_are_pure, gpu_headers, header_guard, line_length,
         file_length, whitespace, process_ends, printing, unsafe_calls, sleeps_in_tests, machine_paths,
         registry_hosts, unfinished, provenance)


def check(file):
    """Yields (path, line number, rule's name, message) of every fault."""
    for rule in RULES:
        for number, message in rule(file):
            yield file.path, number, rule.__name__, message
