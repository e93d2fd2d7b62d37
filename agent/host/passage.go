package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// emulatorStateDir is where libvirt keeps the sockets and keys of emulators, in a folder
	// for each that belongs to its user alone.
	emulatorStateDir = "/var/lib/libvirt/qemu"
	// tpmSocketDir is where libvirt keeps the sockets of TPMs, each of which belongs to the
	// user of its emulator alone.
	tpmSocketDir = "/run/libvirt/qemu/swtpm"
)

// passageOf returns what opens the way of emulators with users of their own, which have the
// group, to what libvirt makes for them, and reports whether the way to TPMs is open too.
// A file system without access control lists keeps that one closed.
func passageOf(group uint32, log *slog.Logger) func() (toTPMs bool, err error) {
	return func() (bool, error) {
		if err := letPass(emulatorStateDir); err != nil {
			return false, err
		}
		err := letGroupPass(tpmSocketDir, group)
		if err != nil {
			log.Warn("a guest with a TPM would share its user with others", "err", err)
		}
		return err == nil, nil
	}
}

// letPass lets all users pass through a folder, though not list it. Debian's package closes
// emulatorStateDir to all but the common user of guests, so that an emulator with a user
// of its own could not reach its own folder in it; an update may close it again.
func letPass(dir string) error {
	const pass = 0o011 // an emulator may be in the folder's group
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // libvirt makes it
	}
	if err == nil && info.Mode()&pass != pass {
		err = os.Chmod(dir, info.Mode()|pass)
	}
	if err != nil {
		return fmt.Errorf("let guests with users of their own pass through %s: %w", dir, err)
	}
	return nil
}

// letGroupPass lets a group pass through a folder by an access control list, and makes the
// folder if it is missing. libvirt sets the mode and the owner of tpmSocketDir at each
// start of a TPM, so that only its common user and that of the TPMs may enter; a list
// stays.
func letGroupPass(dir string, gid uint32) error {
	const closed = 0o770
	err := os.Mkdir(dir, closed)
	if err == nil || errors.Is(err, fs.ErrExist) {
		err = unix.Setxattr(dir, "system.posix_acl_access", passList(gid), 0)
	}
	if err != nil {
		return fmt.Errorf("let the group of guests pass through %s: %w", dir, err)
	}
	return nil
}

// passList returns the access control list, in the kernel's form (acl(5), xattr version 2),
// by which the owner and the owning group of a folder have all rights, the group gid may
// pass through it, and others may do nothing.
func passList(gid uint32) []byte {
	const (
		version                                      = 2
		owner, ownerGroup, group, mask, other        = 0x01, 0x04, 0x08, 0x10, 0x20
		all, pass, none                              = 7, 1, 0
		nobody                                uint32 = 0xffffffff
	)
	list := binary.LittleEndian.AppendUint32(nil, version)
	for _, entry := range []struct {
		tag, rights uint16
		id          uint32
	}{
		{owner, all, nobody}, {ownerGroup, all, nobody}, {group, pass, gid}, {mask, all, nobody}, {other, none, nobody},
	} {
		list = binary.LittleEndian.AppendUint16(list, entry.tag)
		list = binary.LittleEndian.AppendUint16(list, entry.rights)
		list = binary.LittleEndian.AppendUint32(list, entry.id)
	}
	return list
}
