package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	reg "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// blobStore keeps blobs in files named by digest. The protocol above it checks
// the digest while a blob is written, so looking one up need not read it again.
type blobStore struct{ dir, tmp string }

var (
	_ reg.BlobHandler     = (*blobStore)(nil)
	_ reg.BlobStatHandler = (*blobStore)(nil)
	_ reg.BlobPutHandler  = (*blobStore)(nil)
)

func (b *blobStore) path(h v1.Hash) string { return filepath.Join(b.dir, h.Algorithm, h.Hex) }

// Stat implements reg.BlobStatHandler.
func (b *blobStore) Stat(_ context.Context, _ string, h v1.Hash) (int64, error) {
	st, err := os.Stat(b.path(h))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, reg.ErrNotFound
	}
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// Get implements reg.BlobHandler.
func (b *blobStore) Get(_ context.Context, _ string, h v1.Hash) (io.ReadCloser, error) {
	f, err := os.Open(b.path(h))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, reg.ErrNotFound
	}
	return f, err
}

// Put implements reg.BlobPutHandler.
func (b *blobStore) Put(_ context.Context, _ string, h v1.Hash, rc io.ReadCloser) error {
	defer rc.Close()
	return writeFile(b.tmp, b.path(h), rc)
}

// manifestKeeper writes accepted manifests to files, because the protocol's own
// handler keeps them only in memory. At the start it passes them to that handler
// again.
type manifestKeeper struct {
	dir  string
	next http.Handler
	log  *slog.Logger
	mu   sync.Mutex
}

// storedManifest is a file of the manifest folder.
type storedManifest struct {
	Path        string `json:"path"`
	ContentType string `json:"contentType"`
	Body        []byte `json:"body"`
}

func newManifestKeeper(dir string, next http.Handler, log *slog.Logger) (*manifestKeeper, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	// An index is only accepted after the manifests it names, whose files may
	// come later in the alphabet: so whatever is refused is tried once more.
	for range 2 {
		var refused []string
		for _, f := range files {
			if err := replayManifest(f, next); err != nil {
				log.Warn("a stored manifest was not accepted", "path", f, "err", err)
				refused = append(refused, f)
			}
		}
		files = refused
	}
	return &manifestKeeper{dir: dir, next: next, log: log}, nil
}

func replayManifest(file string, to http.Handler) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var m storedManifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return err
	}
	req := httptest.NewRequest(http.MethodPut, "http://registry/", bytes.NewReader(m.Body))
	req.URL.Path = m.Path
	req.Header.Set("Content-Type", m.ContentType)
	rec := httptest.NewRecorder()
	to.ServeHTTP(rec, req)
	if rec.Code/100 != 2 {
		return fmt.Errorf("%d %s", rec.Code, rec.Body)
	}
	return nil
}

// maxManifest bounds a manifest; the largest real ones have some hundred kilobytes.
const maxManifest = 4 << 20

// ServeHTTP implements http.Handler.
func (k *manifestKeeper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPut || !strings.Contains(r.URL.Path, "/manifests/") {
		k.next.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxManifest))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	k.mu.Lock()
	defer k.mu.Unlock()
	// The answer is held back until the manifest is on disk: what a client was
	// told is stored must be there after a restart.
	answer := httptest.NewRecorder()
	k.next.ServeHTTP(answer, r)
	if answer.Code/100 == 2 {
		raw, err := json.Marshal(storedManifest{Path: r.URL.Path, ContentType: r.Header.Get("Content-Type"), Body: body})
		if err == nil {
			err = writeFile(k.dir, filepath.Join(k.dir, url.QueryEscape(r.URL.Path)+".json"), bytes.NewReader(raw))
		}
		if err != nil {
			k.log.Error("manifest not stored", "path", r.URL.Path, "err", err)
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.Code)
	w.Write(answer.Body.Bytes())
}
