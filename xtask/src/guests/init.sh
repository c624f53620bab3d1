#!/bin/busybox sh
# First process of a test guest: start the workload, watch it, hand the result over ttyS1.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs dev /dev
busybox mkdir -p /tmp /dev/shm
busybox ip link set lo up 2>/dev/null

echo "guest-kernel $(busybox uname -r)"
python3 /workload.py >/tmp/workload.log 2>&1 &
pid=$!
tries=0
until busybox grep -q ready /tmp/workload.log; do
    tries=$((tries + 1))
    if [ $tries -gt 300 ]; then
        busybox cat /tmp/workload.log
        echo "guest-failed the workload did not start"
        busybox poweroff -f
    fi
    busybox sleep 0.2
done
echo "guest-python $(busybox grep python /tmp/workload.log)"

/concmon-bpf --pid $pid -d 3 --exact tasks,futures --http --json >/tmp/out 2>/tmp/err
code=$?
busybox sed 's/^/guest-stderr /' /tmp/err
busybox stty -F /dev/ttyS1 raw -echo
busybox cat /tmp/out >/dev/ttyS1
set -- $(busybox sha256sum /tmp/out)
echo "guest-done $code $1"
busybox sleep 1
busybox poweroff -f
