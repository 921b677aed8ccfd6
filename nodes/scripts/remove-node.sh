#!/usr/bin/env bash
#
# Takes other nodes out of the cluster by name; runs on a healthy server.
#
# Deleting the Node object of a server makes RKE2 remove its etcd member (managed etcd controller); a member that stays is removed by etcdctl.
# The node password goes too: older releases leave it behind, and a later node of that name would be rejected (rancher/rke2 issue 4659).
#
# Parameters  pool (of this server), nodes (comma separated), role: agent refuses to remove servers, server takes both
# Changes     Node objects, etcd members and node password secrets of the nodes named; nothing on this machine
# Again       safe: a name that is not there is already removed
# Exit        0 none of the names is left, 1 failed, 64 wrong input, 75 not yet (run again)

set -o errexit -o nounset -o pipefail
# shellcheck source=node.sh
source "${BASH_SOURCE[0]%/*}/node.sh"
# shellcheck source=cluster.sh
source "${BASH_SOURCE[0]%/*}/cluster.sh"

declare -A control_plane=() # node name -> value of its control-plane label, of every node there is

# Reads all nodes at once: fifty names are not fifty questions.
read_nodes() {
  local list name label
  control_plane=()
  list="$(kube get nodes --output='jsonpath={range .items[*]}{.metadata.name}{"|"}{.metadata.labels.node-role\.kubernetes\.io/control-plane}{"\n"}{end}' 2>/dev/null)" || return 1
  while IFS='|' read -r name label; do
    if [[ -n $name ]]; then control_plane["$name"]="${label:-none}"; fi
  done <<<"$list"
}

are_gone() {
  local name
  read_nodes || return 1
  for name in "$@"; do
    if [[ -n ${control_plane[$name]:-} ]]; then return 1; fi
  done
}

# Id of the etcd member of a node and whether it votes into REPLY, empty when there is none. RKE2 names members `<node>-<8 hexadecimal characters>`.
member_of() {
  local id name kind line
  REPLY=''
  for line in "${member_lines[@]}"; do
    read -r id name kind _ <<<"$line"
    if [[ $name =~ ^$1-[0-9a-f]{8}$ ]]; then REPLY="$id $kind"; fi
  done
}

has_no_member() {
  read_etcd_members || return 1
  member_of "$1"
  [[ -z $REPLY ]]
}

# Stops rather than break the etcd majority: the healthy voters left must be floor(voters / 2) + 1 of the voters left.
check_majority() {
  local line name kind clients healthy=0 left=0
  wait_for 20 "etcd to say who is healthy" read_health ||
    fail NotReady "etcd on $node_name does not say which members are healthy, so nobody can tell whether it keeps its majority without $1"
  for line in "${member_lines[@]}"; do
    read -r _ name kind clients <<<"$line"
    if [[ $kind != voter || $name =~ ^$1-[0-9a-f]{8}$ ]]; then continue; fi
    left=$((left + 1))
    if is_healthy "$clients"; then healthy=$((healthy + 1)); fi
  done
  local -r majority=$((left / 2 + 1))
  if ((healthy < majority)); then
    fail NotReady "Removing $1 would leave $healthy healthy of $left etcd voters, majority is $majority. Repair the others first"
  fi
}

# Whether one of a member's client addresses, separated by commas, answers.
is_healthy() {
  local client
  for client in "${healthy_clients[@]}"; do
    if [[ ,$1, == *",$client,"* ]]; then return 0; fi
  done
  return 1
}

# One server at a time: the next one only when etcd has let go of the last.
remove_server() {
  read_etcd_members || fail NotReady "The members of etcd cannot be read on $node_name"
  check_majority "$1"
  delete_nodes "$1"
  if ! wait_for 60 "the etcd member of $1 to go" has_no_member "$1"; then
    member_of "$1"
    if [[ -z $REPLY ]]; then fail NotReady "The members of etcd cannot be read on $node_name"; fi
    log "the member stayed: removing it by its id"
    etcdctl member remove "${REPLY% *}" >/dev/null || fail NotReady "etcd does not remove the member of $1"
    wait_for 30 "the etcd member of $1 to go" has_no_member "$1" || fail NotReady "etcd still has a member of $1"
  fi
}

# Deletes Node objects and waits until they are gone: a finalizer holds a server's until its etcd member is removed.
delete_nodes() {
  kube delete node --ignore-not-found --wait=false -- "$@" >/dev/null 2>&1 || fail NotReady "The API does not delete node $*"
  wait_for 90 "$* to go" are_gone "$@" || fail NotReady "$* is still there: a finalizer holds the Node object"
}

delete_node_passwords() {
  local name
  local -a secret_names=()
  for name in "$@"; do secret_names+=("$name.node-password.rke2"); done
  kube --namespace kube-system delete secret --ignore-not-found --wait=false -- "${secret_names[@]}" >/dev/null 2>&1 ||
    fail NotReady "The API does not delete the node passwords of $*"
}

main() {
  local pool='' nodes='' role=''
  local name
  local -a names servers=() former=() agents=()
  begin remove-node 270
  parameter pool '^[a-z]([a-z0-9-]*[a-z0-9])?$' 30
  parameter nodes '^[a-z][a-z0-9-]*[a-z0-9](,[a-z][a-z0-9-]*[a-z0-9])*$' 2600
  parameter role '^(server|agent)$' 6
  IFS=',' read -r -a names <<<"$nodes"
  if ((${#names[@]} > 50)); then wrong_input "nodes has ${#names[@]} names, at most 50 are removed at a time"; fi
  lock_node 60
  identify "$pool"
  for name in "${names[@]}"; do
    if [[ $name == "$node_name" ]]; then wrong_input "$name is this server itself. Run the command on another server"; fi
  done
  wait_for 30 "the API to answer" read_nodes || fail NotReady "The API does not answer on $node_name"
  wait_for 30 "the members of etcd" read_etcd_members || fail NotReady "The members of etcd cannot be read on $node_name"
  # A server that came no further than etcd has no label yet: its member tells.
  for name in "${names[@]}"; do
    member_of "$name"
    if [[ -n $REPLY ]]; then
      servers+=("$name")
    elif [[ ${control_plane[$name]:-} == true ]]; then
      former+=("$name")
    elif [[ -n ${control_plane[$name]:-} ]]; then
      agents+=("$name")
    else
      log "$name is not in the cluster"
    fi
  done
  if [[ $role == agent && $((${#servers[@]} + ${#former[@]})) -gt 0 ]]; then
    fail ConfigInvalid "$(printf '%s ' "${servers[@]}" "${former[@]}")is a server, not an agent. Nothing was removed"
  fi
  for name in "${servers[@]}"; do remove_server "$name"; done
  # etcd has no member of these: a restore brought their Nodes back. They go together, for no majority depends on them.
  agents+=("${former[@]}")
  if ((${#agents[@]} > 0)); then delete_nodes "${agents[@]}"; fi
  delete_node_passwords "${names[@]}"
  read_members || fail NotReady "The members of etcd cannot be read on $node_name"
  local -r removed=$((${#servers[@]} + ${#agents[@]}))
  if ((removed > 0)); then changed=true; fi
  succeed removed "$removed" members "$members"
}

main "$@"
