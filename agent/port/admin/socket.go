package admin

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
)

// OpenSocket listens on the administration socket, which only root may open. It
// replaces a socket that an earlier agent left behind.
func OpenSocket(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the old administration socket: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("open the administration socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		listener.Close()
		return nil, fmt.Errorf("set the mode of the administration socket: %w", err)
	}
	return listener, nil
}

// Beside passes requests below /mesh/v1/ to mesh and all others to kubernetes.
func Beside(mesh, kubernetes http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/mesh/v1/") {
			mesh.ServeHTTP(w, r)
			return
		}
		kubernetes.ServeHTTP(w, r)
	})
}
