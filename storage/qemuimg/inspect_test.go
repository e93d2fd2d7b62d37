package qemuimg

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestInspectAcceptsSelfContainedImages(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name   string
		args   []string
		format Format
	}{
		{"v3", []string{"-f", "qcow2"}, QCOW2},
		{"v2", []string{"-f", "qcow2", "-o", "compat=0.10"}, QCOW2},
		{"zstd", []string{"-f", "qcow2", "-o", "compression_type=zstd"}, QCOW2},
		{"extended", []string{"-f", "qcow2", "-o", "extended_l2=on"}, QCOW2},
		{"smallcluster", []string{"-f", "qcow2", "-o", "cluster_size=512"}, QCOW2},
		{"bigcluster", []string{"-f", "qcow2", "-o", "cluster_size=2M"}, QCOW2},
		{"raw", []string{"-f", "raw"}, Raw},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(dir, c.name)
			qemuImg(t, append(append([]string{"create", "-q"}, c.args...), path, "64M")...)
			info, err := Inspect(path, Limits{MaxVirtualSize: 64 << 20})
			if err != nil {
				t.Fatal(err)
			}
			if info.Format != c.format || info.VirtualSize != 64<<20 {
				t.Errorf("got %+v", info)
			}
			if _, err := Inspect(path, Limits{MaxVirtualSize: 64<<20 - 1}); !errors.Is(err, ErrTooLarge) {
				t.Errorf("above the limit: %v", err)
			}
		})
	}
}

func TestInspectRefuses(t *testing.T) {
	dir := t.TempDir()
	base := filepath.Join(dir, "base")
	qemuImg(t, "create", "-q", "-f", "qcow2", base, "8M")
	image := func(name string, args ...string) string {
		p := filepath.Join(dir, name)
		qemuImg(t, append(append([]string{"create", "-q", "-f", "qcow2"}, args...), p)...)
		return p
	}
	edit := func(name string, at int64, b ...byte) string {
		p := filepath.Join(dir, name)
		raw, err := os.ReadFile(base)
		if err != nil {
			t.Fatal(err)
		}
		copy(raw[at:], b)
		if err := os.WriteFile(p, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	file := func(name, content string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(base, link); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data.raw")
	external := filepath.Join(dir, "external")
	qemuImg(t, "create", "-q", "-f", "qcow2", "-o", "data_file="+data, external, "8M")
	v3 := func(at int64, b ...byte) string { return edit("edit", at, b...) }
	for _, c := range []struct {
		name string
		path func() string
		want error
	}{
		{"backing file", func() string { return image("backing", "-b", base, "-F", "qcow2") }, ErrUnsafe},
		{"external data file", func() string { return external }, ErrUnsafe},
		{"encrypted by LUKS", func() string { return v3(32, 0, 0, 0, 2) }, ErrUnsafe},
		{"unknown feature", func() string { return v3(72, 0x80) }, ErrUnsafe},
		{"marked corrupt", func() string { return v3(79, 2) }, ErrFormat},
		{"version 9", func() string { return v3(7, 9) }, ErrFormat},
		{"clusters of 2^40", func() string { return v3(23, 40) }, ErrFormat},
		{"L1 table of 4 billion entries", func() string { return v3(36, 255, 255, 255, 255) }, ErrFormat},
		{"reference table of 4 billion clusters", func() string { return v3(56, 255, 255, 255, 255) }, ErrFormat},
		{"no size", func() string { return v3(24, 0, 0, 0, 0, 0, 0, 0, 0) }, ErrFormat},
		{"8 exbibytes", func() string { return v3(24, 0x7f) }, ErrFormat},
		{"64 TiB", func() string { return v3(24, 0, 0, 0x40) }, ErrTooLarge},
		{"header of 4 GiB", func() string { return v3(100, 255, 255, 255, 248) }, ErrFormat},
		{"backing name out of the header", func() string { return v3(8, 0, 0, 0, 0, 0xff, 0, 0, 0, 0, 0, 0, 9) }, ErrFormat},
		{"header extension of 4 GiB", func() string { return v3(112, 1, 2, 3, 4, 255, 255, 255, 255) }, ErrFormat},
		{"cut short", func() string { return file("short", "QFI\xfb\x00\x00\x00\x03") }, ErrFormat},
		{"VMDK", func() string { return file("vmdk", "KDMV and more") }, ErrFormat},
		{"gzip", func() string { return file("gz", "\x1f\x8b\x08\x00\x00\x00\x00") }, ErrFormat},
		{"an error page", func() string { return file("html", "<!DOCTYPE html><p>404</p>") }, ErrFormat},
		{"empty", func() string { return file("empty", "") }, ErrFormat},
		{"folder", func() string { return dir }, ErrFormat},
		{"device", func() string { return "/dev/zero" }, ErrFormat},
		{"symbolic link", func() string { return link }, syscall.ELOOP},
		{"missing", func() string { return filepath.Join(dir, "nothing") }, os.ErrNotExist},
	} {
		t.Run(c.name, func(t *testing.T) {
			info, err := Inspect(c.path(), Limits{MaxVirtualSize: 1 << 40})
			if !errors.Is(err, c.want) {
				t.Errorf("got %+v, %v; want %v", info, err, c.want)
			}
		})
	}
}

func TestInspectDoesNotHangOnPipe(t *testing.T) {
	p := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(p, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Inspect(p, Limits{}); !errors.Is(err, ErrFormat) {
		t.Errorf("got %v", err)
	}
}
