package admin

import (
	"context"
	"io"
	"net/http"
	"time"

	"virtmesh/agent/fault"
)

// BackupPath is where the administration socket serves a backup. A backup contains all
// Secrets, and may contain the key of the mesh's CA, so only root on a host can get it; other administrators cannot.
const BackupPath = "/mesh/v1/backup"

// backupTimeout bounds how long a backup waits for the mesh's newest state.
const backupTimeout = 30 * time.Second

// WithBackup serves a backup at BackupPath and passes every other request to rest.
func WithBackup(backup func(context.Context, io.Writer) (uint64, error), rest http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != BackupPath || r.Method != http.MethodGet {
			rest.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), backupTimeout)
		defer cancel()
		out := &countingWriter{to: w}
		_, err := backup(ctx, out)
		if err == nil {
			return
		}
		if out.n > 0 {
			panic(http.ErrAbortHandler) // the client must not mistake a partial backup for a complete one
		}
		fault.Write(w, err)
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
