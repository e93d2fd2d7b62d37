package qemuimg

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"virtmesh/storage/program"
)

// A disk that libvirt gave to a guest while the program had it stays with the guest.
func TestOnlyWhatWasLentIsTakenBack(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	const guest, converter = 1_900_000_001, 1_900_000_002
	for _, step := range []struct {
		name        string
		during, end int
	}{{"nobody else has it", converter, 0}, {"a guest got it", guest, guest}} {
		takeBack, err := lend(file, &program.User{UID: converter, GID: converter})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(file.Chown(step.during, -1), takeBack()); err != nil {
			t.Fatal(err)
		}
		info, err := file.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if uid := int(info.Sys().(*syscall.Stat_t).Uid); uid != step.end {
			t.Errorf("%s: in the end it belongs to %d, want %d", step.name, uid, step.end)
		}
	}
}
