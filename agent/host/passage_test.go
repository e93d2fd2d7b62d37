package host

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The folder of emulators is made passable and nothing else, also when it was closed again.
func TestEmulatorsPass(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "qemu")
	if err := letPass(dir); err != nil {
		t.Errorf("a folder that is not made yet: %v", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for closed, passable := range map[os.FileMode]os.FileMode{0o750: 0o751, 0o700: 0o711, 0o755: 0o755} {
		if err := os.Chmod(dir, closed); err != nil {
			t.Fatal(err)
		}
		if err := letPass(dir); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != passable {
			t.Errorf("mode %v, %v, want %v", info.Mode(), err, passable)
		}
	}
}

// A group that is let pass reaches what belongs to it by name, lists nothing, and still
// does after the mode and the owner were set again, as libvirt does.
func TestGroupPasses(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	const gid = 23456
	parent, err := os.MkdirTemp("", "passage") // others cannot pass t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(parent) })
	dir := filepath.Join(parent, "swtpm")
	if err := os.Chmod(parent, 0o711); err != nil {
		t.Fatal(err)
	}
	may := func(group string, argv ...string) bool {
		return exec.Command("setpriv", append([]string{"--reuid=1900000007", "--regid=" + group, "--clear-groups"}, argv...)...).Run() == nil
	}
	for range 2 {
		if err := letGroupPass(dir, gid); err != nil {
			t.Fatal(err)
		}
		for _, change := range []error{os.Chown(dir, 64055, 107), os.Chmod(dir, 0o770), os.WriteFile(filepath.Join(dir, "own"), nil, 0o600),
			os.Chown(filepath.Join(dir, "own"), 1_900_000_007, gid)} {
			if change != nil {
				t.Fatal(change)
			}
		}
		if !may("23456", "cat", dir+"/own") || may("23456", "ls", dir) || may("23457", "cat", dir+"/own") {
			t.Errorf("the group reaches its file: %v, lists: %v; another group reaches the file: %v",
				may("23456", "cat", dir+"/own"), may("23456", "ls", dir), may("23457", "cat", dir+"/own"))
		}
	}
	if err := letGroupPass(filepath.Join(dir, "none", "deeper"), gid); err == nil {
		t.Error("a folder whose parent is missing was made")
	}
}
