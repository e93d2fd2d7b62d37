package guestimage

import (
	"bytes"
	"context"
	"embed"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

//go:embed tiny
var tinyFiles embed.FS

// tinyKernel is the one of Debian's kernels that boots fastest without KVM: it is
// packed with LZ4, while the ordinary one takes seconds to unpack XZ. It has no AHCI
// and no e1000 driver, so the guest sees virtio disks and NICs only; the disk it boots
// from may be on any bus, since the firmware reads that one.
const tinyKernel = "linux-image-cloud-amd64"

// tinyModules are the drivers loaded at boot, without what they depend on.
var tinyModules = []string{
	"virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "sr_mod", "virtio_net", "virtio_console",
	"virtio_balloon", "virtio_rng", "virtio_input", "virtiofs", "vmw_vsock_virtio_transport",
	"isofs", "vfat", "nls_cp437", "nls_ascii", "nls_utf8", "evdev", "button",
}

// Layout of the disk, in sectors of 512 bytes.
const (
	sector         = 512
	tinyBootStart  = 2048
	tinyBootLength = 22 << 20 / sector
	tinyDataStart  = tinyBootStart + tinyBootLength
	tinyDataLength = 16 << 20 / sector
)

func tinyInputs() [][]byte {
	in := [][]byte{[]byte("1 " + tinyKernel + " " + strings.Join(tinyModules, " "))}
	for _, f := range []string{"init", "inittab", "hotplug", "udhcpc", "sync", "powerbutton", "profile", "syslinux.cfg"} {
		in = append(in, tinyFile(f))
	}
	return in
}

func tinyFile(name string) []byte {
	b, err := tinyFiles.ReadFile("tiny/" + name)
	if err != nil {
		panic(err) // the file is compiled in: its absence is a mistake in this package
	}
	return b
}

func buildTiny(ctx context.Context, o Options, work, stem string) error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("the image is for amd64, this is %s", runtime.GOARCH)
	}
	o.step("tiny: fetching packages")
	kernel, err := kernelPackage(ctx, tinyKernel)
	if err != nil {
		return err
	}
	root, err := unpackPackages(ctx, work, kernel, "busybox-static", "syslinux", "syslinux-common", "mtools")
	if err != nil {
		return err
	}
	o.step("tiny: packing the initramfs")
	version := strings.TrimPrefix(kernel, "linux-image-")
	initrd, err := tinyInitramfs(ctx, root, version)
	if err != nil {
		return err
	}
	o.step("tiny: writing the disk")
	boot := map[string]string{
		"vmlinuz":      filepath.Join(root, "boot", "vmlinuz-"+version),
		"initrd":       filepath.Join(work, "initrd"),
		"syslinux.cfg": filepath.Join(work, "syslinux.cfg"),
	}
	if err := os.WriteFile(boot["initrd"], initrd, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(boot["syslinux.cfg"], tinyFile("syslinux.cfg"), 0o644); err != nil {
		return err
	}
	disk := filepath.Join(work, "disk.raw")
	if err := tinyDisk(ctx, root, disk, boot); err != nil {
		return err
	}
	// It is not compressed. Compression would save 4 MB and cost a second at each boot
	// under TCG.
	_, err = runCommand(ctx, command{Name: "qemu-img", Args: []string{"convert", "-f", "raw", "-O", "qcow2", disk, stem + qcow2Suffix}})
	return err
}

// tinyInitramfs packs busybox, the modules and the boot scripts.
func tinyInitramfs(ctx context.Context, root, version string) ([]byte, error) {
	busybox, err := os.ReadFile(filepath.Join(root, "bin/busybox"))
	if err != nil {
		return nil, err
	}
	applets, err := runCommand(ctx, command{Name: filepath.Join(root, "bin/busybox"), Args: []string{"--list"}})
	if err != nil {
		return nil, err
	}
	mods, err := modulesInOrder(filepath.Join(root, "lib/modules", version, "kernel"), tinyModules)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	a := &initramfs{w: &buf}
	for _, d := range []string{"bin", "dev", "proc", "sys", "run", "tmp", "root", "data", "seed", "mnt",
		"etc", "etc/acpi", "etc/acpi/PWRF", "lib", "lib/modules"} {
		a.dir(d)
	}
	a.char("dev/console", 5, 1)
	a.char("dev/null", 1, 3)
	a.file("bin/busybox", 0o755, busybox)
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			a.link("bin/"+applet, "busybox")
		}
	}
	a.link("usr", ".")
	a.link("sbin", "bin")
	a.file("init", 0o755, tinyFile("init"))
	a.file("etc/inittab", 0o644, tinyFile("inittab"))
	a.file("etc/profile", 0o644, tinyFile("profile"))
	a.file("etc/passwd", 0o644, []byte("root::0:0:root:/root:/bin/sh\n"))
	a.file("etc/group", 0o644, []byte("root:x:0:\n"))
	a.file("etc/hotplug", 0o755, tinyFile("hotplug"))
	a.file("etc/udhcpc", 0o755, tinyFile("udhcpc"))
	a.file("etc/acpi/sync", 0o755, tinyFile("sync"))
	a.file("etc/acpi/PWRF/00000080", 0o755, tinyFile("powerbutton"))
	if err := a.modules(mods); err != nil {
		return nil, err
	}
	if err := a.close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// tinyDisk writes a raw disk: a boot record, an active FAT partition that
// syslinux boots from, and an ext4 partition the guest keeps data on.
func tinyDisk(ctx context.Context, root, disk string, boot map[string]string) error {
	tools := []string{filepath.Join(root, "usr/bin")}
	mbr, err := os.ReadFile(filepath.Join(root, "usr/lib/SYSLINUX/mbr.bin"))
	if err != nil {
		return err
	}
	head, err := bootRecord(mbr, []partition{
		{Type: 0x0e, Active: true, Start: tinyBootStart, Length: tinyBootLength},
		{Type: 0x83, Start: tinyDataStart, Length: tinyDataLength},
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(disk, head, 0o644); err != nil {
		return err
	}
	if err := os.Truncate(disk, (tinyDataStart+tinyDataLength)*sector); err != nil {
		return err
	}
	offset := strconv.Itoa(tinyBootStart * sector)
	fat := disk + "@@" + offset
	steps := []command{
		{Name: "mformat", Args: []string{"-i", fat, "-T", strconv.Itoa(tinyBootLength), "-h", "16", "-s", "63",
			"-H", strconv.Itoa(tinyBootStart), "-N", "76697274", "::"}},
	}
	for _, name := range []string{"vmlinuz", "initrd", "syslinux.cfg"} {
		steps = append(steps, command{Name: "mcopy", Args: []string{"-i", fat, boot[name], "::/" + name}})
	}
	steps = append(steps,
		command{Name: "syslinux", Args: []string{"--install", "--offset", offset, disk}},
		command{Name: "mke2fs", Args: []string{"-q", "-F", "-t", "ext4", "-b", "1024", "-m", "0", "-L", "tiny-data",
			"-E", "offset=" + strconv.Itoa(tinyDataStart*sector), disk, strconv.Itoa(tinyDataLength * sector / 1024)}})
	for _, s := range steps {
		s.Path = tools
		s.Env = []string{"MTOOLS_SKIP_CHECK=1", "MTOOLSRC=/dev/null"}
		if _, err := runCommand(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// partition is an entry of a boot record; Start and Length count sectors.
type partition struct {
	Type          byte
	Active        bool
	Start, Length uint32
}

// bootRecord puts a partition table behind boot code.
func bootRecord(code []byte, parts []partition) ([]byte, error) {
	const table = 446
	if len(code) > table || len(parts) > 4 {
		return nil, fmt.Errorf("boot record: %d bytes of code and %d partitions do not fit", len(code), len(parts))
	}
	b := make([]byte, sector)
	copy(b, code)
	for i, p := range parts {
		e := b[table+16*i:]
		if p.Active {
			e[0] = 0x80
		}
		// Cylinders and heads are no longer used: 0xfeffff means that the sector
		// numbers count.
		copy(e[1:4], []byte{0xfe, 0xff, 0xff})
		e[4] = p.Type
		copy(e[5:8], []byte{0xfe, 0xff, 0xff})
		binary.LittleEndian.PutUint32(e[8:], p.Start)
		binary.LittleEndian.PutUint32(e[12:], p.Length)
	}
	b[510], b[511] = 0x55, 0xaa
	return b, nil
}
