package storagetest

import (
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"
)

// Hang covers a directory by a file system that does not answer, as a network file system
// whose server is gone, until heal is called or the test ends. Then calls that hang fail,
// and the directory is as it was before. It needs root, and FUSE in the kernel.
func Hang(t *testing.T, dir string) (heal func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	// Nobody reads what the kernel asks the server, not even its first question.
	server, err := syscall.Open("/dev/fuse", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("needs FUSE in the kernel: %v", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", server)
	if err := syscall.Mount("hangs", dir, "fuse", syscall.MS_NOSUID|syscall.MS_NODEV, options); err != nil {
		t.Fatalf("mount a file system that hangs: %v", err)
	}
	heal = sync.OnceFunc(func() {
		if err := syscall.Close(server); err != nil {
			t.Errorf("end the file system that hangs: %v", err)
		}
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount the file system that hangs: %v", err)
		}
	})
	t.Cleanup(heal)
	return heal
}
