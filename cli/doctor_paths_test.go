package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"virtmesh/storage/storagetest"
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

func TestDoctorChecksPaths(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root's directories are closed to everybody else")
	}
	state := filepath.Join(t.TempDir(), "state") // below directories of root's alone
	config := filepath.Join(t.TempDir(), "agent.yaml")
	text := "name: host1\nadvertise: 192.0.2.1\nstateDir: " + state + "\nhypervisor: {user: nobody}\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f := checkPaths(config)(t.Context())
	if f.Result != failed || f.Fix == "" {
		t.Errorf("a state directory below a closed one: %+v; want it failed, with a remedy", f)
	}
	if f := checkPaths(filepath.Join(t.TempDir(), "none.yaml"))(t.Context()); f.Result == failed && f.Detail == "" {
		t.Errorf("a machine without a configuration: %+v", f)
	}
}

// doctor comes to its end although the file system of a pool does not answer, and says so.
func TestDoctorDoesNotWaitForAPoolThatHangs(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	pool := filepath.Join(state, "nfs")
	if err := os.Mkdir(pool, 0o755); err != nil {
		t.Fatal(err)
	}
	storagetest.Hang(t, pool)
	path := writeFile(t, "agent.yaml", fmt.Sprintf("name: host1\nadvertise: 192.0.2.1\nstateDir: %s\nhypervisor: {user: root}\npools: [{name: nfs, path: %s}]\n", state, pool))
	if f := checkPools(path)(t.Context()); f.Result != warning || !strings.Contains(f.Detail, "pool nfs in "+pool) || !strings.Contains(f.Detail, "does not answer") {
		t.Errorf("pools: %+v", f)
	}
	if f := checkPaths(path)(t.Context()); f.Result != passed {
		t.Errorf("paths: %+v", f)
	}
	path = writeFile(t, "agent.yaml", fmt.Sprintf("name: host1\nadvertise: 192.0.2.1\nstateDir: %s\nhypervisor: {user: root}\n", pool))
	if f := checkDisk(path)(t.Context()); f.Result != failed || !strings.Contains(f.Detail, "does not answer") {
		t.Errorf("disk: %+v", f)
	}
}
