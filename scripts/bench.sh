#!/usr/bin/env bash
# Runs one benchmark by name: scripts/bench_NAME.py or scripts/bench_NAME.sh, on the optimised program.
#
#   scripts/bench.sh ingest [ARGUMENT...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

name="${1:?which benchmark: ingest, failover or placement}"
shift
for script in "scripts/bench_$name.py" "scripts/bench_$name.sh"; do
  [ -e "$script" ] || continue
  cargo build --locked --release --bin converthouse
  export CONVERTHOUSE_BINARY="$PWD/target/release/converthouse"
  case "$script" in
  *.py) exec python3 "$script" "$@" ;;
  *) exec bash "$script" "$@" ;;
  esac
done
echo "bench: there is no benchmark '$name' (no scripts/bench_$name.py or .sh)" >&2
exit 2
