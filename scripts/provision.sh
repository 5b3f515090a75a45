#!/usr/bin/env bash
# Puts the pinned outside parts on this machine: what the build needs, and the real servers of the tests.
#
#   scripts/provision.sh [PART...]      parts: rust build clickhouse etcd prometheus network kafka chdb; none = all.
#                                       `server` is any ClickHouse: by CLICKHOUSE_BINARY, on the PATH, or `clickhouse`
#   scripts/provision.sh --clean        removes the folders below (packages of the system stay)
#
# Idempotent, and quick when there is nothing to do. Debian packages come through apt (as root, or by sudo).
# Everything else is kept once a machine, in ${XDG_CACHE_HOME:-~/.cache}/converthouse/<part>-<pins>, and shown
# to one clone by links in .provision/ (or the folder that CONVERTHOUSE_PROVISION_DIR names):
#   .provision/kafka/    every jar of the broker, and log4j2.xml
#   .provision/venv/     Python with chdb-core: the current ClickHouse engine, in process
# It starts no server, and leaves none running that a package would start.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly ROOT
readonly LINKS="${CONVERTHOUSE_PROVISION_DIR:-$ROOT/.provision}"
readonly CACHE="${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/converthouse"

# The pins. Debian 12 pins its own packages; the versions that we expect of them are checked after installing.
readonly BUILD_PACKAGES=(build-essential pkg-config cmake libssl-dev zlib1g-dev libclang-dev
  protobuf-compiler libprotobuf-dev)
readonly CLICKHOUSE_PACKAGES=(clickhouse-server clickhouse-client)
readonly CLICKHOUSE_EXPECTED="18.16.1"
readonly ETCD_PACKAGES=(etcd-server etcd-client)
readonly PROMETHEUS_PACKAGES=(prometheus)
readonly NETWORK_PACKAGES=(iproute2) # the proof cuts a node off by a network namespace
readonly MAVEN_DEPENDENCY_PLUGIN="3.8.1"
readonly CHDB_PINS=(chdb-core==26.9.0) # without its pandas and pyarrow: nothing here asks for data frames
readonly JAVA_PACKAGE="openjdk-17-jre-headless"
readonly MAVEN_PACKAGE="maven"
readonly ALL_PARTS=(rust build clickhouse etcd prometheus network kafka chdb)

say() { printf 'provision: %-10s %s\n' "$1" "$2"; }

die() { # what went wrong, then what to do about it
  printf 'provision: error: %s\n' "$1" >&2
  shift
  if [ "$#" -gt 0 ]; then printf '  remedy: %s\n' "$@" >&2; fi
  exit 1
}

# Runs a command up to three times, quietly; its last output is shown if it never succeeds.
retry() {
  local log attempt
  log="$(mktemp)"
  for attempt in 1 2 3; do
    if "$@" >"$log" 2>&1 </dev/null; then
      rm -f "$log"
      return 0
    fi
    [ "$attempt" = 3 ] || sleep $((attempt * 5))
  done
  printf 'provision: failed three times: %s\n' "$*" >&2
  tail -n 25 "$log" >&2
  rm -f "$log"
  return 1
}

# --- Debian packages ----------------------------------------

missing_packages() {
  local package
  for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null)" = "ii " ] || printf '%s ' "$package"
  done
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  else
    sudo -n "$@"
  fi
}

apt() {
  retry as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"
}

# A package's server must not be started by installing it. Where the machine has no policy of its own, one that
# says no stands for the time of the installation.
forbid_service_starts() {
  policy_is_ours=no
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee /usr/sbin/policy-rc.d >/dev/null
    as_root chmod 755 /usr/sbin/policy-rc.d
    policy_is_ours=yes
    trap allow_service_starts EXIT
  fi
}

allow_service_starts() {
  if [ "$policy_is_ours" = yes ]; then
    as_root rm -f /usr/sbin/policy-rc.d
    policy_is_ours=no
  fi
}

# Units that this script installed are not to start with the machine either.
disable_units() {
  local unit
  command -v systemctl >/dev/null || return 0
  for unit in "$@"; do
    as_root systemctl disable "$unit" >/dev/null 2>&1 || true
  done
}

install_packages() { # part, then packages
  local part="$1" missing
  shift
  missing="$(missing_packages "$@")"
  missing="${missing% }"
  if [ -z "$missing" ]; then
    say "$part" "ready"
    return 1
  fi
  command -v apt-get >/dev/null ||
    die "$part needs the Debian packages: $missing" "this machine has no apt-get: install what they hold by hand"
  if [ "$(id -u)" != 0 ] && ! sudo -n true 2>/dev/null; then
    die "$part needs the Debian packages: $missing" "as root: apt-get install --no-install-recommends $missing"
  fi
  say "$part" "installing $missing"
  forbid_service_starts
  # shellcheck disable=SC2086  # a list of package names
  if ! apt-get install --no-install-recommends --dry-run $missing >/dev/null 2>&1; then
    apt update || die "the package lists cannot be fetched" "check the machine's network and apt sources"
  fi
  # A list may be older than the archive: fetch it again once before giving up.
  # shellcheck disable=SC2086
  apt install -y --no-install-recommends $missing ||
    { apt update && apt install -y --no-install-recommends $missing; } ||
    die "apt-get could not install: $missing" "run scripts/provision.sh $part again; see the output above"
  allow_service_starts
  say "$part" "installed"
}

part_build() {
  install_packages build "${BUILD_PACKAGES[@]}" || true
}

# What the demo needs: the server that CLICKHOUSE_BINARY names, else the one on the PATH (in the order in which the
# program looks for it), else Debian's. The tests insist on the last, see part_clickhouse.
part_server() {
  local found
  if [ -z "${CLICKHOUSE_BINARY:-}" ]; then
    if found="$(command -v clickhouse-server || command -v clickhouse)"; then
      say server "ready ($found, on the PATH)"
      return
    fi
  fi
  part_clickhouse
}

part_clickhouse() {
  local found
  if [ -n "${CLICKHOUSE_BINARY:-}" ]; then
    # As a program, or as it is typed in a shell: `clickhouse server`.
    command -v "$CLICKHOUSE_BINARY" >/dev/null || command -v "${CLICKHOUSE_BINARY% server}" >/dev/null ||
      die "CLICKHOUSE_BINARY names $CLICKHOUSE_BINARY, which is no program" "correct the variable or unset it"
    say clickhouse "ready ($CLICKHOUSE_BINARY, by CLICKHOUSE_BINARY)"
    return
  fi
  if install_packages clickhouse "${CLICKHOUSE_PACKAGES[@]}"; then disable_units clickhouse-server; fi
  found="$(dpkg-query -W -f '${Version}' clickhouse-server)"
  case "$found" in
  "$CLICKHOUSE_EXPECTED"*) ;;
  *) say clickhouse "note: Debian has $found; the project is tested with $CLICKHOUSE_EXPECTED" ;;
  esac
}

part_etcd() {
  if install_packages etcd "${ETCD_PACKAGES[@]}"; then disable_units etcd; fi
}

part_prometheus() {
  if install_packages prometheus "${PROMETHEUS_PACKAGES[@]}"; then disable_units prometheus; fi
}

part_network() {
  install_packages network "${NETWORK_PACKAGES[@]}" || true
}

# --- What does not come from Debian ----------------------------------------

part_rust() {
  command -v cargo >/dev/null ||
    die "cargo is not on the PATH" "install Rust $(rust_version) or newer, see https://rustup.rs"
  local component
  for component in fmt clippy; do
    cargo "$component" --version >/dev/null 2>&1 && continue
    command -v rustup >/dev/null ||
      die "cargo $component is missing" "install rustfmt and clippy for this toolchain"
    retry rustup component add rustfmt clippy || die "rustup could not add rustfmt and clippy"
  done
  say rust "ready ($(cargo --version | cut -d' ' -f2))"
}

rust_version() { sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml"; }

# Where a part of these pins lives: part, then everything that its content follows from.
pinned_folder() {
  local part="$1"
  shift
  printf '%s/%s-%s' "$CACHE" "$part" "$(printf '%s\n' "$@" | sha256sum | cut -c1-12)"
}

link() { # folder, name in .provision
  mkdir -p "$LINKS"
  if [ -e "$LINKS/$2" ] && [ ! -L "$LINKS/$2" ]; then
    die "$LINKS/$2 is in the way: it is not a link that this script made" "move it away"
  fi
  ln -sfn "$1" "$LINKS/$2"
}

needs_program() { # part, program, the package that has it
  command -v "$2" >/dev/null || install_packages "$1" "$3" || true
  command -v "$2" >/dev/null || die "$2 is not on the PATH" "install it, such as apt-get install $3"
}

part_kafka() {
  local folder
  needs_program kafka java "$JAVA_PACKAGE"
  folder="$(pinned_folder kafka "$MAVEN_DEPENDENCY_PLUGIN" "$(cat "$ROOT"/scripts/kafka/*)")"
  if [ ! -e "$folder/.done" ]; then
    needs_program kafka mvn "$MAVEN_PACKAGE"
    say kafka "fetching the broker's jars"
    rm -rf "$folder"
    mkdir -p "$folder"
    retry mvn -B -q -Dstyle.color=never -f "$ROOT/scripts/kafka/pom.xml" \
      "org.apache.maven.plugins:maven-dependency-plugin:$MAVEN_DEPENDENCY_PLUGIN:copy-dependencies" \
      -DincludeScope=runtime "-DoutputDirectory=$folder" ||
      die "Maven could not fetch the broker" "check that this machine reaches Maven Central, then run this again"
    cp "$ROOT/scripts/kafka/log4j2.xml" "$folder/"
    touch "$folder/.done"
  fi
  link "$folder" kafka
  say kafka "ready ($(basename "$folder"/kafka_2.13-*.jar .jar))"
}

part_chdb() {
  local folder python
  python="$(command -v python3)" || die "python3 is not on the PATH" "install Python 3.9 or newer"
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    install_packages chdb python3-venv || true
  fi
  folder="$(pinned_folder chdb "${CHDB_PINS[@]}" "$("$python" -c 'import sys; print(sys.prefix, sys.version)')")"
  if [ ! -e "$folder/.done" ] || ! "$folder/bin/python" -c 'import chdb' 2>/dev/null; then
    say chdb "installing ${CHDB_PINS[*]}"
    rm -rf "$folder"
    mkdir -p "$CACHE"
    "$python" -m venv "$folder" || die "python3 -m venv failed" "install python3-venv"
    retry "$folder/bin/python" -m pip install --quiet --no-deps "${CHDB_PINS[@]}" ||
      die "pip could not install ${CHDB_PINS[*]}" "check that this machine reaches PyPI, then run this again"
    retry "$folder/bin/python" -c 'from chdb.session import Session' ||
      die "chdb-core does not start on this machine"
    touch "$folder/.done"
  fi
  link "$folder" venv
  say chdb "ready (${CHDB_PINS[*]})"
}

clean() {
  local entry
  for entry in kafka venv; do
    if [ -L "$LINKS/$entry" ]; then rm "$LINKS/$entry"; fi
  done
  rm -rf "$CACHE"
  say clean "removed $CACHE and the links in $LINKS"
}

main() {
  local part
  local -a parts=("$@")
  if [ "${1:-}" = --clean ]; then
    clean
    return
  fi
  [ "$#" -gt 0 ] || parts=("${ALL_PARTS[@]}")
  for part in "${parts[@]}"; do
    declare -F "part_$part" >/dev/null || die "there is no part '$part'" "parts: ${ALL_PARTS[*]}"
  done
  # Several clones may provision at once; one does it, the others find it done.
  mkdir -p "$CACHE" 2>/dev/null || die "$CACHE cannot be made" "set XDG_CACHE_HOME to a folder that you may write"
  exec 9>"$CACHE/lock"
  flock -w 900 9 || die "another provision.sh has held $CACHE/lock for 15 minutes" "end it, then run this again"
  for part in "${parts[@]}"; do
    "part_$part"
  done
}

main "$@"
