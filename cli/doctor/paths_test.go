package doctor

import (
	"os"
	"path/filepath"
	"testing"

	"virtmesh/agent"
)

func TestClosedDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("directories cannot be given to others by who is not root")
	}
	// The directory of t.TempDir is closed to others.
	top, err := os.MkdirTemp("", "doctor")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	guest := account{uid: 64055, gids: []uint32{109}}
	for _, test := range []struct {
		name     string
		mode     os.FileMode
		uid, gid int
		closed   bool
	}{
		{"a directory of root's alone", 0o700, 0, 0, true},
		{"others may list but not pass", 0o744, 0, 0, true},
		{"others may pass", 0o711, 0, 0, false},
		{"its own", 0o700, 64055, 0, false},
		{"its own, closed to itself", 0o077, 64055, 0, true},
		{"its group's", 0o710, 0, 109, false},
		{"its group is shut out", 0o701, 0, 109, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(top, filepath.Base(t.Name()))
			deep := filepath.Join(dir, "pools", "local")
			if err := os.MkdirAll(deep, 0o755); err != nil {
				t.Fatal(err)
			}
			for _, d := range []string{top, filepath.Join(dir, "pools"), deep} {
				if err := os.Chmod(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chown(dir, test.uid, test.gid); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(dir, test.mode); err != nil {
				t.Fatal(err)
			}
			want := ""
			if test.closed {
				want = dir
			}
			for _, path := range []string{deep, filepath.Join(deep, "not", "made", "yet")} {
				if got, err := guest.closedDirectory(path); err != nil || got != want {
					t.Errorf("closedDirectory(%s) = %q, %v; want %q", path, got, err, want)
				}
			}
		})
	}
}

func TestReadPaths(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root's directories are closed to everybody else")
	}
	config := agent.DefaultConfig()
	config.StateDir = filepath.Join(t.TempDir(), "state") // below directories of root's alone
	config.Hypervisor.User = "nobody"
	if passages := readPaths(config); len(passages) != 1+len(config.Pools) || passages[0].Closed == "" {
		t.Errorf("a state directory below a closed one: %+v", passages)
	}
	config.Hypervisor.User = "no-such-user"
	if passages := readPaths(config); len(passages) == 0 || passages[0].Err == nil {
		t.Errorf("a user that does not exist: %+v", passages)
	}
}
