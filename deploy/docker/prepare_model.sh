#!/bin/sh
# Makes a model package where there is none yet: fetches the source, checks it, converts it. Safe to run again, and
# beside others on one volume: the package gets its place by renaming, and who comes second keeps what is there.
#   prepare_model make DEST [CONVERT_FLAG...]   from the files of $MODEL_SOURCES, or from $MODEL_PATH
#   prepare_model wait DEST                     until somebody else has made it
# MODEL_SOURCES: file of lines "NAME SHA256 URL"; SHA256 may be - (not checked). One line = that file, more = a folder.
# MODEL_PATH: file or folder that is there already, instead.
# MODEL_TOKEN: sent as bearer token with each download. MODEL_WAIT_SECONDS: for wait; default 3600.
set -eu

say() { echo "prepare_model: $*" >&2; }
is_package() { [ -e "$1/flexquant.json" ] && flexquant inspect "$1" > /dev/null 2>&1; }

wait_for() {
  left=${MODEL_WAIT_SECONDS:-3600}
  until is_package "$1"; do
    [ "$left" -gt 0 ] || { say "no package at $1 within ${MODEL_WAIT_SECONDS:-3600} s"; exit 1; }
    say "waiting for the package $1"
    sleep 5
    left=$((left - 5))
  done
}

# fetch NAME SHA256 URL FOLDER
fetch() {
  case $1 in */* | .* | '') say "'$1' is not a plain file name"; return 1 ;; esac
  say "fetching $3"
  # The token comes through a pipe, because arguments are readable for every process, and not over plain HTTP.
  protocols=https,file
  [ -n "${MODEL_TOKEN:-}" ] || protocols=$protocols,http
  if [ -n "${MODEL_TOKEN:-}" ]; then printf 'header = "Authorization: Bearer %s"\n' "$MODEL_TOKEN"; fi |
    curl --config - --fail --location --silent --show-error --proto "=$protocols" --proto-redir =https \
      --retry 5 --retry-delay 5 --output "$4/$1" "$3"
  if [ "$2" != - ] && ! echo "$2  $4/$1" | sha256sum --check --status; then
    say "$3: sha256 is not $2; not used"
    return 1
  fi
}

make() {
  dest=$1
  shift
  if is_package "$dest"; then
    say "$dest is there"
    return 0
  fi
  mkdir -p "$(dirname "$dest")"
  work=$(mktemp -d "$(dirname "$dest")/.making.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  trap 'exit 143' TERM INT
  source=${MODEL_PATH:-}
  if [ -z "$source" ]; then
    mkdir "$work/source"
    count=0
    while read -r name digest url; do
      case $name in '' | '#'*) continue ;; esac
      fetch "$name" "$digest" "$url" "$work/source"
      count=$((count + 1))
      source=$work/source/$name
    done < "${MODEL_SOURCES:?set MODEL_SOURCES or MODEL_PATH}"
    [ "$count" -gt 0 ] || { say "$MODEL_SOURCES names no file"; exit 1; }
    [ "$count" -eq 1 ] || source=$work/source
  fi
  flexquant convert "$source" "$work/package" --name "${MODEL_NAME:-$(basename "$dest")}" "$@"
  # What is at DEST now and is no package is a leftover; a package is another's, as good as ours.
  if [ -e "$dest" ] && ! is_package "$dest"; then
    rm -rf "$dest"
  fi
  if ! mv -T "$work/package" "$dest" 2> /dev/null && ! is_package "$dest"; then
    say "cannot move the package to $dest"
    exit 1
  fi
}

command=${1:-}
case $command in
  make) shift; make "${@:?DEST is missing}" ;;
  wait) wait_for "${2:?DEST is missing}" ;;
  *) say "usage: prepare_model make|wait DEST [CONVERT_FLAG...]"; exit 2 ;;
esac
