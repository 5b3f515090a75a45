#!/usr/bin/env bash
# Whether differently optimised builds play the same: the digest over every call of every port of some random worlds.
#
#   scripts/compare_builds.sh [SEEDS] [release]
#
# Compares the build for development with the one that `make test` sweeps with, and with the released one if asked.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seeds="${1:-10}"
digest='import json, sys; print(json.load(sys.stdin)["digest"])'
played() { "$1" sim sweep --seeds "$seeds" --json | python3 -c "$digest"; }

# By the same commands as the tests, whose builds these are: nothing is compiled here after them.
cargo test --locked --no-run --test cli
plain="$(played target/debug/converthouse)"
CARGO_PROFILE_DEV_OPT_LEVEL=1 cargo test --locked --no-run --test simulation
optimised="$(played target/debug/converthouse)"
echo "$seeds seeds: $plain not optimised, $optimised optimised"
[ "$plain" = "$optimised" ] || { echo "compare_builds: a run depends on how the program was built" >&2; exit 1; }
if [ "${2:-}" = release ]; then
  cargo build --locked --release --bin converthouse
  released="$(played target/release/converthouse)"
  echo "$seeds seeds: $released released"
  [ "$plain" = "$released" ] || { echo "compare_builds: a released program plays otherwise" >&2; exit 1; }
fi
