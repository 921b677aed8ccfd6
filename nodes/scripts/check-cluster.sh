#!/usr/bin/env bash
#
# Reads the cluster as this server sees it. Counts, not lists: the answer fits whatever the cluster's size.
#
# Parameters  pool
# Changes     nothing
# Again       safe
# Exit        0 read, even when the API does not answer (apiReady false); 1 failed, 64 wrong input, 75 no server has started here yet

set -o errexit -o nounset -o pipefail
# shellcheck source=node.sh
source "${BASH_SOURCE[0]%/*}/node.sh"
# shellcheck source=cluster.sh
source "${BASH_SOURCE[0]%/*}/cluster.sh"
# shellcheck source=etcd.sh
source "${BASH_SOURCE[0]%/*}/etcd.sh"

servers_ready=0
agents_ready=0
nodes=0
not_ready=()
leader_name='' # stays so where etcd does not say who leads: whoever asks can do without

# One line a node: name, Ready, control-plane label.
read_nodes() {
  local list name ready control_plane
  list="$(kube get nodes --output='jsonpath={range .items[*]}{.metadata.name}{"|"}{.status.conditions[?(@.type=="Ready")].status}{"|"}{.metadata.labels.node-role\.kubernetes\.io/control-plane}{"\n"}{end}' 2>/dev/null)" || return 1
  while IFS='|' read -r name ready control_plane; do
    if [[ -z $name ]]; then continue; fi
    nodes=$((nodes + 1))
    if [[ $ready != True ]]; then
      if ((${#not_ready[@]} < 20)); then not_ready+=("$name"); fi
    elif [[ $control_plane == true ]]; then
      servers_ready=$((servers_ready + 1))
    else
      agents_ready=$((agents_ready + 1))
    fi
  done <<<"$list"
}

main() {
  local pool=''
  local api_ready=false cluster_id='' ca_hash='' pending=0 names='' name list version
  begin check-cluster 100
  parameter pool '^[a-z]([a-z0-9-]*[a-z0-9])?$' 30
  lock_node 20
  identify "$pool"
  if [[ ! -r $admin_config || ! -x $data_dir/bin/kubectl ]]; then fail NotReady "No server has started on $node_name yet: it has no kubeconfig"; fi
  if read_ca_hash; then ca_hash="$REPLY"; fi
  rke2_binary || fail ForeignRke2 "RKE2 runs on $node_name from a place Drover did not install it to"
  version_of "$REPLY"
  version="$REPLY"
  if wait_for 15 "the API to answer" has_api && cluster_id="$(kube get namespace kube-system --output='jsonpath={.metadata.uid}' 2>/dev/null)" && read_nodes &&
    list="$(kube get pods --all-namespaces --field-selector=status.phase=Pending --output=name 2>/dev/null)" && read_members; then
    api_ready=true
    while IFS= read -r name; do
      if [[ -n $name ]]; then pending=$((pending + 1)); fi
    done <<<"$list"
  fi
  if read_status && read_member_names; then log "etcd is led by ${leader_name:-nobody}"; fi
  for name in "${not_ready[@]}"; do
    if ((${#names} > 1200)); then break; fi # the line ends under 2,000 bytes whatever the names
    json_string "$name"
    names+="${names:+,}$REPLY"
  done
  json_string "$cluster_id"
  local -r quoted_id="$REPLY"
  json_string "$leader_name"
  local -r quoted_leader="$REPLY"
  json_string "$version"
  succeed clusterId "$quoted_id" caHash "\"$ca_hash\"" apiReady "$api_ready" members "$members" voters "$voters" serversReady "$servers_ready" \
    agentsReady "$agents_ready" nodes "$nodes" notReady "[$names]" podsPending "$pending" \
    leader "$quoted_leader" version "$REPLY"
}

main "$@"
