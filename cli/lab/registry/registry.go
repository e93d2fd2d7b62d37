// Package registry is the lab's own container registry: a small registry without
// authentication, on an address that the lab chooses, so that the lab's hosts pull
// guest images in the same way as real hosts do.
//
// go-containerregistry implements the protocol. This package adds that all content
// is in a folder and survives a restart, and that an upload is written to disk while
// it arrives, since a disk image is too large to keep in memory.
//
// The registry never deletes content, and it must not be reachable from outside the
// lab.
package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	reg "github.com/google/go-containerregistry/pkg/registry"

	"virtmesh/storage/durable"
)

// Config says where a registry listens and keeps its content.
type Config struct {
	// Dir holds blobs and manifests. One registry at a time may use it.
	Dir string
	// Addr is the host:port to listen on.
	Addr string
	// Log gets errors, and each request at debug level. nil discards them.
	Log *slog.Logger
}

// Server is a running registry.
type Server struct {
	http *http.Server
	addr net.Addr
	done chan struct{}
	err  error
}

// Start opens the folder, listens, and serves until Close.
func Start(cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	h, err := newHandler(cfg.Dir, cfg.Log)
	if err != nil {
		return nil, fmt.Errorf("registry in %s: %w", cfg.Dir, err)
	}
	l, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	s := &Server{
		http: &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute},
		addr: l.Addr(),
		done: make(chan struct{}),
	}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.err = err
		}
	}()
	return s, nil
}

// Addr is the address listened on, with the port the system chose if it was 0.
func (s *Server) Addr() string { return s.addr.String() }

// Wait returns when the registry has ended: nil after Close.
func (s *Server) Wait() error {
	<-s.done
	return s.err
}

// Close ends the registry. Requests under way may finish while ctx lasts.
func (s *Server) Close(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		s.http.Close()
	}
	<-s.done
	return err
}

func newHandler(dir string, log *slog.Logger) (http.Handler, error) {
	blobs := filepath.Join(dir, "blobs")
	uploads := filepath.Join(dir, "uploads")
	// Unfinished uploads belong to clients of an earlier process.
	if err := os.RemoveAll(uploads); err != nil {
		return nil, err
	}
	for _, d := range []string{blobs, uploads} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	protocol := reg.New(reg.WithBlobHandler(&blobStore{dir: blobs, tmp: uploads}),
		reg.Logger(slog.NewLogLogger(log.Handler(), slog.LevelDebug)))
	m, err := newManifestKeeper(filepath.Join(dir, "manifests"), protocol, log)
	if err != nil {
		return nil, err
	}
	return &uploadSpool{dir: uploads, next: m, log: log}, nil
}

// writeFile makes a file durable before it is visible under its name.
func writeFile(tmpDir, path string, r io.Reader) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(tmpDir, ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return durable.Place(f.Name(), path)
}
