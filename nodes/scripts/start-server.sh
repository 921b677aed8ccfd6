#!/usr/bin/env bash
#
# Starts rke2-server on this machine: makes the cluster (bootstrap), or registers with a running server (join).
#
# Parameters  mode, pool, delivery, joinAddress, endpoint
# Delivery    the token files; with bootstrap an upload address `kubeconfig`, where RKE2's own kubeconfig goes unchanged
# Changes     the token files, 20-drover-join.yaml; enables and starts rke2-server
# Again       safe: a member that is ready and votes is left as it is; etcd data on the disk is never removed and always means a restart
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

# Bootstrap is the one act that can split a cluster in two, so whatever hints at a cluster elsewhere ends it here, before the service is touched.
check_bootstrap() {
  local body='' file
  if [[ -d $wal_dir ]]; then
    log "etcd data is on the disk: this is a restart of a member"
    return 0
  fi
  if [[ -e $join_file ]]; then
    fail SplitBrain "$node_name was told to join a cluster and holds no etcd data: starting it without server: would make a second cluster. Replace the node"
  fi
  for file in "$server_dir"/db/snapshots/* "$server_dir"/db/etcd-old-*; do
    if [[ -e $file ]]; then fail SplitBrain "${file#"$root"} is left of a cluster, which a bootstrap would replace by an empty one. Restore it, or replace the node"; fi
  done
  read_unit
  if [[ $active_state == active || $active_state == activating ]]; then return 0; fi
  body="$(curl --silent --insecure --noproxy '*' --proto '=https' --connect-timeout 3 --max-time 5 "https://$endpoint:9345/ping" 2>/dev/null)" || true
  if [[ $body == pong* ]]; then
    fail SplitBrain "A server answers at $endpoint already, so the cluster exists. $node_name may only join it"
  fi
}

check_bootstrap_token() {
  local token=''
  coming_file /etc/rancher/rke2/drover-token
  IFS= read -r token <"$REPLY" || true
  if [[ -z $token ]]; then fail ConfigInvalid "The delivered server token is empty"; fi
  if [[ $token == K10* && ! -e $server_ca ]]; then
    fail ConfigInvalid "The delivered server token names a CA, which does not exist before the first server has started. Deliver the short form"
  fi
}

main() {
  local mode='' pool='' delivery='' joinAddress='' endpoint=''
  begin start-server 1440
  parameter mode '^(bootstrap|join)$' 9
  parameter pool '^[a-z]([a-z0-9-]*[a-z0-9])?$' 30
  parameter delivery '^https://[A-Za-z0-9._~:/?&=%+-]+$' 3508
  parameter joinAddress '^(([0-9]{1,3}[.]){3}[0-9]{1,3})?$' 15
  parameter endpoint '^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$' 253
  unit=rke2-server
  if [[ $mode == join && -z $joinAddress ]]; then wrong_input "mode join needs a joinAddress: without it the node would make a cluster of its own"; fi
  if [[ $mode == bootstrap && -n $joinAddress ]]; then wrong_input "mode bootstrap takes no joinAddress: the first server joins nobody"; fi
  lock_node 60
  identify "$pool"
  check_other_role rke2-agent
  if [[ $mode == bootstrap ]]; then
    joins=false
    check_bootstrap
  fi
  fetch_delivery "$delivery"
  fetch_configuration
  check_token_files
  if [[ $mode == join ]]; then check_join; else check_bootstrap_token; fi
  place_configuration
  place_node_file
  if [[ $mode == join && ! -d $wal_dir ]]; then place_join_file "$joinAddress"; fi
  check_configuration
  if [[ $mode == join && ! -s $join_file && ! -d $wal_dir ]]; then fail Internal "The join address could not be written"; fi

  start_unit "$changed"
  watch_unit server_is_ready

  read_server_fields
  if [[ $mode == bootstrap ]]; then
    upload kubeconfig "$admin_config" || fail UploadFailed "The kubeconfig of the new cluster cannot be uploaded: $reason"
  fi
  # On the first server too: with its disk rebuilt it joins the others instead of making a second cluster. Read at the next start only.
  place_join_file "$endpoint"
  succeed "${server_fields[@]}"
}

main "$@"
