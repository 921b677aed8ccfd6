#!/bin/sh
# A stand-in for RKE2, for tests: see local/nodes/release/README.md in Drover. What follows the last line of this script is a tar archive with its program.
RKE2_STAND_IN_VERSION='@VERSION@'
RKE2_STAND_IN_COMMIT='@COMMIT@'
RKE2_STAND_IN_DIRECTORY='@TAG@'
case "${1:-}" in
  --version | -v)
    echo "rke2 version $RKE2_STAND_IN_VERSION ($RKE2_STAND_IN_COMMIT)"
    exit 0
    ;;
esac
export RKE2_STAND_IN_VERSION RKE2_STAND_IN_COMMIT RKE2_STAND_IN_DIRECTORY
directory="${RKE2_STAND_IN_ROOT:-}${RKE2_DATA_DIR:-/var/lib/rancher/rke2}/data/$RKE2_STAND_IN_DIRECTORY"
if [ ! -x "$directory/lib/node" ]; then
  # Unpacked beside its place and moved: whoever starts at the same time finds all of it or nothing.
  unpacked="$directory.$$"
  (umask 022 && mkdir -p "$unpacked") || exit 1
  line="$(awk '/^exec / { print NR + 1; exit }' "$0")"
  tail -n "+$line" "$0" | tar -xz -C "$unpacked" || { rm -rf "$unpacked"; echo "rke2: its program cannot be unpacked: is the disk full?" >&2; exit 1; }
  mkdir -p "$directory"
  mv -T "$unpacked/lib" "$directory/lib" 2>/dev/null || [ -x "$directory/lib/node" ] || exit 1
  rm -rf "$unpacked"
fi
exec "$directory/lib/node" "$directory/lib/rke2.cjs" "$@"
