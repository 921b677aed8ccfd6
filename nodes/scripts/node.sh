# shellcheck shell=bash disable=SC2034,SC2154 # a part: what it sets is used, and what it uses is set, by the script around it
#
# What every node command stands on: paths, the log, the one result line, waits with an end, redaction, deliveries, and who this machine is.
#
# A command is this file and the command's own script, put together by nodes/documents.ts. The contract is core/node-commands.ts:
# one JSON line on stdout whatever happens, everything else on stderr. SSM keeps both in clear, so nothing secret reaches either.
#
# Environment  SSM_<parameter>  the document's parameters (interpolationType ENV_VAR)
#              DROVER_ROOT      put before every path of the machine; for tests, which run these scripts in a directory of their own
# Needs        bash 4.4, coreutils, curl, tar, gzip, flock and systemd; no JSON parser, no AWS CLI
# Exit         0 done, 1 failed, 64 wrong input, 75 not yet (run again)

readonly root="${DROVER_ROOT:-}"
readonly config_dir="$root/etc/rancher/rke2"
readonly data_dir="$root/var/lib/rancher/rke2"
readonly server_dir="$data_dir/server"
readonly agent_dir="$data_dir/agent"
readonly drover_dir="$root/var/lib/drover"
readonly staging_dir="$drover_dir/staging"
readonly run_dir="$root/run/drover"
readonly node_file="$config_dir/config.yaml.d/10-drover-node.yaml"
readonly join_file="$config_dir/config.yaml.d/20-drover-join.yaml"
readonly wal_dir="$server_dir/db/etcd/member/wal"
readonly server_ca="$server_dir/tls/server-ca.crt"

export PATH="${PATH:+$PATH:}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
export HOME="${HOME:-/root}" LC_ALL=C
umask 077 # tokens pass through here

command_name=node
node_name=''
address=''
changed=false
reported=false
work_dir=''
stopped_at=''
deadline=0
secrets=()
upload_attempts=5

# ---- start and end

# Starts a command that ends within so many seconds: stdout is kept for the result, and a result is printed whatever happens next.
begin() {
  command_name="$1"
  exec 3>&1 1>&2
  set -o errtrace
  trap 'stopped_at="${FUNCNAME[0]:-the script}, line $LINENO"' ERR
  trap end EXIT
  trap 'exit 143' HUP INT TERM
  now
  deadline=$((REPLY + $2))
  work_dir="$(mktemp --directory)"
  load_secrets
}

# The EXIT trap: no way out without a result line, nothing left behind.
end() {
  local -r status=$?
  trap - ERR EXIT
  if [[ $reported == false ]]; then
    if ((status == 143)); then
      report_failure Internal "$command_name was stopped from outside before it ended" ''
    else
      report_failure Internal "$command_name ended unexpectedly with status $status in ${stopped_at:-an unknown place}" ''
    fi
    ((status == 0)) && exit 1
  fi
  if [[ -n $work_dir ]]; then rm --recursive --force -- "$work_dir"; fi
  exit "$status"
}

# Ends well. Arguments: name and JSON value of each field of the result besides ok, node and changed.
succeed() {
  json_string "$node_name"
  local line="{\"ok\":true,\"node\":$REPLY,\"changed\":$changed"
  while (($# > 0)); do
    line+=",\"$1\":$2"
    shift 2
  done
  report "$line}"
  exit 0
}

# Ends badly: failure code of the contract, what happened, last lines of a log. Exit 75 where the same command may succeed later.
fail() {
  report_failure "$1" "$2" "${3:-}"
  case $1 in
    AnotherCommandRuns | StartTimedOut | NotReady) exit 75 ;;
    *) exit 1 ;;
  esac
}

# Ends badly because of what was asked, which no repetition changes.
wrong_input() {
  report_failure ConfigInvalid "$1" ''
  exit 64
}

# Prints the failure: message at most 400 characters, the end of the log at most 1,000, the line at most 1,900 bytes however much is escaped.
report_failure() {
  local message text line
  redact "$2"
  message="${REPLY:0:400}"
  redact "$3"
  text="$REPLY"
  if ((${#text} > 1000)); then text="${text: -1000}"; fi
  while :; do
    json_string "$message"
    line="{\"ok\":false,\"code\":\"$1\",\"message\":$REPLY"
    json_string "$text"
    line+=",\"log\":$REPLY}"
    if ((${#line} <= 1900)); then break; fi
    if [[ -n $text ]]; then text="${text:100}"; else message="${message:0:${#message}-50}"; fi
  done
  log "failed: $1: $message"
  report "$line"
}

report() {
  reported=true
  printf '%s\n' "$1" >&3
}

# Leaves REPLY as it was: a line for a person is no step of the work.
log() {
  local -r kept="${REPLY-}"
  redact "$1"
  printf '%s: %s\n' "$command_name" "$REPLY" >&2
  REPLY="$kept"
}

# JSON string of a text into REPLY, ASCII alone: a multi-byte character cut in half would spoil the line.
json_string() {
  local -r text="$1"
  local out='' char at
  for ((at = 0; at < ${#text}; at++)); do
    char="${text:at:1}"
    case $char in
      '"' | \\) out+="\\$char" ;;
      $'\n') out+='\n' ;;
      $'\t') out+='\t' ;;
      [[:cntrl:]])
        printf -v char '\\u%04x' "'$char"
        out+="$char"
        ;;
      [[:print:]]) out+="$char" ;;
      *) out+='?' ;;
    esac
  done
  REPLY="\"$out\""
}

# ---- parameters

# Takes a parameter into the variable of its name, or refuses: name, pattern, longest. nodes/documents.ts makes the document's allowedPattern
# from these very lines, so patterns keep to what bash, Go and JavaScript read alike. The value is never repeated: it may be anything.
parameter() {
  local -r variable="SSM_$1"
  if [[ -z ${!variable+x} && ! '' =~ $2 ]]; then
    wrong_input "Parameter $1 did not arrive. Parameters come as environment variables: update SSM Agent to 3.3.2746.0 or newer"
  fi
  local -r value="${!variable-}"
  if ((${#value} > $3)) || [[ ! $value =~ $2 ]]; then wrong_input "Parameter $1 must match $2, at most $3 characters"; fi
  printf -v "$1" '%s' "$value"
}

# ---- time

# Seconds since boot into REPLY: a fresh machine's wall clock may still jump.
now() {
  local up
  read -r up _ <"$root/proc/uptime"
  REPLY="${up%%.*}"
}

# Seconds this command may still take into REPLY.
remaining() {
  now
  REPLY=$((deadline - REPLY))
}

# Asks every 3 seconds until the answer is yes. No when so many seconds, or the command's own time, are over.
wait_for() {
  local -r limit="$1" what="$2"
  shift 2
  local ends
  now
  ends=$((REPLY + limit))
  if ((ends > deadline)); then ends=$deadline; fi
  until "$@"; do
    now
    if ((REPLY >= ends)); then
      log "gave up waiting for $what"
      return 1
    fi
    sleep 3
  done
}

# One command at a time on a node: two that interleave could each see half of the other's work.
lock_node() {
  install --directory --mode=0755 "$run_dir"
  exec 9>"$run_dir/node.lock"
  wait_for "$1" "another command on this node to end" flock --nonblock 9 ||
    fail AnotherCommandRuns "Another node command still runs on this node after $1 s. Ask again when it has ended"
}

# ---- secrets

# Learns the secrets this node holds, so that they are masked wherever they would appear.
load_secrets() {
  local file text
  secrets=()
  for file in "$config_dir/drover-token" "$config_dir/drover-agent-token" "$server_dir/token" "$server_dir/agent-token"; do
    if [[ -r $file ]]; then
      text=''
      IFS= read -r text <"$file" || true
      text="${text##*::}"
      text="${text#server:}"
      text="${text#node:}"
      if ((${#text} >= 6)); then secrets+=("$text"); fi
    fi
  done
}

# Masks what must not be told, into REPLY: known secrets, tokens, passwords, query strings (presigned addresses are bearer keys), keys.
redact() {
  local text out='' line inside=false
  mask_secrets "$1"
  text="$REPLY"
  while IFS= read -r line || [[ -n $line ]]; do
    case $line in
      *-----BEGIN*PRIVATE*) inside=true && out+='<private key>'$'\n' ;;
    esac
    if [[ $inside == false ]]; then
      redact_line "$line"
      out+="$REPLY"$'\n'
    fi
    case $line in
      *-----END*) inside=false ;;
    esac
  done <<<"$text"
  REPLY="${out%$'\n'}"
}

# Masks the secrets this node itself holds, whatever they look like.
mask_secrets() {
  local secret
  REPLY="$1"
  for secret in "${secrets[@]}"; do REPLY="${REPLY//"$secret"/<secret>}"; done
}

redact_line() {
  REPLY="$1"
  case $REPLY in
    *[Kk]10* | *\?* | *[Tt][Oo][Kk][Ee][Nn]* | *[Pp][Aa][Ss][Ss][Ww]* | *[Ss][Ee][Cc][Rr][Ee][Tt]* | *[Aa][Uu][Tt][Hh]* | *[Kk][Ee][Yy]* | *AKIA* | *ASIA* | *eyJ* | *[Aa][Mm][Zz]-*) ;;
    *) return 0 ;;
  esac
  shopt -s nocasematch
  mask '(K10)[0-9a-f]{6,}(::[^[:space:]"'\'',]*)?'
  mask '(https?://[^[:space:]?"'\'']+[?])[^[:space:]"'\'']+'
  mask '(X-Amz-(Signature|Credential|Security-Token)[=:] *)[^[:space:]&"'\'']+'
  mask '((Bearer|Basic) +)[^[:space:]"'\'']{8,}'
  mask '((token|passw(or)?d|secret|secret[-_]?(access[-_]?)?key|access[-_]?key|api[-_]?key|auth|credentials?)["'\'']?[[:space:]]*[:=][[:space:]]*["'\'']?)[^[:space:]"'\'',<][^[:space:]"'\'',]*'
  mask '(--[a-z-]*token["'\'']?[[:space:],=]+["'\'']?)[^[:space:]"'\'',<-][^[:space:]"'\'',]*'
  mask '((AKIA|ASIA)[A-Z0-9]{2})[A-Z0-9]{12,}'
  mask '(eyJ)[a-z0-9_-]{10,}[.][a-z0-9_.-]+'
  shopt -u nocasematch
}

# Replaces in REPLY whatever matches after the pattern's first group.
mask() {
  local rest="$REPLY" out=''
  while [[ $rest =~ $1 ]]; do
    out+="${rest%%"${BASH_REMATCH[0]}"*}${BASH_REMATCH[1]}<secret>"
    rest="${rest#*"${BASH_REMATCH[0]}"}"
  done
  REPLY="$out$rest"
}

# ---- files

# SHA-256 of a file into REPLY.
sha256_of() {
  local sum
  sum="$(sha256sum <"$1")"
  REPLY="${sum%% *}"
}

# Installs the whole file or nothing: a reader sees the old or the new one, never half. Sets `changed` when it did something.
place_file() {
  local -r source="$1" target="$2" mode="$3"
  if [[ -f $target ]] && same_file "$source" "$target"; then
    if [[ $(stat --format=%a "$target") == "${mode#0}" ]]; then return 0; fi
    chmod "$mode" "$target"
  else
    make_parents "$target"
    install --mode="$mode" "$source" "$target.drover-new"
    mv --force "$target.drover-new" "$target"
  fi
  changed=true
  log "placed ${target#"$root"}"
}

# The same for a text.
place_text() {
  printf '%s\n' "$1" >"$work_dir/text"
  place_file "$work_dir/text" "$2" "$3"
}

same_file() {
  local first
  sha256_of "$1"
  first="$REPLY"
  sha256_of "$2"
  [[ $first == "$REPLY" ]]
}

# Directories above a file: private where secrets lie, else open for reading as upstream makes them.
make_parents() {
  local -r parent="${1%/*}"
  if [[ -d $parent ]]; then return 0; fi
  case $parent in
    "$config_dir"/* | "$drover_dir"* | "$server_dir"*) (umask 022 && mkdir --parents "${parent%/*}") && install --directory --mode=0700 "$parent" ;;
    *) (umask 022 && mkdir --parents "$parent") ;;
  esac
}

# Files RKE2 reads its configuration from, in its order.
config_files() {
  local file
  files=()
  for file in "$config_dir/config.yaml" "$config_dir"/config.yaml.d/*.yaml "$config_dir"/config.yaml.d/*.yml; do
    if [[ -f $file ]]; then files+=("$file"); fi
  done
}

# Bytes free where a directory is or will be into REPLY.
free_bytes() {
  local place="$1" text
  while [[ ! -d $place ]]; do place="${place%/*}"; done
  text="$(df --output=avail --block-size=1 "${place:-/}")"
  text="${text##*$'\n'}"
  REPLY="${text//[^0-9]/}"
  [[ -n $REPLY ]]
}

# Which of the given ports something listens on, into REPLY, each after a space. From the kernel's tables: state 0A, port in hexadecimal.
listening() {
  local file line local_address state port taken=''
  for file in "$root/proc/net/tcp" "$root/proc/net/tcp6"; do
    if [[ ! -r $file ]]; then continue; fi
    while read -r _ local_address _ state line; do
      if [[ $state != 0A ]]; then continue; fi
      for port in "$@"; do
        if ((16#${local_address##*:} == port)) && [[ " $taken " != *" $port "* ]]; then taken+=" $port"; fi
      done
    done <"$file"
  done
  REPLY="$taken"
}

# ---- who this machine is

# Asks EC2's instance metadata (IMDSv2) once: path; answer into REPLY.
metadata() {
  REPLY="$(printf 'header = "X-aws-ec2-metadata-token: %s"\n' "$metadata_token" |
    curl --config - --silent --fail --noproxy '*' --connect-timeout 2 --max-time 5 "http://169.254.169.254/latest/meta-data/$1" 2>/dev/null)"
}

read_identity() {
  local instance_id
  local -r ttl='X-aws-ec2-metadata-token-ttl-seconds: 60'
  metadata_token="$(curl --silent --fail --noproxy '*' --connect-timeout 2 --max-time 5 --request PUT --header "$ttl" \
    http://169.254.169.254/latest/api/token 2>/dev/null)" || return 1
  metadata instance-id || return 1
  [[ $REPLY =~ ^i-[0-9a-f]{8,17}$ ]] || return 1
  instance_id="$REPLY"
  metadata local-ipv4 || return 1
  [[ $REPLY =~ ^([0-9]{1,3}\.){3}[0-9]{1,3}$ ]] || return 1
  address="$REPLY"
  node_name="$1-$instance_id"
}

# Sets node_name, `<pool>-<instance id>`, and address.
identify() {
  metadata_token=''
  wait_for 30 "instance metadata" read_identity "$1" ||
    fail Internal "Instance metadata (IMDSv2 at 169.254.169.254) gives no instance id and address. Check that the instance's metadata endpoint is enabled"
}

# The part of the configuration that is this machine's alone.
place_node_file() {
  place_text "node-name: \"$node_name\""$'\n'"node-ip: \"$address\"" "$node_file" 0600
}

# RKE2's binary into REPLY; no when it is not installed.
rke2_binary() {
  for REPLY in "$root/usr/local/bin/rke2" "$root/opt/rke2/bin/rke2"; do
    if [[ -x $REPLY ]]; then return 0; fi
  done
  REPLY=''
  return 1
}

# Version that a binary says it has, such as v1.35.7+rke2r1, into REPLY; empty when it says none.
version_of() {
  local text=''
  text="$(timeout 30 "$1" --version 2>/dev/null)" || true
  if [[ $text =~ v[0-9]+\.[0-9]+\.[0-9]+[-+.a-z0-9]* ]]; then REPLY="${BASH_REMATCH[0]}"; else REPLY=''; fi
}

# Hash of the cluster's CA as RKE2 puts it into full tokens, into REPLY: SHA-256 of the PEM file while it holds one certificate. With more it is that of the
# root's DER form, which bash cannot cut out, so it is read from the token RKE2 wrote, whose first part is no secret.
read_ca_hash() {
  local text='' count
  REPLY=''
  if [[ ! -r $server_ca ]]; then return 1; fi
  text="$(<"$server_ca")"
  count="${text//-----BEGIN CERTIFICATE-----/}"
  if ((${#text} - ${#count} == 27)); then
    sha256_of "$server_ca"
    return 0
  fi
  read -r -N 67 text <"$server_dir/token" || return 1
  [[ $text =~ ^K10([0-9a-f]{64})$ ]] || return 1
  REPLY="${BASH_REMATCH[1]}"
}

# ---- deliveries

# Fetches an address into a file, resuming after a break. A refusal ends it at once: a presigned address does not heal. The address goes to
# curl by stdin, because the process list is public. Arguments: what, address, file. On no, `reason` says why.
download() {
  local -r what="$1" url="$2" file="$3"
  local attempt status code limit
  reason='no time was left'
  for attempt in 1 2 3 4 5 6 7 8; do
    remaining
    limit="$REPLY"
    if ((limit < 3)); then return 1; fi
    code=0
    status="$(printf 'url = "%s"\n' "$url" |
      curl --config - --proto '=https' --silent --show-error --fail --connect-timeout 10 --speed-limit 1024 --speed-time 30 \
        --max-time "$limit" --continue-at - --dump-header "$work_dir/headers" --output "$file" --write-out '%{http_code}' 2>"$work_dir/curl")" || code=$?
    if ((code == 0)); then return 0; fi
    reason="HTTP ${status:-000}, curl status $code"
    case $status in
      400 | 401 | 403 | 404)
        reason="HTTP $status: the address has expired, or the store refuses or does not have the file"
        return 1
        ;;
      416) rm --force -- "$file" ;; # what is here is not the beginning of what is there
    esac
    if ((code == 33 || code == 36)); then rm --force -- "$file"; fi # the server cannot resume
    log "fetching $what: attempt $attempt: $reason: $(head --bytes=200 "$work_dir/curl")"
    sleep $((attempt < 5 ? attempt : 5))
  done
  return 1
}

# Uploads a file to the delivery's `put` entry of this name. One that is there already (412: the address may only create) counts as done.
# With a part's number, from 1, and the MiB of a part, it is that part of the file, streamed: the disk needs no room for a copy.
upload() {
  local -r name="$1" file="$2" part="${3:-0}" mebibytes="${4:-0}"
  local attempt status code at header config limit
  reason="the delivery has no address for $name"
  for at in "${!put_names[@]}"; do
    if [[ ${put_names[at]} != "$name" ]]; then continue; fi
    config="url = \"${put_urls[at]}\""$'\n'
    while IFS= read -r header; do
      if [[ -n $header ]]; then
        header="${header//\\/\\\\}"
        config+="header = \"${header//\"/\\\"}\""$'\n'
      fi
    done <<<"${put_headers[at]}"
    for ((attempt = 1; attempt <= upload_attempts; attempt++)); do
      remaining
      limit="$REPLY"
      if ((limit < 3)); then
        reason='no time was left'
        return 1
      fi
      code=0
      if ((part == 0)); then
        status="$(send_body "$config" "$limit" "$file")" || code=$?
      else
        status="$(send_part "$config" "$limit" "$file" "$part" "$mebibytes")" || code=$?
      fi
      if ((code == 0)); then return 0; fi
      if [[ $status == 412 ]]; then
        log "$name is there already"
        return 0
      fi
      reason="HTTP ${status:-000}, curl status $code"
      case $status in
        400 | 401 | 403 | 404) return 1 ;;
      esac
      log "uploading $name: attempt $attempt: $reason"
      sleep $((attempt < 10 ? attempt : 10))
    done
    return 1
  done
  return 1
}

# Whether the delivery has an upload address of this name.
has_address() {
  local name
  for name in "${put_names[@]}"; do
    if [[ $name == "$1" ]]; then return 0; fi
  done
  return 1
}

# PUTs a file with the address and headers of a curl configuration; prints the HTTP status.
send_body() {
  printf '%s' "$1" |
    curl --config - --proto '=https' --http1.1 --silent --show-error --fail --connect-timeout 10 --speed-limit 1024 --speed-time 30 \
      --max-time "$2" --upload-file "$3" --output /dev/null --write-out '%{http_code}' 2>"$work_dir/curl"
}

# Streams a part. S3 takes no chunked body without a length, and curl knows no length of a pipe: so the length is said by hand.
send_part() {
  local -r first=$((($4 - 1) * $5))
  local size bytes
  size="$(stat --format=%s "$3")"
  bytes=$((size - first * 1048576))
  if ((bytes > $5 * 1048576)); then bytes=$(($5 * 1048576)); fi
  exec 4< <(dd if="$3" bs=1M skip="$first" count="$5" status=none 2>/dev/null)
  send_body "$1"$'header = "Transfer-Encoding:"\n'"header = \"Content-Length: $bytes\""$'\n' "$2" /dev/fd/4
}

# Reads the delivery list behind an address into get_* and put_*. Lines are data of Drover's own making, yet each is checked: a target outside the
# directories a delivery may write, or an address that is not https, spoils the whole list.
fetch_delivery() {
  local -r url='^https://[A-Za-z0-9._~:/?&=%+-]+$'
  local field
  get_sums=() get_modes=() get_targets=() get_urls=() put_names=() put_urls=() put_headers=()
  download "the delivery list" "$1" "$work_dir/delivery" || fail DownloadFailed "The delivery list cannot be fetched: $reason"
  while IFS=$'\t' read -r -a field || ((${#field[@]} > 0)); do
    case ${field[0]:-} in
      '') ;;
      get)
        if ((${#field[@]} != 5)) || [[ ! ${field[1]} =~ ^(-|[0-9a-f]{64})$ || ! ${field[2]} =~ ^0?[0-7]{3}$ || ! ${field[4]} =~ $url ]] || ! may_write "${field[3]}"; then
          fail ConfigInvalid "The delivery list has a wrong get line for ${field[3]:-no target}"
        fi
        get_sums+=("${field[1]}")
        get_modes+=("${field[2]}")
        get_targets+=("${field[3]}")
        get_urls+=("${field[4]}")
        ;;
      put)
        if ((${#field[@]} < 3)) || [[ ! ${field[1]} =~ ^[a-z][a-z0-9-]*$ || ! ${field[2]} =~ $url ]]; then
          fail ConfigInvalid "The delivery list has a wrong put line"
        fi
        put_names+=("${field[1]}")
        put_urls+=("${field[2]}")
        put_headers+=("$(printf '%s\n' "${field[@]:3}")")
        ;;
      *) fail ConfigInvalid "The delivery list has a line that is neither get nor put" ;;
    esac
  done <"$work_dir/delivery"
}

may_write() {
  [[ $1 =~ ^/[A-Za-z0-9._/+-]+$ && $1 != *..* && $1 != */ ]] || return 1
  case $1 in
    /etc/rancher/rke2/* | /var/lib/drover/staging/* | /var/lib/drover/snapshots/* | /var/lib/rancher/rke2/agent/images/* | /var/lib/rancher/rke2/server/manifests/*) return 0 ;;
    *) return 1 ;;
  esac
}

# Fetches the small files of the delivery (configuration, tokens) and verifies them; place_configuration puts them where they belong.
# Releases of RKE2 are prepare-node's alone and snapshots restore-snapshot's: entries whose target is in their directories are left out.
fetch_configuration() {
  local at
  for at in "${!get_targets[@]}"; do
    if is_archive "${get_targets[at]}"; then continue; fi
    download "${get_targets[at]}" "${get_urls[at]}" "$work_dir/get-$at" || fail DownloadFailed "${get_targets[at]} cannot be fetched: $reason"
    if [[ ${get_sums[at]} != - ]]; then
      sha256_of "$work_dir/get-$at"
      if [[ $REPLY != "${get_sums[at]}" ]]; then
        fail ChecksumMismatch "${get_targets[at]} arrived with SHA-256 $REPLY, expected ${get_sums[at]}"
      fi
    fi
  done
}

# Where a configuration file's content lies before it is placed, into REPLY: as the delivery brought it, else as it is there. What is refused by it
# leaves the machine as it was: the files in place may be a member's own.
coming_file() {
  local at
  REPLY="$root$1"
  for at in "${!get_targets[@]}"; do
    if [[ ${get_targets[at]} == "$1" ]]; then REPLY="$work_dir/get-$at"; fi
  done
}

place_configuration() {
  local at
  for at in "${!get_targets[@]}"; do
    if is_archive "${get_targets[at]}"; then continue; fi
    place_file "$work_dir/get-$at" "$root${get_targets[at]}" "${get_modes[at]}"
  done
  load_secrets
}

is_archive() {
  case $1 in
    /var/lib/drover/staging/* | /var/lib/drover/snapshots/* | /var/lib/rancher/rke2/agent/images/*) return 0 ;;
    *) return 1 ;;
  esac
}

# Size of what an address gives into REPLY, 0 when it does not say. A presigned GET cannot be a HEAD, so one byte is asked for.
remote_size() {
  local line
  REPLY=0
  printf 'url = "%s"\n' "$1" | curl --config - --proto '=https' --silent --range 0-0 --max-filesize 65536 --connect-timeout 10 --max-time 20 \
    --dump-header "$work_dir/size" --output /dev/null 2>/dev/null || true
  if [[ ! -r $work_dir/size ]]; then return 0; fi
  while IFS= read -r line; do
    line="${line%$'\r'}"
    if [[ ${line,,} =~ ^content-range:.*/([0-9]+)$ ]]; then
      REPLY="${BASH_REMATCH[1]}"
      return 0
    fi
    if [[ ${line,,} =~ ^content-length:\ *([0-9]+)$ ]]; then REPLY="${BASH_REMATCH[1]}"; fi
  done <"$work_dir/size"
}
