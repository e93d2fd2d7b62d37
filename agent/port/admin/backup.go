package admin

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"time"

	"virtmesh/agent/fault"
)

// BackupPath is where the administration socket serves a backup; with the query "plain=true",
// one that is not encrypted. A backup contains all Secrets, and may contain the key of the
// mesh's CA, so only root on a host can get it; other administrators cannot.
const BackupPath = "/mesh/v1/backup"

// BackupHeader is the header of the answer that has the BackupContent, as JSON.
const BackupHeader = "Virtmesh-Backup"

// backupTimeout bounds how long a backup waits for the mesh's newest state.
const backupTimeout = 30 * time.Second

// BackupContent says what a backup holds.
type BackupContent struct {
	// Encrypted reports whether it is encrypted for the keyring and the recovery bundle.
	Encrypted bool `json:"encrypted"`
	// CAKey reports whether it holds the private key of the mesh's CA.
	CAKey bool `json:"caKey"`
	// Bundle is the newest recovery bundle; nil if none was made.
	Bundle *KeyringBundle `json:"bundle,omitempty"`
}

// WriteBackup writes a backup that was prepared. Only if it returns no error the backup is
// complete.
type WriteBackup func(ctx context.Context, w io.Writer) error

// Backups is a host that makes backups.
type Backups interface {
	// PrepareBackup says what the next backup will hold, and returns what writes it. plain
	// asks for one that is not encrypted.
	PrepareBackup(ctx context.Context, plain bool) (BackupContent, WriteBackup, error)
}

// WithBackup serves a backup at BackupPath and passes every other request to rest.
func WithBackup(backups Backups, rest http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != BackupPath || r.Method != http.MethodGet {
			rest.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), backupTimeout)
		defer cancel()
		content, write, err := backups.PrepareBackup(ctx, r.URL.Query().Get("plain") == "true")
		if err != nil {
			fault.Write(w, err)
			return
		}
		header, err := json.Marshal(content)
		if err != nil {
			fault.Write(w, err)
			return
		}
		w.Header().Set(BackupHeader, string(header))
		out := &countingWriter{to: w}
		if err = write(ctx, out); err == nil {
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
