package cli

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/port/admin"
)

func TestBackupSentence(t *testing.T) {
	bundle := &admin.KeyringBundle{Made: time.Date(2026, 11, 26, 12, 0, 0, 0, time.Local), Current: true, OpensBackups: true}
	for name, c := range map[string]struct {
		content admin.BackupContent
		plain   bool
		want    []string
	}{
		"encrypted":                {admin.BackupContent{Encrypted: true, Bundle: bundle}, false, []string{", encrypted: to restore it, take the recovery bundle of 2026-11-26", "all Secrets, and not the key"}},
		"plain":                    {admin.BackupContent{Bundle: bundle}, true, []string{"not encrypted. It holds", "keep it safe."}},
		"before there is a bundle": {admin.BackupContent{CAKey: true}, false, []string{"not encrypted", "and the key of the mesh's CA: keep it safe", "virtmesh keyring bundle --output FILE"}},
		"at a lower level":         {admin.BackupContent{Bundle: &admin.KeyringBundle{Current: true}}, false, []string{"not encrypted", "from feature level 4 on"}},
	} {
		for _, want := range c.want {
			if got := backupSentence(c.content, c.plain); !strings.Contains(got, want) {
				t.Errorf("%s: %q lacks %q", name, got, want)
			}
		}
	}
}

func TestBackup(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "agent.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var answer func(w http.ResponseWriter)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != admin.BackupPath {
			t.Errorf("asked for %s", r.URL.Path)
		}
		answer(w)
	})}
	go server.Serve(listener)
	defer server.Close()
	file := filepath.Join(dir, "backup")

	answer = func(w http.ResponseWriter) {
		w.Header().Set(admin.BackupHeader, `{"encrypted":true,"bundle":{"made":"2026-11-26T12:00:00Z"}}`)
		io.WriteString(w, "sealed")
	}
	if code, stdout, stderr := run(t, "--socket", socket, "agent", "backup", file); code != 0 || !strings.Contains(stdout, file+" has the mesh's state, encrypted") {
		t.Errorf("an encrypted backup: exit code %d, %q %q", code, stdout, stderr)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	// An agent of before says nothing of what the backup holds.
	answer = func(w http.ResponseWriter) { io.WriteString(w, "the state") }
	code, stdout, stderr := run(t, "--socket", socket, "agent", "backup", "--plain", file)
	data, err := os.ReadFile(file)
	if code != 0 || err != nil || string(data) != "the state" || !strings.Contains(stdout, "not encrypted. It holds all Secrets and the key of the mesh's CA: keep it safe") {
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
