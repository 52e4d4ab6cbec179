#!/usr/bin/env bash
# Installs packages, builds everything, runs every test through ctest; the unit tests under the address and thread
# sanitizers, and the kernels for 64-bit Arm under an emulator. What CI runs.
#   FLEXQUANT_FAST=1   leaves sanitizers and Arm out
#   FLEXQUANT_CACHE    where the test model is kept; default: .cache in the repository
set -euo pipefail
# shellcheck source=deploy/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../deploy/common.sh"
cd "$repository"
jobs=$(nproc)
asan_areas=(common transport calibration formats tokenizer store kernels controller executor fuzz_corpus)
# Threads of ours. gRPC and Abseil are Debian's and not instrumented: what they synchronise looks like a race.
tsan_areas=(common executor)
tsan_filter='-*ServiceTest*:ServerTest.*:FailureTest.*:IdentityTest.*'
failed=()

# run_ctest PRESET CTEST_ARGUMENT...
run_ctest() {
  local preset=$1
  shift
  ctest --test-dir "build/$preset" --parallel "$jobs" --output-on-failure --no-tests=error "$@" || failed+=("$preset")
}

# sanitize PRESET AREA...
sanitize() {
  local preset=$1
  shift
  local targets=("${@/%/_test}")
  say "== $preset: ${targets[*]}"
  cmake --preset "$preset" >/dev/null
  cmake --build --preset "$preset" --parallel "$jobs" --target "${targets[@]}"
  run_ctest "$preset" -R "^($(IFS='|'; echo "${targets[*]}"))\$"
}

# The kernels for 64-bit Arm, under an emulator of such a processor.
test_arm64() {
  say "== arm64: kernels_test"
  if ! deploy/arm64_root.sh; then
    say "No arm64 packages of Debian: the kernels for 64-bit Arm are not tested"
    return
  fi
  cmake --preset arm64 >/dev/null
  cmake --build --preset arm64 --parallel "$jobs" --target kernels_test
  GTEST_FILTER='*neon*' run_ctest arm64
}

deploy/install_packages.sh tests/packages.txt
cmake --preset release
cmake --build --preset release --parallel "$jobs"
if fetch_smollm2; then
  export FLEXQUANT_SMOLLM2_GGUF=$smollm2_gguf
else
  say "No SmolLM2: the tests that need it will be skipped"
fi
[[ -d ${FLEXQUANT_TEST_DATA:-../shared/data} ]] || say "No FLEXQUANT_TEST_DATA: the tests that need it will be skipped"
if [[ ${FLEXQUANT_FAST:-} != 1 ]]; then
  sanitize asan "${asan_areas[@]}"
  GTEST_FILTER=$tsan_filter sanitize tsan "${tsan_areas[@]}"
  test_arm64
fi
say "== release: every test"
run_ctest release
if ((${#failed[@]} > 0)); then
  say "Tests failed in: ${failed[*]}"
  exit 1
fi
