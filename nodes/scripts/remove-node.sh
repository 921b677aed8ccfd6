#!/usr/bin/env bash
#
# Takes other nodes out of the cluster by name; runs on a healthy server.
#
# Deleting the Node object of a server makes RKE2 remove its etcd member (managed etcd controller); a member that stays is removed by etcdctl.
# The node password goes too: older releases leave it behind, and a later node of that name would be rejected (rancher/rke2 issue 4659).
#
# Parameters  pool (of this server), nodes (comma separated), role
# Changes     Node objects, etcd members and node password secrets of the nodes named; nothing on this machine
# Again       safe: a name that is not there is already removed
# Exit        0 none of the names is left, 1 failed, 64 wrong input, 75 not yet (run again)

set -o errexit -o nounset -o pipefail
# shellcheck source=node.sh
source "${BASH_SOURCE[0]%/*}/node.sh"
# shellcheck source=cluster.sh
source "${BASH_SOURCE[0]%/*}/cluster.sh"

removed=0

# Whether the API has a Node of this name: there, gone, or unknown into REPLY. The control-plane label into node_label.
find_node() {
  local text
  node_label=''
  if text="$(kube get node "$1" --ignore-not-found --output='jsonpath={.metadata.name}|{.metadata.labels.node-role\.kubernetes\.io/control-plane}' 2>/dev/null)"; then
    node_label="${text#*|}"
    if [[ ${text%%|*} == "$1" ]]; then REPLY=there; else REPLY=gone; fi
  else
    REPLY=unknown
  fi
}

is_gone() {
  find_node "$1"
  [[ $REPLY == gone ]]
}

# Id of the etcd member of a node into REPLY, empty when there is none. RKE2 names members `<node>-<8 hexadecimal characters>`.
find_member() {
  local line
  REPLY=''
  read_members || return 1
  for line in "${member_lines[@]}"; do
    if [[ ${line#* } =~ ^$1-[0-9a-f]{8}$ ]]; then REPLY="${line%% *}"; fi
  done
}

has_no_member() {
  find_member "$1" && [[ -z $REPLY ]]
}

# Stops rather than break the etcd majority: with the member gone, the healthy voters left must be floor(members / 2) + 1 of those left.
check_majority() {
  local list name ready votes healthy=0
  list="$(kube get nodes --selector=node-role.kubernetes.io/etcd=true \
    --output='jsonpath={range .items[*]}{.metadata.name}{"|"}{.status.conditions[?(@.type=="Ready")].status}{"|"}{.status.conditions[?(@.type=="EtcdIsVoter")].status}{"\n"}{end}' 2>/dev/null)" ||
    fail NotReady "The API does not answer, so nobody can tell whether etcd keeps its majority without $1"
  while IFS='|' read -r name ready votes; do
    if [[ $name != "$1" && $ready == True && $votes == True ]]; then healthy=$((healthy + 1)); fi
  done <<<"$list"
  local -r left=$((members - 1))
  local -r majority=$((left / 2 + 1))
  if ((healthy < majority)); then
    fail NotReady "Removing $1 would leave $healthy healthy of $left etcd members, majority is $majority. Repair the others first"
  fi
}

remove_server() {
  local member
  find_member "$1" || fail NotReady "The members of etcd cannot be read on $node_name"
  member="$REPLY"
  find_node "$1"
  if [[ $REPLY == unknown ]]; then fail NotReady "The API does not answer on $node_name"; fi
  if [[ $REPLY == gone && -z $member ]]; then
    log "$1 is not in the cluster"
    return 0
  fi
  if [[ $REPLY == there && $node_label != true ]]; then fail ConfigInvalid "$1 is an agent, not a server. Nothing was removed for it"; fi
  if [[ -n $member || ${#member_lines[@]} -eq 0 ]]; then check_majority "$1"; fi
  delete_nodes "$1"
  if ! wait_for 90 "the etcd member of $1 to go" has_no_member "$1"; then
    find_member "$1" || fail NotReady "The members of etcd cannot be read on $node_name"
    member="$REPLY"
    if [[ -n $member ]]; then
      log "the member stayed: removing it by its id"
      etcdctl member remove "$member" >/dev/null || fail NotReady "etcd does not remove member $member of $1"
    fi
    wait_for 30 "the etcd member of $1 to go" has_no_member "$1" || fail NotReady "etcd still has a member of $1"
  fi
  removed=$((removed + 1))
}

remove_agents() {
  local name
  local -a there=()
  for name in "$@"; do
    find_node "$name"
    case $REPLY in
      unknown) fail NotReady "The API does not answer on $node_name" ;;
      gone) log "$name is not in the cluster" ;;
      there)
        if [[ $node_label == true ]]; then fail ConfigInvalid "$name is a server, not an agent. Nothing was removed"; fi
        there+=("$name")
        ;;
    esac
  done
  if ((${#there[@]} > 0)); then
    delete_nodes "${there[@]}"
    removed=$((removed + ${#there[@]}))
  fi
}

# Deletes Node objects and waits until each is gone: finalizers hold one until its etcd member is removed.
delete_nodes() {
  local name
  kube delete node --ignore-not-found --wait=false -- "$@" >/dev/null 2>&1 || fail NotReady "The API does not delete node $*"
  for name in "$@"; do
    wait_for 120 "node $name to go" is_gone "$name" || fail NotReady "Node $name is still there: a finalizer holds it"
  done
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
  local -a names
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
  wait_for 30 "the API to answer" has_api || fail NotReady "The API does not answer on $node_name"
  if [[ $role == server ]]; then
    for name in "${names[@]}"; do remove_server "$name"; done
  else
    remove_agents "${names[@]}"
  fi
  delete_node_passwords "${names[@]}"
  read_members || fail NotReady "The members of etcd cannot be read on $node_name"
  if ((removed > 0)); then changed=true; fi
  succeed removed "$removed" members "$members"
}

main "$@"
