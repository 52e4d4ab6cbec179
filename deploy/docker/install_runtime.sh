#!/bin/sh
# Installs in an image what deploy/runtime-packages.txt lists for it, and writes down everything the image then holds.
#   install_runtime.sh LIST IMAGE
set -eu
list=$1
image=$2
packages=$(sed 's/#.*//' "$list" | awk -v image="$image" 'NF == 2 && ("," $2 ",") ~ ("," image ",") { print $1 }')
[ -n "$packages" ] || { echo "install_runtime: $list names no package for '$image'" >&2; exit 1; }
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# shellcheck disable=SC2086  # One word a package.
apt-get install -y -q --no-install-recommends $packages
apt-get clean
rm -rf /var/lib/apt/lists/*
# For scanners and bills of materials: one line a package.
mkdir -p /usr/share/flexquant
# shellcheck disable=SC2016  # dpkg-query expands these.
dpkg-query -W -f '${Package} ${Version} ${Architecture} ${source:Package}\n' > /usr/share/flexquant/packages.txt
