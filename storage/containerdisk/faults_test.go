package containerdisk

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// What a registry says of a failure is told as text, and nothing of it is a secret or a
// page of a server that is no registry.
func TestRegistriesWordsAreTold(t *testing.T) {
	f, cache := newRegistry(t), newCache(t, nil)
	ref := diskRef(t, f, 1, 1000)
	long := strings.Repeat("no ", 10_000)
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request)
		says   string
	}{
		"a message": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":"no\n\u001b[31m %s","detail":"hunter2"}]}`, long)
		}, "answers 403 Forbidden: DENIED: no [31m no"},
		"a page": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusTeapot)
			fmt.Fprint(w, "internal page with hunter2")
		}, "answers 418"},
		"a redirect with secrets": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://user:hunter2@127.0.0.1:1/blob?X-Signature=hunter2", http.StatusFound)
		}, "127.0.0.1"},
		"a token service without a token": {func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				fmt.Fprint(w, `{"refresh_token":"hunter2"}`)
				return
			}
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="x"`, r.Host))
			w.WriteHeader(http.StatusUnauthorized)
		}, "no token"},
	} {
		f.intercept(func(w http.ResponseWriter, r *http.Request) bool { c.answer(w, r); return true })
		_, _, err := cache.Pull(t.Context(), ref, PullOptions{})
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), ref) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if text := err.Error(); len(text) > 600 || strings.ContainsAny(text, "\n\x1b") || strings.Contains(text, "hunter2") {
			t.Errorf("%s: it is told with %q", name, text)
		}
	}
}
