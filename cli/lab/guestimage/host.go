package guestimage

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

//go:embed host
var hostFiles embed.FS

// hostKernel is Debian's ordinary kernel. The cloud kernel starts faster, but has no
// driver for a watchdog.
const hostKernel = "linux-image-amd64"

// hostPackages are what docs/install.md lists, what a host of the field has besides, and
// what tests of storage, networks and firewalls need.
var hostPackages = []string{
	hostKernel, "systemd", "systemd-sysv", "systemd-timesyncd", "udev", "dbus", "kmod", "apparmor", "openssh-server",
	"qemu-system-x86", "qemu-utils", "libvirt-daemon-system", "libvirt-clients", "ovmf", "swtpm", "swtpm-tools",
	"nftables", "iproute2", "iputils-ping", "procps", "netbase", "ca-certificates", "e2fsprogs",
	"lvm2", "thin-provisioning-tools", "nfs-common", "nfs-kernel-server", "openvswitch-switch", "wireguard-tools",
	"firewalld",
}

// hostModules are what it takes to mount the disk; the rest of the kernel's modules are on it.
var hostModules = []string{"virtio_pci", "virtio_blk", "ext4", "crc32c_generic"}

// hostDisk is the size of the disk in bytes. It is sparse.
const hostDisk = 32 << 30

func hostFile(name string) []byte {
	b, err := hostFiles.ReadFile("host/" + name)
	if err != nil {
		panic(err) // the file is compiled in: its absence is a mistake in this package
	}
	return b
}

func hostInputs() [][]byte {
	in := [][]byte{[]byte("1 " + strings.Join(hostPackages, " ") + " " + strings.Join(hostModules, " "))}
	for _, f := range []string{"setup.sh", "generator", "init"} {
		in = append(in, hostFile(f))
	}
	return in
}

// Host is what a lab host that is a whole machine starts from. The files must not be
// written to: a host writes to a layer of its own.
type Host struct {
	// Kernel and Initrd are what QEMU loads.
	Kernel, Initrd string
	// Disk is a raw file with an ext4 file system and no partitions. It has no secrets
	// and no host's identity.
	Disk string
}

// The files of a Host, by what is added to the image's name.
const (
	hostKernelSuffix = ".vmlinuz"
	hostInitrdSuffix = ".initrd"
	hostDiskSuffix   = ".raw"
)

// BuildHost returns the image of a lab host, building it first if it is not in o.Dir,
// which takes minutes. What Build says of other callers holds here too.
func BuildHost(ctx context.Context, o Options) (Host, error) {
	r := recipe{inputs: hostInputs, build: buildHost, suffixes: []string{hostKernelSuffix, hostInitrdSuffix, hostDiskSuffix}}
	disk, err := build(ctx, "host", r, o)
	if err != nil {
		return Host{}, err
	}
	stem := strings.TrimSuffix(disk, hostDiskSuffix)
	return Host{Kernel: stem + hostKernelSuffix, Initrd: stem + hostInitrdSuffix, Disk: disk}, nil
}

func buildHost(ctx context.Context, o Options, work, stem string) error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("the image is for amd64, this is %s", runtime.GOARCH)
	}
	root := filepath.Join(work, "root")
	files := map[string][]byte{"setup.sh": hostFile("setup.sh"), "generator": hostFile("generator")}
	if err := installDebian(ctx, o, "host", root, files, hostPackages); err != nil {
		return err
	}
	o.step("host: writing the disk")
	kernels, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return fmt.Errorf("there is not one kernel but %q (%w)", kernels, err)
	}
	if err := os.Rename(kernels[0], stem+hostKernelSuffix); err != nil {
		return err
	}
	initrd, err := hostInitramfs(ctx, work, root, strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(stem+hostInitrdSuffix, initrd, 0o644); err != nil {
		return err
	}
	// Few inodes and no later initialisation: the tables are written once, not by each host.
	_, err = runCommand(ctx, command{Name: "mke2fs", Args: []string{"-q", "-F", "-t", "ext4", "-m", "0", "-i", "65536",
		"-E", "lazy_itable_init=0,lazy_journal_init=0", "-d", root, stem + hostDiskSuffix, strconv.Itoa(hostDisk/1024) + "k"}})
	return err
}

// hostInitramfs packs busybox and the modules that the disk needs.
func hostInitramfs(ctx context.Context, work, root, version string) ([]byte, error) {
	unpacked, err := unpackPackages(ctx, work, "busybox-static")
	if err != nil {
		return nil, err
	}
	busybox, err := os.ReadFile(filepath.Join(unpacked, "bin/busybox"))
	if err != nil {
		return nil, err
	}
	modules, err := modulesInOrder(filepath.Join(root, "lib/modules", version, "kernel"), hostModules)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	a := &initramfs{w: &buf}
	for _, d := range []string{"bin", "dev", "proc", "root", "etc", "lib", "lib/modules"} {
		a.dir(d)
	}
	a.char("dev/console", 5, 1)
	a.file("bin/busybox", 0o755, busybox)
	for _, applet := range []string{"sh", "mount", "umount", "insmod", "sleep", "switch_root"} {
		a.link("bin/"+applet, "busybox")
	}
	a.file("init", 0o755, hostFile("init"))
	if err := a.modules(modules); err != nil {
		return nil, err
	}
	return buf.Bytes(), a.close()
}
