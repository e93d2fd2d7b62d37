package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/fault"
	"virtmesh/raftstore"
)

// put sends a request as virtctl does: without a content type.
func (h *host) put(t testing.TB, resource, name, sub, body string) error {
	t.Helper()
	client := kubernetes.NewForConfigOrDie(h.adminConfig(t)).RESTClient()
	return client.Put().AbsPath("/apis/subresources.kubevirt.io/v1/namespaces/default", resource, name, sub).
		Body([]byte(body)).Do(t.Context()).Error()
}

// createVM makes a machine with a run strategy.
func (h *host) createVM(t testing.TB, name, strategy string) {
	t.Helper()
	obj := parse(t, vmManifest)
	obj.SetName(name)
	set(t, obj, strategy, "spec", "runStrategy")
	if _, err := h.dynamic(t).Resource(vmResource).Namespace("default").Create(t.Context(), obj, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// createVMI makes an instance in a phase, as the mesh would.
func (h *host) createVMI(t testing.TB, name string, phase kubevirtv1.VirtualMachineInstancePhase, conditions ...kubevirtv1.VirtualMachineInstanceConditionType) {
	t.Helper()
	vmi := &kubevirtv1.VirtualMachineInstance{}
	vmi.SetGroupVersionKind(kubevirtv1.VirtualMachineInstanceGroupVersionKind)
	vmi.Name, vmi.Namespace, vmi.UID = name, "default", "uid-of-"+"vmi"
	vmi.Status.Phase = phase
	for _, c := range conditions {
		vmi.Status.Conditions = append(vmi.Status.Conditions, kubevirtv1.VirtualMachineInstanceCondition{Type: c, Status: "True"})
	}
	data, err := json.Marshal(vmi)
	if err != nil {
		t.Fatal(err)
	}
	key := "/registry/kubevirt.io/virtualmachineinstances/default/" + name
	if _, err := h.store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: key, Value: data}}}); err != nil {
		t.Fatal(err)
	}
}

func (h *host) vm(t testing.TB, name string) *kubevirtv1.VirtualMachine {
	t.Helper()
	u, err := h.dynamic(t).Resource(vmResource).Namespace("default").Get(t.Context(), name, getOptions)
	if err != nil {
		t.Fatal(err)
	}
	vm := &kubevirtv1.VirtualMachine{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, vm); err != nil {
		t.Fatal(err)
	}
	return vm
}

// What an act on a machine does, by run strategy and the phase of its instance;
// "" is no instance. The result is "refused", the new strategy, or the requests.
func TestPower(t *testing.T) {
	h := start(t)
	for _, c := range []struct{ act, strategy, phase, body, want string }{
		{"start", "Halted", "", "{}", "Always"},
		{"start", "Halted", "", `{"paused":true}`, "Start(paused)"},
		{"start", "Manual", "", "", "Start"},
		{"start", "Manual", "Running", "", "refused"},
		{"start", "Manual", "Succeeded", "", "Stop Start"},
		{"start", "RerunOnFailure", "Succeeded", "", "Stop Start"},
		{"start", "RerunOnFailure", "Failed", "", "refused"},
		{"start", "Always", "", "", "refused"},
		{"start", "Once", "", "", "refused"},
		{"stop", "Always", "Running", "{}", "Halted"},
		{"stop", "Once", "Running", "{}", "Halted"},
		{"stop", "Manual", "Running", "{}", "Stop"},
		{"stop", "Manual", "", "{}", "refused"},
		{"stop", "RerunOnFailure", "Failed", "{}", "refused"},
		{"stop", "Halted", "Running", "{}", "refused"},
		{"stop", "Halted", "Running", `{"gracePeriod":0}`, "Stop"},
		{"stop", "Always", "Running", `{"gracePeriod":0}`, "Halted"},
		{"restart", "Always", "Running", "{}", "Stop Start"},
		{"restart", "Always", "", "{}", "refused"},
		{"restart", "Halted", "Running", "{}", "refused"},
		{"restart", "Manual", "Running", `{"gracePeriodSeconds":0}`, "Stop Start"},
	} {
		name := strings.ToLower(strings.Join([]string{c.act, c.strategy, c.phase, "x"}, "-"))
		name += map[bool]string{true: "b"}[len(c.body) > 2]
		name = strings.ReplaceAll(name, "--", "-")
		t.Run(name, func(t *testing.T) {
			h.createVM(t, name, c.strategy)
			if c.phase != "" {
				h.createVMI(t, name, kubevirtv1.VirtualMachineInstancePhase(c.phase))
			}
			err := h.put(t, "virtualmachines", name, c.act, c.body)
			if c.want == "refused" {
				if !apierrors.IsConflict(err) {
					t.Errorf("got %v, want a conflict", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := outcome(h.vm(t, name), c.strategy); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// outcome renders what an act changed.
func outcome(vm *kubevirtv1.VirtualMachine, was string) string {
	if s := string(*vm.Spec.RunStrategy); s != was {
		return s
	}
	var requests []string
	for _, r := range vm.Status.StateChangeRequests {
		s := string(r.Action)
		if r.Data[kubevirtv1.StartRequestDataPausedKey] != "" {
			s += "(paused)"
		}
		requests = append(requests, s)
	}
	return strings.Join(requests, " ")
}

func TestPowerEdges(t *testing.T) {
	h := start(t)
	if err := h.put(t, "virtualmachines", "nothing", "start", "{}"); !apierrors.IsNotFound(err) {
		t.Errorf("starting nothing: %v", err)
	}
	h.createVM(t, "vm", "Manual")
	if err := h.put(t, "virtualmachines", "vm", "start", "not json"); !apierrors.IsBadRequest(err) {
		t.Errorf("a bad body: %v", err)
	}
	if err := h.put(t, "virtualmachines", "vm", "start", `{"dryRun":["All"]}`); err != nil || len(h.vm(t, "vm").Status.StateChangeRequests) != 0 {
		t.Errorf("a dry run: %v, %v", err, h.vm(t, "vm").Status.StateChangeRequests)
	}
	if err := h.put(t, "virtualmachines", "vm", "start", "{}"); err != nil {
		t.Fatal(err)
	}
	if err := h.put(t, "virtualmachines", "vm", "start", "{}"); !apierrors.IsConflict(err) {
		t.Errorf("a second start before the first is acted on: %v", err)
	}
	if err := h.put(t, "virtualmachines", "vm", "restart", `{"gracePeriodSeconds":5}`); !apierrors.IsBadRequest(err) {
		t.Errorf("a restart with grace: %v", err)
	}
	h.createVMI(t, "vm", kubevirtv1.Running)
	if err := h.put(t, "virtualmachines", "vm", "migrate", "{}"); err != nil {
		t.Fatal(err)
	}
	list, err := h.dynamic(t).Resource(kubevirtv1.GroupVersion.WithResource("virtualmachineinstancemigrations")).Namespace("default").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 || field(t, &list.Items[0], "spec", "vmiName") != "vm" || len(list.Items[0].GetFinalizers()) != 0 {
		t.Errorf("migrations %v, %v", list, err)
	}
}

// A controller that writes the status all the time must not make requests fail.
func TestPowerBesideStatusWrites(t *testing.T) {
	h := start(t)
	h.createVM(t, "busy", "Manual")
	client := h.dynamic(t).Resource(vmResource).Namespace("default")
	ctx, cancel := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			patch := fmt.Sprintf(`{"status":{"observedGeneration":%d}}`, i)
			_, err := client.Patch(ctx, "busy", types.MergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
			if err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	for range 20 {
		if err := h.put(t, "virtualmachines", "busy", "start", "{}"); err != nil {
			t.Error(err)
		}
		if _, err := client.Patch(t.Context(), "busy", types.MergePatchType, []byte(`{"status":{"stateChangeRequests":null}}`), metav1.PatchOptions{}, "status"); err != nil {
			t.Error(err)
		}
	}
	cancel()
	writer.Wait()
}

// A machine that is stopped while it restarts stays stopped.
func TestStopTakesBackARestart(t *testing.T) {
	h := start(t)
	h.createVM(t, "turned", "Always")
	h.createVMI(t, "turned", kubevirtv1.Running)
	for _, act := range []string{"restart", "stop"} {
		if err := h.put(t, "virtualmachines", "turned", act, "{}"); err != nil {
			t.Fatalf("%s: %v", act, err)
		}
	}
	vm := h.vm(t, "turned")
	if *vm.Spec.RunStrategy != kubevirtv1.RunStrategyHalted {
		t.Errorf("run strategy %s", *vm.Spec.RunStrategy)
	}
	for _, r := range vm.Status.StateChangeRequests {
		if r.Action == kubevirtv1.StartRequest {
			t.Errorf("requests %+v", vm.Status.StateChangeRequests)
		}
	}
}

// A forced restart that is refused leaves the guest its time to shut down.
func TestRefusedRestartKeepsGrace(t *testing.T) {
	h := start(t)
	h.createVM(t, "kept", "Manual")
	if err := h.put(t, "virtualmachines", "kept", "start", "{}"); err != nil {
		t.Fatal(err)
	}
	h.createVMI(t, "kept", kubevirtv1.Running)
	if err := h.put(t, "virtualmachines", "kept", "restart", `{"gracePeriodSeconds":0}`); !apierrors.IsConflict(err) {
		t.Fatalf("got %v, want a conflict", err)
	}
	vmi, err := h.dynamic(t).Resource(vmiResource).Namespace("default").Get(t.Context(), "kept", getOptions)
	if err != nil {
		t.Fatal(err)
	}
	if grace, set, _ := unstructured.NestedInt64(vmi.Object, "spec", "terminationGracePeriodSeconds"); set {
		t.Errorf("the grace period was set to %d", grace)
	}
}

func TestStopWithANegativeGracePeriodStopsNothing(t *testing.T) {
	h := start(t)
	h.createVM(t, "kept", "Always")
	h.createVMI(t, "kept", kubevirtv1.Running)
	if err := h.put(t, "virtualmachines", "kept", "stop", `{"gracePeriod":-1}`); !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), "gracePeriod") {
		t.Fatalf("got %v, want a bad request", err)
	}
	vm, err := h.dynamic(t).Resource(vmResource).Namespace("default").Get(t.Context(), "kept", getOptions)
	if err != nil {
		t.Fatal(err)
	}
	if strategy, _, _ := unstructured.NestedString(vm.Object, "spec", "runStrategy"); strategy != "Always" {
		t.Errorf("the strategy became %s", strategy)
	}
}

func TestPauseAndAgent(t *testing.T) {
	h := start(t)
	h.createVMI(t, "off", kubevirtv1.Scheduling)
	h.createVMI(t, "on", kubevirtv1.Running)
	h.createVMI(t, "paused", kubevirtv1.Running, kubevirtv1.VirtualMachineInstancePaused, kubevirtv1.VirtualMachineInstanceAgentConnected)
	for _, c := range []struct {
		name, act string
		refused   bool
	}{
		{"off", "pause", true}, {"off", "unpause", true},
		{"on", "unpause", true}, {"on", "pause", false},
		{"paused", "pause", true}, {"paused", "unpause", false},
	} {
		err := h.put(t, "virtualmachineinstances", c.name, c.act, "{}")
		if c.refused != apierrors.IsConflict(err) || !c.refused && err != nil {
			t.Errorf("%s of %s: %v", c.act, c.name, err)
		}
	}
	if !h.instances.isPaused("default", "on") || h.instances.isPaused("default", "paused") {
		t.Error("the hosts were not asked as they should be")
	}
	client := h.admin(t).Discovery().RESTClient()
	path := "/apis/subresources.kubevirt.io/v1/namespaces/default/virtualmachineinstances/"
	for sub, want := range map[string]string{"guestosinfo": `"hostname":"guest"`, "userlist": `"userName":"root"`, "filesystemlist": `"items":`} {
		body, err := client.Get().AbsPath(path + "paused/" + sub).DoRaw(t.Context())
		if err != nil || !strings.Contains(string(body), want) {
			t.Errorf("%s: %v, %s", sub, err, body)
		}
		if err := client.Get().AbsPath(path + "on/" + sub).Do(t.Context()).Error(); !apierrors.IsConflict(err) {
			t.Errorf("%s without a guest agent: %v", sub, err)
		}
	}
}

// dial opens a stream as virtctl does.
func (h *host) dial(t testing.TB, name, sub string) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	tlsConfig, err := rest.TLSConfigFor(h.adminConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	tlsConfig.NextProtos = nil
	d := websocket.Dialer{TLSClientConfig: tlsConfig, Subprotocols: []string{"plain.kubevirt.io"}}
	url := strings.Replace(h.url, "https", "wss", 1) + "/apis/subresources.kubevirt.io/v1/namespaces/default/virtualmachineinstances/" + name + "/" + sub
	return d.DialContext(t.Context(), url, nil)
}

func TestConsole(t *testing.T) {
	h := start(t)
	h.createVMI(t, "on", kubevirtv1.Running)
	for _, sub := range []string{"console", "vnc"} {
		conn, _, err := h.dial(t, "on", sub)
		if err != nil {
			t.Fatal(err)
		}
		if conn.Subprotocol() != "plain.kubevirt.io" {
			t.Errorf("subprotocol %q", conn.Subprotocol())
		}
		// More than one frame's worth, and every byte.
		sent := bytes.Repeat([]byte{0, 1, 0xfe, 0xff, '\r'}, 20000)
		go func() { _ = conn.WriteMessage(websocket.BinaryMessage, sent) }()
		var got []byte
		for len(got) < len(sent) {
			typ, data, err := conn.ReadMessage()
			if err != nil || typ != websocket.BinaryMessage {
				t.Fatalf("read: type %d, %v", typ, err)
			}
			got = append(got, data...)
		}
		if !bytes.Equal(got, sent) {
			t.Error("what comes back differs")
		}
		conn.Close()
	}
}

func TestConsoleRefused(t *testing.T) {
	h := start(t)
	h.createVMI(t, "off", kubevirtv1.Scheduled)
	h.createVMI(t, "failed", kubevirtv1.Failed)
	h.createVMI(t, "away", kubevirtv1.Running)
	h.instances.err = fault.Unreachable
	for name, want := range map[string]int{"none": 404, "off": 400, "failed": 409, "away": 503} {
		_, r, err := h.dial(t, name, "console")
		if err == nil || r == nil || r.StatusCode != want {
			t.Errorf("console of %s: %v, %v, want %d", name, r, err, want)
		}
	}
}

// What a guest's host says of a request arrives at the client with its code, its field
// and its remedy, and in KubeVirt's words where it has some.
func TestHostsFaultsReachClients(t *testing.T) {
	h := start(t)
	h.createVMI(t, "on", kubevirtv1.Running)
	for code, words := range map[fault.Code]string{
		fault.NotFound:       `virtualmachineinstance.kubevirt.io "on" not found`,
		fault.NotRunning:     `Operation cannot be fulfilled on virtualmachineinstance.kubevirt.io "on": VMI is not running`,
		fault.NoGuestAgent:   `Operation cannot be fulfilled on virtualmachineinstance.kubevirt.io "on": VMI does not have guest agent connected`,
		fault.Conflict:       `Operation cannot be fulfilled on virtualmachineinstance.kubevirt.io "on": it is so`,
		fault.Invalid:        "it is so",
		fault.Unreachable:    "host h2: it is so",
		fault.Unavailable:    "it is so",
		fault.UnknownOutcome: "it is so",
		fault.TooMany:        "it is so",
		fault.Forbidden:      "it is so",
		fault.Internal:       "it is so",
	} {
		said := fault.New(code, "it is so").About("default/on").WithRemedy("do this")
		h.instances.err = said
		if code == fault.Unreachable {
			h.instances.err = fmt.Errorf("host h2: %w", said)
		}
		err := h.put(t, "virtualmachineinstances", "on", "pause", "{}")
		got := fault.Of(err)
		if got.Code != code || got.Object != said.Object || got.Remedy != said.Remedy || got.Sentence != words {
			t.Errorf("%s: got %+v, want %q", code, got, words)
		}
		if text := words + "; do this"; err == nil || err.Error() != text {
			t.Errorf("%s: kubectl shows %v, want %q", code, err, text)
		}
	}
	h.createVMI(t, "off", kubevirtv1.Scheduled)
	if err := h.put(t, "virtualmachineinstances", "off", "pause", "{}"); fault.CodeOf(err) != fault.NotRunning {
		t.Errorf("this host says of a guest that does not run: %v", err)
	}
}

// The end of the server ends consoles too, and promptly.
func TestStopEndsConsoles(t *testing.T) {
	h := start(t)
	h.createVMI(t, "on", kubevirtv1.Running)
	conn, _, err := h.dial(t, "on", "console")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() { h.stop(); cancel() }()
	if _, _, err := conn.ReadMessage(); err == nil {
		t.Error("the console goes on")
	}
	<-ctx.Done()
	if ctx.Err() == context.DeadlineExceeded {
		t.Error("the server does not stop")
	}
}
