#!/usr/bin/env bash
# Unpacks Debian's arm64 packages that the kernels and their tests need into a folder, for cmake/aarch64.cmake. Nothing
# of the system changes: apt keeps its lists of that architecture in the folder, too.
#   deploy/arm64_root.sh [FOLDER]     default: build/arm64-root
# Exit status: 0 done or already there, 1 failed (apt says why).
set -euo pipefail
folder=${1:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/build/arm64-root}
packages=(libabsl-dev libabsl20220623 libfmt-dev libfmt9 libgmock-dev libgtest-dev libpcre2-8-0 libpcre2-dev
  libspdlog-dev libspdlog1.10 libxxhash-dev libxxhash0 nlohmann-json3-dev libc6 libgcc-s1 libstdc++6)
stamp=$folder/.packages
if [[ -f $stamp && $(<"$stamp") == "${packages[*]}" ]]; then
  exit 0
fi
rm -rf "$folder"
mkdir -p "$folder"/apt/{lists,cache/archives}/partial "$folder/apt/debs"
options=(-qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User=
  -o "Dir::State::Lists=$folder/apt/lists" -o "Dir::Cache=$folder/apt/cache")
apt-get "${options[@]}" update
(cd "$folder/apt/debs" && apt-get "${options[@]}" download "${packages[@]}")
for package in "$folder"/apt/debs/*.deb; do
  dpkg -x "$package" "$folder"
done
rm -rf "$folder/apt"
echo "${packages[*]}" >"$stamp"
