#!/usr/bin/env bash
# Bring up a real SLURM on this machine alone, for the tests: munged, slurmctld and slurmd, without
# systemd or cgroups. Needs Debian's packages slurm-wlm slurmctld slurmd munge, and root.
#
#   LAB=/tmp/lab scripts/slurm/up.sh      then: export SLURM_CONF=/tmp/lab/etc/slurm.conf
#   LAB=/tmp/lab scripts/slurm/down.sh
#
# LAB: a folder whose parents anyone may enter (munge insists), with a path of under 90 bytes.
# PORT: the first of two free ports (default 16817).
set -eu
: "${LAB:?a folder for the cluster}"
port=${PORT:-16817}
export SLURM_CONF=$LAB/etc/slurm.conf
export PATH=$PATH:/usr/sbin:/sbin
for program in munged mungekey slurmctld slurmd sbatch; do
    command -v "$program" >/dev/null || { echo "$program is not installed" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "the daemons run as root here" >&2; exit 2; }

host=$(hostname -s) socket=$LAB/munge/munge.sock
umask 022
mkdir -p "$LAB"/{etc,run,log,state,spool,munge}
chmod 755 "$LAB" "$LAB/munge"
cat >"$SLURM_CONF" <<CONF
ClusterName=lab
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthInfo=socket=$socket,cred_expire=5
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmctldPidFile=$LAB/run/slurmctld.pid
SlurmdPidFile=$LAB/run/slurmd.pid
StateSaveLocation=$LAB/state
SlurmdSpoolDir=$LAB/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=2,sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
MinJobAge=3600
KillWait=10
AccountingStorageType=accounting_storage/none
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=1000 Gres=gpu:1
PartitionName=main Nodes=$host Default=YES DefaultTime=10 PriorityTier=1
PartitionName=high Nodes=$host DefaultTime=10 PriorityTier=10 PreemptMode=OFF
CONF
printf 'NodeName=%s Name=gpu File=/dev/null\n' "$host" >"$LAB/etc/gres.conf"

[ -s "$LAB/munge/munge.key" ] || mungekey --create --keyfile="$LAB/munge/munge.key"
munged --key-file="$LAB/munge/munge.key" --socket="$socket" --pid-file="$LAB/run/munged.pid" \
    --log-file="$LAB/log/munged.log" --seed-file="$LAB/munge/munged.seed"
for _ in $(seq 100); do
    munge -n --socket="$socket" | unmunge --socket="$socket" >/dev/null && break
    sleep 0.1
done
setsid slurmctld -D -f "$SLURM_CONF" </dev/null >"$LAB/log/slurmctld.log" 2>&1 &
for _ in $(seq 100); do
    scontrol ping 2>/dev/null | grep -q 'is UP' && break
    sleep 0.1
done
setsid slurmd -D -N "$host" -f "$SLURM_CONF" </dev/null >"$LAB/log/slurmd.log" 2>&1 &
for _ in $(seq 300); do
    [ "$(sinfo -h -p main -o %T)" = idle ] && exit 0
    sleep 0.1
done
echo "the node did not come up; see $LAB/log" >&2
exit 1
