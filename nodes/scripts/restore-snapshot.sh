#!/usr/bin/env bash
#
# Makes this server the one member of its cluster again: from a snapshot, or from the data on its own disk when nothing but the majority is lost.
#
# All that can be known beforehand is verified before anything is stopped or changed. RKE2's reset is judged by what it says alone: it ends with
# status 0 after failures too. It is done once for a restore: its log, or the note after it, tells a second run to go on from there.
#
# Parameters  mode, pool, restore (its id), delivery, endpoint, revision
# Delivery    the token files as they were when the snapshot was taken; with mode snapshot the snapshot, its SHA-256 known; an upload address
#             `kubeconfig` where RKE2's own kubeconfig is wanted
# Changes     stops rke2-server with its containers; local snapshots go to /var/lib/drover/kept-snapshots; etcd's data of before stay beside the new as
#             db/etcd-old-<restore>; the token files, 20-drover-join.yaml; enables and starts rke2-server; notes in /var/lib/drover/restores/<restore>
# Again       safe: a reset that succeeded is not repeated
# Exit        0 ready and voting, 1 failed, 64 wrong input, 75 not yet (run again)
#
# The result's state is that of the revision asked for, or of etcd's newest where that is compacted or was never there: its `revision` tells which.

set -o errexit -o nounset -o pipefail
# shellcheck source=node.sh
source "${BASH_SOURCE[0]%/*}/node.sh"
# shellcheck source=service.sh
source "${BASH_SOURCE[0]%/*}/service.sh"
# shellcheck source=cluster.sh
source "${BASH_SOURCE[0]%/*}/cluster.sh"
# shellcheck source=server.sh
source "${BASH_SOURCE[0]%/*}/server.sh"
# shellcheck source=etcd.sh
source "${BASH_SOURCE[0]%/*}/etcd.sh"

# In RKE2's log of a reset: text | failure code | what it means. The first that is found tells.
readonly reset_texts=(
  'encrypted with different token|TokenRejected|The token is not the one in force when the snapshot was taken'
  'no bootstrap data found in datastore|TokenRejected|The snapshot holds nothing that this server token opens'
  'failed to normalize server token|TokenRejected|The token is not of the form RKE2 takes for servers'
  'please pass --token to complete the restoration|TokenRejected|RKE2 was given no token'
  'no space left on device|DiskFull|The disk is full'
  'invalid kernel parameter value|KernelParameter|A kernel parameter is not as profile cis demands'
  'while server URL is set|ConfigInvalid|The configuration still names a server'
  'missing hash but --skip-hash-check|SnapshotInvalid|The snapshot has no checksum at its end'
  'expected sha256|SnapshotInvalid|The snapshot does not match its checksum'
)
# What a leftover container of before causes: rke2-killall.sh and a second try help (rancher/rke2 issues 1898 and 3387).
readonly leftover_texts=('static pod cleanup timed out' 'bind: address already in use')
readonly success_text='Managed etcd cluster membership has been reset'

# The file that was fetched for a target into REPLY; no when the delivery has none.
fetched() {
  local at
  for at in "${!get_targets[@]}"; do
    REPLY="$work_dir/get-$at"
    if [[ ${get_targets[at]} == "$1" ]]; then return 0; fi
  done
  return 1
}

# The delivered token, before it takes the place of the one a running server may need. A full one also names the CA that the snapshot must bring.
check_delivered_token() {
  local token=''
  expected_ca=''
  fetched /etc/rancher/rke2/drover-agent-token || fail ConfigInvalid "The delivery brought no /etc/rancher/rke2/drover-agent-token"
  fetched /etc/rancher/rke2/drover-token || fail ConfigInvalid "The delivery brought no /etc/rancher/rke2/drover-token"
  IFS= read -r token <"$REPLY" || true
  if [[ -z $token ]]; then fail ConfigInvalid "The delivered server token is empty"; fi
  if [[ $token =~ ^K10([0-9a-f]{64})::server:.+$ ]]; then
    expected_ca="${BASH_REMATCH[1]}"
  elif [[ $token == K10* ]]; then
    fail ConfigInvalid "The delivered server token is neither a password nor of the full form for servers"
  fi
}

check_own_ca() {
  if [[ -n $expected_ca ]] && read_ca_hash && [[ $REPLY != "$expected_ca" ]]; then
    fail AlreadyMember "The disk of $node_name holds the CA $REPLY, the cluster to restore has $expected_ca: it belongs to another cluster. Replace the node"
  fi
}

# Room beside a snapshot of so many bytes for so many copies of it: the file, the database made of it, and what etcd writes next to that.
check_room() {
  local -r needed=$(($1 * $2 + 536870912))
  free_bytes "$data_dir"
  if ((REPLY < needed)); then
    fail DiskFull "/var/lib/rancher has $((REPLY / 1048576)) MiB free, $((needed / 1048576)) MiB are needed: $2 times the $(($1 / 1048576)) MiB of etcd's data and 512 MiB. Nothing was changed"
  fi
}

# Fetches the snapshot and verifies it, once against the manifest's hash and once against its own. Its path into snapshot_file.
fetch_snapshot() {
  local at found='' sum attempt
  for at in "${!get_targets[@]}"; do
    if [[ ${get_targets[at]} == /var/lib/drover/snapshots/* ]]; then found="$at"; fi
  done
  if [[ -z $found ]]; then fail ConfigInvalid "The delivery brought no snapshot to restore"; fi
  sum="${get_sums[found]}"
  if [[ $sum == - ]]; then fail ConfigInvalid "The delivery does not tell the snapshot's SHA-256"; fi
  snapshot_file="$root${get_targets[found]}"
  install --directory --mode=0700 "$drover_dir" "$snapshot_dir"
  if [[ -f $snapshot_file ]] && sha256_of "$snapshot_file" && [[ $REPLY == "$sum" ]]; then
    log "the snapshot is fetched already"
    if [[ ! -e $old_data ]]; then check_room "$(stat --format=%s "$snapshot_file")" 2; fi
  else
    remote_size "${get_urls[found]}"
    check_room "$REPLY" 3
    # What is here of it may be of another one: then it is fetched afresh, once.
    for attempt in 1 2; do
      if ((attempt == 2)) || [[ ! -s $snapshot_file.part ]]; then rm --force -- "$snapshot_file.part"; fi
      download "the snapshot" "${get_urls[found]}" "$snapshot_file.part" || fail DownloadFailed "The snapshot cannot be fetched: $reason. Nothing was changed"
      sha256_of "$snapshot_file.part"
      if [[ $REPLY == "$sum" ]]; then break; fi
      log "the snapshot arrived with another SHA-256, attempt $attempt"
    done
    if [[ $REPLY != "$sum" ]]; then
      rm --force -- "$snapshot_file.part"
      fail ChecksumMismatch "The snapshot arrived with SHA-256 $REPLY, expected $sum. Nothing was changed"
    fi
    mv --force -- "$snapshot_file.part" "$snapshot_file"
    log "fetched the snapshot"
  fi
  inspect_snapshot "$snapshot_file"
  if [[ -n $REPLY ]]; then fail SnapshotInvalid "The snapshot cannot be restored: $REPLY. Nothing was changed"; fi
}

# A survivor keeps a copy of its data until a person removes it: its disk is the last that has them.
check_survivor() {
  local size
  if [[ ! -d $wal_dir ]]; then fail RestoreFailed "$node_name holds no etcd data, so the cluster cannot go on from it. Restore a snapshot"; fi
  if [[ -e $old_data ]]; then return 0; fi
  size="$(du --summarize --bytes "$server_dir/db/etcd")"
  check_room "${size%%[^0-9]*}" 2
}

# Everything but the last step, the rename, may be interrupted and done again: etcd-old-<restore> is there when the data of before are safe.
set_old_data_aside() {
  if [[ $mode == survivor ]]; then
    if [[ -e $old_data ]]; then return 0; fi
    rm --recursive --force -- "$old_data.copying"
    cp --archive --reflink=auto -- "$server_dir/db/etcd" "$old_data.copying" || fail DiskFull "The data of $node_name cannot be copied beside themselves"
    mv -- "$old_data.copying" "$old_data"
  elif [[ -e $old_data ]]; then
    rm --recursive --force -- "$server_dir/db/etcd" # half of an earlier run
  elif [[ -d $server_dir/db/etcd ]]; then
    # Out of RKE2's way: it would read them with the token of the snapshot, and corrupt data stop its restore (rancher/rke2 issue 3719).
    mv -- "$server_dir/db/etcd" "$old_data"
  else
    install --directory --mode=0700 "$old_data"
  fi
  log "the data of before are in ${old_data#"$root"}"
}

was_reset() {
  [[ -e $restore_dir/reset ]] && return 0
  [[ -r $reset_log ]] || return 1
  local -r text="$(<"$reset_log")"
  [[ $text == *"$success_text"* ]]
}

# Runs RKE2's reset until it ends. The environment is RKE2's own, and the umask the usual: etcd may run as another user (rancher/rke2 issue 6466).
run_reset() {
  local limit status=0
  remaining
  limit=$((REPLY - 600))
  if ((limit < 60)); then limit=60; fi
  (umask 022 && exec timeout --kill-after=30 "$((limit < 1800 ? limit : 1800))" env --ignore-environment HOME=/root PATH="$PATH" \
    "$binary" server --cluster-reset "$@" --etcd-s3=false) >"$reset_log" 2>&1 || status=$?
  log "RKE2's reset ended with status $status"
  reset_status="$status"
}

# Resets, and says why not when the log lacks the text that alone means success.
reset_cluster() {
  local -a arguments=()
  local text entry code meaning attempt again
  if [[ $mode == snapshot ]]; then arguments=("--cluster-reset-restore-path=$snapshot_file"); fi
  for attempt in 1 2; do
    rm --force -- "$server_dir/db/reset-flag" # of an earlier reset, which forbids another without a snapshot
    run_reset "${arguments[@]}"
    if was_reset; then return 0; fi
    text="$(<"$reset_log")"
    again=false
    for entry in "${leftover_texts[@]}"; do
      if [[ $text == *"$entry"* ]]; then again=true; fi
    done
    if [[ $again == false || $attempt == 2 ]]; then break; fi
    log "containers of before are in the way: ending them and trying once more"
    run_killall
    set_old_data_aside
  done
  for entry in "${reset_texts[@]}"; do
    IFS='|' read -r text code meaning <<<"$entry"
    if [[ $(<"$reset_log") == *"$text"* ]]; then fail "$code" "$meaning. The data of before are in ${old_data#"$root"} on $node_name" "$(<"$reset_log")"; fi
  done
  if ((reset_status == 124 || reset_status == 137)); then
    fail RestoreFailed "RKE2 did not end its reset on $node_name in time. The data of before are in ${old_data#"$root"}" "$(<"$reset_log")"
  fi
  fail RestoreFailed "RKE2 ended with status $reset_status and did not say that it reset the cluster. The data of before are in ${old_data#"$root"} on $node_name" "$(<"$reset_log")"
}

prepare_and_reset() {
  check_delivered_token
  check_own_ca
  check_configuration
  if [[ $mode == snapshot ]]; then fetch_snapshot; else check_survivor; fi

  place_configuration
  place_node_file
  stop_server
  keep_local_snapshots "$restore"
  # RKE2 resets nothing while a server to join is named. The service is disabled, so no boot starts it without one.
  if [[ -e $join_file ]]; then
    rm --force -- "$join_file"
    changed=true
  fi
  check_configuration
  set_old_data_aside
  reset_cluster
  if [[ -n $expected_ca ]] && read_ca_hash && [[ $REPLY != "$expected_ca" ]]; then
    fail RestoreFailed "The snapshot brought the CA $REPLY, expected $expected_ca: it is of another cluster. rke2-server on $node_name was not started"
  fi
}

# The state soon after the start: etcd forgets old revisions within minutes.
restored_is_ready() {
  if ! read_kept_fields "$restore_dir/state" && read_state "$asked_revision"; then
    keep_fields "$restore_dir/state" revision "$revision" keys "$keys" hash "$hash" compactRevision "$compact_revision" newestRevision "$newest_revision"
  fi
  restored_server_is_ready
}

# Names of the servers that the restored cluster knows: those of before are to be removed.
read_server_nodes() {
  local list name
  server_nodes=()
  list="$(kube get nodes --selector=node-role.kubernetes.io/etcd=true --output='jsonpath={range .items[*]}{.metadata.name}{"\n"}{end}' 2>/dev/null)" || return 1
  while IFS= read -r name; do
    if [[ -n $name && ${#server_nodes[@]} -lt 20 ]]; then server_nodes+=("$name"); fi
  done <<<"$list"
}

read_cluster_id() {
  cluster_id="$(kube get namespace kube-system --output='jsonpath={.metadata.uid}' 2>/dev/null)" && [[ -n $cluster_id ]]
}

main() {
  local mode='' pool='' restore='' delivery='' endpoint='' revision=''
  local expected_ca='' snapshot_file='' cluster_id='' reset_status=0 binary
  begin restore-snapshot 2640
  parameter mode '^(snapshot|survivor)$' 8
  parameter pool '^[a-z]([a-z0-9-]*[a-z0-9])?$' 30
  parameter restore '^[a-z0-9][a-z0-9-]*$' 80
  parameter delivery '^https://[A-Za-z0-9._~:/?&=%+-]+$' 3508
  parameter endpoint '^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$' 253
  parameter revision '^[0-9]+$' 18
  unit=rke2-server
  joins=false
  local -r restore_dir="$drover_dir/restores/$restore" old_data="$server_dir/db/etcd-old-$restore" asked_revision="$((10#$revision))"
  local -r reset_log="$restore_dir/reset.log"
  lock_node 60
  identify "$pool"
  check_other_role rke2-agent
  if [[ -e $restore_dir/removed ]]; then
    fail SplitBrain "$node_name has rejoined the cluster that restore $restore made on another server. A second reset would make a second cluster"
  fi
  rke2_binary || fail ConfigInvalid "RKE2 is not installed on $node_name. Run prepare-node first"
  binary="$REPLY"
  fetch_delivery "$delivery"
  fetch_configuration
  install --directory --mode=0700 "$drover_dir" "$drover_dir/restores" "$restore_dir"
  if was_reset; then
    log "the cluster was reset by an earlier run of this restore"
  else
    prepare_and_reset
    changed=true
  fi
  if [[ ! -e $restore_dir/reset ]]; then date --utc +%Y-%m-%dT%H:%M:%SZ >"$restore_dir/reset"; fi

  start_unit false
  watch_unit restored_is_ready

  read_kept_fields "$restore_dir/state" || fail NotReady "etcd on $node_name does not tell its state"
  read_cluster_id || fail NotReady "The API does not answer on $node_name"
  read_server_nodes || fail NotReady "The API does not answer on $node_name"
  read_server_fields
  if has_address kubeconfig; then
    upload kubeconfig "$admin_config" || fail UploadFailed "The kubeconfig of the restored cluster cannot be uploaded: $reason"
  fi
  # Back again, so that a rebuilt disk joins the others instead of making a second cluster. Read at the next start only.
  place_join_file "$endpoint"
  if [[ -d $snapshot_dir ]]; then rm --force -- "$snapshot_dir"/*; fi
  json_list "${server_nodes[@]}"
  server_fields+=(nodes "$REPLY")
  json_string "$cluster_id"
  succeed "${server_fields[@]}" "${kept_fields[@]}" clusterId "$REPLY"
}

main "$@"
