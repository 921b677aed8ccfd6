#!/usr/bin/env bash
# Fake rke2-killall.sh: ends the service and, $WORLD/killall-needs times (once, if not told), what listens. Its status says nothing, as upstream's.
echo "rke2-killall.sh" >>"$WORLD/calls"
echo "inactive 0" >"$WORLD/units/rke2-server"
rm -f "$WORLD/etcd"
needs="$(cat "$WORLD/killall-needs" 2>/dev/null || echo 1)"
if ((needs <= 1)); then head --lines=1 "$DROVER_ROOT/proc/net/tcp" >"$WORLD/tcp" && cat "$WORLD/tcp" >"$DROVER_ROOT/proc/net/tcp"; fi
echo "$((needs - 1))" >"$WORLD/killall-needs"
exit 1
