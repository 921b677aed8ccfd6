#!/usr/bin/env bash
#
# Stops rke2-server on this machine with all that outlives it, so that no member of the old cluster votes or writes any more.
#
# A server that has joined the cluster which this restore makes, or made it, is left alone: its data are that cluster's.
#
# Parameters  pool, restore (its id)
# Changes     stops and disables rke2-server, ends RKE2's containers; what is on the disk stays as it is
# Again       safe: a server that is stopped is left as it is
# Exit        0 stopped, 1 failed, 64 wrong input, 75 not yet (run again)

set -o errexit -o nounset -o pipefail
# shellcheck source=node.sh
source "${BASH_SOURCE[0]%/*}/node.sh"
# shellcheck source=service.sh
source "${BASH_SOURCE[0]%/*}/service.sh"
# shellcheck source=server.sh
source "${BASH_SOURCE[0]%/*}/server.sh"

main() {
  local pool='' restore=''
  begin stop-server 370
  parameter pool '^[a-z]([a-z0-9-]*[a-z0-9])?$' 30
  parameter restore '^[a-z0-9][a-z0-9-]*$' 80
  unit=rke2-server
  lock_node 60
  identify "$pool"
  check_other_role rke2-agent
  local -r restore_dir="$drover_dir/restores/$restore"
  if [[ -e $restore_dir/reset || -e $restore_dir/removed ]]; then
    log "$node_name is of the cluster that restore $restore makes: it is left as it is"
  else
    stop_server
  fi
  # shellcheck disable=SC2119 # it has no fields of its own
  succeed
}

main "$@"
