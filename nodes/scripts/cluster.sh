# shellcheck shell=bash disable=SC2034,SC2154 # a part: what it sets is used, and what it uses is set, by the script around it
#
# What a server knows of its cluster, asked with what RKE2 ships: kubectl beside the runtime, etcdctl inside the etcd pod.

readonly admin_config="$config_dir/rke2.yaml"
readonly kubelet_config="$agent_dir/kubelet.kubeconfig"

members=0
voters=0
member_lines=()

# kubectl as cluster administrator. Every call ends: the API of a server that is going down may never answer.
kube() {
  kube_as "$admin_config" "$@"
}

kube_as() {
  local -r config="$1"
  shift
  remaining
  timeout "$((REPLY < 1 ? 1 : REPLY < 20 ? REPLY : 20))" "$data_dir/bin/kubectl" --kubeconfig "$config" --request-timeout=10s "$@"
}

has_api() {
  [[ -x $data_dir/bin/kubectl && -r $admin_config ]] && [[ $(kube get --raw /readyz 2>/dev/null) == ok ]]
}

etcdctl() {
  local -r tls=/var/lib/rancher/rke2/server/tls/etcd
  kube --namespace kube-system exec "etcd-$node_name" -- etcdctl --endpoints=https://127.0.0.1:2379 \
    --cacert="$tls/server-ca.crt" --cert="$tls/server-client.crt" --key="$tls/server-client.key" "$@" 2>/dev/null
}

# Members of etcd into members, voters and member_lines (`<id> <name> voter|learner`), as etcd itself lists them: `id, status, name, peers, clients, is a
# learner`. Where the pod cannot be asked, the nodes' EtcdIsVoter conditions answer, and there are no lines. No when neither answers.
read_members() {
  local list line rest id name status
  members=0
  voters=0
  member_lines=()
  if list="$(etcdctl member list)" && [[ $list == *", "* ]]; then
    while IFS= read -r line; do
      if [[ $line != *", "* ]]; then continue; fi
      id="${line%%, *}"
      rest="${line#*, }"
      rest="${rest#*, }"
      name="${rest%%, *}"
      members=$((members + 1))
      if [[ ${line##*, } == false ]]; then
        member_lines+=("$id $name voter")
        voters=$((voters + 1))
      else
        member_lines+=("$id $name learner")
      fi
    done <<<"$list"
    return 0
  fi
  list="$(kube get nodes --selector=node-role.kubernetes.io/etcd=true \
    --output='jsonpath={range .items[*]}{.metadata.name}{"\t"}{.status.conditions[?(@.type=="EtcdIsVoter")].status}{"\n"}{end}' 2>/dev/null)" || return 1
  while IFS=$'\t' read -r name status; do
    if [[ -z $name ]]; then continue; fi
    members=$((members + 1))
    if [[ $status == True ]]; then voters=$((voters + 1)); fi
  done <<<"$list"
}

# Reads this node's own object with the given kubeconfig into node_ready, node_votes and node_version. An agent asks as its kubelet.
read_node() {
  local line
  node_ready='' node_votes='' node_version=''
  line="$(kube_as "$1" get node "$node_name" \
    --output='jsonpath={.status.conditions[?(@.type=="Ready")].status}|{.status.conditions[?(@.type=="EtcdIsVoter")].status}|{.status.nodeInfo.kubeletVersion}' \
    2>/dev/null)" || return 1
  IFS='|' read -r node_ready node_votes node_version <<<"$line"
}
