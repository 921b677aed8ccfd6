#!/bin/sh
# Ends everything that RKE2 runs on this machine, its containers too. Data stays. The exit status says nothing.
[ "$(id -u)" = 0 ] || { echo "run as root" >&2; exit 1; }
data_dir="${RKE2_DATA_DIR:-/var/lib/rancher/rke2}"

systemctl stop rke2-server.service rke2-agent.service

rm -f "$data_dir"/agent/pod-manifests/*.yaml
for record in /run/k3s/stand-in/*; do
  [ -f "$record" ] || continue
  read -r pid started _ <"$record"
  # The process id may be another's by now: its start time tells.
  if [ "$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | cut -d ' ' -f 20)" = "$started" ]; then kill -9 "$pid"; fi
done

awk '$2 ~ "^(/run/k3s|/var/lib/kubelet/pods|/run/netns/cni-)" { print $2 }' /proc/self/mounts | sort -r | while read -r mounted; do umount "$mounted"; done
rm -rf /run/k3s
if command -v ip >/dev/null; then
  for link in cni0 flannel.1 vxlan.calico cilium_host cilium_net cilium_vxlan; do ip link delete "$link" 2>/dev/null; done
fi
if command -v iptables-save >/dev/null && iptables-save 2>/dev/null | grep -qE 'KUBE-|CNI-|cali|CILIUM|flannel'; then
  iptables-save | grep -vE 'KUBE-|CNI-|cali|CILIUM|flannel' | iptables-restore
fi
exit 0
