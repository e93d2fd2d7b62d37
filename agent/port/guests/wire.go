package guests

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
)

// errorClasses maps the errors that callers test for to their wire form.
var errorClasses = []struct {
	code   string
	status int
	err    error
}{
	{"NotFound", http.StatusNotFound, ErrNotFound},
	{"NotRunning", http.StatusConflict, ErrNotRunning},
	{"NoGuestAgent", http.StatusConflict, ErrNoGuestAgent},
	{"Conflict", http.StatusConflict, ErrConflict},
}

type wireError struct {
	Code    string `json:"code,omitempty"`
	Message string `json:"message"`
}

func writeError(w http.ResponseWriter, err error) {
	body, status := wireError{Message: err.Error()}, http.StatusInternalServerError
	for _, class := range errorClasses {
		if errors.Is(err, class.err) {
			body.Code, status = class.code, class.status
			break
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // fails only when the client is gone
}

// remoteError is an error that another host answered with.
type remoteError struct {
	host, message string
	class         error
}

func (e *remoteError) Error() string { return fmt.Sprintf("host %s: %s", e.host, e.message) }
func (e *remoteError) Unwrap() error { return e.class }

func readError(host string, response *http.Response) error {
	var body wireError
	if err := json.NewDecoder(io.LimitReader(response.Body, maxRequestBytes)).Decode(&body); err != nil || body.Message == "" {
		return &remoteError{host: host, message: response.Status}
	}
	remote := &remoteError{host: host, message: body.Message}
	for _, class := range errorClasses {
		if class.code == body.Code {
			remote.class = class.err
		}
	}
	return remote
}

// bufferedConn is a connection whose first bytes were already read into a
// buffer by the HTTP machinery.
type bufferedConn struct {
	net.Conn
	reader *bufio.Reader
}

func (c *bufferedConn) Read(p []byte) (int, error) { return c.reader.Read(p) }
