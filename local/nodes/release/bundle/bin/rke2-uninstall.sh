#!/bin/sh
# Removes RKE2 from this machine: its programs, units, configuration and all of its data, snapshots included.
[ "$(id -u)" = 0 ] || { echo "run as root" >&2; exit 1; }
data_dir="${RKE2_DATA_DIR:-/var/lib/rancher/rke2}"
prefix="$(cd "$(dirname "$0")/.." && pwd)"

"$prefix/bin/rke2-killall.sh"
systemctl disable rke2-server.service rke2-agent.service
rm -f "$prefix"/lib/systemd/system/rke2-server.* "$prefix"/lib/systemd/system/rke2-agent.* /etc/systemd/system/rke2-server.* /etc/systemd/system/rke2-agent.*
systemctl daemon-reload
rm -rf "$prefix/share/rke2" /etc/rancher/rke2 /etc/rancher/node /var/lib/kubelet /var/log/pods "$data_dir"
rmdir /etc/rancher /var/lib/rancher 2>/dev/null
rm -f "$prefix/bin/rke2" "$prefix/bin/rke2-killall.sh" "$prefix/bin/rke2-uninstall.sh"
