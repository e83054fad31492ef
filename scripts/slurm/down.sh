#!/usr/bin/env bash
# Cancel the jobs of the cluster that up.sh brought up in LAB, and end its daemons.
: "${LAB:?a folder for the cluster}"
export SLURM_CONF=$LAB/etc/slurm.conf
timeout 10 scancel --user="$(id -un)"
for _ in $(seq 150); do
    [ -z "$(timeout 5 squeue -h)" ] && break
    sleep 0.1
done
for daemon in slurmd slurmctld munged; do
    file=$LAB/run/$daemon.pid
    [ -s "$file" ] || continue
    pid=$(cat "$file")
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$daemon" ] || continue
    kill -TERM "$pid"
    for _ in $(seq 100); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null
done
exit 0
