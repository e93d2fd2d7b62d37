package admin

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestBackupIsWholeOrFails(t *testing.T) {
	var fail error
	var written string
	server := httptest.NewServer(WithBackup(func(_ context.Context, w io.Writer) (uint64, error) {
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
		{"no leader", "", errors.New("no leader"), 500, true},
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
