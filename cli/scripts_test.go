package cli

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/api"
	"virtmesh/agent/objects"
	"virtmesh/agent/port/admin"
	"virtmesh/agent/port/guests"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// TestMain lets scripts run this program as 'virtmesh'.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"virtmesh": func() { os.Exit(Run(os.Args, os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs what is in testdata/scripts: command lines as users type
// them, against the real API server over a store in memory. Nothing acts on the
// objects, so a script says itself what the mesh would have made of them:
//
//	instance NAME HOST IP     the virtual machine NAME runs on HOST
//	status RESOURCE NAME JSON merge JSON into the status of an object
//	event NAME REASON TEXT [KIND] something happened to NAME, a VirtualMachine by default
//	finalizer RESOURCE NAME   something holds the deletion of an object up
//	node NAME                 a host has joined as NAME
//
// Each script has a namespace of its own, $NS, and its own tokens and members.
func TestScripts(t *testing.T) {
	mesh := startMesh(t)
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "scripts"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               mesh.setUp,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"instance": mesh.instance, "status": mesh.status, "event": mesh.event, "node": mesh.node,
			"finalizer": mesh.finalizer,
		},
		Condition: func(condition string) (bool, error) {
			if condition == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("there is no condition %q", condition)
		},
	})
}

// scriptMesh is the API of a mesh whose hosts do nothing.
type scriptMesh struct {
	handler http.Handler
	store   *raftstore.Store
	config  *rest.Config
	// certificate and key are an administrator's, as PEM.
	certificate, key []byte
}

// newAdministrator makes a certificate that is its own authority.
func newAdministrator(t *testing.T) (authorities *x509.CertPool, certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "virtmesh:admin", Organization: []string{"system:masters"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	authorities = x509.NewCertPool()
	authorities.AppendCertsFromPEM(certificate)
	return authorities, certificate, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: encoded})
}

// serveTLS serves a handler that is told who calls.
func serveTLS(handler http.Handler) *httptest.Server {
	web := httptest.NewUnstartedServer(handler)
	web.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	web.StartTLS()
	return web
}

// certificateOf is a server's certificate as PEM, for its clients to trust.
func certificateOf(web *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})
}

func startMesh(t *testing.T) *scriptMesh {
	t.Helper()
	api.SetLibraryLogger(slog.New(slog.DiscardHandler))
	m := &scriptMesh{store: raftstoretest.New(t)}
	config := api.DefaultConfig()
	config.Store, config.Instances = objects.FromRaft(m.store, nil), &quietInstances{}
	var administrators *x509.CertPool
	administrators, m.certificate, m.key = newAdministrator(t)
	config.ClientCAs = func() *x509.CertPool { return administrators }
	config.Logger = slog.New(slog.DiscardHandler)
	config.Patience = time.Minute // the machine may be busy
	server, err := api.New(config)
	if err != nil {
		t.Fatal(err)
	}
	m.handler = server.Handler()
	web := serveTLS(m.handler)
	m.config = &rest.Config{Host: web.URL, QPS: -1, TLSClientConfig: rest.TLSClientConfig{
		CAData: certificateOf(web), CertData: m.certificate, KeyData: m.key,
	}}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run the API: %v", err)
		}
		web.CloseClientConnections()
		web.Close()
	})
	raftstoretest.Eventually(t, func() error {
		_, err := m.client().CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return m
}

func (m *scriptMesh) client() *kubernetes.Clientset { return kubernetes.NewForConfigOrDie(m.config) }

// setUp gives a script a namespace and a host that serves it.
func (m *scriptMesh) setUp(env *testscript.Env) error {
	namespace := strings.ReplaceAll(filepath.Base(env.WorkDir), "_", "-")
	if _, err := m.client().CoreV1().Namespaces().Create(context.Background(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("make namespace %s: %w", namespace, err)
	}
	fake := wellMesh()
	fake.tokens = []admin.Token{{ID: "t1", Expires: time.Now().Add(time.Hour)}, {ID: "t0", Expires: time.Now().Add(-time.Hour), UsedBy: "host2"}}
	mux := http.NewServeMux()
	mux.Handle("/mesh/", admin.NewHandler(fake, admin.AsRoot))
	mux.Handle("/", m.handler)
	web := serveTLS(mux)
	env.Defer(func() {
		web.CloseClientConnections()
		web.Close()
	})
	config := clientcmdapi.NewConfig()
	config.Clusters["m"] = &clientcmdapi.Cluster{Server: web.URL, CertificateAuthorityData: certificateOf(web)}
	config.AuthInfos["m"] = &clientcmdapi.AuthInfo{ClientCertificateData: m.certificate, ClientKeyData: m.key}
	config.Contexts["m"] = &clientcmdapi.Context{Cluster: "m", AuthInfo: "m", Namespace: namespace}
	config.CurrentContext = "m"
	path := filepath.Join(env.WorkDir, ".kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	env.Setenv("KUBECONFIG", path)
	env.Setenv("NS", namespace)
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("GORACE", "atexit_sleep_ms=0") // a command that has ended has nothing to wait for
	return nil
}

// instance makes an instance of a virtual machine, as the mesh would.
func (m *scriptMesh) instance(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: instance NAME HOST IP")
	}
	vmi := &kubevirtv1.VirtualMachineInstance{}
	vmi.SetGroupVersionKind(kubevirtv1.VirtualMachineInstanceGroupVersionKind)
	vmi.Name, vmi.Namespace, vmi.UID = args[0], ts.Getenv("NS"), types.UID("uid-of-"+args[0])
	vmi.Labels = map[string]string{"kubevirt.io/nodeName": args[1]}
	vmi.Status.Phase, vmi.Status.NodeName = kubevirtv1.Running, args[1]
	vmi.Status.GuestOSInfo.PrettyName = "Debian GNU/Linux 12"
	vmi.Status.Interfaces = []kubevirtv1.VirtualMachineInstanceNetworkInterface{
		{Name: "default", IP: args[2], IPs: []string{args[2]}, MAC: "02:00:00:00:00:01"},
		{InterfaceName: "docker0", IPs: []string{"172.17.0.1"}, MAC: "02:42:00:00:00:01", InfoSource: "guest-agent"},
	}
	vmi.Status.Conditions = []kubevirtv1.VirtualMachineInstanceCondition{{Type: kubevirtv1.VirtualMachineInstanceReady, Status: corev1.ConditionTrue}}
	data, err := json.Marshal(vmi)
	ts.Check(err)
	key := "/registry/kubevirt.io/virtualmachineinstances/" + vmi.Namespace + "/" + vmi.Name
	_, err = m.store.Commit(context.Background(), raftstore.Txn{Ops: []raftstore.Op{{Key: key, Value: data}}})
	ts.Check(err)
}

// finalizer holds the deletion of an object up.
func (m *scriptMesh) finalizer(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 || args[0] != "vm" {
		ts.Fatalf("usage: finalizer vm NAME")
	}
	client := dynamic.NewForConfigOrDie(m.config).Resource(vmResource).Namespace(ts.Getenv("NS"))
	_, err := client.Patch(context.Background(), args[1], types.MergePatchType, []byte(`{"metadata":{"finalizers":["example.org/held"]}}`), metav1.PatchOptions{})
	ts.Check(err)
}

// status merges JSON into an object's status.
func (m *scriptMesh) status(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: status RESOURCE NAME JSON")
	}
	gvr := vmResource
	if args[0] != "vm" {
		gvr = corev1.SchemeGroupVersion.WithResource(args[0])
	}
	var client dynamic.ResourceInterface = dynamic.NewForConfigOrDie(m.config).Resource(gvr)
	if args[0] == "vm" {
		client = dynamic.NewForConfigOrDie(m.config).Resource(gvr).Namespace(ts.Getenv("NS"))
	}
	_, err := client.Patch(context.Background(), args[1], types.MergePatchType, []byte(`{"status":`+args[2]+`}`), metav1.PatchOptions{}, "status")
	ts.Check(err)
}

// event records that something happened to a virtual machine.
func (m *scriptMesh) event(ts *testscript.TestScript, _ bool, args []string) {
	kind := "VirtualMachine"
	switch len(args) {
	case 3:
	case 4:
		kind = args[3]
	default:
		ts.Fatalf("usage: event NAME REASON TEXT [KIND]")
	}
	_, err := m.client().CoreV1().Events(ts.Getenv("NS")).Create(context.Background(), &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: args[0] + "-"},
		InvolvedObject: corev1.ObjectReference{Kind: kind, Namespace: ts.Getenv("NS"), Name: args[0]},
		Type:           corev1.EventTypeNormal, Reason: args[1], Message: args[2], Count: 1, LastTimestamp: metav1.Now(),
	}, metav1.CreateOptions{})
	ts.Check(err)
}

// node lets a host join.
func (m *scriptMesh) node(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: node NAME")
	}
	node := map[string]any{"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{"name": args[0], "labels": map[string]any{corev1.LabelTopologyZone: "east"}}}
	client := dynamic.NewForConfigOrDie(m.config).Resource(corev1.SchemeGroupVersion.WithResource("nodes"))
	_, err := client.Create(context.Background(), &unstructured.Unstructured{Object: node}, metav1.CreateOptions{})
	ts.Check(err)
	status := corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "AgentReady", Message: "all is well"}},
		Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.7"}},
		NodeInfo:   corev1.NodeSystemInfo{KernelVersion: "6.1.0", OSImage: "Debian", KubeletVersion: "0.1.0"},
	}
	data, err := json.Marshal(map[string]any{"status": status})
	ts.Check(err)
	_, err = client.Patch(context.Background(), args[0], types.MergePatchType, data, metav1.PatchOptions{}, "status")
	ts.Check(err)
}

// quietInstances stands for the hosts that run instances: consoles echo.
type quietInstances struct{ guests.Instances }

// Stream echoes one line and ends.
func (*quietInstances) Stream(context.Context, string, string, guests.StreamRequest) (io.ReadWriteCloser, error) {
	return &echo{}, nil
}

// Pause does nothing.
func (*quietInstances) Pause(context.Context, string, string) error { return nil }

// Unpause does nothing.
func (*quietInstances) Unpause(context.Context, string, string) error { return nil }

// echo greets, as a guest does at its login, and then hangs up.
type echo struct{ greeted bool }

// Read gives the greeting once.
func (e *echo) Read(p []byte) (int, error) {
	if e.greeted {
		return 0, io.EOF
	}
	e.greeted = true
	return copy(p, "guest login: "), nil
}

// Write takes what is typed.
func (*echo) Write(p []byte) (int, error) { return len(p), nil }

// Close hangs up.
func (*echo) Close() error { return nil }
