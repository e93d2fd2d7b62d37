package cli

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// operationJSON is an operation on host3 that has ended.
func operationJSON(name string) string {
	return fmt.Sprintf(`{"apiVersion":"mesh.virtmesh.io/v1alpha1","kind":"Operation","metadata":{"name":%q},
		"spec":{"type":"RemoveHost","target":"host3"},
		"status":{"phase":"Succeeded","steps":[{"name":"bar the host","phase":"Done"},{"name":"end the instances","phase":"Done"}]}}`, name)
}

func TestRemovalThatEndsAtOncePrintsItsSteps(t *testing.T) {
	var removed atomic.Bool
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			removed.Store(true)
			w.WriteHeader(http.StatusNoContent)
			return
		}
		items := []string{operationJSON("remove-host3-1")}
		if removed.Load() {
			items = append(items, operationJSON("remove-host3-2"))
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"apiVersion":"mesh.virtmesh.io/v1alpha1","kind":"OperationList","metadata":{},"items":[`+strings.Join(items, ",")+`]}`)
	}))
	t.Cleanup(web.Close)
	code, stdout, stderr := run(t, "--kubeconfig", writeKubeconfig(t, web.URL), "node", "remove", "host3")
	want := "remove-host3-2: 1/2 bar the host: done\nremove-host3-2: 2/2 end the instances: done\n"
	if code != 0 || stdout != "host host3 removed\n" || stderr != want {
		t.Errorf("exit code %d, %q and %q; want the steps of the new operation alone", code, stdout, stderr)
	}
}

func TestAddressThatADeadHostCannotTell(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	conn := tlsConnection(server)
	server.Close()
	err := conn.redirect(t.Context(), "host1")
	if err == nil || !strings.Contains(err.Error(), "for the address of host1") || !strings.HasSuffix(err.Error(), "give --host an address instead of a name") {
		t.Errorf("got %v", err)
	}
}

func TestCommandsSayThatTheAgentStarts(t *testing.T) {
	web := httptest.NewUnstartedServer(http.NotFoundHandler())
	web.TLS = &tls.Config{NextProtos: []string{"virtmesh-join"}}
	web.StartTLS()
	t.Cleanup(web.Close)
	path := writeKubeconfig(t, web.URL)
	for _, command := range []string{"status", "vm ls"} {
		code, _, stderr := run(t, append([]string{"--kubeconfig", path}, strings.Fields(command)...)...)
		if code == 0 || stderr != "virtmesh: the host does not serve its API yet: its agent is starting; try again in a few seconds\n" {
			t.Errorf("%s: exit code %d, %q", command, code, stderr)
		}
	}
}
