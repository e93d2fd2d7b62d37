package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"virtmesh/agent/port/admin"
	"virtmesh/raftstore"
)

// BackupPath is where the administration socket serves a backup. It has the key
// of the mesh's CA in it, so administrators who are not root on a host do not get
// it.
const BackupPath = "/mesh/v1/backup"

// backupPatience bounds how long a backup waits for the mesh's newest state.
const backupPatience = 30 * time.Second

// withBackup serves a backup beside the rest.
func withBackup(backup func(context.Context, io.Writer) (uint64, error), rest http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != BackupPath || r.Method != http.MethodGet {
			rest.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), backupPatience)
		defer cancel()
		out := &countingWriter{to: w}
		_, err := backup(ctx, out)
		if err == nil {
			return
		}
		if out.n > 0 {
			panic(http.ErrAbortHandler) // the client must not take it for whole
		}
		admin.WriteError(w, http.StatusInternalServerError, err)
	})
}

type countingWriter struct {
	to io.Writer
	n  int
}

// Write implements io.Writer.
func (w *countingWriter) Write(b []byte) (int, error) {
	n, err := w.to.Write(b)
	w.n += n
	return n, err
}

// Restore makes this host the only voter of a mesh with the state of a backup.
// It is for a mesh of which no usable copy is left. The agent must not be running,
// and there must be no copy here.
func Restore(ctx context.Context, config Config, backup io.Reader) (raftstore.Recovered, error) {
	if conn, err := net.Dial("unix", config.Socket()); err == nil {
		return raftstore.Recovered{}, errors.Join(errors.New("the agent is running; stop it first"), conn.Close())
	}
	cfg := config.storeConfig()
	cfg.Logger = slog.New(slog.DiscardHandler)
	restored, err := raftstore.RestoreBackup(ctx, cfg, backup)
	if errors.Is(err, raftstore.ErrHasState) {
		return restored, fmt.Errorf("%w; move it away first: mv %s %[2]s.old", err, cfg.DataDir)
	}
	if err != nil {
		return restored, fmt.Errorf("restore the mesh on this host: %w", err)
	}
	return restored, nil
}
