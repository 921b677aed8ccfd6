# shellcheck shell=bash disable=SC2034,SC2154 # a part: what it sets is used, and what it uses is set, by the script around it
#
# What a server knows of its cluster, asked with what RKE2 ships: kubectl beside the runtime, etcdctl inside the etcd pod.

readonly admin_config="$config_dir/rke2.yaml"
readonly kubelet_config="$agent_dir/kubelet.kubeconfig"

members=0
voters=0
member_lines=()
healthy_clients=()

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

# Members of etcd into members, voters and member_lines (`<id> <name> voter|learner <client addresses>`), as etcd itself lists them: `id, status, name, peers,
# clients, is a learner`. No when the pod cannot be asked.
read_etcd_members() {
  local list line rest id name kind
  list="$(etcdctl member list)" && [[ $list == *", "* ]] || return 1
  members=0
  voters=0
  member_lines=()
  while IFS= read -r line; do
    if [[ $line != *", "* ]]; then continue; fi
    id="${line%%, *}"
    rest="${line#*, }"
    rest="${rest#*, }"
    name="${rest%%, *}"
    rest="${rest%, *}"
    kind=learner
    if [[ ${line##*, } == false ]]; then
      kind=voter
      voters=$((voters + 1))
    fi
    members=$((members + 1))
    member_lines+=("$id $name $kind ${rest##*, }")
  done <<<"$list"
}

# The same, and where etcd cannot be asked the counts as the nodes' EtcdIsVoter conditions have them, without lines: enough to look at, not to act on. No
# when neither answers.
read_members() {
  local list name status
  if read_etcd_members; then return 0; fi
  list="$(kube get nodes --selector=node-role.kubernetes.io/etcd=true \
    --output='jsonpath={range .items[*]}{.metadata.name}{"\t"}{.status.conditions[?(@.type=="EtcdIsVoter")].status}{"\n"}{end}' 2>/dev/null)" || return 1
  members=0
  voters=0
  member_lines=()
  while IFS=$'\t' read -r name status; do
    if [[ -z $name ]]; then continue; fi
    members=$((members + 1))
    if [[ $status == True ]]; then voters=$((voters + 1)); fi
  done <<<"$list"
}

# Client addresses of the members that answer a proposal now into healthy_clients. The API's conditions tell of a death 40 s late; etcd's own answer does
# not. No when etcd on this server cannot be asked.
read_health() {
  local rest
  healthy_clients=()
  rest="$(etcdctl endpoint health --cluster --write-out=json)" || true # status 1: one of them is not healthy
  if [[ $rest != *'"endpoint"'* ]]; then return 1; fi
  while [[ $rest =~ \"endpoint\":\"([^\"]+)\",\"health\":(true|false) ]]; do
    rest="${rest#*"${BASH_REMATCH[0]}"}"
    if [[ ${BASH_REMATCH[2]} == true ]]; then healthy_clients+=("${BASH_REMATCH[1]}"); fi
  done
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
