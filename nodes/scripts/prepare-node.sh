#!/usr/bin/env bash
#
# Makes this machine fit for RKE2 and puts a release and its configuration in place. Starts nothing.
#
# Order: look at the machine; fetch and verify everything; only then change it. A machine that cannot become a node is left as it was.
#
# Parameters  role, pool, delivery, version, profile, selinux
# Delivery    into the staging directory: sha256sum-<arch>.txt, rke2.linux-<arch>.tar.gz, image archives; elsewhere: config.yaml and its neighbours
# Changes     swap, kernel parameters, NetworkManager's view of CNI interfaces, the etcd user (servers with profile cis); RKE2's files under
#             /usr/local or /opt/rke2, image archives, configuration
# Again       safe: what is there already, by SHA-256, is neither fetched nor placed again
# Exit        0 prepared, 1 failed, 64 wrong input, 75 not yet (run again)

set -o errexit -o nounset -o pipefail
# shellcheck source=node.sh
source "${BASH_SOURCE[0]%/*}/node.sh"

readonly images_dir="$agent_dir/images"
readonly bundle_stamp="$drover_dir/bundle" # SHA-256 of the bundle installed, and of the binary it gave

architecture=''
prefix=''
warnings=()
archives=()
declare -A sums=()     # file name -> SHA-256, from the release's checksum file
declare -A in_place=() # file name -> whether it was found where it belongs

# The first five travel with the result; all are in the log.
warn() {
  log "warning: $1"
  redact "$1"
  if ((${#warnings[@]} < 5)); then warnings+=("${REPLY:0:200}"); fi
}

# ---- the machine

check_os() {
  local tool missing=''
  if [[ $(id --user) != 0 ]]; then fail UnsupportedOs "Node commands run as root, this one runs as user $(id --user)"; fi
  for tool in curl tar gzip flock sha256sum install stat df timeout systemctl journalctl; do
    if ! type -P "$tool" >/dev/null; then missing+=" $tool"; fi
  done
  if [[ -n $missing ]]; then fail UnsupportedOs "This operating system lacks:$missing"; fi
  if [[ ! -d $root/run/systemd/system ]]; then fail UnsupportedOs "systemd does not run this machine; RKE2 comes as systemd units"; fi
  case $(uname --machine) in
    x86_64) architecture=amd64 ;;
    aarch64) architecture=arm64 ;;
    *) fail UnsupportedOs "RKE2 has no release for the architecture $(uname --machine): x86_64 and aarch64 are supported" ;;
  esac
  if ! type -P iptables >/dev/null; then warn "iptables is missing: hostPort of pods will not work"; fi
}

# RKE2 refuses dates before 1980; a clock before this project's first release is as wrong, and would fail TLS with a less clear message.
check_clock_is_set() {
  if (($(date +%s) < 1735689600)); then fail ClockWrong "The clock says $(date --utc +%Y-%m-%d), which is before 2025. Set up time synchronisation (chrony with 169.254.169.123)"; fi
}

# RKE2 orders bootstrap files of the servers by time and forgives 3 s, so the delivery's Date header is held against the clock.
# A fresh machine's clock may be on its way: it gets 30 seconds.
check_clock_skew() {
  local skew
  read_clock_skew || return 0
  skew="$REPLY"
  if ((skew > 30)); then
    if ! wait_for 30 "the clock to be set" clock_is_close; then
      fail ClockWrong "The clock differs by $skew s from the artifact store's, at most 30 s are allowed. Set up time synchronisation (chrony with 169.254.169.123)"
    fi
    read_clock_skew || return 0
    skew="$REPLY"
  fi
  if ((skew > 2)); then warn "The clock differs by $skew s from the artifact store's; servers must agree within 3 s"; fi
}

clock_is_close() {
  : >"$work_dir/again"
  download "the time" "$delivery" "$work_dir/again" && read_clock_skew && ((REPLY <= 30))
}

# Seconds between the last answer's Date header and the clock into REPLY; no when there was none.
read_clock_skew() {
  local line theirs='' here
  here="$(date +%s)"
  while IFS= read -r line; do
    line="${line%$'\r'}"
    if [[ ${line,,} == date:* ]]; then theirs="$(date --date="${line#*:}" +%s 2>/dev/null)" || theirs=''; fi
  done <"$work_dir/headers"
  if [[ -z $theirs ]]; then return 1; fi
  REPLY=$((here > theirs ? here - theirs : theirs - here))
}

# What another Kubernetes left or runs here would fight with RKE2 over the same ports and directories.
check_foreign() {
  local service line name='' binary
  if [[ -e $root/usr/bin/rke2 ]]; then fail ForeignRke2 "RKE2 is installed from packages (/usr/bin/rke2). Use an image without it"; fi
  for service in kubelet k3s k3s-agent; do
    if systemctl is-active --quiet "$service"; then fail ForeignRke2 "$service runs on this machine. Use an image without another Kubernetes"; fi
  done
  for service in docker containerd; do
    if systemctl is-active --quiet "$service"; then warn "$service runs beside RKE2's own containerd; use an image without it"; fi
  done
  if [[ ! -d $server_dir/db/etcd && ! -e $agent_dir/kubelet.kubeconfig ]]; then return 0; fi
  if [[ -r $node_file ]]; then
    while IFS= read -r line; do
      if [[ $line =~ ^node-name:\ \"(.*)\"$ ]]; then name="${BASH_REMATCH[1]}"; fi
    done <"$node_file"
  fi
  if [[ $name != "$node_name" ]]; then
    fail ForeignRke2 "The disk holds the data of ${name:-a node that Drover did not make}, not of $node_name. Use an image on which RKE2 never ran"
  fi
  if rke2_binary; then
    binary="$REPLY"
    version_of "$binary"
    if [[ $REPLY != "$version" ]]; then
      fail ForeignRke2 "$node_name already runs with RKE2 ${REPLY:-of an unknown version}, not $version. prepare-node does not change the version of a node that has started"
    fi
  fi
}

check_ports() {
  local -a needed=(10250)
  if [[ $role == server ]]; then needed=(9345 6443 2379 2380 10250); fi
  if systemctl is-active --quiet rke2-server || systemctl is-active --quiet rke2-agent; then return 0; fi
  if [[ -d $server_dir/db/etcd || -e $agent_dir/kubelet.kubeconfig ]]; then return 0; fi # RKE2's containers outlive its service
  listening "${needed[@]}"
  if [[ -n $REPLY ]]; then fail PortInUse "Something listens on port$REPLY already, which RKE2 needs as $role. Use an image without it"; fi
}

check_cgroups() {
  local line found=false
  if [[ -r $root/sys/fs/cgroup/cgroup.controllers ]]; then
    line="$(<"$root/sys/fs/cgroup/cgroup.controllers")"
    if [[ " $line " == *" pids "* ]]; then found=true; fi
  elif [[ -r $root/proc/cgroups ]]; then
    while read -r -a line; do
      if [[ ${line[0]:-} == pids && ${line[3]:-} == 1 ]]; then found=true; fi
    done <"$root/proc/cgroups"
  fi
  if [[ $found == false ]]; then fail CgroupMissing "The kernel offers no pids cgroup controller, without which RKE2 does not start. Enable it on the kernel command line"; fi
}

# What may work, and often does not.
check_surroundings() {
  local line destination found=false only_loopback=true nameservers=0 service module
  while read -r _ destination line; do
    if [[ $destination == 00000000 ]]; then found=true; fi
  done 2>/dev/null <"$root/proc/net/route" || true
  if [[ $found == false ]]; then warn "There is no default route; RKE2 finds node addresses by it"; fi
  for service in firewalld ufw; do
    if systemctl is-active --quiet "$service"; then warn "$service runs: it must allow RKE2's ports and pod traffic, or be off"; fi
  done
  if systemctl is-active --quiet fapolicyd; then warn "fapolicyd runs: it must trust /var/lib/rancher and the RKE2 binary"; fi
  if [[ -r $root/etc/resolv.conf && ! -r $root/run/systemd/resolve/resolv.conf ]]; then
    while read -r -a line; do
      if [[ ${line[0]:-} != nameserver ]]; then continue; fi
      nameservers=$((nameservers + 1))
      if [[ ${line[1]:-} != 127.* && ${line[1]:-} != ::1 ]]; then only_loopback=false; fi
    done <"$root/etc/resolv.conf"
    if ((nameservers > 0)) && [[ $only_loopback == true ]]; then warn "/etc/resolv.conf names only loopback servers: RKE2 would use 8.8.8.8. Set rke2.config.resolv-conf"; fi
  fi
  if type -P modprobe >/dev/null; then
    for module in overlay br_netfilter; do
      if ! modprobe --dry-run --quiet "$module" 2>/dev/null; then warn "Kernel module $module cannot be loaded (RHEL 10: install kernel-modules-extra)"; fi
    done
  fi
}

# ---- fetching

# Reads the release's own checksum file, which names every file of the architecture. It is verified itself where the delivery says its sum.
fetch_checksums() {
  local at line
  local -r wanted="sha256sum-$architecture.txt" file="$work_dir/checksums"
  for at in "${!get_targets[@]}"; do
    if [[ ${get_targets[at]##*/} != "$wanted" ]]; then continue; fi
    download "$wanted" "${get_urls[at]}" "$file" || fail DownloadFailed "$wanted cannot be fetched: $reason"
    if [[ ${get_sums[at]} != - ]]; then
      sha256_of "$file"
      if [[ $REPLY != "${get_sums[at]}" ]]; then fail ChecksumMismatch "$wanted arrived with SHA-256 $REPLY, expected ${get_sums[at]}"; fi
    fi
    while IFS= read -r line || [[ -n $line ]]; do
      if [[ $line =~ ^([0-9a-f]{64})[[:space:]]+[*]?([A-Za-z0-9._+-]+)$ ]]; then sums["${BASH_REMATCH[2]}"]="${BASH_REMATCH[1]}"; fi
    done <"$file"
    return 0
  done
  fail UnsupportedOs "The delivery has no $wanted, and this machine is $architecture. Is the image of another architecture than the cluster file says?"
}

# Splits the delivery's release files into the bundle and image archives, each with the sum it must have.
read_archives() {
  local at name has_bundle=false has_config=false
  local -r bundle="rke2.linux-$architecture.tar.gz"
  for at in "${!get_targets[@]}"; do
    if [[ $root${get_targets[at]} == "$config_dir/config.yaml" ]]; then has_config=true; fi
    is_archive "${get_targets[at]}" || continue
    name="${get_targets[at]##*/}"
    if [[ $name == "sha256sum-$architecture.txt" ]]; then continue; fi
    if [[ $name == "$bundle" ]]; then has_bundle=true; fi
    if [[ $name != "rke2.linux-$architecture.tar.gz" && ! $name =~ ^rke2-images[a-z-]*\.linux-$architecture\.tar\.(zst|gz)$ ]]; then
      fail UnsupportedOs "$name is not a file of an RKE2 release for $architecture"
    fi
    if [[ -z ${sums[$name]:-} ]]; then fail ChecksumMismatch "The release's checksum file does not name $name"; fi
    if [[ ${get_sums[at]} != - && ${get_sums[at]} != "${sums[$name]}" ]]; then
      fail ChecksumMismatch "$name has SHA-256 ${sums[$name]} in the release's checksum file, ${get_sums[at]} in the delivery"
    fi
    archives+=("$at")
  done
  if [[ $has_bundle == false ]]; then fail ConfigInvalid "The delivery has no $bundle"; fi
  if [[ $has_config == false ]]; then fail ConfigInvalid "The delivery has no /etc/rancher/rke2/config.yaml"; fi
}

# Whether an archive is already where it belongs, as it should be. Images are hashed once: they are large.
is_in_place() {
  local -r name="$1"
  if [[ -z ${in_place[$name]:-} ]]; then
    in_place["$name"]=false
    if [[ $name == rke2-images* ]]; then
      if is_file_of_release "$images_dir/$name" "$name"; then in_place["$name"]=true; fi
    elif is_bundle_installed "$name"; then
      in_place["$name"]=true
    fi
  fi
  [[ ${in_place[$name]} == true ]]
}

is_bundle_installed() {
  local installed='' binary_sum=''
  if [[ ! -r $bundle_stamp ]] || ! rke2_binary; then return 1; fi
  sha256_of "$REPLY"
  { read -r installed && read -r binary_sum; } <"$bundle_stamp" || return 1
  [[ $installed == "${sums[$1]}" && $binary_sum == "$REPLY" ]]
}

is_file_of_release() {
  if [[ ! -f $1 ]]; then return 1; fi
  sha256_of "$1"
  [[ $REPLY == "${sums[$2]}" ]]
}

is_staged() {
  is_file_of_release "$staging_dir/$1" "$1"
}

# An archive is unpacked into containerd at three times its size, and etcd must never meet a full disk.
check_disk() {
  local at total=0 needed
  for at in "$@"; do
    remote_size "${get_urls[at]}"
    total=$((total + REPLY))
  done
  needed=$((3 * total + 536870912))
  free_bytes "$data_dir"
  if ((REPLY < needed)); then
    fail DiskFull "/var/lib/rancher has $((REPLY / 1048576)) MiB free, $((needed / 1048576)) MiB are needed: three times the archives and 512 MiB. Choose a larger rootVolumeGib"
  fi
  free_bytes "$staging_dir"
  if ((REPLY < total)); then fail DiskFull "/var/lib/drover has $((REPLY / 1048576)) MiB free, the archives take $((total / 1048576)) MiB"; fi
}

fetch_archives() {
  local at name
  local -a wanted=()
  for at in "${archives[@]}"; do
    name="${get_targets[at]##*/}"
    if is_in_place "$name"; then
      log "$name is in place"
    elif is_staged "$name"; then
      log "$name is fetched already"
    else
      wanted+=("$at")
    fi
  done
  if ((${#wanted[@]} == 0)); then return 0; fi
  check_disk "${wanted[@]}"
  install --directory --mode=0700 "$staging_dir"
  for at in "${wanted[@]}"; do fetch_archive "${get_targets[at]##*/}" "${get_urls[at]}"; done
}

# Fetches one archive and verifies it. A wrong sum may come from an earlier break between two releases, so it is fetched afresh once.
fetch_archive() {
  local -r name="$1" url="$2"
  local attempt
  for attempt in 1 2; do
    download "$name" "$url" "$staging_dir/$name" || fail DownloadFailed "$name cannot be fetched: $reason"
    if is_staged "$name"; then
      log "fetched and verified $name"
      return 0
    fi
    rm --force -- "$staging_dir/$name"
    log "$name arrived with SHA-256 $REPLY, expected ${sums[$name]} (attempt $attempt)"
  done
  fail ChecksumMismatch "$name arrived with SHA-256 $REPLY, the release's checksum file says ${sums[$name]}. Check the artifact store"
}

# ---- changing the machine

turn_off_swap() {
  local line count=0
  while IFS= read -r line; do count=$((count + 1)); done 2>/dev/null <"$root/proc/swaps" || true
  if ((count < 2)); then return 0; fi
  if swapoff --all; then
    changed=true
    warn "Swap was on and is off now; remove it from /etc/fstab, or it returns with the next boot"
  else
    warn "Swap is on and cannot be turned off"
  fi
}

# Kernel parameter: name with dots or slashes; value into REPLY, empty when the kernel has none such.
read_parameter() {
  REPLY=''
  if [[ -r $root/proc/sys/${1//./\/} ]]; then REPLY="$(<"$root/proc/sys/${1//./\/}")"; fi
}

write_parameter() {
  if [[ ! -e $root/proc/sys/${1//./\/} ]]; then return 1; fi
  { printf '%s\n' "$2" >"$root/proc/sys/${1//./\/}"; } 2>/dev/null
}

# Busy nodes run out of inotify watches. Values are raised, never lowered; a machine that does not let them be set still works.
raise_inotify() {
  local name least text=''
  for name in fs.inotify.max_user_instances fs.inotify.max_user_watches; do
    least=8192
    if [[ $name == *watches ]]; then least=524288; fi
    read_parameter "$name"
    if [[ $REPLY =~ ^[0-9]+$ ]] && ((REPLY > least)); then least="$REPLY"; fi
    text+="$name = $least"$'\n'
    if [[ $REPLY != "$least" ]]; then write_parameter "$name" "$least" || warn "$name cannot be raised to $least"; fi
  done
  place_text "${text%$'\n'}" "$root/etc/sysctl.d/60-drover.conf" 0644
}

# Profile cis: RKE2 checks these at every start and does not start without them, so they are set and read back before the first.
set_cis_parameters() {
  local line name value
  local -r source="$prefix/share/rke2/rke2-cis-sysctl.conf"
  if [[ ! -r $source ]]; then fail KernelParameter "The bundle of $version has no rke2-cis-sysctl.conf, which profile cis needs"; fi
  place_file "$source" "$root/etc/sysctl.d/60-rke2-cis.conf" 0644
  while IFS= read -r line || [[ -n $line ]]; do
    if [[ ! $line =~ ^[[:space:]]*([a-z0-9_./]+)[[:space:]]*=[[:space:]]*([0-9]+)[[:space:]]*$ ]]; then continue; fi
    name="${BASH_REMATCH[1]}"
    value="${BASH_REMATCH[2]}"
    read_parameter "$name"
    if [[ $REPLY != "$value" ]]; then
      write_parameter "$name" "$value" || true
      read_parameter "$name"
    fi
    if [[ $REPLY != "$value" ]]; then fail KernelParameter "$name is ${REPLY:-missing} and cannot be set to $value, which profile cis demands"; fi
  done <"$source"
}

# Profile cis: etcd runs as a local user of that name, in /etc/passwd itself.
make_etcd_user() {
  has_entry "$root/etc/group" || groupadd --system etcd || true
  if ! has_entry "$root/etc/passwd"; then
    useradd --system --comment "etcd user" --shell /sbin/nologin --no-create-home --gid etcd etcd || true
    changed=true
  fi
  if ! has_entry "$root/etc/group" || ! has_entry "$root/etc/passwd"; then
    fail UnsupportedOs "The local user and group etcd, which profile cis needs on servers, cannot be made with useradd and groupadd"
  fi
}

has_entry() {
  local line
  while IFS= read -r line || [[ -n $line ]]; do
    if [[ $line == etcd:* ]]; then return 0; fi
  done <"$1"
  return 1
}

# NetworkManager and nm-cloud-setup take the pods' interfaces and routes for their own (rancher/rke2 issue 1053).
tame_network_manager() {
  local service
  local interfaces='interface-name:flannel*;interface-name:cali*;interface-name:tunl*;interface-name:vxlan.calico'
  interfaces+=';interface-name:vxlan-v6.calico;interface-name:wireguard.cali;interface-name:wg-v6.cali'
  if [[ -d $root/etc/NetworkManager ]]; then
    local -r before=$changed
    changed=false
    place_text "[keyfile]"$'\n'"unmanaged-devices=$interfaces" "$root/etc/NetworkManager/conf.d/rke2-canal.conf" 0644
    if [[ $changed == true ]] && systemctl is-active --quiet NetworkManager; then
      systemctl reload NetworkManager || warn "NetworkManager does not reload: it may take the pods' interfaces until the next boot"
    fi
    if [[ $before == true ]]; then changed=true; fi
  fi
  for service in nm-cloud-setup.timer nm-cloud-setup.service; do
    if systemctl is-enabled --quiet "$service" 2>/dev/null; then
      systemctl disable --now "$service" || true
      changed=true
      warn "$service was on and is off now: its routes stay until the next boot"
    fi
  done
}

# ---- placing

# /usr/local as upstream, unless it cannot be written or is a mount of its own: then /opt/rke2.
choose_prefix() {
  local place line
  prefix="$root/usr/local"
  if [[ -r $root/proc/mounts ]]; then
    while read -r _ place line; do
      if [[ $place == /usr/local ]]; then prefix="$root/opt/rke2"; fi
    done <"$root/proc/mounts"
  fi
  if ! (umask 022 && mkdir --parents "$prefix/bin" && : >"$prefix/bin/.drover") 2>/dev/null; then prefix="$root/opt/rke2"; fi
  rm --force -- "$prefix/bin/.drover"
}

check_version() {
  version_of "$1"
  if [[ $REPLY != "$version" ]]; then fail ChecksumMismatch "The bundle holds RKE2 ${REPLY:-that does not run here}, not $version. Check the artifact store"; fi
}

# Unpacks the bundle beside its place and moves file by file, so that a running or a starting RKE2 finds the old binary or the new one.
install_bundle() {
  local -r name="rke2.linux-$architecture.tar.gz" unpacked="$staging_dir/bundle"
  local file relative target mode text binary_sum
  if is_in_place "$name"; then
    rke2_binary
    check_version "$REPLY"
    return 0
  fi
  rm --recursive --force -- "$unpacked"
  install --directory --mode=0700 "$unpacked"
  tar --extract --gzip --file="$staging_dir/$name" --directory="$unpacked" --no-same-owner || fail DiskFull "The bundle $name cannot be unpacked: is /var/lib/drover full?"
  if [[ ! -f $unpacked/bin/rke2 || ! -f $unpacked/lib/systemd/system/rke2-server.service || ! -f $unpacked/lib/systemd/system/rke2-agent.service ]]; then
    fail ChecksumMismatch "The bundle $name is not laid out as RKE2's: bin/rke2 or its units are missing"
  fi
  chmod 0755 "$unpacked/bin/rke2"
  check_version "$unpacked/bin/rke2"
  # The binary comes last: it is what `is_in_place` looks at.
  for file in "$unpacked"/share/rke2/* "$unpacked"/lib/systemd/system/* "$unpacked"/bin/*; do
    if [[ ! -f $file ]]; then continue; fi
    relative="${file#"$unpacked/"}"
    target="$prefix/$relative"
    mode=0644
    if [[ $relative == bin/* ]]; then mode=0755; fi
    if [[ $prefix != "$root/usr/local" && $relative != bin/rke2 ]]; then
      text="$(<"$file")"
      printf '%s\n' "${text//\/usr\/local//opt/rke2}" >"$file"
      if [[ $relative == lib/systemd/system/*.service ]]; then target="$root/etc/systemd/system/${relative##*/}"; fi
    fi
    place_file "$file" "$target" "$mode"
  done
  systemctl daemon-reload
  sha256_of "$prefix/bin/rke2"
  binary_sum="$REPLY"
  place_text "${sums[$name]}"$'\n'"$binary_sum" "$bundle_stamp" 0600
  rm --recursive --force -- "$unpacked" "${staging_dir:?}/$name"
}

# Archives as they are, never unpacked. Those of another release go, and lists (.txt) too: RKE2 would pull what they name.
# `.cache.json` makes RKE2 import each archive once instead of at every start.
install_images() {
  local at name file keep
  local -a names=()
  for at in "${archives[@]}"; do
    name="${get_targets[at]##*/}"
    if [[ $name != rke2-images* ]]; then continue; fi
    names+=("$name")
    if is_in_place "$name"; then continue; fi
    (umask 022 && mkdir --parents "$images_dir")
    mv --force -- "$staging_dir/$name" "$images_dir/.$name.drover-new"
    chmod 0644 "$images_dir/.$name.drover-new"
    mv --force -- "$images_dir/.$name.drover-new" "$images_dir/$name"
    changed=true
    log "placed $name"
  done
  if [[ ! -d $images_dir ]]; then return 0; fi
  for file in "$images_dir"/rke2-images* "$images_dir"/*.txt; do
    if [[ ! -e $file ]]; then continue; fi
    keep=false
    for name in "${names[@]}"; do
      if [[ ${file##*/} == "$name" ]]; then keep=true; fi
    done
    if [[ $keep == false ]]; then
      rm --force -- "$file"
      changed=true
      log "removed ${file##*/}, which is not of this release"
    fi
  done
  if [[ ! -e $images_dir/.cache.json ]]; then
    (umask 022 && touch "$images_dir/.cache.json")
    changed=true
  fi
}

# Files that came through the staging directory carry its labels. The policy itself comes only with the rke2-selinux package: without it
# RKE2 from a tarball does not run in its own context (rancher/rke2 issue 9057).
label_files() {
  local mode=Disabled file
  if type -P getenforce >/dev/null; then mode="$(getenforce)"; fi
  if [[ $selinux == true ]]; then
    if [[ $mode == Disabled ]]; then
      warn "security.selinux is asked for, but SELinux is disabled on this machine"
    elif [[ ! -e $root/usr/share/selinux/packages/rke2.pp && ! -e $root/usr/share/selinux/packages/rke2.pp.bz2 ]]; then
      warn "The package rke2-selinux is missing: SELinux does not confine RKE2 (rancher/rke2 issue 9057)"
    fi
  fi
  if [[ $mode == Disabled ]] || ! type -P restorecon >/dev/null; then return 0; fi
  for file in "$prefix/bin" "$prefix/lib/systemd/system" "$root/etc/systemd/system" "$root/etc/rancher" "$root/var/lib/rancher"; do
    if [[ -e $file ]]; then restorecon -R -i "$file" || warn "SELinux labels of ${file#"$root"} cannot be restored"; fi
  done
}

main() {
  local role='' pool='' delivery='' version='' profile='' selinux='' warning list=''
  begin prepare-node 840
  parameter role '^(server|agent)$' 6
  parameter pool '^[a-z]([a-z0-9-]*[a-z0-9])?$' 30
  parameter delivery '^https://[A-Za-z0-9._~:/?&=%+-]+$' 3508
  parameter version '^v[0-9]+[.][0-9]+[.][0-9]+(-[a-z0-9.]+)?[+]rke2r[0-9]+$' 40
  parameter profile '^(none|cis)$' 4
  parameter selinux '^(true|false)$' 5
  check_os
  lock_node 60
  check_clock_is_set
  check_cgroups
  check_ports
  identify "$pool"
  check_foreign
  check_surroundings

  fetch_delivery "$delivery"
  check_clock_skew
  fetch_checksums
  read_archives
  fetch_archives
  fetch_configuration

  turn_off_swap
  raise_inotify
  tame_network_manager
  choose_prefix
  install_bundle
  install_images
  if [[ $profile == cis ]]; then
    set_cis_parameters
    if [[ $role == server ]]; then make_etcd_user; fi
  fi
  place_configuration
  place_node_file
  label_files

  for warning in "${warnings[@]}"; do
    json_string "$warning"
    list+="${list:+,}$REPLY"
  done
  json_string "$version"
  succeed version "$REPLY" warnings "[$list]"
}

main "$@"
