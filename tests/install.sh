#!/usr/bin/env bash
# Installs what the tests and the benches need, on Debian. Quick and silent when everything is there.
set -euo pipefail
cd "$(dirname "$0")/.."

# Building: gcc, libc6-dev for the static glibc, xz-utils for the profile. Real peers: PostgreSQL, nginx (with its stream
# module), HAProxy, curl, nghttp2, Node, Python, Chromium for the pages,
# promtool for the alert rules. Namespaces, addresses and processes: util-linux, iproute2, procps, coreutils. strace makes
# system calls fail.
packages=(
  gcc libc6-dev xz-utils
  postgresql postgresql-client nginx libnginx-mod-stream haproxy curl
  nghttp2-client nghttp2-server nghttp2-proxy nodejs python3 python3-venv chromium prometheus
  util-linux mount iproute2 procps coreutils strace
)

# What a package is wanted for. Where the command is there, however it came, the package is not missed.
declare -A commands=(
  [gcc]=gcc [xz-utils]=xz [postgresql-client]=psql [nginx]=nginx [haproxy]=haproxy [curl]=curl
  [nghttp2-client]=h2load [nghttp2-server]=nghttpd [nghttp2-proxy]=nghttpx [nodejs]=node [chromium]=chromium [prometheus]=promtool
  [python3]=python3 [util-linux]=unshare [mount]=mount [iproute2]=ip [procps]=ps [coreutils]=chroot [strace]=strace
)

PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
missing=()
for package in "${packages[@]}"; do
  command="${commands[$package]:-}"
  if [ -n "$command" ] && command -v "$command" >/dev/null; then
    continue
  fi
  if ! dpkg-query --show --showformat='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed; then
    missing+=("$package")
  fi
done

if [ "${#missing[@]}" -gt 0 ]; then
  echo "installing for the tests: ${missing[*]}"
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo)
  fi
  # No cluster beside those that the tests make.
  "${as_root[@]}" mkdir -p /etc/postgresql-common
  if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
    echo 'create_main_cluster = false' | "${as_root[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
  fi
  "${as_root[@]}" apt-get update -qq </dev/null
  # Runlevel 1: what is installed is not started, the tests start their own.
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null
fi

# Python's peers, and the proxies that PyPI has, in an environment of their own: Debian's Python takes no
# packages beside its own.
python="${CARGO_TARGET_DIR:-target}/python"
requirements="$(cat tests/requirements.txt benches/compare/requirements.txt)"
if [ "$requirements" != "$(cat "$python/installed.txt" 2>/dev/null)" ]; then
  echo "installing for the tests: $(grep -v '^#' <<<"$requirements" | xargs)"
  python3 -m venv "$python"
  "$python/bin/python3" -m pip install --quiet --requirement /dev/stdin <<<"$requirements"
  echo "$requirements" >"$python/installed.txt"
fi
