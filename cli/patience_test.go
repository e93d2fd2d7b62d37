package cli

import (
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/raftstore"
)

// servedTypes is what a host tells of its API, with or without a leader.
var servedTypes = map[string]string{
	"/api":  `{"kind":"APIVersions","versions":[]}`,
	"/apis": `{"kind":"APIGroupList","apiVersion":"v1","groups":[{"name":"kubevirt.io","versions":[{"groupVersion":"kubevirt.io/v1","version":"v1"}]}]}`,
	"/apis/kubevirt.io/v1": `{"kind":"APIResourceList","groupVersion":"kubevirt.io/v1","resources":[
		{"name":"virtualmachines","singularName":"virtualmachine","shortNames":["vm"],"namespaced":true,"kind":"VirtualMachine","verbs":["get","list"]}]}`,
}

// serveLeaderless serves the API of a host without a leader, which answers local reads
// alone, and returns the flags that reach it.
func serveLeaderless(t *testing.T) (connection []string, requests *atomic.Int64) {
	t.Helper()
	requests = new(atomic.Int64)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if answer, ok := servedTypes[r.URL.Path]; ok {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(answer))
			return
		}
		requests.Add(1)
		if r.URL.Query().Get("resourceVersion") != "0" {
			fault.Write(w, raftstore.ErrNoLeader)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachineList","metadata":{},"items":[
			{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":"known"}}]}`))
	}))
	t.Cleanup(web.Close)
	return []string{"--kubeconfig", writeKubeconfig(t, web.URL)}, requests
}

func TestCommandsSayAtOnceThatThereIsNoLeader(t *testing.T) {
	// A second attempt is made after a second, if the first left time for it. A third is not.
	const limit = 1900 * time.Millisecond
	for _, command := range []string{
		"vm ls", "vm show web", "vm stop web", "vm delete web", "vm wait web", "node ls", "node show host1", "node cordon host1",
		"operation ls", "operation cancel x", "events", "get vm", "vm create web --image i --wait 1900ms",
	} {
		t.Run(command, func(t *testing.T) { // one after the other: the library's help flag is global
			connection, requests := serveLeaderless(t)
			args := slices.Concat(connection, strings.Fields(command))
			if !strings.Contains(command, "--wait") {
				args = append(args, "--timeout", limit.String())
			}
			began := time.Now()
			code, stdout, stderr := runPlain(args...)
			took := time.Since(began)
			if code != 7 || stdout != "" {
				t.Errorf("exit code %d, output %q; want 7 and none", code, stdout)
			}
			lines := strings.SplitN(stderr, "\n", 2)
			if !strings.HasPrefix(lines[0], "the mesh has no leader") || !strings.HasSuffix(lines[0], "; waiting up to 1.9s, Ctrl+C stops") {
				t.Errorf("the first line is %q", lines[0])
			}
			if last := lines[1]; !strings.Contains(last, "the mesh has no leader") || strings.Count(last, "\n") != 1 || !strings.Contains(last, "'virtmesh status'") {
				t.Errorf("the last line is %q", last)
			}
			if n := requests.Load(); n < 2 || took > limit+20*time.Second {
				t.Errorf("%d attempts in %s, want several within %s", n, took, limit)
			}
		})
	}
}

func TestLocalReadsWithoutALeader(t *testing.T) {
	connection, _ := serveLeaderless(t)
	_, _, stderr := runPlain(append(connection, "vm", "ls", "--timeout", "900ms")...)
	if !strings.Contains(stderr, "--local") {
		t.Errorf("nothing tells of --local: %q", stderr)
	}
	code, stdout, stderr := runPlain(append(connection, "vm", "ls", "--local")...)
	if code != 0 || stderr != "" || !strings.Contains(stdout, "known") {
		t.Errorf("exit code %d, %q, %q; want the machine that the host knows", code, stdout, stderr)
	}
}

func TestAHostThatDoesNotAnswer(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(web.Close)
	connection := []string{"--kubeconfig", writeKubeconfig(t, web.URL), "--timeout", "200ms"}
	for command, remedy := range map[string]string{
		"vm ls": "'virtmesh status'", "token ls": "'virtmesh status'", "get vm": "'virtmesh status'",
		"status": "it needs no other host to answer that, so it hangs: 'systemctl restart virtmesh'",
	} {
		code, _, stderr := runPlain(append(connection, strings.Fields(command)...)...)
		if code != 7 || !strings.Contains(stderr, "has not answered within 200ms; "+remedy) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: exit code %d, %q", command, code, stderr)
		}
	}
}

// A process that is stopped still has its socket, and the kernel takes the connections; of one
// that was killed only the file is left. Either is the agent of this host, and no "localhost".
func TestALocalAgentThatDoesNotAnswer(t *testing.T) {
	t.Setenv("KUBECONFIG", "")
	socket := filepath.Join(t.TempDir(), "agent.sock")
	hangs, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	hangs.SetUnlinkOnClose(false)
	for _, command := range []string{"status", "vm ls"} {
		code, _, stderr := runPlain(append([]string{"--socket", socket, "--timeout", "200ms"}, strings.Fields(command)...)...)
		if code != 7 || !strings.HasPrefix(stderr, "virtmesh: this host's agent has not answered within 200ms; ") && command == "status" {
			t.Errorf("%s, which hangs: exit code %d, %q", command, code, stderr)
		}
		if !strings.Contains(stderr, "this host's agent has not answered") {
			t.Errorf("%s, which hangs: %q", command, stderr)
		}
	}
	hangs.Close()
	for _, command := range []string{"status", "vm ls", "agent leave"} {
		code, _, stderr := runPlain(append([]string{"--socket", socket}, strings.Fields(command)...)...)
		if code != 1 || !strings.HasPrefix(stderr, "virtmesh: no agent runs on this host ("+socket+"): ") {
			t.Errorf("%s, which was killed: exit code %d, %q", command, code, stderr)
		}
	}
}

func TestTimeoutMustLeaveTime(t *testing.T) {
	for _, args := range []string{"--timeout 0s vm ls", "vm wait web --timeout -5s", "vm create web --image i --wait -5s"} {
		if code, _, stderr := runPlain(strings.Fields(args)...); code != 1 || !strings.Contains(stderr, "must be more than 0") {
			t.Errorf("%s: exit code %d, %q", args, code, stderr)
		}
	}
}
