package admin

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// preparedBackup is a host whose backups are written by the function; one that is not plain
// is encrypted.
type preparedBackup WriteBackup

func (b preparedBackup) PrepareBackup(_ context.Context, plain bool) (BackupContent, WriteBackup, error) {
	return BackupContent{Encrypted: !plain}, WriteBackup(b), nil
}

// Who asks is told what he gets.
func TestBackupSaysWhatItHolds(t *testing.T) {
	handler := WithBackup(preparedBackup(func(context.Context, io.Writer) error { return nil }), http.NotFoundHandler())
	for query, want := range map[string]string{"": `{"encrypted":true,"caKey":false}`, "?plain=true": `{"encrypted":false,"caKey":false}`} {
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, BackupPath+query, nil))
		if got := answer.Header().Get(BackupHeader); got != want {
			t.Errorf("%q: %s", query, got)
		}
	}
}

func TestBackupIsWholeOrFails(t *testing.T) {
	var fail error
	var written string
	server := httptest.NewServer(WithBackup(preparedBackup(func(_ context.Context, w io.Writer) error {
		if written != "" {
			io.WriteString(w, written)
			w.(*countingWriter).to.(http.Flusher).Flush()
		}
		return fail
	}), http.NotFoundHandler()))
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
