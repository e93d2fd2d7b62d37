package guestimage

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

//go:embed debian/setup.sh
var debianSetup []byte

var debianPackages = []string{
	"systemd", "systemd-sysv", "systemd-resolved", "systemd-timesyncd", "dbus", "udev", "kmod",
	"initramfs-tools", "zstd", "linux-image-cloud-amd64", "grub-pc-bin", "grub2-common", "e2fsprogs",
	"cloud-init", "cloud-guest-utils", "qemu-guest-agent", "openssh-server", "sudo", "netbase",
	"iproute2", "iputils-ping", "ca-certificates",
}

const (
	debianRootStart = 2048    // sectors
	debianDisk      = 3 << 30 // bytes; the guest grows its file system when the disk is larger
)

func debianInputs() [][]byte {
	return [][]byte{[]byte("2 " + strings.Join(debianPackages, " ")), debianSetup}
}

func buildDebian(ctx context.Context, o Options, work, stem string) error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("the image is for amd64, this is %s", runtime.GOARCH)
	}
	root := filepath.Join(work, "root")
	if err := installDebian(ctx, o, "debian", root, map[string][]byte{"setup.sh": debianSetup}, debianPackages); err != nil {
		return err
	}
	o.step("debian: writing the disk")
	disk := filepath.Join(work, "disk.raw")
	if err := debianDiskImage(ctx, root, disk); err != nil {
		return err
	}
	// zstd unpacks faster than the disk of a lab machine reads.
	_, err := runCommand(ctx, command{Name: "qemu-img", Args: []string{"convert", "-c", "-f", "raw", "-O", "qcow2",
		"-o", "compression_type=zstd", disk, stem + qcow2Suffix}})
	return err
}

// installDebian makes a Debian system in the new directory root, from the archive that this
// machine is installed from, and runs setup.sh of the files in it with the packages. The
// files are in the system's /tmp meanwhile. image is the name in reports of progress.
func installDebian(ctx context.Context, o Options, image, root string, files map[string][]byte, packages []string) error {
	site, err := debianSite(ctx)
	if err != nil {
		return err
	}
	o.step("%s: unpacking %s from %s", image, site.Release, site.URI)
	// debootstrap runs in a mount namespace of its own, so that its mounts end with it
	// even if it is killed.
	_, err = runCommand(ctx, command{Name: "unshare", Args: []string{"--mount", "debootstrap", "--arch=amd64",
		"--variant=minbase", "--merged-usr", site.Release, root, site.URI}})
	if err != nil {
		return fmt.Errorf("unpack the base system: %w", err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc/apt/sources.list"), []byte(site.Sources), 0o644); err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(root, "tmp", name), content, 0o755); err != nil {
			return err
		}
	}
	o.step("%s: installing packages", image)
	// apt installs the other packages, because debootstrap knows no virtual packages.
	const inRoot = `mount -t proc proc "$1/proc" && mount -t devtmpfs dev "$1/dev" && exec chroot "$@"`
	args := append([]string{"--mount", "--pid", "--fork", "--kill-child", "sh", "-c", inRoot, "sh", root, "/tmp/setup.sh"}, packages...)
	if _, err := runCommand(ctx, command{Name: "unshare", Args: args}); err != nil {
		return fmt.Errorf("install packages: %w", err)
	}
	return nil
}

// debianDiskImage writes a raw disk: GRUB behind the boot record, and one ext4
// partition filled from root without being mounted.
func debianDiskImage(ctx context.Context, root, disk string) error {
	mbr, err := os.ReadFile(filepath.Join(root, "usr/lib/grub/i386-pc/boot.img"))
	if err != nil {
		return err
	}
	core, err := os.ReadFile(filepath.Join(root, "boot/grub/core.img"))
	if err != nil {
		return err
	}
	if len(core) > (debianRootStart-1)*sector {
		return fmt.Errorf("GRUB has %d bytes and does not fit before the partition", len(core))
	}
	const length = debianDisk/sector - debianRootStart
	// The rest of the boot record's code is the partition table's, which GRUB leaves empty.
	head, err := bootRecord(mbr[:440], []partition{{Type: 0x83, Active: true, Start: debianRootStart, Length: length}})
	if err != nil {
		return err
	}
	// boot.img expects the core in the next sector, and the core expects the rest of
	// itself behind that, so neither needs to be changed.
	if err := os.WriteFile(disk, append(head, core...), 0o644); err != nil {
		return err
	}
	if err := os.Truncate(disk, debianDisk); err != nil {
		return err
	}
	_, err = runCommand(ctx, command{Name: "mke2fs", Args: []string{"-q", "-F", "-t", "ext4", "-L", "debian-root", "-d", root,
		"-E", "offset=" + strconv.Itoa(debianRootStart*sector), disk, strconv.Itoa(length*sector/1024) + "k"}})
	return err
}

// archive is a Debian archive that this machine is configured to use.
type archive struct {
	URI, Release string
	// Sources are lines for sources.list: the release, its updates and its
	// security updates, as far as the machine has them.
	Sources string
}

// debianSite finds the archive that this machine itself is installed from.
func debianSite(ctx context.Context) (archive, error) {
	if err := aptKnows(ctx, "linux-image-cloud-amd64"); err != nil {
		return archive{}, err
	}
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return archive{}, err
	}
	out, err := runCommand(ctx, command{Name: "apt-get", Args: []string{"indextargets", "--format",
		"$(REPO_URI)|$(RELEASE)|$(COMPONENT)", "Created-By: Packages"}})
	if err != nil {
		return archive{}, err
	}
	return parseSite(out, osRelease(release, "VERSION_CODENAME"))
}

func parseSite(targets []byte, codename string) (archive, error) {
	var a archive
	sc := bufio.NewScanner(bytes.NewReader(targets))
	for sc.Scan() {
		f := strings.Split(sc.Text(), "|")
		if len(f) != 3 || f[2] != "main" || codename == "" {
			continue
		}
		if f[1] == codename && a.URI == "" {
			a.URI, a.Release = f[0], f[1]
		}
		if f[1] == codename || f[1] == codename+"-updates" || f[1] == codename+"-security" {
			a.Sources += fmt.Sprintf("deb %s %s main\n", f[0], f[1])
		}
	}
	if a.URI == "" {
		return archive{}, fmt.Errorf("this machine's apt sources have no archive of Debian %q", codename)
	}
	return a, nil
}

func osRelease(content []byte, key string) string {
	sc := bufio.NewScanner(bytes.NewReader(content))
	for sc.Scan() {
		if v, ok := strings.CutPrefix(sc.Text(), key+"="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return ""
}
