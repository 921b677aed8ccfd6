#!/usr/bin/env bash
#
# Starts rke2-agent on this machine against a running server, and waits until its kubelet is Ready.
#
# Parameters  pool, delivery, joins, endpoint
# Delivery    the token file
# Changes     the token file, 20-drover-join.yaml; enables and starts rke2-agent
# Again       safe: an agent that is Ready is left as it is; one that runs and is not, while a named server answers, is started anew against that one
# Exit        0 Ready, 1 failed, 64 wrong input, 75 not yet (run again)

set -o errexit -o nounset -o pipefail
# shellcheck source=node.sh
source "${BASH_SOURCE[0]%/*}/node.sh"
# shellcheck source=service.sh
source "${BASH_SOURCE[0]%/*}/service.sh"
# shellcheck source=cluster.sh
source "${BASH_SOURCE[0]%/*}/cluster.sh"

agent_is_ready() {
  if ! read_node "$kubelet_config"; then
    reason="the API does not know the node yet"
  elif [[ $node_ready != True ]]; then
    reason="the node is not Ready"
  else
    return 0
  fi
  return 1
}

check_token() {
  local token=''
  coming_file /etc/rancher/rke2/drover-token
  if [[ ! -s $REPLY ]]; then fail ConfigInvalid "The delivery brought no /etc/rancher/rke2/drover-token"; fi
  IFS= read -r token <"$REPLY" || true
  if [[ ! $token =~ ^K10[0-9a-f]{64}::(node|server):.+$ ]]; then
    fail ConfigInvalid "The delivered token is not the full form with the CA hash. A short token would trust any server at the join address"
  fi
}

# The server to join through into REPLY: the one named for this node; when that does not answer, another that is named. When none answers, its own: the
# service asks it again and again, and its log says why it does not come. Status 1 then.
choose_server() {
  local -a entries servers
  local entry own='' server body
  IFS=, read -r -a entries <<<"$1"
  for entry in "${entries[@]}"; do
    if [[ ${entry%%:*} == "${node_name#"$2-"}" ]]; then own="${entry#*:}"; fi
  done
  if [[ -z $own ]]; then wrong_input "joins names no server for ${node_name#"$2-"}"; fi
  servers=("$own")
  for entry in "${entries[@]}"; do
    if [[ " ${servers[*]} " != *" ${entry#*:} "* ]]; then servers+=("${entry#*:}"); fi
  done
  for server in "${servers[@]}"; do
    REPLY="$server"
    body="$(curl --silent --insecure --noproxy '*' --proto '=https' --connect-timeout 3 --max-time 5 "https://$server:9345/ping" 2>/dev/null)" || true
    if [[ $body == pong ]]; then return; fi
  done
  REPLY="$own"
  return 1
}

# A running agent knows the server it was started with and those it heard of since. After a restore onto new machines all of these may be gone, and the
# restored cluster may not know its Node, which a kubelet makes when it starts and never again. Starting it anew helps both, and leaves its pods running; but
# with no server to ask it would leave the machine without a kubelet.
revive() {
  if wait_for 30 "the running agent to be Ready" agent_is_ready; then return; fi
  if ! choose_server "$1" "$2"; then
    log "the agent is not Ready, and no server that is named answers: it is left as it is"
    return
  fi
  log "the agent runs and $reason, while $REPLY answers: starting it anew"
  place_join_file "$REPLY"
  systemctl stop "$unit" || fail ServiceFailed "systemd refuses to stop $unit"
  changed=true
}

main() {
  local pool='' delivery='' joins='' endpoint=''
  begin start-agent 840
  parameter pool '^[a-z]([a-z0-9-]*[a-z0-9])?$' 30
  parameter delivery '^https://[A-Za-z0-9._~:/?&=%+-]+$' 3508
  parameter joins '^i-[0-9a-f]{8,17}:([0-9]{1,3}[.]){3}[0-9]{1,3}(,i-[0-9a-f]{8,17}:([0-9]{1,3}[.]){3}[0-9]{1,3}){0,49}$' 1799
  parameter endpoint '^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$' 253
  unit=rke2-agent
  lock_node 60
  identify "$pool"
  check_other_role rke2-server
  fetch_delivery "$delivery"
  fetch_configuration
  check_token
  place_configuration
  place_node_file
  read_unit
  if [[ $active_state == active ]]; then
    revive "$joins" "$pool"
  else
    choose_server "$joins" "$pool" || log "no server that is named answers yet"
    place_join_file "$REPLY"
  fi
  check_configuration

  start_unit "$changed"
  watch_unit agent_is_ready
  place_join_file "$endpoint"

  json_string "$node_version"
  succeed version "$REPLY"
}

main "$@"
