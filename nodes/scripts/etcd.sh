# shellcheck shell=bash disable=SC2034,SC2154 # a part: what it sets is used, and what it uses is set, by the script around it
#
# etcd itself, asked where it runs: its state at a revision, its members, and the files its snapshots are.
#
# RKE2 ships no etcdctl for the host, so the one in etcd's container is run through crictl: it answers while the API server does not.

readonly snapshot_dir="$drover_dir/snapshots"
readonly part_mebibytes=1024 # core/node-commands.ts, snapshotPartBytes

# etcdctl in etcd's container.
etcdctl_local() {
  local -r tls=/var/lib/rancher/rke2/server/tls/etcd
  local containers
  containers="$(crictl ps --name '^etcd$' --quiet 2>/dev/null)" || return 1
  containers="${containers%%$'\n'*}"
  if [[ -z $containers ]]; then return 1; fi
  crictl exec "$containers" etcdctl --endpoints=https://127.0.0.1:2379 \
    --cacert="$tls/server-ca.crt" --cert="$tls/server-client.crt" --key="$tls/server-client.key" "$@" 2>"$work_dir/etcdctl"
}

crictl() {
  remaining
  timeout "$((REPLY < 1 ? 1 : REPLY < 30 ? REPLY : 30))" "$data_dir/bin/crictl" --config "$agent_dir/etc/crictl.yaml" "$@" </dev/null
}

# What etcd on this server says of itself into newest_revision, learner, leader_id and database_bytes. Absent fields of its JSON are zero or false.
read_status() {
  local text
  text="$(etcdctl_local endpoint status --write-out=json)" || return 1
  if [[ ! $text =~ \"revision\":([0-9]+) ]]; then return 1; fi
  newest_revision="${BASH_REMATCH[1]}"
  learner=false
  if [[ $text == *'"isLearner":true'* ]]; then learner=true; fi
  leader_id=0
  if [[ $text =~ \"leader\":([0-9]+) ]]; then leader_id="${BASH_REMATCH[1]}"; fi
  database_bytes=0
  if [[ $text =~ \"dbSize\":([0-9]+) ]]; then database_bytes="${BASH_REMATCH[1]}"; fi
}

# The state at a revision (0: the newest) into revision, keys, hash and compact_revision. No when etcd does not answer, has compacted it, or is not there yet.
read_state_at() {
  local -r at="$1"
  local text
  text="$(etcdctl_local endpoint hashkv --rev="$at" --write-out=json)" || return 1
  if [[ ! $text =~ \"hash\":([0-9]+) ]]; then return 1; fi
  hash="${BASH_REMATCH[1]}"
  compact_revision=0
  if [[ $text =~ \"compact_revision\":(-?[0-9]+) ]]; then compact_revision="${BASH_REMATCH[1]}"; fi
  # Counting alone is an answer of the form `fields` only (etcd source, etcdctl get).
  text="$(etcdctl_local get '' --prefix --count-only --rev="$at" --write-out=fields)" || return 1
  if [[ ! $text =~ \"Count\"\ :\ ([0-9]+) ]]; then return 1; fi
  keys="${BASH_REMATCH[1]}"
  revision="$at"
}

# The state at a revision, or at the newest where that cannot be read any more: whoever compares sees another revision than asked. 0 asks for the newest.
read_state() {
  read_status || return 1
  if (($1 > 0)) && read_state_at "$1"; then return 0; fi
  if (($1 > 0)); then log "etcd has no state at revision $1: $(head --bytes=200 "$work_dir/etcdctl")"; fi
  read_state_at "$newest_revision"
}

# Node names of all members, sorted by etcd, into member_names, and the leader's into leader_name. Ids have 64 bits, more than bash can count with, so
# they are compared as etcd writes them.
read_member_names() {
  local text rest id name
  text="$(etcdctl_local member list --write-out=json)" || return 1
  member_names=()
  leader_name=''
  rest="${text#*\"members\":}"
  while [[ $rest =~ \{\"ID\":([0-9]+)(,\"name\":\"([A-Za-z0-9.-]*)\")? ]]; do
    id="${BASH_REMATCH[1]}"
    name="${BASH_REMATCH[3]}"
    rest="${rest#*"${BASH_REMATCH[0]}"}"
    if [[ -z $name ]]; then continue; fi # added, not started
    if [[ $name =~ ^(.+)-[0-9a-f]{8}$ ]]; then name="${BASH_REMATCH[1]}"; fi
    member_names+=("$name")
    if [[ $id == "$leader_id" ]]; then leader_name="$name"; fi
  done
  ((${#member_names[@]} > 0))
}

# Why a file is not a whole snapshot into REPLY, as a sentence; empty when it is. etcd puts the SHA-256 of all bytes before at the end, 32 bytes, and its
# database is whole pages (etcd source, snapshot save). Also sets snapshot_bytes and snapshot_sha256, which is that of the whole file.
inspect_snapshot() {
  local trailer='' sum=''
  snapshot_bytes=0
  snapshot_sha256=''
  snapshot_bytes="$(stat --format=%s "$1")"
  if ((snapshot_bytes == 0)); then
    REPLY="it is empty"
    return 0
  fi
  if [[ $(head --bytes=2 "$1" | od --address-radix=n --format=x1) == ' 50 4b' ]]; then
    REPLY="it is a zip archive, and RKE2 cannot restore a compressed snapshot by its path (k3s-io/k3s issue 14526)"
    return 0
  fi
  if ((snapshot_bytes <= 32 || snapshot_bytes % 512 != 32)); then
    REPLY="its $snapshot_bytes bytes are not whole pages and a checksum: it was cut short, or is no etcd snapshot"
    return 0
  fi
  # Both sums at the same time: a database may have gigabytes.
  head --bytes=-32 "$1" | sha256sum >"$work_dir/content-sum" &
  local -r summing=$!
  sha256_of "$1"
  snapshot_sha256="$REPLY"
  wait "$summing"
  read -r sum _ <"$work_dir/content-sum"
  trailer="$(tail --bytes=32 "$1" | od --address-radix=n --format=x1)"
  trailer="${trailer//[^0-9a-f]/}"
  REPLY=''
  if [[ $trailer != "$sum" ]]; then REPLY="its content does not match the checksum at its end"; fi
}

# A JSON list of the texts given, into REPLY.
json_list() {
  local text list=''
  for text in "$@"; do
    json_string "$text"
    list+="${list:+,}$REPLY"
  done
  REPLY="[$list]"
}

# Fields of a result are kept as lines, name and JSON value in turn: a second run tells the same.
keep_fields() {
  local -r file="$1"
  shift
  make_parents "$file"
  printf '%s\n' "$@" >"$file.new"
  mv --force -- "$file.new" "$file"
}

# Reads them back into kept_fields; no when there are none.
read_kept_fields() {
  kept_fields=()
  if [[ ! -s $1 ]]; then return 1; fi
  mapfile -t kept_fields <"$1"
  ((${#kept_fields[@]} >= 2 && ${#kept_fields[@]} % 2 == 0))
}
