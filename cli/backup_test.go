package cli

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"virtmesh/agent/fault"
	"virtmesh/agent/port/admin"
)

func TestBackup(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "agent.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	answer := func(w http.ResponseWriter) { io.WriteString(w, "the state") }
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != admin.BackupPath {
			t.Errorf("asked for %s", r.URL.Path)
		}
		answer(w)
	})}
	go server.Serve(listener)
	defer server.Close()
	file := filepath.Join(dir, "backup")

	code, stdout, stderr := run(t, "--socket", socket, "agent", "backup", file)
	data, err := os.ReadFile(file)
	if code != 0 || err != nil || string(data) != "the state" || !strings.Contains(stdout, "keep it safe") {
		t.Fatalf("exit code %d, %q, %q %q, %v", code, data, stdout, stderr, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if code, _, stderr = run(t, "--socket", socket, "agent", "backup", file); code != 1 || !strings.Contains(stderr, "exists already") {
		t.Errorf("a second backup to the same file: exit code %d, %q", code, stderr)
	}

	answer = func(w http.ResponseWriter) {
		io.WriteString(w, "the st")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	if code, _, stderr = run(t, "--socket", socket, "agent", "backup", file+"2"); code != 1 || !strings.Contains(stderr, "read the agent's answer") {
		t.Errorf("a backup that ends early: exit code %d, %q", code, stderr)
	}
	answer = func(w http.ResponseWriter) {
		fault.Write(w, io.ErrNoProgress)
	}
	if code, _, stderr = run(t, "--socket", socket, "agent", "backup", file+"2"); code != 1 || !strings.Contains(stderr, io.ErrNoProgress.Error()) {
		t.Errorf("a backup that fails: exit code %d, %q", code, stderr)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("a failed backup left something: %v, %v", left, err)
	}
}
