package cli

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/urfave/cli/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	kubevirtv1 "kubevirt.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"virtmesh/agent"
	"virtmesh/agent/host"
)

// tlsConnection trusts a test server.
func tlsConnection(server *httptest.Server) *connection {
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return &connection{namespace: "default", rest: &rest.Config{Host: server.URL, TLSClientConfig: rest.TLSClientConfig{CAData: ca}}}
}

func TestExplain(t *testing.T) {
	notFound := apierrors.NewNotFound(schema.GroupResource{Group: "kubevirt.io", Resource: "virtualmachines"}, "web")
	for _, test := range []struct {
		err  error
		want string
	}{
		{errors.New(" plain \n"), "plain"},
		{errors.Join(errors.New("one"), errors.New("two")), "one; two"},
		{errors.Join(notFound, errors.New("two")), `virtualmachines.kubevirt.io "web" not found; two`},
		{errors.Join(nil, notFound), `virtualmachines.kubevirt.io "web" not found`},
		{fmt.Errorf("%w: %w", errors.New("refused"), notFound), `virtualmachines.kubevirt.io "web" not found`},
		{fmt.Errorf("while deleting: %w", notFound), `virtualmachines.kubevirt.io "web" not found`},
	} {
		if got := explain(test.err); got != test.want {
			t.Errorf("explain(%v) = %q, want %q", test.err, got, test.want)
		}
	}
}

func TestPrintColumns(t *testing.T) {
	var out bytes.Buffer
	if err := printColumns(&out, []string{"NAME", "HOST"}, [][]string{{"a-long-name", ""}, {"b", "host1"}}); err != nil {
		t.Fatal(err)
	}
	want := "NAME          HOST\na-long-name   -\nb             host1\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestPrintTable(t *testing.T) {
	table := &metav1.Table{
		ColumnDefinitions: []metav1.TableColumnDefinition{{Name: "Name"}, {Name: "Phase"}, {Name: "Paused", Priority: 1}},
		Rows: []metav1.TableRow{{Cells: []any{"web", "Running", "False"},
			Object: runtime.RawExtension{Object: &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "prod"}}}}},
	}
	for _, test := range []struct {
		wide, namespace, header bool
		want                    string
	}{
		{false, false, true, "NAME PHASE web Running"},
		{true, false, true, "NAME PHASE PAUSED web Running False"},
		{false, true, true, "NAMESPACE NAME PHASE prod web Running"},
		{false, false, false, "web Running"},
	} {
		var out bytes.Buffer
		if err := printTable(&out, table.DeepCopy(), test.wide, test.namespace, test.header); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(strings.Fields(out.String()), " "); got != test.want {
			t.Errorf("wide %t, namespace %t, header %t: got %q, want %q", test.wide, test.namespace, test.header, got, test.want)
		}
	}
}

func TestAge(t *testing.T) {
	if got := age(time.Time{}); got != "<unknown>" {
		t.Errorf("the age of no time is %q", got)
	}
	if got := age(time.Now().Add(-49 * time.Hour)); got != "2d1h" {
		t.Errorf("49 hours are %q", got)
	}
}

func TestNewVM(t *testing.T) {
	userData := filepath.Join(t.TempDir(), "user-data")
	if err := os.WriteFile(userData, []byte("#cloud-config\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := run(t, "vm", "create", "web", "--dry-run", "--image", "registry/disk:1",
		"--cpu", "3", "--memory", "1Gi", "--run-strategy", "Manual", "--cloud-init", userData)
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	vm := &kubevirtv1.VirtualMachine{}
	if err := yaml.UnmarshalStrict([]byte(stdout), vm); err != nil {
		t.Fatalf("the manifest cannot be read back: %v\n%s", err, stdout)
	}
	spec := vm.Spec.Template.Spec
	if vm.Name != "web" || vm.Kind != "VirtualMachine" || *vm.Spec.RunStrategy != kubevirtv1.RunStrategyManual {
		t.Errorf("got %s %q with run strategy %v", vm.Kind, vm.Name, *vm.Spec.RunStrategy)
	}
	if spec.Domain.CPU.Cores != 3 || spec.Domain.Resources.Requests.Memory().String() != "1Gi" {
		t.Errorf("got %d cores and %s", spec.Domain.CPU.Cores, spec.Domain.Resources.Requests.Memory())
	}
	if len(spec.Volumes) != 2 || spec.Volumes[0].ContainerDisk.Image != "registry/disk:1" || spec.Volumes[1].CloudInitNoCloud.UserData != "#cloud-config\n" {
		t.Errorf("got volumes %+v", spec.Volumes)
	}
	if strings.Contains(stdout, "status") || strings.Contains(stdout, "null") {
		t.Errorf("the manifest carries what nobody asked for:\n%s", stdout)
	}
	if code, _, stderr := run(t, "vm", "create", "web", "--dry-run", "--image", "i", "--cloud-init", "/nonexistent"); code != 1 || !strings.Contains(stderr, "cloud-init user data") {
		t.Errorf("a missing file: exit code %d, stderr %q", code, stderr)
	}
}

// consoleOf answers every console with what handle does.
func consoleOf(t *testing.T, handle func(*websocket.Conn)) *connection {
	t.Helper()
	upgrader := websocket.Upgrader{Subprotocols: []string{streamSubprotocol}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		socket, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer socket.Close()
		handle(socket)
	}))
	t.Cleanup(server.Close)
	return &connection{namespace: "default", rest: &rest.Config{Host: server.URL}}
}

func TestConsoleEndsAtTheEscape(t *testing.T) {
	for _, test := range []struct{ name, typed, want string }{
		{"at once", "\x1d", ""},
		{"after text", "ls\r\x1dnot sent", "ls\r"},
		{"other control bytes pass", "\x03\x04\x1b[A\x1d", "\x03\x04\x1b[A"},
		{"bytes that are no text pass", "\xff\xfe\x1d", "\xff\xfe"},
	} {
		t.Run(test.name, func(t *testing.T) {
			received := make(chan string, 1)
			conn := consoleOf(t, func(socket *websocket.Conn) {
				data, _ := io.ReadAll(&websocketConn{Conn: socket})
				received <- string(data)
			})
			socket, err := conn.stream(t.Context(), "web", "console")
			if err != nil {
				t.Fatal(err)
			}
			defer socket.Close()
			guest := &websocketConn{Conn: socket}
			copyUntilEscape(guest, strings.NewReader(test.typed))
			if got := <-received; got != test.want {
				t.Errorf("the guest got %q, want %q", got, test.want)
			}
			if _, err := io.Copy(io.Discard, guest); err != nil {
				t.Errorf("reading on fails: %v", err)
			}
		})
	}
}

func TestConsoleReadsOnAfterTheInput(t *testing.T) {
	conn := consoleOf(t, func(socket *websocket.Conn) {
		_, typed, _ := socket.ReadMessage()
		socket.WriteMessage(websocket.BinaryMessage, []byte("echo "))
		socket.WriteMessage(websocket.BinaryMessage, nil)
		socket.WriteMessage(websocket.BinaryMessage, typed)
	})
	socket, err := conn.stream(t.Context(), "web", "console")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	guest := &websocketConn{Conn: socket}
	copyUntilEscape(guest, strings.NewReader("hello"))
	if got, err := io.ReadAll(guest); string(got) != "echo hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestRefusedStreamTellsWhy(t *testing.T) {
	for body, want := range map[string]string{
		`{"kind":"Status","message":"VMI is not running"}`: "VMI is not running",
		"nonsense": "open the console of web: 400 Bad Request",
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, body, http.StatusBadRequest)
		}))
		conn := &connection{namespace: "default", rest: &rest.Config{Host: server.URL}}
		if _, err := conn.stream(t.Context(), "web", "console"); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
		server.Close()
	}
}

func TestHostConfig(t *testing.T) {
	var config agent.Config
	parse := func(args ...string) error {
		app := newApp(nil, io.Discard, io.Discard)
		app.Commands = []*cli.Command{{Name: "try", Flags: hostFlags(), Action: func(c *cli.Context) (err error) {
			config, err = hostConfig(c)
			return err
		}}}
		return app.Run(append([]string{"virtmesh", "try", "--name", "host1", "--advertise", "192.0.2.1"}, args...))
	}
	if err := parse("--pool", "nfs=/mnt/nfs,shared", "--bridge", "lan=eth1", "--state-dir", "/srv/vm"); err != nil {
		t.Error(err)
	}
	wantPool := host.PoolConfig{Name: "nfs", Path: "/mnt/nfs", Shared: true}
	if len(config.Pools) != 2 || config.Pools[0].Path != "/srv/vm/pools/local" || config.Pools[1] != wantPool {
		t.Errorf("got pools %+v", config.Pools)
	}
	if wanted := []host.BridgeConfig{{Name: "lan", Uplink: "eth1"}}; !slices.Equal(config.Network.Bridges, wanted) {
		t.Errorf("got bridges %+v", config.Network.Bridges)
	}
	for flag, value := range map[string]string{
		"--pool": "nfs", "--bridge": "lan", "--acceleration": "fast", "--state-dir": "relative", "--gossip-port": "70000", "--name": "Host_1",
	} {
		if err := parse(flag, value); err == nil {
			t.Errorf("%s %s is accepted", flag, value)
		}
	}
}
