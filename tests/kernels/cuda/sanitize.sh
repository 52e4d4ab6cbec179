#!/usr/bin/env bash
# Runs a short subset of the GPU's kernel tests under NVIDIA's compute-sanitizer, a group of tests a process, and says
# what each found. Exit status: 0 clean, 1 errors, hazards (warnings too) or failed tests, 2 usage, 77 no tool.
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: tests/kernels/cuda/sanitize.sh [OPTION...] BINARY [-- TOOL_OPTION...]

BINARY is cuda_kernels_test (or cuda_executor_test with --groups runner).

  --tools LIST     of memcheck, racecheck, synccheck, initcheck; default: memcheck,racecheck
  --groups LIST    of product, prefill, attention, sampling, rows, runner; default: all but runner
  --seconds N      at most for one tool and group; default 570
  --output FOLDER  where reports go; default: a fresh temporary folder

TOOL_OPTIONs go to compute-sanitizer, for instance --num-cuda-barriers=65536 or --kernel-name kns=NestedGemv.
The tool is $COMPUTE_SANITIZER, or compute-sanitizer of PATH or of a CUDA toolkit.
USAGE
}

# Tests of a group, with blanks between them.
declare -A filters=(
  [product]='On/ProductTest.LargestSumsDoNotOverflow/* On/QuantizedActivationsTest.TiesGoToEven/*
    CudaGemvTest.EveryInstanceOnce CudaGemvTest.NormIsTheSame* CudaGemvTest.Repacking*'
  [prefill]='PrefillFusedTest.RingsGoRound DequantizeTest.Embedding*'
  [attention]='On/AttentionTest.ManyHeadsAKeyHead/* On/AttentionTest.EveryHeadSize/*
    AttentionDecodeTest.* AttentionPrefillTest.*'
  [sampling]='On/SamplingTest.VocabularyOfOne/* CudaSamplingTest.NotFinite* CudaSamplingTest.Counts*
    CudaSamplingTest.SampledTokens*
    On/RescoringTest.OnlyHeads* CudaRescoringTest.*'
  [rows]='On/ElementwiseTest.* On/RopeTest.* ActivationBlocksTest.* RowOpsTest.RmsNorm* RowOpsTest.SiluMul*
    RowOpsTest.Halves* RowOpsTest.Add*'
  [runner]='CudaRunnerTest.UntiedHeadAndOneKvHead CudaRunnerTest.Biases CudaRunnerTest.SamplesAndScoresAsTheCpu'
)

# filter_of GROUP: for GoogleTest.
filter_of() {
  local -a tests
  read -rd '' -a tests <<<"${filters[$1]}" || true
  (IFS=:; echo "${tests[*]}")
}

find_tool() {
  local candidate
  for candidate in "${COMPUTE_SANITIZER:-}" "$(command -v compute-sanitizer || true)" \
    "${CUDA_HOME:-/usr/local/cuda}"/{bin,compute-sanitizer}/compute-sanitizer; do
    if [[ -n $candidate && -x $candidate ]]; then
      echo "$candidate"
      return
    fi
  done
  return 1
}

# options_of TOOL: its own options, those of newer versions only where --help knows them.
options_of() {
  case $1 in
    memcheck) echo --leak-check=no ;;
    racecheck)
      echo --racecheck-report=all
      # Follows an order that goes through several threads: lanes that store, __syncwarp, one lane that arrives.
      if grep -q -- --racecheck-indirect-barrier-dependency <<<"$help"; then
        echo --racecheck-indirect-barrier-dependency=yes
      fi
      ;;
  esac
}

# run TOOL GROUP: prints one line, returns whether it is clean.
run() {
  local tool=$1 group=$2 report=$output/$1-$2.txt status=0 started=$SECONDS options found tests
  mapfile -t options < <(options_of "$tool")
  timeout --kill-after=10 "$seconds" "$sanitizer" --tool="$tool" --error-exitcode=1 "${options[@]}" "${extra[@]}" \
    "$binary" --gtest_filter="$(filter_of "$group")" --gtest_brief=1 >"$report" 2>&1 || status=$?
  # "ERROR SUMMARY: 0 errors" or "RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)"
  found=$(grep -Eo '[A-Z]+ SUMMARY: .*' "$report" | tail -n 1 || true)
  tests=$(grep -Eo '[0-9]+ tests? from [0-9]+ test suites? ran' "$report" | tail -n 1 || true)
  if ((status == 124 || status == 137)); then
    found="not finished after $seconds s; ${found:-no summary}"
  fi
  printf '%-10s %-10s %4d s  %-32s %s\n' "$tool" "$group" $((SECONDS - started)) "${tests:-no tests ran}" \
    "${found:-no summary}"
  ((status == 0)) && [[ $found =~ SUMMARY:\ 0\ (errors|hazards) && -n $tests && ! $tests =~ ^0\  ]] &&
    ! grep -q '  SKIPPED \]' "$report"
}

tools=memcheck,racecheck
groups=product,prefill,attention,sampling,rows
seconds=570
output=
while (($# > 0)); do
  case $1 in
    --tools | --groups | --seconds | --output)
      (($# > 1)) || { usage >&2; exit 2; }
      declare "${1#--}=$2"
      shift 2
      ;;
    -h | --help) usage; exit 0 ;;
    -*) usage >&2; exit 2 ;;
    *) break ;;
  esac
done
if (($# < 1)) || [[ ! -x $1 || ! $seconds =~ ^[1-9][0-9]*$ ]] || { (($# > 1)) && [[ $2 != -- ]]; }; then
  usage >&2
  exit 2
fi
binary=$(realpath "$1")
extra=("${@:3}")
IFS=, read -ra tools <<<"$tools"
IFS=, read -ra groups <<<"$groups"
for group in "${groups[@]}"; do
  if [[ ! -v filters[$group] ]]; then
    echo "no group '$group'; there are: ${!filters[*]}" >&2
    exit 2
  fi
done
if ! sanitizer=$(find_tool); then
  echo "compute-sanitizer was not found: install the CUDA toolkit's, or set COMPUTE_SANITIZER" >&2
  exit 77
fi
help=$("$sanitizer" --help 2>&1 || true)
output=${output:-$(mktemp -d)}
mkdir -p "$output"
echo "$("$sanitizer" --version 2>&1 | grep -i version | head -n 1); reports in $output"
dirty=()
for tool in "${tools[@]}"; do
  for group in "${groups[@]}"; do
    run "$tool" "$group" || dirty+=("$tool-$group")
  done
done
if ((${#dirty[@]} > 0)); then
  echo "NOT CLEAN: ${dirty[*]}"
  for each in "${dirty[@]}"; do
    echo "--- $each"
    grep -E '========= (Error|ERROR|Warning|WARN|Invalid|Uninit|Barrier|Race|Program hit)|FAILED|SKIPPED|: Failure' \
      "$output/$each.txt" | sort | uniq -c | sort -rn | head -n 20 || true
  done
  exit 1
fi
echo "clean"
