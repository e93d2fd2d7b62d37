#!/bin/sh
# Runs inside the new system, once, as its root, with the packages to install as
# arguments: what makes a bare Debian a guest, and nothing that a cloud image of
# Debian would not have.
set -eu

# Only what a virtual machine's disk needs: a small initramfs loads faster.
mkdir -p /etc/initramfs-tools/conf.d
cat >/etc/initramfs-tools/conf.d/guest <<'EOF'
MODULES=list
COMPRESS=zstd
FSTYPE=ext4
EOF
printf '%s\n' virtio_pci virtio_blk virtio_scsi sd_mod sr_mod >/etc/initramfs-tools/modules

printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d # starts no service here
chmod 755 /usr/sbin/policy-rc.d
apt-get -q update
# Not synced file by file: an interrupted build is thrown away.
apt-get -q -y --no-install-recommends -o Dpkg::Options::=--force-unsafe-io \
	-o Dpkg::Options::=--force-confold install "$@"
rm /usr/sbin/policy-rc.d

cat >/etc/fstab <<'EOF'
LABEL=debian-root / ext4 defaults,discard,errors=remount-ro 0 1
EOF
echo debian >/etc/hostname
cat >/etc/hosts <<'EOF'
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
EOF

# Seeds come on a disk; without one the guest still gets its addresses by DHCP.
cat >/etc/cloud/cloud.cfg.d/90_seed.cfg <<'EOF'
datasource_list: [ NoCloud, ConfigDrive, None ]
system_info:
  network:
    renderers: [ networkd ]
EOF
cat >/etc/systemd/network/99-dhcp.network <<'EOF'
[Match]
Type=ether
[Network]
DHCP=yes
[DHCPv4]
UseDomains=yes
EOF
# A guest without a network, or with one NIC of two unplugged, shall boot too.
mkdir -p /etc/systemd/system/systemd-networkd-wait-online.service.d
cat >/etc/systemd/system/systemd-networkd-wait-online.service.d/any.conf <<'EOF'
[Service]
ExecStart=
ExecStart=/lib/systemd/systemd-networkd-wait-online --any --timeout=15
EOF
systemctl enable systemd-networkd systemd-resolved ssh
ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
# Nothing that starts by itself and competes with what a test measures.
systemctl mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service

mkdir -p /boot/grub
cat >/boot/grub/grub.cfg <<'EOF'
set timeout=0
linux /vmlinuz root=LABEL=debian-root ro console=tty0 console=ttyS0,115200 quiet
initrd /initrd.img
boot
EOF
cat >/etc/default/grub <<'EOF'
GRUB_TIMEOUT=0
GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200"
GRUB_CMDLINE_LINUX_DEFAULT=quiet
GRUB_TERMINAL=console
EOF
grub-mkimage -O i386-pc -o /boot/grub/core.img -p '(,msdos1)/boot/grub' \
	biosdisk part_msdos ext2 normal linux configfile search search_label echo test

# What every guest must have of its own, and what only the build needed.
rm -f /etc/ssh/ssh_host_* /var/lib/dbus/machine-id
: >/etc/machine-id
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/debconf/*-old /var/log/*.log /var/log/apt /tmp/* \
	/usr/share/doc/* /usr/share/man/* /usr/share/locale/*
