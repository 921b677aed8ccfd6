# shellcheck shell=bash disable=SC2034,SC2154 # a part: what it sets is used, and what it uses is set, by the script around it
#
# Starting an RKE2 service and seeing it through: used by start-server and start-agent.
#
# RKE2's units never time out, and many of its fatal errors end with status 0, so systemd's word is not enough: the service is started without
# waiting, its log is read for the texts that end all hope, and success is what the node's own API object says.

# Text in the log | how often it must be seen | failure code | what it means. Once is enough for what can never pass; a few times for
# what may pass by itself, such as a port that an earlier container is about to leave.
readonly fatal_texts=(
  'token CA hash does not match|1|TokenRejected|The token names another cluster CA than the server at the join address has'
  'invalid token CA hash length|1|TokenRejected|The token is not of the form RKE2 knows'
  'invalid token format|1|TokenRejected|The token is not of the form RKE2 knows'
  'failed to normalize server token|1|TokenRejected|The token is not of the form RKE2 takes for servers'
  'token is required to join a cluster|1|TokenRejected|No token was given'
  'encrypted with different token|1|TokenRejected|The data of the cluster was made with another server token'
  'no bootstrap data found in datastore|1|TokenRejected|etcd holds nothing that this server token opens'
  'not authorized|8|TokenRejected|The server does not accept the token'
  '401 Unauthorized|8|TokenRejected|The server does not accept the token'
  'duplicate node name found|1|DuplicateNode|etcd still has a member of this node name'
  'Node password rejected|4|DuplicateNode|The cluster knows this node name with another node password'
  'critical configuration value mismatch|1|ConfigInvalid|A critical value of config.yaml differs from the other servers'
  'invalid value provided for --profile|1|ConfigInvalid|The profile is not one this RKE2 release has'
  'missing required: user|1|ConfigInvalid|Profile cis needs the local user and group etcd'
  'with cluster-reset|1|ConfigInvalid|The configuration asks for a cluster reset'
  'invalid kernel parameter value|1|KernelParameter|A kernel parameter is not as profile cis demands'
  'pids cgroup controller not found|1|CgroupMissing|The kernel has no pids cgroup controller'
  'member has been permanently removed from the cluster|1|AlreadyMember|The disk belongs to an etcd member that was removed'
  'data-dir used by this member must be removed|1|AlreadyMember|The disk belongs to an etcd member that was removed'
  'tombstone file has been detected|1|AlreadyMember|The disk belongs to an etcd member that was removed'
  'newer than datastore and could cause a cluster outage|1|ServiceFailed|Files on this disk are newer than the cluster has them'
  'alarm must be disarmed manually|1|ServiceFailed|etcd has a CORRUPT alarm'
  'bind: address already in use|4|PortInUse|Another process holds a port RKE2 needs'
  'no space left on device|3|DiskFull|The disk is full'
)

unit=''
started_at=0
joins=true # the first server asks nobody: lines about authorisation in its log are its own components' growing pains

# Refuses a configuration that would make the service do another thing than asked. RKE2_URL in the unit's environment is a `server:` key too.
check_configuration() {
  local file line binary
  rke2_binary || fail ConfigInvalid "RKE2 is not installed on $node_name. Run prepare-node first"
  binary="$REPLY"
  version_of "$binary"
  if [[ -z $REPLY ]]; then fail ConfigInvalid "$binary does not tell its version. Run prepare-node again"; fi
  if [[ ! -f $config_dir/config.yaml ]]; then fail ConfigInvalid "config.yaml is missing on $node_name. Run prepare-node first"; fi
  config_files
  for file in "${files[@]}"; do
    while IFS= read -r line || [[ -n $line ]]; do
      if [[ $line =~ ^[\"\']?cluster-reset ]]; then
        fail ConfigInvalid "${file#"$root"} asks for a cluster reset. Remove the key, a restore sets it on the command line"
      fi
      if [[ $file != "$join_file" && $line =~ ^[\"\']?server[\"\']?[[:space:]]*: ]]; then
        fail ConfigInvalid "${file#"$root"} sets server:, which Drover keeps in ${join_file#"$root"}. Remove the key"
      fi
    done <"$file"
  done
  for file in "$root/etc/default/$unit" "$root/etc/sysconfig/$unit" "$root/usr/local/lib/systemd/system/$unit.env"; do
    if [[ ! -f $file ]]; then continue; fi
    while IFS= read -r line || [[ -n $line ]]; do
      if [[ $line =~ ^[[:space:]]*(RKE2_URL|RKE2_CONFIG_FILE|RKE2_CLUSTER_RESET)[A-Z_]*= ]]; then
        fail ConfigInvalid "${file#"$root"} sets ${BASH_REMATCH[1]}, which overrides the configuration. Remove it"
      fi
    done <"$file"
  done
}

# Refuses a start beside the other role: rke2-server and rke2-agent exclude each other (their units' ExecCondition).
check_other_role() {
  if systemctl is-active --quiet "$1"; then fail ConfigInvalid "$1 runs on $node_name, so $unit will not start. Replace the node"; fi
}

# Points the configuration at an address. RKE2 reads it at its next start; nothing is restarted for it.
place_join_file() {
  place_text "server: \"https://$1:9345\"" "$join_file" 0600
}

# State of the unit into active_state and restarts.
read_unit() {
  local line
  active_state=unknown
  restarts=0
  while IFS= read -r line; do
    case $line in
      ActiveState=*) active_state="${line#*=}" ;;
      NRestarts=*) restarts="${line#*=}" ;;
    esac
  done < <(systemctl show "$unit" --property=ActiveState --property=NRestarts 2>/dev/null)
  if [[ ! $restarts =~ ^[0-9]+$ ]]; then restarts=0; fi
}

# Starts the unit unless it runs already. One that is on its way is left alone, except when its configuration has just changed.
start_unit() {
  local -r configuration_changed="$1" stamp="$run_dir/$unit.started"
  systemctl enable "$unit" >/dev/null 2>&1 || fail ServiceFailed "systemd refuses to enable $unit"
  read_unit
  case $active_state in
    active) log "$unit is active already" ;;
    activating | reloading)
      if [[ $configuration_changed == true ]]; then
        log "$unit was starting with an older configuration: starting it again"
        stamp_start "$stamp"
        systemctl restart --no-block "$unit" || fail ServiceFailed "systemd refuses to restart $unit"
        changed=true
      else
        log "$unit is starting already"
      fi
      ;;
    *)
      systemctl reset-failed "$unit" 2>/dev/null || true
      stamp_start "$stamp"
      systemctl start --no-block "$unit" || fail ServiceFailed "systemd refuses to start $unit"
      changed=true
      log "started $unit"
      ;;
  esac
  if [[ -r $stamp ]]; then read -r started_at <"$stamp"; fi
  if [[ ! $started_at =~ ^[1-9][0-9]*$ ]]; then
    now
    started_at=$(($(date +%s) - REPLY)) # nobody stamped this start: it was made by the boot
  fi
}

# Remembers since when the log counts, over a repetition of the command too: the failure of an earlier start is not this one's.
stamp_start() {
  date +%s >"$1"
}

# The unit's log since it was started, into REPLY.
read_unit_log() {
  REPLY="$(journalctl --unit="$unit" --since="@$started_at" --output=cat --no-pager --lines=300 2>/dev/null)" || true
}

# Ends the command when the log says that waiting is in vain.
check_unit_log() {
  local entry text times code meaning rest seen line
  read_unit_log
  local -r journal="$REPLY"
  for entry in "${fatal_texts[@]}"; do
    IFS='|' read -r text times code meaning <<<"$entry"
    if [[ $journal != *"$text"* || ($joins == false && $times == 8) ]]; then continue; fi
    rest="${journal//"$text"/}"
    seen=$(((${#journal} - ${#rest}) / ${#text}))
    if ((seen < times)); then continue; fi
    rest="${journal%"$text"*}"
    line="${rest##*$'\n'}$text"
    rest="${journal##*"$text"}"
    line+="${rest%%$'\n'*}"
    stop_unit_in_vain
    fail "$code" "$meaning. RKE2 on $node_name says: $line" "$journal"
  done
}

# Leaves no service that fails every five seconds, but never stops one that holds data of the cluster: what runs there may be an etcd member.
stop_unit_in_vain() {
  read_unit
  if [[ $active_state == active || -d $wal_dir ]]; then return 0; fi
  systemctl stop --no-block "$unit" || true
  log "stopped $unit, which cannot succeed"
}

# Waits until the unit is active and the given question about the node is answered with yes. The answer's own reason is in `reason`.
watch_unit() {
  local -r is_ready="$1"
  local inactive_since='' begun
  now
  begun="$REPLY"
  while :; do
    read_unit
    reason="$unit is $active_state"
    if [[ $active_state == active ]] && "$is_ready"; then return 0; fi
    # Once active only time can tell: components that settle write such lines too.
    if [[ $active_state != active ]]; then check_unit_log; fi
    now
    case $active_state in
      inactive | failed)
        inactive_since="${inactive_since:-$REPLY}"
        if ((REPLY - inactive_since >= 15)); then
          read_unit_log
          fail ServiceFailed "$unit on $node_name is $active_state and does not start" "$REPLY"
        fi
        ;;
      *) inactive_since='' ;;
    esac
    if ((restarts >= 20)) && [[ $active_state != active ]]; then
      read_unit_log
      stop_unit_in_vain
      fail ServiceFailed "$unit on $node_name ended $restarts times" "$REPLY"
    fi
    now
    if ((REPLY >= deadline)); then
      local -r took=$((REPLY - begun))
      read_unit_log
      if [[ $active_state == active ]]; then
        fail NotReady "$unit on $node_name is active, but after $took s $reason" "$REPLY"
      fi
      fail StartTimedOut "$unit on $node_name is still $active_state after $took s" "$REPLY"
    fi
    sleep 3
  done
}
