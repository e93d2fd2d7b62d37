package cli

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// testPatience bounds what waits for another goroutine; the machine may be busy.
const testPatience = time.Minute

// screen is output that a test can wait for.
type screen struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{}
}

func newScreen() *screen { return &screen{changed: make(chan struct{}, 1)} }

// Write shows more.
func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return s.text.Write(p)
}

// String is what is shown by now.
func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func (s *screen) await(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(testPatience)
	for !strings.Contains(s.String(), want) {
		select {
		case <-s.changed:
		case <-deadline:
			t.Fatalf("never shown: %q; only:\n%s", want, s.String())
		}
	}
}

// session is a command line that goes on until it is interrupted.
type session struct {
	out, err *screen
	stop     context.CancelFunc
	ended    chan error
}

func begin(t *testing.T, in io.Reader, args ...string) *session {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := &session{out: newScreen(), err: newScreen(), stop: cancel, ended: make(chan error, 1)}
	app := newApp(in, s.out, s.err)
	go func() { s.ended <- app.RunContext(ctx, arrangeFlags(app, append([]string{"virtmesh"}, args...))) }()
	t.Cleanup(cancel)
	return s
}

func (s *session) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-s.ended:
		return err
	case <-time.After(testPatience):
		t.Fatal("the command does not end")
		return nil
	}
}

// kubeconfig names an administrator of the mesh and a namespace.
func (m *scriptMesh) kubeconfig(t *testing.T, namespace string) string {
	t.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters["m"] = &clientcmdapi.Cluster{Server: m.config.Host, CertificateAuthorityData: m.config.CAData}
	config.AuthInfos["m"] = &clientcmdapi.AuthInfo{ClientCertificateData: m.certificate, ClientKeyData: m.key}
	config.Contexts["m"] = &clientcmdapi.Context{Cluster: "m", AuthInfo: "m", Namespace: namespace}
	config.CurrentContext = "m"
	path := t.TempDir() + "/kubeconfig"
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	return path
}

func (m *scriptMesh) configMap(t *testing.T, name, value string) {
	t.Helper()
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{"kind": value}}}
	maps := m.client().CoreV1().ConfigMaps("default")
	if _, err := maps.Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestFollowing(t *testing.T) {
	mesh := startMesh(t)
	path := mesh.kubeconfig(t, "default")

	t.Run("objects", func(t *testing.T) {
		mesh.configMap(t, "first", "a")
		s := begin(t, nil, "--kubeconfig", path, "get", "cm", "-w", "-l", "kind=a")
		s.out.await(t, "first")
		mesh.configMap(t, "hidden", "b")
		mesh.configMap(t, "second", "a")
		s.out.await(t, "second")
		s.stop()
		if err := s.end(t); err != nil {
			t.Errorf("interrupted: %v", err)
		}
		if text := s.out.String(); strings.Contains(text, "hidden") || strings.Count(text, "NAME") != 1 {
			t.Errorf("want one head and what has the label, got:\n%s", text)
		}
	})

	t.Run("one object", func(t *testing.T) {
		s := begin(t, nil, "--kubeconfig", path, "get", "cm", "first", "-w")
		s.out.await(t, "first")
		mesh.configMap(t, "third", "a")
		if err := mesh.client().CoreV1().ConfigMaps("default").Delete(t.Context(), "first", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		deadline := time.After(testPatience)
		for strings.Count(s.out.String(), "first") < 2 {
			select {
			case <-s.out.changed:
			case <-deadline:
				t.Fatalf("its end is not shown:\n%s", s.out.String())
			}
		}
		s.stop()
		if err := s.end(t); err != nil || strings.Contains(s.out.String(), "third") {
			t.Errorf("%v; shown:\n%s", err, s.out.String())
		}
	})

	t.Run("events", func(t *testing.T) {
		event := func(name, text string) {
			_, err := mesh.client().CoreV1().Events("default").Create(t.Context(), &corev1.Event{
				ObjectMeta:     metav1.ObjectMeta{GenerateName: name + "-"},
				InvolvedObject: corev1.ObjectReference{Kind: "VirtualMachine", Namespace: "default", Name: name},
				Type:           corev1.EventTypeNormal, Reason: "Told", Message: text, Count: 3, LastTimestamp: metav1.Now(),
			}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
		}
		event("web", "before")
		s := begin(t, nil, "--kubeconfig", path, "events", "-f", "--for", "web")
		s.out.await(t, "VirtualMachine/web: before (x3)")
		event("db", "of another")
		event("web", "after")
		s.out.await(t, "VirtualMachine/web: after (x3)")
		s.stop()
		if err := s.end(t); err != nil || strings.Contains(s.out.String(), "of another") {
			t.Errorf("%v; shown:\n%s", err, s.out.String())
		}
	})

	t.Run("deletion waits for finalizers", func(t *testing.T) {
		maps := mesh.client().CoreV1().ConfigMaps("default")
		held := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"example.org/hold"}}}
		if _, err := maps.Create(t.Context(), held, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		s := begin(t, nil, "--kubeconfig", path, "delete", "cm", "held")
		s.out.await(t, "configmaps/held deleted")
		select {
		case err := <-s.ended:
			t.Fatalf("it did not wait: %v", err)
		default:
		}
		object, err := maps.Get(t.Context(), "held", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		object.Finalizers = nil
		if _, err := maps.Update(t.Context(), object, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := s.end(t); err != nil {
			t.Error(err)
		}
	})

	t.Run("an interrupted deletion says so", func(t *testing.T) {
		held := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "stays", Finalizers: []string{"example.org/hold"}}}
		if _, err := mesh.client().CoreV1().ConfigMaps("default").Create(t.Context(), held, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		s := begin(t, nil, "--kubeconfig", path, "delete", "cm", "stays")
		s.out.await(t, "configmaps/stays deleted")
		s.stop()
		if err := s.end(t); err == nil {
			t.Error("it ended as if the object were gone")
		}
	})
}

// guest is a console or display whose bytes a test decides.
func guest(t *testing.T, serve func(*websocket.Conn)) string {
	t.Helper()
	upgrader := websocket.Upgrader{Subprotocols: []string{streamSubprotocol}}
	var serving sync.WaitGroup
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/apis/kubevirt.io/") && strings.HasSuffix(r.URL.Path, "/virtualmachineinstances/web") {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachineInstance","metadata":{"name":"web"},"status":{"phase":"Running"}}`)
			return
		}
		if !strings.Contains(r.URL.Path, "/virtualmachineinstances/web/") {
			http.Error(w, "there is no such guest", http.StatusNotFound)
			return
		}
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		serving.Go(func() {
			defer conn.Close()
			serve(conn)
		})
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		serving.Wait()
	})
	return writeKubeconfig(t, server.URL)
}

func TestConsoleCarriesBytes(t *testing.T) {
	typed := make(chan string, 10)
	path := guest(t, func(conn *websocket.Conn) {
		for _, part := range []string{"log", "in: "} { // a word in two frames
			if err := conn.WriteMessage(websocket.BinaryMessage, []byte(part)); err != nil {
				return
			}
		}
		for {
			_, data, err := conn.ReadMessage()
			if err != nil {
				close(typed)
				return
			}
			typed <- string(data)
		}
	})
	in, keyboard := io.Pipe()
	s := begin(t, in, "--kubeconfig", path, "vm", "console", "web")
	s.out.await(t, "login: ")
	for _, keys := range []string{"root\n", "ls\x1dnever sent"} {
		if _, err := io.WriteString(keyboard, keys); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.end(t); err != nil {
		t.Errorf("left with Ctrl+]: %v", err)
	}
	var got strings.Builder
	for text := range typed {
		got.WriteString(text)
	}
	if got.String() != "root\nls" {
		t.Errorf("the guest read %q", got.String())
	}
}

func TestConsoleOfNoGuest(t *testing.T) {
	path := guest(t, func(*websocket.Conn) {})
	s := begin(t, nil, "--kubeconfig", path, "vm", "console", "other")
	if err := s.end(t); err == nil || !strings.Contains(err.Error(), "open the console of other: 404") {
		t.Errorf("got %v", err)
	}
}

func TestDisplayServesViewers(t *testing.T) {
	path := guest(t, func(conn *websocket.Conn) {
		if err := conn.WriteMessage(websocket.BinaryMessage, []byte("RFB 003.008\n")); err != nil {
			return
		}
		if _, data, err := conn.ReadMessage(); err == nil {
			_ = conn.WriteMessage(websocket.BinaryMessage, append([]byte("got "), data...))
		}
	})
	s := begin(t, nil, "--kubeconfig", path, "vm", "vnc", "web")
	s.out.await(t, "remote-viewer vnc://")
	_, address, _ := strings.Cut(strings.TrimSpace(s.out.String()), "vnc://")
	for range 2 { // one viewer after the other
		viewer, err := net.DialTimeout("tcp", address, testPatience)
		if err != nil {
			t.Fatal(err)
		}
		if err := viewer.SetDeadline(time.Now().Add(testPatience)); err != nil {
			t.Fatal(err)
		}
		greeting := make([]byte, len("RFB 003.008\n"))
		if _, err := io.ReadFull(viewer, greeting); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(viewer, "hello"); err != nil {
			t.Fatal(err)
		}
		rest, err := io.ReadAll(viewer)
		if err != nil || string(rest) != "got hello" {
			t.Errorf("the viewer read %q, %v", rest, err)
		}
		viewer.Close()
	}
	s.stop()
	if err := s.end(t); err != nil {
		t.Errorf("interrupted: %v", err)
	}
}
