#!/usr/bin/env bash
#
# Joins a server whose data belong to the time before a restore: removes its etcd data and joins as a new member would.
#
# The data go only when the restored server answers, and once for a restore: a second run finds the member's new data and leaves them alone.
#
# Parameters  pool, restore (its id), delivery, joinAddress, endpoint
# Delivery    the token files
# Changes     local snapshots go to /var/lib/drover/kept-snapshots; /var/lib/rancher/rke2/server/db goes; the token files, 20-drover-join.yaml;
#             enables and starts rke2-server
# Again       safe: a member that is ready and votes is left as it is
# Exit        0 ready and voting, 1 failed, 64 wrong input, 75 not yet (run again)

set -o errexit -o nounset -o pipefail
# shellcheck source=node.sh
source "${BASH_SOURCE[0]%/*}/node.sh"
# shellcheck source=service.sh
source "${BASH_SOURCE[0]%/*}/service.sh"
# shellcheck source=cluster.sh
source "${BASH_SOURCE[0]%/*}/cluster.sh"
# shellcheck source=server.sh
source "${BASH_SOURCE[0]%/*}/server.sh"

supervisor_answers() {
  local body=''
  body="$(curl --silent --insecure --noproxy '*' --proto '=https' --connect-timeout 3 --max-time 5 "https://$joinAddress:9345/ping" 2>/dev/null)" || true
  [[ $body == pong* ]]
}

# The directory is renamed before it is noted as gone, and removed after: a run that ends anywhere leaves nothing that the next mistakes.
remove_old_data() {
  local -r old="$server_dir/db.before-restore"
  if [[ ! -e $restore_dir/removed ]]; then
    wait_for 120 "the restored server to answer" supervisor_answers ||
      fail NotReady "No server answers at $joinAddress:9345, so the data of $node_name were left as they are"
    stop_server
    keep_local_snapshots "$restore"
    if [[ -d $server_dir/db ]]; then
      rm --recursive --force -- "$old"
      mv -- "$server_dir/db" "$old"
      log "set the etcd data of the time before the restore aside"
    fi
    install --directory --mode=0700 "$drover_dir" "$drover_dir/restores" "$restore_dir"
    date --utc +%Y-%m-%dT%H:%M:%SZ >"$restore_dir/removed"
    changed=true
  fi
  if [[ -e $old ]]; then
    rm --recursive --force -- "$old"
    log "removed the etcd data of the time before the restore"
  fi
}

main() {
  local pool='' restore='' delivery='' joinAddress='' endpoint=''
  begin rejoin-server 1440
  parameter pool '^[a-z]([a-z0-9-]*[a-z0-9])?$' 30
  parameter restore '^[a-z0-9][a-z0-9-]*$' 80
  parameter delivery '^https://[A-Za-z0-9._~:/?&=%+-]+$' 3508
  parameter joinAddress '^([0-9]{1,3}[.]){3}[0-9]{1,3}$' 15
  parameter endpoint '^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$' 253
  unit=rke2-server
  local -r restore_dir="$drover_dir/restores/$restore"
  lock_node 60
  identify "$pool"
  check_other_role rke2-agent
  if [[ -e $restore_dir/reset ]]; then
    fail SplitBrain "$node_name is the server that restore $restore was made on: its data are the cluster's, and stay. Rejoin the other servers"
  fi
  fetch_delivery "$delivery"
  fetch_configuration
  check_token_files
  check_join
  place_configuration
  place_node_file
  check_configuration
  remove_old_data
  if [[ ! -d $wal_dir ]]; then place_join_file "$joinAddress"; fi
  if [[ ! -s $join_file && ! -d $wal_dir ]]; then fail Internal "The join address could not be written"; fi

  start_unit "$changed"
  watch_unit restored_server_is_ready

  read_server_fields
  place_join_file "$endpoint"
  succeed "${server_fields[@]}"
}

main "$@"
