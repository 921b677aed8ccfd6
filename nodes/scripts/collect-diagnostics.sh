#!/usr/bin/env bash
#
# Gathers logs and states of this machine and of the cluster as it sees it, secrets masked, and uploads them as one archive.
#
# Parameters  pool, delivery
# Delivery    an upload address `diagnostics`
# Changes     nothing on the machine: the archive is removed once it is uploaded
# Never in    tokens, $D/server/cred, private keys, the encryption configuration, kubeconfigs, Secrets
# Again       safe: an archive that is there already counts as uploaded
# Exit        0 uploaded, 1 failed, 64 wrong input, 75 not yet (run again)

set -o errexit -o nounset -o pipefail
# shellcheck source=node.sh
source "${BASH_SOURCE[0]%/*}/node.sh"
# shellcheck source=cluster.sh
source "${BASH_SOURCE[0]%/*}/cluster.sh"

bundle_dir=''

# Runs a command for at most 20 seconds and keeps the end of what it says, masked. One that is missing or fails says so in its file.
collect() {
  local -r name="$1"
  shift
  local status=0
  remaining
  if ((REPLY < 60)); then return 0; fi
  timeout 20 "$@" >"$work_dir/raw" 2>&1 || status=$?
  keep "$name" "$work_dir/raw"
  if ((status != 0)) && [[ -f $bundle_dir/$name ]]; then printf '(ended with status %s)\n' "$status" >>"$bundle_dir/$name"; fi
}

collect_file() {
  if [[ -f $1 && -r $1 ]]; then keep "$2" "$1"; fi
}

# Puts the masked end of a file, 1 MB, into the bundle. Lines beyond 4,000 characters are cut: masking them would take minutes.
keep() {
  local line inside=false
  local -a lines
  remaining
  if ((REPLY < 60)); then return 0; fi # what is left is for the upload
  install -D --mode=0600 /dev/null "$bundle_dir/$1"
  tail --bytes=1048576 "$2" | tr --delete '\000' >"$work_dir/tail" || return 0
  mapfile -t lines <"$work_dir/tail"
  for line in "${lines[@]}"; do
    line="${line:0:4000}"
    case $line in
      *-----BEGIN*PRIVATE*) inside=true && printf '<private key>\n' ;;
    esac
    if [[ $inside == false ]]; then
      mask_secrets "$line"
      redact_line "$REPLY"
      printf '%s\n' "$REPLY"
    fi
    case $line in
      *-----END*) inside=false ;;
    esac
  done >"$bundle_dir/$1"
}

# Configuration is masked by key: a value of `token`, `password` and their like may look like anything.
keep_configuration() {
  local line
  local -r words='token|password|passwd|secret|credential|identity|auth|_key|-key|key_file|username'
  if [[ ! -r $1 ]]; then return 0; fi
  while IFS= read -r line || [[ -n $line ]]; do
    if [[ ${line,,} =~ ^[[:space:]-]*[\"\']?[a-z_-]*($words)[a-z_-]*[\"\']?[[:space:]]*: && ! ${line,,} =~ -file[\"\']?[[:space:]]*: ]]; then line="${line%%:*}: <secret>"; fi
    printf '%s\n' "$line"
  done <"$1" >"$work_dir/configuration"
  keep "$2" "$work_dir/configuration"
}

collect_system() {
  local file
  collect system/uname.txt uname --all
  collect_file "$root/etc/os-release" system/os-release.txt
  collect system/time.txt timedatectl
  collect system/disk.txt df --human-readable
  collect_file "$root/proc/meminfo" system/memory.txt
  collect_file "$root/proc/loadavg" system/load.txt
  collect_file "$root/proc/mounts" system/mounts.txt
  collect system/addresses.txt ip address
  collect system/routes.txt ip route
  collect system/ports.txt ss --listening --numeric --tcp --udp
  collect_file "$root/etc/resolv.conf" system/resolv.conf
  for file in fs/inotify/max_user_instances fs/inotify/max_user_watches vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops net/ipv4/ip_forward; do
    collect_file "$root/proc/sys/$file" "system/sysctl/${file//\//.}"
  done
  collect system/failed-units.txt systemctl --failed --no-pager
  collect system/kernel.log journalctl --dmesg --lines=1000 --no-pager
  collect system/agent.log journalctl --unit=amazon-ssm-agent --unit=snap.amazon-ssm-agent.amazon-ssm-agent --lines=500 --no-pager
}

collect_rke2() {
  local file service
  for service in rke2-server rke2-agent; do
    collect "rke2/$service.log" journalctl --unit="$service" --lines=5000 --no-pager
    collect "rke2/$service.unit" systemctl cat --no-pager "$service"
    collect "rke2/$service.status" systemctl show "$service" --property=ActiveState --property=SubState --property=NRestarts --property=Result
  done
  config_files
  for file in "${files[@]}" "$config_dir/registries.yaml"; do keep_configuration "$file" "config/${file##*/}"; done
  for file in "$config_dir"/psa.yaml "$config_dir"/rke2-pss.yaml "$config_dir"/audit-policy.yaml; do collect_file "$file" "config/${file##*/}"; done
  collect_file "$agent_dir/logs/kubelet.log" rke2/kubelet.log
  collect_file "$agent_dir/containerd/containerd.log" rke2/containerd.log
  for file in "$agent_dir"/pod-manifests/*.yaml; do collect_file "$file" "rke2/pod-manifests/${file##*/}"; done
  for file in "$root"/var/log/pods/kube-system_*/*/*.log; do
    if [[ -f $file ]]; then collect_file "$file" "pods/${file#"$root/var/log/pods/kube-system_"}"; fi
  done
  collect rke2/images.txt ls -l "$agent_dir/images"
  if rke2_binary; then
    local -r binary="$REPLY"
    collect rke2/version.txt "$binary" --version
    collect rke2/certificates.json "$binary" certificate check --output json
  fi
  if [[ -x $data_dir/bin/crictl ]]; then
    collect rke2/containers.txt env CONTAINER_RUNTIME_ENDPOINT=unix:///run/k3s/containerd/containerd.sock "$data_dir/bin/crictl" ps --all
  fi
  if read_ca_hash; then printf '%s\n' "$REPLY" >"$bundle_dir/rke2/ca-hash.txt"; fi
}

collect_cluster() {
  local -r kubectl="$data_dir/bin/kubectl"
  if [[ ! -x $kubectl || ! -r $admin_config ]]; then return 0; fi
  local -ra ask=("$kubectl" --kubeconfig "$admin_config" --request-timeout=10s)
  collect cluster/readyz.txt "${ask[@]}" get --raw '/readyz?verbose'
  collect cluster/nodes.txt "${ask[@]}" get nodes --output=wide
  collect cluster/node.yaml "${ask[@]}" get node "$node_name" --output=yaml
  collect cluster/pods.txt "${ask[@]}" get pods --all-namespaces --output=wide
  collect cluster/events.txt "${ask[@]}" get events --all-namespaces --sort-by=.lastTimestamp
  collect cluster/addons.txt "${ask[@]}" --namespace kube-system get helmcharts,addons,jobs
  local status=0
  etcdctl endpoint status --cluster --write-out=table >"$work_dir/raw" || status=$?
  keep cluster/etcd.txt "$work_dir/raw"
  collect cluster/etcd-health.json curl --silent --noproxy '*' --max-time 5 http://127.0.0.1:2381/health
}

# A machine whose metadata does not answer is one to be diagnosed: its name is then what prepare-node left.
identify_anyway() {
  local line
  metadata_token=''
  if wait_for 10 "instance metadata" read_identity "$1"; then return 0; fi
  node_name="$1-unknown"
  if [[ ! -r $node_file ]]; then return 0; fi
  while IFS= read -r line; do
    if [[ $line =~ ^node-name:\ \"([a-z0-9-]+)\"$ ]]; then node_name="${BASH_REMATCH[1]}"; fi
  done <"$node_file"
}

main() {
  local pool='' delivery=''
  local bytes sum
  begin collect-diagnostics 270
  parameter pool '^[a-z]([a-z0-9-]*[a-z0-9])?$' 30
  parameter delivery '^https://[A-Za-z0-9._~:/?&=%+-]+$' 3508
  lock_node 30
  identify_anyway "$pool"
  fetch_delivery "$delivery"
  bundle_dir="$work_dir/$node_name"
  install --directory --mode=0700 "$bundle_dir"/{system,rke2,config,cluster}
  collect_rke2
  collect_cluster
  collect_system
  tar --create --gzip --file="$work_dir/diagnostics.tar.gz" --directory="$work_dir" "$node_name" || fail DiskFull "The archive of diagnostics cannot be written: is /tmp full?"
  bytes="$(stat --format=%s "$work_dir/diagnostics.tar.gz")"
  sha256_of "$work_dir/diagnostics.tar.gz"
  sum="$REPLY"
  upload diagnostics "$work_dir/diagnostics.tar.gz" || fail UploadFailed "The diagnostics cannot be uploaded: $reason"
  changed=false
  succeed bytes "$bytes" sha256 "\"$sum\""
}

main "$@"
