# shellcheck shell=bash disable=SC2034,SC2154 # a part: what it sets is used, and what it uses is set, by the script around it
#
# What servers have in common when they start, join, stop and come back: their tokens, when one is ready, and how it ends with all that outlives it.

# A join without server: would be a bootstrap, and a disk of another cluster would not become this one's.
check_join() {
  if [[ $joinAddress == "$address" ]]; then wrong_input "joinAddress $joinAddress is this machine's own: a server cannot join through itself"; fi
  local token=''
  coming_file /etc/rancher/rke2/drover-token
  IFS= read -r token <"$REPLY" || true
  if [[ ! $token =~ ^K10([0-9a-f]{64})::server:.+$ ]]; then
    fail ConfigInvalid "The delivered server token is not the full form with the CA hash. A short token would trust any server at the join address"
  fi
  local -r expected="${BASH_REMATCH[1]}"
  if read_ca_hash && [[ $REPLY != "$expected" ]]; then
    fail AlreadyMember "The disk of $node_name holds the CA $REPLY, the cluster to join has $expected: it belongs to another cluster. Replace the node"
  fi
}

check_token_files() {
  local file
  for file in drover-token drover-agent-token; do
    coming_file "/etc/rancher/rke2/$file"
    if [[ ! -s $REPLY ]]; then fail ConfigInvalid "The delivery brought no /etc/rancher/rke2/$file"; fi
  done
}

# Ready, voting, and its own API server answers. Active alone proves none of it.
server_is_ready() {
  if ! read_node "$admin_config"; then
    reason="the API does not know the node yet"
  elif [[ $node_ready != True ]]; then
    reason="the node is not Ready"
  elif [[ $node_votes != True ]]; then
    reason="its etcd member does not vote yet"
  elif ! has_api; then
    reason="its API server does not say ok"
  else
    return 0
  fi
  return 1
}

# The same after a restore, which brings back Node objects as they were: what they say of themselves may be of the time before, so etcd itself is asked too.
restored_server_is_ready() {
  server_is_ready || return 1
  local line
  if ! read_etcd_members; then
    reason="the members of etcd cannot be read"
    return 1
  fi
  for line in "${member_lines[@]}"; do
    if [[ $line =~ \ $node_name-[0-9a-f]{8}\ voter\  ]]; then return 0; fi
  done
  reason="etcd does not list its member as a voter yet"
  return 1
}

# The result that a server which runs gives of itself, as fields of `succeed`, into server_fields.
read_server_fields() {
  read_members || fail NotReady "The members of etcd cannot be read on $node_name"
  read_ca_hash || fail NotReady "The cluster CA is not on the disk of $node_name"
  server_fields=(caHash "\"$REPLY\"" voter true members "$members")
  json_string "$address"
  server_fields+=(address "$REPLY")
  json_string "$node_version"
  server_fields+=(version "$REPLY")
}

# Ports of what a server runs: supervisor, API server, etcd's clients and peers, kubelet.
readonly server_ports=(9345 6443 2379 2380 10250)

nothing_listens() {
  listening "${server_ports[@]}"
  [[ -z $REPLY ]]
}

# Whether rke2-server is over, with all that it started.
server_is_stopped() {
  read_unit
  case $active_state in
    inactive | failed | unknown) nothing_listens ;;
    *) return 1 ;;
  esac
}

# RKE2's own script that ends its service and all containers. Its exit status says nothing.
run_killall() {
  rke2_binary || return 0
  local -r killall="${REPLY%/*}/rke2-killall.sh"
  if [[ ! -x $killall ]]; then fail ServiceFailed "${killall#"$root"} is missing, without which RKE2's containers cannot be ended"; fi
  remaining
  timeout --kill-after=10 "$((REPLY < 10 ? 10 : REPLY < 100 ? REPLY : 100))" "$killall" >/dev/null 2>&1 || true
}

# Stops rke2-server and the containers that outlive it: etcd and the API server are static pods, and a stopped service leaves them running. It is
# disabled too, or a reboot would bring a member of the old cluster back. A server that is stopped already is left alone.
stop_server() {
  local attempt
  rke2_binary || fail ConfigInvalid "RKE2 is not installed on $node_name. Run prepare-node first"
  if systemctl is-enabled --quiet rke2-server 2>/dev/null; then
    systemctl disable rke2-server >/dev/null 2>&1 || fail ServiceFailed "systemd refuses to disable rke2-server"
    changed=true
  fi
  if server_is_stopped; then
    log "rke2-server is stopped already"
    return 0
  fi
  changed=true
  # A container that is started meanwhile may be left, so what listens is asked, and it runs again.
  for attempt in 1 2 3; do
    run_killall
    if wait_for 20 "rke2-server and its containers to end" server_is_stopped; then
      log "stopped rke2-server and its containers"
      return 0
    fi
    log "after attempt $attempt rke2-server is $active_state, and something listens on:$REPLY"
  done
  read_unit
  listening "${server_ports[@]}"
  fail ServiceFailed "rke2-server on $node_name is $active_state, and something still listens on port${REPLY:- none} after rke2-killall.sh ran three times"
}

# Puts RKE2's own local snapshots out of reach of a restore, which may remove the directory they are in. What is set aside stays until a person removes it.
keep_local_snapshots() {
  local -r kept="$drover_dir/kept-snapshots/$1"
  local file
  for file in "$server_dir"/db/snapshots/* "$server_dir"/db/.metadata/*; do
    if [[ ! -e $file ]]; then continue; fi
    if [[ ! -d $kept ]]; then install --directory --mode=0700 "$drover_dir" "$drover_dir/kept-snapshots" "$kept"; fi
    mv --force -- "$file" "$kept/" || fail DiskFull "${file#"$root"} cannot be moved to ${kept#"$root"}"
    changed=true
    log "kept ${file##*/} in ${kept#"$root"}"
  done
}
