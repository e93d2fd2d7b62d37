#!/bin/sh
# Runs inside the new system, once, as its root, with the packages to install as
# arguments: what makes a bare Debian a lab host that is a whole machine. Nothing here
# belongs to one host or one lab: that comes with the kernel's command line, see generator.
set -eu
export INITRD=No # the lab's own initramfs starts it

printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d # starts no service here
chmod 755 /usr/sbin/policy-rc.d
printf 'path-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\npath-exclude=/usr/share/locale/*\n' \
	>/etc/dpkg/dpkg.cfg.d/lab
apt-get -q update
# Not synced file by file: an interrupted build is thrown away.
apt-get -q -y --no-install-recommends -o Dpkg::Options::=--force-unsafe-io \
	-o Dpkg::Options::=--force-confold install "$@"
rm /usr/sbin/policy-rc.d

echo '/dev/vda / ext4 defaults,errors=remount-ro 0 0' >/etc/fstab
mkdir -p /etc/systemd/system-generators /var/log/journal
mv /tmp/generator /etc/systemd/system-generators/lab
chmod 755 /etc/systemd/system-generators/lab

# Each host makes its own keys when it starts first; who may log in comes with the
# command line.
mkdir -p /etc/systemd/system/ssh.service.d
printf '[Service]\nExecStartPre=\nExecStartPre=/usr/bin/ssh-keygen -A\nExecStartPre=/usr/sbin/sshd -t\n' \
	>/etc/systemd/system/ssh.service.d/keys.conf
cat >/etc/ssh/sshd_config.d/lab.conf <<'EOF'
AuthorizedKeysFile /run/lab/authorized_keys
PasswordAuthentication no
UseDNS no
MaxSessions 200
EOF
# Debian loads no watchdog driver by itself.
echo i6300esb >/etc/modules-load.d/watchdog.conf

systemctl enable systemd-networkd ssh
# What a test of it switches on, and nothing that starts by itself and competes with
# what is tested.
for unit in openvswitch-switch nfs-server nfs-blkmap nfs-client.target firewalld rpcbind.service rpcbind.socket lvm2-monitor; do
	systemctl disable $unit 2>/dev/null || true
done
systemctl mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service \
	fstrim.timer man-db.timer dpkg-db-backup.timer systemd-networkd-wait-online.service \
	getty@tty1.service serial-getty@ttyS0.service

# What is a host's own, what only the build needed, and what the machine that builds
# would leave: its name, its name servers and its package sources.
rm -f /etc/ssh/ssh_host_* /var/lib/dbus/machine-id /etc/hostname /etc/resolv.conf /etc/apt/sources.list
: >/etc/machine-id
: >/etc/resolv.conf
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/debconf/*-old /var/log/*.log /var/log/apt /tmp/*
