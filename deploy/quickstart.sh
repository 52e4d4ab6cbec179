#!/usr/bin/env bash
# From a bare Debian 12 to an answer: installs packages, builds, fetches and converts SmolLM2-135M-Instruct, starts an
# executor and a controller, asks the prompt, prints the precision report, stops both.
#   deploy/quickstart.sh [prompt...]
# FLEXQUANT_CACHE: where the model is kept; default: .cache in the repository.
set -euo pipefail
# shellcheck source=deploy/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

prompt=${*:-Explain in two sentences why the sky is blue.}
model=$cache/smollm2-135m
run=
executor_pid=
controller_pid=

# stop NAME PID: SIGTERM, then the exit status, which must be 0.
stop() {
  local status=0
  kill -TERM "$2" 2>/dev/null || true
  wait "$2" || status=$?
  ((status == 0)) || say "flexquant-$1 ended with status $status"
  return "$status"
}

# Whatever happened: nothing goes on running, and a failure shows the logs' ends.
cleanup() {
  local status=$?
  trap - EXIT
  trap '' INT TERM
  if [[ -n $controller_pid ]]; then
    stop controller "$controller_pid" || status=$((status == 0 ? 1 : status))
  fi
  if [[ -n $executor_pid ]]; then
    stop executor "$executor_pid" || status=$((status == 0 ? 1 : status))
  fi
  if ((status != 0 && status != 130)) && [[ -n $run ]]; then
    for log in "$run"/*.log; do
      [[ -s $log ]] && say "--- end of ${log##*/}" && tail -n 20 "$log" >&2
    done
  fi
  [[ -z $run ]] || rm -rf "$run"
  exit "$status"
}

# wait_for_port NAME PID FILE: prints the port the server wrote; fails when it died instead.
wait_for_port() {
  local deadline=$((SECONDS + 60))
  while [[ ! -s $3 ]]; do
    if ! kill -0 "$2" 2>/dev/null; then
      say "flexquant-$1 did not start"
      return 1
    fi
    if ((SECONDS >= deadline)); then
      say "flexquant-$1 did not open its port within 60 s"
      return 1
    fi
    sleep 0.05
  done
  cat "$3"
}

"$repository/deploy/install_packages.sh"
build_release flexquant flexquant-executor flexquant-controller
fetch_smollm2
convert_smollm2 "$model"

trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
run=$(mktemp -d)

# In sessions of their own: Ctrl-C at the terminal is for the question, and this script stops the servers.
setsid "$bin/flexquant-executor" --model "$model" --listen 127.0.0.1:0 --port-file "$run/executor.port" \
  >"$run/executor.log" 2>&1 &
executor_pid=$!
executor_port=$(wait_for_port executor "$executor_pid" "$run/executor.port")
setsid "$bin/flexquant-controller" --model "$model" --listen 127.0.0.1:0 --port-file "$run/controller.port" \
  --executor "127.0.0.1:$executor_port" >"$run/controller.log" 2>&1 &
controller_pid=$!
controller_port=$(wait_for_port controller "$controller_pid" "$run/controller.port")
server=127.0.0.1:$controller_port
"$bin/flexquant" info --server "$server" --wait 60 >"$run/info.txt"

say "> $prompt"
"$bin/flexquant" generate --server "$server" --chat --precision dynamic --prompt "$prompt"
