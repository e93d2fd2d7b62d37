package registry

import (
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// uploadSpool writes the three-step upload of a blob (POST, PATCH, PUT) to a file
// and passes it on as a single POST, because the handler behind it would collect
// such uploads in memory.
type uploadSpool struct {
	dir  string
	next http.Handler
	log  *slog.Logger
}

var uploadPath = regexp.MustCompile(`^(/v2/.+/blobs/uploads/)([0-9A-Z]*)$`)

// ServeHTTP implements http.Handler.
func (u *uploadSpool) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m := uploadPath.FindStringSubmatch(r.URL.Path)
	if m == nil {
		u.next.ServeHTTP(w, r)
		return
	}
	base, id := m[1], m[2]
	switch {
	case r.Method == http.MethodPost && id == "" && r.URL.Query().Get("digest") == "":
		u.openUpload(w, base)
	case r.Method == http.MethodPatch && id != "":
		u.addToUpload(w, r, base, id)
	case r.Method == http.MethodPut && id != "":
		u.finishUpload(w, r, base, id)
	default:
		u.next.ServeHTTP(w, r)
	}
}

func (u *uploadSpool) openUpload(w http.ResponseWriter, base string) {
	id := rand.Text()
	f, err := os.OpenFile(filepath.Join(u.dir, id), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		u.failRequest(w, err)
		return
	}
	f.Close()
	w.Header().Set("Location", base+id)
	w.Header().Set("Range", "0-0")
	w.WriteHeader(http.StatusAccepted)
}

// appendBody adds the request's body to the upload and returns its length so far.
func (u *uploadSpool) appendBody(id string, r *http.Request) (int64, error) {
	f, err := os.OpenFile(filepath.Join(u.dir, id), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if _, err := io.Copy(f, r.Body); err != nil {
		return 0, err
	}
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func (u *uploadSpool) addToUpload(w http.ResponseWriter, r *http.Request, base, id string) {
	n, err := u.appendBody(id, r)
	if err != nil {
		u.failRequest(w, err)
		return
	}
	w.Header().Set("Location", base+id)
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(n-1, 0)))
	w.WriteHeader(http.StatusAccepted)
}

func (u *uploadSpool) finishUpload(w http.ResponseWriter, r *http.Request, base, id string) {
	n, err := u.appendBody(id, r)
	if err != nil {
		u.failRequest(w, err)
		return
	}
	f, err := os.Open(filepath.Join(u.dir, id))
	if err != nil {
		u.failRequest(w, err)
		return
	}
	defer os.Remove(f.Name())
	defer f.Close()
	whole := r.Clone(r.Context())
	whole.Method = http.MethodPost
	whole.URL.Path = base
	whole.URL.RawQuery = url.Values{"digest": {r.URL.Query().Get("digest")}}.Encode()
	whole.Body = f
	whole.ContentLength = n
	whole.Header.Del("Content-Range")
	u.next.ServeHTTP(w, whole)
}

func (u *uploadSpool) failRequest(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	if os.IsNotExist(err) {
		status = http.StatusNotFound
	}
	u.log.Warn("upload failed", "err", err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":"BLOB_UPLOAD_INVALID","message":%q}]}`, strings.ToValidUTF8(err.Error(), "?"))
}
