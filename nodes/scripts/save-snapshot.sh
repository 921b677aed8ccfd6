#!/usr/bin/env bash
#
# Saves a snapshot of etcd on this server's disk, and holds it to its own checksum.
#
# etcd's state is read first, so the snapshot holds at least that revision. RKE2's word that it saved is not taken for it: the file it names must be
# there and whole. Never compressed: such a snapshot cannot be restored by its path (k3s-io/k3s issue 14526).
#
# Parameters  pool, snapshot (its id)
# Changes     /var/lib/drover/snapshots: the snapshot under its id, and <id>.state beside it; snapshots of other ids, which nobody sends any more, go
# Again       safe: a snapshot of this id that is there and whole, or was sent, is not taken again
# Exit        0 saved, 1 failed, 64 wrong input, 75 not yet (run again)

set -o errexit -o nounset -o pipefail
# shellcheck source=node.sh
source "${BASH_SOURCE[0]%/*}/node.sh"
# shellcheck source=cluster.sh
source "${BASH_SOURCE[0]%/*}/cluster.sh"
# shellcheck source=etcd.sh
source "${BASH_SOURCE[0]%/*}/etcd.sh"

# Ends with what the first run found, when its snapshot is still there and whole, or was sent.
finish_if_saved() {
  local at kept_sum=''
  if ! read_kept_fields "$snapshot_dir/$snapshot.state"; then return 0; fi
  if [[ -e $snapshot_dir/$snapshot.sent ]]; then
    log "snapshot $snapshot was saved and sent before"
    succeed "${kept_fields[@]}"
  fi
  if [[ ! -f $snapshot_dir/$snapshot ]]; then return 0; fi
  for ((at = 0; at < ${#kept_fields[@]}; at += 2)); do
    if [[ ${kept_fields[at]} == sha256 ]]; then kept_sum="${kept_fields[at + 1]//\"/}"; fi
  done
  inspect_snapshot "$snapshot_dir/$snapshot"
  if [[ -z $REPLY && $snapshot_sha256 == "$kept_sum" ]]; then
    log "snapshot $snapshot is there and whole"
    succeed "${kept_fields[@]}"
  fi
  log "snapshot $snapshot of an earlier run is not whole: ${REPLY:-its SHA-256 is another}"
}

# Whatever else lies there is of another id, or half of this one.
clear_leftovers() {
  local file
  install --directory --mode=0700 "$drover_dir" "$snapshot_dir"
  for file in "$snapshot_dir"/*; do
    if [[ -f $file ]]; then rm --force -- "$file"; fi
  done
}

check_room() {
  local -r needed=$((database_bytes + database_bytes / 10 + 536870912))
  free_bytes "$snapshot_dir"
  if ((REPLY < needed)); then
    fail DiskFull "/var/lib/drover has $((REPLY / 1048576)) MiB free, a snapshot of $((database_bytes / 1048576)) MiB and 512 MiB beside it need $((needed / 1048576)) MiB"
  fi
}

# Asks RKE2 to save; the file's path into REPLY. Its words go to stderr, its exit status alone proves nothing. Compression and S3 may be set in
# config.yaml and are not for this snapshot. The environment is RKE2's own: SSM's agent may have proxies in it.
save() {
  local -r rke2="$1"
  local limit output=''
  while :; do
    remaining
    limit=$((REPLY - 40))
    if ((limit < 5)); then fail NotReady "RKE2 on $node_name was busy with another snapshot for as long as this command could wait" "$output"; fi
    output="$(timeout --kill-after=10 "$((limit < 180 ? limit : 180))" env --ignore-environment HOME=/root PATH="$PATH" \
      "$rke2" etcd-snapshot save --name "$snapshot" --etcd-snapshot-dir "$snapshot_dir" --etcd-snapshot-compress=false --etcd-s3=false 2>&1)" || true
    if [[ $output =~ Snapshot\ ($snapshot-[A-Za-z0-9.-]+)\ saved ]]; then
      REPLY="$snapshot_dir/${BASH_REMATCH[1]}"
      return 0
    fi
    if [[ $output == *'already in progress'* ]]; then
      log "another snapshot is being saved"
      sleep 5
      continue
    fi
    if [[ $output == *'no space left on device'* ]]; then fail DiskFull "The disk of $node_name was full while the snapshot was saved" "$output"; fi
    fail ServiceFailed "RKE2 on $node_name did not say that it saved snapshot $snapshot" "$output"
  done
}

# SHA-256 of each part in which a large snapshot is sent into part_sums; none when one is enough.
read_part_sums() {
  local part sum
  local -r count=$(((snapshot_bytes + part_mebibytes * 1048576 - 1) / (part_mebibytes * 1048576)))
  part_sums=()
  if ((count < 2)); then return 0; fi
  if ((count > 10)); then fail SnapshotInvalid "The snapshot has $snapshot_bytes bytes, more than ten parts of $part_mebibytes MiB hold: etcd holds 8 GiB at most"; fi
  for ((part = 0; part < count; part++)); do
    sum="$(dd if="$1" bs=1M skip=$((part * part_mebibytes)) count="$part_mebibytes" status=none | sha256sum)"
    part_sums+=("${sum%% *}")
  done
}

# What RKE2 keeps with each snapshot to tell which token opens it (k3s source, ETCDSnapshotFile): of the password part alone, by stdin.
read_token_hash() {
  local token='' sum
  IFS= read -r token <"$server_dir/token" || true
  if [[ $token =~ ^K10[0-9a-f]{64}::[a-z]+:(.+)$ ]]; then token="${BASH_REMATCH[1]}"; fi
  if [[ -z $token ]]; then fail NotReady "The server token is not on the disk of $node_name yet"; fi
  sum="$(printf '%s' "$token" | sha256sum)"
  REPLY="${sum:0:12}"
}

read_cluster_id() {
  cluster_id="$(kube get namespace kube-system --output='jsonpath={.metadata.uid}' 2>/dev/null)" && [[ -n $cluster_id ]]
}

main() {
  local pool='' snapshot=''
  local rke2 file cluster_id='' token_hash
  begin save-snapshot 270
  parameter pool '^[a-z]([a-z0-9-]*[a-z0-9])?$' 30
  parameter snapshot '^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}$' 25
  lock_node 60
  identify "$pool"
  finish_if_saved
  if [[ ! -r $admin_config || ! -x $data_dir/bin/kubectl ]]; then fail NotReady "No server has started on $node_name yet: it has no kubeconfig"; fi
  rke2_binary || fail ForeignRke2 "RKE2 runs on $node_name from a place Drover did not install it to"
  rke2="$REPLY"
  wait_for 30 "etcd to answer" read_status || fail NotReady "etcd does not answer on $node_name"
  # RKE2 saves nothing on a learner, which may also lack what the others have.
  if [[ $learner == true ]]; then fail NotReady "The etcd member of $node_name is a learner. Take the snapshot on a server that votes"; fi
  wait_for 30 "the API to answer" read_cluster_id || fail NotReady "The API does not answer on $node_name"
  read_member_names || fail NotReady "The members of etcd cannot be read on $node_name"
  read_token_hash
  token_hash="$REPLY"
  clear_leftovers
  check_room
  wait_for 30 "etcd to tell its state" read_state 0 || fail NotReady "etcd on $node_name does not tell its state"

  save "$rke2"
  file="$REPLY"
  changed=true
  if [[ ! -f $file ]]; then fail SnapshotInvalid "RKE2 on $node_name says that it saved ${file##*/}, but there is no such file"; fi
  inspect_snapshot "$file"
  if [[ -n $REPLY ]]; then
    rm --force -- "$file"
    fail SnapshotInvalid "The snapshot that RKE2 on $node_name saved is not whole: $REPLY. Take another"
  fi
  read_part_sums "$file"

  version_of "$rke2"
  json_string "$REPLY"
  local -a fields=(version "$REPLY" bytes "$snapshot_bytes" sha256 "\"$snapshot_sha256\"" revision "$revision" keys "$keys" hash "$hash")
  json_list "${part_sums[@]}"
  fields+=(parts "$REPLY" compactRevision "$compact_revision" tokenHash "\"$token_hash\"")
  json_list "${member_names[@]}"
  fields+=(members "$REPLY")
  json_string "$leader_name"
  fields+=(leader "$REPLY")
  json_string "$cluster_id"
  fields+=(clusterId "$REPLY")
  # The state first: a snapshot under its id is one whose state is known.
  keep_fields "$snapshot_dir/$snapshot.state" "${fields[@]}"
  mv --force -- "$file" "$snapshot_dir/$snapshot"
  log "saved $snapshot: $snapshot_bytes bytes at revision $revision or later"
  succeed "${fields[@]}"
}

main "$@"
