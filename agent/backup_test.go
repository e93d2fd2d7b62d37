package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"virtmesh/agent/identity"
	"virtmesh/raftstore"
)

func TestBackupIsWholeOrFails(t *testing.T) {
	var fail error
	var written string
	server := httptest.NewServer(withBackup(func(_ context.Context, w io.Writer) (uint64, error) {
		if written != "" {
			io.WriteString(w, written)
			w.(*countingWriter).to.(http.Flusher).Flush()
		}
		return 1, fail
	}, http.NotFoundHandler()))
	defer server.Close()
	for _, test := range []struct {
		name, written string
		fail          error
		status        int
		whole         bool
	}{
		{"whole", "state", nil, 200, true},
		{"no leader", "", raftstore.ErrNoLeader, 500, true},
		{"ends early", "sta", errors.New("disk"), 200, false},
	} {
		written, fail = test.written, test.fail
		response, err := http.Get(server.URL + BackupPath)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != test.status || (err == nil) != test.whole {
			t.Errorf("%s: %s, read %v", test.name, response.Status, err)
		}
	}
}

// TestRestoreOnAHostWithoutCopy: the last resort of a mesh of which no copy is left.
func TestRestoreOnAHostWithoutCopy(t *testing.T) {
	path, config := machine(t, "host1")
	first := found(t, path, config)
	var backup bytes.Buffer
	if _, err := first.store.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	first.shutdown()
	_, err := Restore(t.Context(), config, bytes.NewReader(backup.Bytes()))
	if !errors.Is(err, raftstore.ErrHasState) || !strings.Contains(err.Error(), "mv "+config.raftDir()) {
		t.Errorf("restored over a copy: %v", err)
	}
	loseCopy(t, first)
	if _, err := Restore(t.Context(), config, bytes.NewReader(backup.Bytes())); err != nil {
		t.Fatal(err)
	}
	a := boot(t, config)
	if err := a.joinStore(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.NewHosts(a.store).Get(t.Context(), "host1", raftstore.ReadOptions{}); err != nil {
		t.Errorf("the restored mesh does not know its host: %v", err)
	}
	if _, err := openSocketAndRestore(t, config); err == nil || !strings.Contains(err.Error(), "running") {
		t.Errorf("restored under a running agent: %v", err)
	}
}

// openSocketAndRestore restores while something answers on the agent's socket.
func openSocketAndRestore(t *testing.T, config Config) (raftstore.Recovered, error) {
	t.Helper()
	listener, err := openSocket(config.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return Restore(t.Context(), config, strings.NewReader(""))
}
