package admin

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
)

// OpenSocket listens on the administration socket, which only root may open. A
// socket that an agent left behind is replaced.
func OpenSocket(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("make way for the administration socket: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("open the administration socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		listener.Close()
		return nil, fmt.Errorf("protect the administration socket: %w", err)
	}
	return listener, nil
}

// Beside puts the mesh's own API beside the Kubernetes one.
func Beside(mesh, kubernetes http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/mesh/v1/") {
			mesh.ServeHTTP(w, r)
			return
		}
		kubernetes.ServeHTTP(w, r)
	})
}
