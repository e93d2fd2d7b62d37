package identity_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"virtmesh/agent/identity"
)

// A strict umask, and directories that earlier versions made, must not keep QEMU's
// user from the disks below the state directory.
func TestMakeStateDirLetsQEMUPass(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	for _, test := range []struct {
		name   string
		before os.FileMode // 0: it does not exist
	}{
		{"new", 0},
		{"made closed", 0o700},
		{"open to lists", 0o755},
		{"open to all", 0o777},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "state")
			if test.before != 0 {
				if err := os.Mkdir(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(dir, test.before); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				if err := identity.MakeStateDir(dir); err != nil {
					t.Fatal(err)
				}
			}
			info, err := os.Stat(dir)
			if err != nil {
				t.Fatal(err)
			}
			if got := info.Mode().Perm(); got != 0o711 {
				t.Errorf("mode %v; want all to pass and only root to list", got)
			}
		})
	}
}

// What init and join leave behind is what the first start finds.
func TestInitMeshLetsQEMUPass(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	_, err := identity.InitMesh(dir, identity.InitOptions{
		Host: "host1", MeshAddress: "192.0.2.1:7443", GossipAddress: "192.0.2.1:7946",
	})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm()&0o011 != 0o011 {
		t.Errorf("state directory has mode %v; QEMU's user cannot pass", info.Mode())
	}
	inner, err := os.Stat(filepath.Join(dir, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	if inner.Mode().Perm() != 0o700 {
		t.Errorf("the identity has mode %v; want it closed to all but root", inner.Mode())
	}
}
