#!/usr/bin/env bash
#
# Sends a saved snapshot by presigned addresses, each of which can create one object and do nothing else, and removes it from the disk.
#
# Parameters  pool, snapshot (its id), delivery
# Delivery    upload addresses: `snapshot`, or `part-1`, `part-2` and so on, each for 1,024 MiB of it
# Changes     /var/lib/drover/snapshots: the snapshot goes, <id>.sent comes
# Again       safe: what is there already (412) counts as sent; a snapshot that was sent is not sent again
# Exit        0 sent, 1 failed, 64 wrong input, 75 not yet (run again)

set -o errexit -o nounset -o pipefail
# shellcheck source=node.sh
source "${BASH_SOURCE[0]%/*}/node.sh"
# shellcheck source=etcd.sh
source "${BASH_SOURCE[0]%/*}/etcd.sh"

main() {
  local pool='' snapshot='' delivery=''
  local bytes part parts
  begin upload-snapshot 810
  parameter pool '^[a-z]([a-z0-9-]*[a-z0-9])?$' 30
  parameter snapshot '^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}$' 25
  parameter delivery '^https://[A-Za-z0-9._~:/?&=%+-]+$' 3508
  lock_node 60
  identify "$pool"
  local -r file="$snapshot_dir/$snapshot"
  if read_kept_fields "$file.sent"; then
    rm --force -- "$file"
    log "snapshot $snapshot was sent before"
    succeed "${kept_fields[@]}"
  fi
  if [[ ! -f $file ]]; then fail SnapshotInvalid "Snapshot $snapshot is not on the disk of $node_name. Save it first, on this server"; fi
  bytes="$(stat --format=%s "$file")"
  if ((bytes == 0)); then fail SnapshotInvalid "Snapshot $snapshot on the disk of $node_name is empty. Take another"; fi

  fetch_delivery "$delivery"
  # A store that is busy may be so for minutes; this command's own end is the limit.
  upload_attempts=60
  parts=0
  if has_address snapshot; then
    upload snapshot "$file" || fail UploadFailed "Snapshot $snapshot cannot be uploaded: $reason"
  else
    parts=$(((bytes + part_mebibytes * 1048576 - 1) / (part_mebibytes * 1048576)))
    for ((part = 1; part <= parts; part++)); do
      if ! has_address "part-$part"; then fail ConfigInvalid "The delivery has no address for part $part of $parts of snapshot $snapshot"; fi
    done
    for ((part = 1; part <= parts; part++)); do
      upload "part-$part" "$file" "$part" "$part_mebibytes" || fail UploadFailed "Part $part of $parts of snapshot $snapshot cannot be uploaded: $reason"
    done
  fi
  changed=true
  local -ra fields=(bytes "$bytes" uploads "$((parts == 0 ? 1 : parts))")
  keep_fields "$file.sent" "${fields[@]}"
  rm --force -- "$file"
  log "sent $snapshot: $bytes bytes"
  succeed "${fields[@]}"
}

main "$@"
