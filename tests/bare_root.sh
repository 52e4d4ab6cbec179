#!/usr/bin/env bash
# Proves the README's two commands from a clean clone in a bare Debian 12 root made by debootstrap.
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: tests/bare_root.sh [--quick] [--keep]

Makes a minimal Debian 12 in a temporary folder, clones the repository's HEAD into it and runs there
./deploy/quickstart.sh (twice) and ./tests/run.sh. Needs root, debootstrap, git, and minutes.

  --quick   only ./deploy/quickstart.sh
  --keep    keep the root and say where it is

Environment:
  FLEXQUANT_DEBIAN_MIRROR   mirror to use; unset = the one in this machine's apt sources
  TMPDIR                    where the root is made (about 3 GB)

This machine's settings for apt and pip (sources of Debian, proxies, keys, pip.conf, PIP_* variables) and its own CA
certificates are copied, so that it works in restricted networks.
USAGE
}

readonly suite=bookworm
quick=false
keep=false
for argument in "$@"; do
  case "$argument" in
    --quick) quick=true ;;
    --keep) keep=true ;;
    --help | -h) usage; exit 0 ;;
    *) echo "unknown option '$argument'; see --help" >&2; exit 2 ;;
  esac
done

if [[ $EUID -ne 0 ]]; then
  echo "tests/bare_root.sh needs root: debootstrap, mount and chroot do" >&2
  exit 2
fi
for program in debootstrap git unshare; do
  if ! command -v "$program" > /dev/null; then
    echo "tests/bare_root.sh needs $program: apt-get install $program" >&2
    exit 2
  fi
done

source_dir=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/flexquant-bare.XXXXXX")
root=$work/root

# Mounts live in the namespaces of in_root and end with it, so the root holds nothing foreign when it is removed.
cleanup() {
  if $keep; then
    echo "kept: $root (enter it with: chroot $root)"
  else
    rm -rf --one-file-system "$work"
  fi
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# "deb URI RELEASE COMPONENT" of every Debian 12 source of this machine.
host_sources() {
  # shellcheck disable=SC2016  # apt expands these.
  apt-get indextargets --format '$(LABEL)|$(CODENAME)|deb $(REPO_URI) $(RELEASE) $(COMPONENT)' \
    'Created-By: Packages' 2> /dev/null | sed -n "s/^Debian[^|]*|${suite}[^|]*|//p" | sort -u
}

main_mirror() {
  host_sources | awk -v suite="$suite" '$3 == suite && $4 == "main" { print $2; exit }'
}

copy_settings() {
  if [[ -n ${FLEXQUANT_DEBIAN_MIRROR:-} ]]; then
    echo "deb $mirror $suite main" > "$root/etc/apt/sources.list"
  else
    host_sources > "$root/etc/apt/sources.list"
  fi
  apt-config dump | grep -E '^Acquire::(http|https|Retries|Check-Valid-Until|Check-Date|ForceIPv[46])' \
    > "$root/etc/apt/apt.conf.d/90host" || true
  local path
  for path in /etc/apt/auth.conf.d /etc/apt/keyrings /etc/apt/trusted.gpg.d /usr/local/share/ca-certificates \
      /etc/pip.conf /etc/resolv.conf /etc/hosts; do
    if [[ -e $path ]]; then
      mkdir -p "$root$(dirname "$path")"
      cp -rLT "$path" "$root$path"
    fi
  done
  if [[ -e ${HOME:-}/.config/pip ]]; then
    mkdir -p "$root/root/.config"
    cp -rLT "$HOME/.config/pip" "$root/root/.config/pip"
  fi
}

# in_root COMMAND: runs it as root in the bare root, in the clone, with its own mounts and processes; nothing that it
# starts outlives it.
in_root() {
  local settings=(HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8)
  local name
  for name in $(compgen -e); do
    case "$name" in
      PIP_* | http_proxy | https_proxy | no_proxy | HTTP_PROXY | HTTPS_PROXY | NO_PROXY)
        settings+=("$name=${!name}") ;;
    esac
  done
  # shellcheck disable=SC2016  # The inner shell expands these.
  unshare --mount --propagation private --pid --fork --kill-child bash -euc '
    root=$1 command=$2
    shift 2
    mount -t proc proc "$root/proc"
    mkdir -p "$root/dev/shm"
    mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
    exec chroot "$root" /usr/bin/env -i "$@" bash -c "cd /srv/flexquant && $command"
  ' in_root "$root" "$1" "${settings[@]}" < /dev/null
}

# step NAME COMMAND...: runs it and says how long it took.
step() {
  local name=$1 start=$SECONDS
  shift
  echo "== $name"
  "$@"
  echo "== $name: ok, $((SECONDS - start)) s"
}

make_root() {
  local extra=()
  if [[ $mirror == https://* ]]; then
    extra=(--include=ca-certificates)
  fi
  local proxy=""
  eval "$(apt-config shell proxy Acquire::http::Proxy)"
  http_proxy=${http_proxy:-$proxy} debootstrap --variant=minbase "${extra[@]}" "$suite" "$root" "$mirror" \
    > "$work/debootstrap.log" 2>&1 || { tail -20 "$work/debootstrap.log" >&2; return 1; }
  copy_settings
  git clone --quiet --depth 1 "file://$source_dir" "$root/srv/flexquant"
}

# Also fails if a program of ours still runs afterwards.
quickstart() {
  in_root './deploy/quickstart.sh && ! grep -H flexquant /proc/[0-9]*/comm'
}

mirror=${FLEXQUANT_DEBIAN_MIRROR:-$(main_mirror)}
if [[ -z $mirror ]]; then
  echo "this machine has no apt source for Debian 12; set FLEXQUANT_DEBIAN_MIRROR" >&2
  exit 2
fi

step "Debian 12 root" make_root
step "deploy/quickstart.sh, first run" quickstart
step "deploy/quickstart.sh, second run" quickstart
if ! $quick; then
  step "tests/run.sh" in_root './tests/run.sh'
fi
echo "bare root: passed at $(git -C "$source_dir" rev-parse --short HEAD)"
