#!/usr/bin/env bash
# Prints the folder in which servers that are started for a demo or a test keep their data.
#
# In memory where there is room, for time's sake: a ClickHouse server makes and removes files by the hundred a second,
# and on ext4 without a journal, as small virtual machines have it, looking for a free inode among those just removed
# took half of all processor time (a node's joining took 28 s in memory and 46 to 167 s on such a disk). Nothing that
# is shown or tested needs a disk: what a killed process has written stays either way. Whoever sets TMPDIR chooses.
set -euo pipefail

memory=/dev/shm
# Far more than the largest test keeps.
room_kib=$((6 * 1024 * 1024))

in_memory() {
  [ "$(stat -f -c %T "$memory" 2>/dev/null)" = tmpfs ] && [ -w "$memory" ] || return 1
  local free available
  free="$(df -k --output=avail "$memory" | tail -n 1)"
  available="$(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo)"
  [ "$free" -ge "$room_kib" ] && [ "$available" -ge "$room_kib" ]
}

if [ -n "${TMPDIR:-}" ]; then
  echo "$TMPDIR"
elif in_memory; then
  echo "$memory"
else
  echo /tmp
fi
