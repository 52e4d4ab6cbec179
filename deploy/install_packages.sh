#!/usr/bin/env bash
# Installs the Debian packages of deploy/packages.txt, as root or through sudo. Does nothing when all are there.
#   deploy/install_packages.sh [FILE...]     those of other lists, too
set -euo pipefail

mapfile -t packages < <(sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' \
  "$(dirname "${BASH_SOURCE[0]}")/packages.txt" "$@")

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $status == installed ]] || missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  exit 0
fi

as_root=()
if ((EUID != 0)); then
  if ! command -v sudo >/dev/null; then
    echo "install_packages: run this as root, or install sudo; missing packages: ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
install() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
}

echo "Installing ${missing[*]}" >&2
# The lists may be missing or old; they are fetched only when they do not do.
if ! apt-cache show "${missing[@]}" >/dev/null 2>&1 || ! install >&2; then
  "${as_root[@]}" apt-get update -q >&2
  install >&2
fi
