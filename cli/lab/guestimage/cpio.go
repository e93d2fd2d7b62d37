package guestimage

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// initramfs writes a cpio archive in the "newc" form the kernel unpacks. Inode
// numbers count up and times are zero, so equal input gives equal bytes.
type initramfs struct {
	w   io.Writer
	ino int
	err error
}

const (
	cpioDir  = 0o040000
	cpioFile = 0o100000
	cpioLink = 0o120000
	cpioChar = 0o020000
)

func (a *initramfs) dir(name string)                   { a.entry(name, cpioDir|0o755, 0, 0, nil) }
func (a *initramfs) file(name string, m int, b []byte) { a.entry(name, cpioFile|m, 0, 0, b) }
func (a *initramfs) link(name, target string)          { a.entry(name, cpioLink|0o777, 0, 0, []byte(target)) }
func (a *initramfs) char(name string, major, minor int) {
	a.entry(name, cpioChar|0o600, major, minor, nil)
}

func (a *initramfs) entry(name string, mode, major, minor int, data []byte) {
	a.ino++
	a.printf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.ino, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name)
	a.pad(110 + len(name) + 1)
	a.write(data)
	a.pad(len(data))
}

// modules adds kernel modules and, as etc/modules, their names in the order to load them.
func (a *initramfs) modules(modules []kernelModule) error {
	var list strings.Builder
	for _, m := range modules {
		b, err := os.ReadFile(m.Path)
		if err != nil {
			return err
		}
		a.file("lib/modules/"+m.Name+".ko", 0o644, b)
		list.WriteString(m.Name + "\n")
	}
	a.file("etc/modules", 0o644, []byte(list.String()))
	return nil
}

// close ends the archive and reports the first error of the whole.
func (a *initramfs) close() error {
	a.ino = -1
	a.entry("TRAILER!!!", 0, 0, 0, nil)
	return a.err
}

func (a *initramfs) pad(n int) {
	if r := n % 4; r != 0 {
		a.write(make([]byte, 4-r))
	}
}

func (a *initramfs) printf(format string, args ...any) {
	if a.err == nil {
		_, a.err = fmt.Fprintf(a.w, format, args...)
	}
}

func (a *initramfs) write(b []byte) {
	if a.err == nil && len(b) > 0 {
		_, a.err = a.w.Write(b)
	}
}
