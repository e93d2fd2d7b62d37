package api_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/fault"
	"virtmesh/agent/port/guests"
	"virtmesh/raftstore"
)

const subresourcesOf = "/apis/subresources.kubevirt.io/v1/namespaces/default/"

// storeInstance writes an instance as the mesh would.
func (h *host) storeInstance(t testing.TB, vmi *kubevirtv1.VirtualMachineInstance) {
	t.Helper()
	vmi.SetGroupVersionKind(kubevirtv1.VirtualMachineInstanceGroupVersionKind)
	vmi.Namespace, vmi.UID = "default", "uid-of-vmi"
	data, err := json.Marshal(vmi)
	if err != nil {
		t.Fatal(err)
	}
	key := "/registry/kubevirt.io/virtualmachineinstances/default/" + vmi.Name
	if _, err := h.store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: key, Value: data}}}); err != nil {
		t.Fatal(err)
	}
}

// Acts on guests reach their hosts with what was asked for, or are refused in KubeVirt's
// words.
func TestActsOnGuests(t *testing.T) {
	h := start(t)
	const paused, agent = kubevirtv1.VirtualMachineInstancePaused, kubevirtv1.VirtualMachineInstanceAgentConnected
	h.createVMI(t, "off", kubevirtv1.Scheduled)
	h.createVMI(t, "plain", kubevirtv1.Running)
	h.createVMI(t, "agent", kubevirtv1.Running, agent)
	h.createVMI(t, "paused", kubevirtv1.Running, paused, agent)
	no := false
	deaf := &kubevirtv1.VirtualMachineInstance{ObjectMeta: metav1.ObjectMeta{Name: "deaf"}}
	deaf.Status.Phase = kubevirtv1.Running
	deaf.Spec.Domain.Features = &kubevirtv1.Features{ACPI: kubevirtv1.FeatureState{Enabled: &no}}
	h.storeInstance(t, deaf)
	for _, c := range []struct {
		name, act, body string
		done            string // empty: refused with
		code            int
		says            string
	}{
		{"plain", "softreboot", "", "reboot default/plain", 0, ""},
		{"agent", "softreboot", "{}", "reboot default/agent", 0, ""},
		{"deaf", "softreboot", "", "", 409, "VMI neither have the agent connected nor the ACPI feature enabled"},
		{"paused", "softreboot", "", "", 409, "VMI is paused"},
		{"off", "softreboot", "", "", 409, "not running"},
		{"none", "softreboot", "", "", 404, "not found"},
		{"plain", "reset", "", "reset default/plain", 0, ""},
		{"paused", "reset", "", "reset default/paused", 0, ""},
		{"off", "reset", "", "", 409, "not running"},
		{"agent", "freeze", `{"unfreezeTimeout":"5m"}`, "freeze default/agent for 5m0s", 0, ""},
		{"agent", "freeze", `{"unfreezeTimeout":"0s"}`, "freeze default/agent for 0s", 0, ""},
		{"agent", "freeze", `{}`, "", 400, "Unfreeze timeout in freeze request is not set"},
		{"agent", "freeze", `{"unfreezeTimeout":"-1s"}`, "", 400, "unfreezeTimeout"},
		{"agent", "freeze", `{"unfreezeTimeout":"2562047h47m16.854775807s"}`, "freeze default/agent for 2562047h47m16.854775807s", 0, ""},
		{"agent", "freeze", `{"unfreezeTimeout":"2562048h"}`, "", 400, "invalid duration \"2562048h\""},
		{"plain", "freeze", `{"unfreezeTimeout":"5m"}`, "", 409, "VMI does not have guest agent connected"},
		{"paused", "freeze", `{"unfreezeTimeout":"5m"}`, "", 409, "VMI is paused"},
		{"off", "freeze", `{"unfreezeTimeout":"5m"}`, "", 409, "not running"},
		{"agent", "unfreeze", "", "unfreeze default/agent", 0, ""},
		{"off", "unfreeze", "", "", 409, "not running"},
	} {
		err := h.put(t, "virtualmachineinstances", c.name, c.act, c.body)
		if done := h.instances.taken(); done != c.done || (err == nil) != (c.code == 0) {
			t.Errorf("%s of %s: did %q, %v", c.act, c.name, done, err)
		}
		if err != nil {
			if status, _ := err.(apierrors.APIStatus); status == nil || int(status.Status().Code) != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s of %s: %v, want %d with %q", c.act, c.name, err, c.code, c.says)
			}
		}
	}
}

// What virtmesh does not do yet is answered 501, by name, and so is what a host of an
// earlier version does not do.
func TestWhatIsNotImplementedSaysSo(t *testing.T) {
	h := start(t)
	client := h.admin(t).Discovery().RESTClient()
	for path, verb := range map[string]string{
		"virtualmachines/vm/addvolume": "PUT", "virtualmachines/vm/removevolume": "PUT", "virtualmachines/vm/memorydump": "PUT",
		"virtualmachines/vm/removememorydump": "PUT", "virtualmachineinstances/vm/addvolume": "PUT",
		"virtualmachineinstances/vm/usbredir": "GET", "virtualmachineinstances/vm/vsock": "GET", "virtualmachineinstances/vm/backup": "PUT",
		"virtualmachineinstances/vm/sev/fetchcertchain": "GET", "virtualmachineinstances/vm/sev/setupsession": "PUT",
	} {
		err := client.Verb(verb).AbsPath(subresourcesOf + path).Do(t.Context()).Error()
		_, name, _ := strings.Cut(path, "/vm/")
		if fault.CodeOf(err) != fault.NotImplemented || !strings.Contains(err.Error(), name) || statusCode(err) != http.StatusNotImplemented {
			t.Errorf("%s %s: %v", verb, path, err)
		}
	}
	if err := client.Get().AbsPath("/apis/subresources.kubevirt.io/v1/guestfs").Do(t.Context()).Error(); statusCode(err) != http.StatusNotImplemented {
		t.Errorf("guestfs: %v", err)
	}
	for path, want := range map[string]int{"sev/other": 404, "vnc/other": 404, "evacuate": 405, "console/x": 404} {
		if err := client.Get().AbsPath(subresourcesOf + "virtualmachineinstances/vm/" + path).Do(t.Context()).Error(); statusCode(err) != want {
			t.Errorf("%s: %v, want %d", path, err, want)
		}
	}
	if err := client.Get().AbsPath(subresourcesOf + "virtualmachineinstances/vm/sev/setupsession").Do(t.Context()).Error(); statusCode(err) != 405 {
		t.Errorf("a PUT that is asked for with GET: %v", err)
	}
	h.createVMI(t, "old", kubevirtv1.Running)
	h.instances.err = fault.New(fault.NotImplemented, "host h2 (version 0.4.0), where the guest runs, does not know this request").WithRemedy("install a newer version there")
	if err := h.put(t, "virtualmachineinstances", "old", "reset", ""); statusCode(err) != 501 || !strings.Contains(err.Error(), "version 0.4.0") {
		t.Errorf("a host of an earlier version: %v", err)
	}
}

func statusCode(err error) int {
	status, _ := err.(apierrors.APIStatus)
	if status == nil {
		return 0
	}
	return int(status.Status().Code)
}

func TestScreenshot(t *testing.T) {
	h := start(t)
	h.createVMI(t, "on", kubevirtv1.Running)
	h.createVMI(t, "off", kubevirtv1.Scheduled)
	client := h.admin(t).Discovery().RESTClient()
	get := func(name, move string) ([]byte, string, error) {
		var kind string
		r := client.Get().AbsPath(subresourcesOf+"virtualmachineinstances/"+name+"/vnc/screenshot").Param("moveCursor", move).Do(t.Context())
		body, _ := r.ContentType(&kind).Raw()
		return body, kind, r.Error()
	}
	for move, done := range map[string]string{"true": "picture of default/on, woken true", "false": "picture of default/on, woken false"} {
		body, kind, err := get("on", move)
		if got := h.instances.taken(); err != nil || string(body) != "picture" || kind != "image/png" || got != done {
			t.Errorf("%q of type %q, %v, by %s", body, kind, err, got)
		}
	}
	if _, _, err := get("off", "false"); !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), "VMI is not running") {
		t.Errorf("a guest that is off: %v", err)
	}
}

// A port is forwarded to the guest of an instance, or of a machine.
func TestPortForward(t *testing.T) {
	h := start(t)
	h.createVMI(t, "on", kubevirtv1.Running)
	h.createVMI(t, "paused", kubevirtv1.Running, kubevirtv1.VirtualMachineInstancePaused)
	for path, want := range map[string]guests.StreamRequest{
		"portforward/22":     {Kind: guests.Forward, Protocol: guests.TCP, Port: 22},
		"portforward/22/tcp": {Kind: guests.Forward, Protocol: guests.TCP, Port: 22},
		"portforward/53/udp": {Kind: guests.Forward, Protocol: guests.UDP, Port: 53},
	} {
		conn, r, err := h.dial(t, "on", path)
		if err != nil {
			t.Fatalf("%s: %v, %v", path, r, err)
		}
		if opened := h.instances.opened(); !slices.Equal(opened, []guests.StreamRequest{want}) {
			t.Errorf("%s opened %+v", path, opened)
		}
		sent := bytes.Repeat([]byte("packet"), 1000)
		if err := conn.WriteMessage(websocket.BinaryMessage, sent); err != nil {
			t.Fatal(err)
		}
		var got []byte
		for len(got) < len(sent) {
			_, data, err := conn.ReadMessage()
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, data...)
		}
		if !bytes.Equal(got, sent) {
			t.Errorf("%s: what comes back differs", path)
		}
		conn.Close()
	}
	for path, want := range map[string]int{
		"on/portforward": 400, "on/portforward/0": 400, "on/portforward/65536": 400, "on/portforward/ssh": 400, "on/portforward/22/icmp": 400,
		"on/portforward/22/tcp/x": 404, "paused/portforward/22": 409, "none/portforward/22": 404,
	} {
		name, sub, _ := strings.Cut(path, "/")
		if _, r, err := h.dial(t, name, sub); err == nil || r == nil || r.StatusCode != want {
			t.Errorf("%s: %v, %v, want %d", path, r, err, want)
		}
	}
	h.createVM(t, "vm", "Manual")
	client := h.admin(t).Discovery().RESTClient()
	forward := func() error {
		return client.Get().AbsPath(subresourcesOf + "virtualmachines/vm/portforward/22/tcp").Do(t.Context()).Error()
	}
	if err := forward(); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), "VMI is not started") {
		t.Errorf("a machine that was not started: %v", err)
	}
	if _, err := h.dynamic(t).Resource(vmResource).Namespace("default").Patch(t.Context(), "vm", types.MergePatchType, []byte(`{"status":{"created":true}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	vmi := &kubevirtv1.VirtualMachineInstance{ObjectMeta: metav1.ObjectMeta{Name: "vm", OwnerReferences: []metav1.OwnerReference{
		*metav1.NewControllerRef(h.vm(t, "vm"), kubevirtv1.VirtualMachineGroupVersionKind)}}}
	vmi.Status.Phase = kubevirtv1.Running
	h.storeInstance(t, vmi)
	// Without an upgrade to a WebSocket the request ends after the stream was opened.
	if err := forward(); !apierrors.IsBadRequest(err) || len(h.instances.opened()) != 1 {
		t.Errorf("the port of a machine: %v", err)
	}
}

// A display is asked for with the client's wish to leave another viewer alone.
func TestPreservedSession(t *testing.T) {
	h := start(t)
	h.createVMI(t, "on", kubevirtv1.Running)
	for query, preserve := range map[string]bool{"vnc": false, "vnc?preserveSession=true": true, "vnc?preserveSession=false": false, "vnc?preserveSession=maybe": false} {
		conn, _, err := h.dial(t, "on", query)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if opened := h.instances.opened(); !slices.Equal(opened, []guests.StreamRequest{{Kind: guests.VNC, Preserve: preserve}}) {
			t.Errorf("%s opened %+v", query, opened)
		}
	}
	h.instances.err = fault.New(fault.Conflict, "Active VNC connection. Request denied.")
	if _, r, err := h.dial(t, "on", "vnc?preserveSession=true"); err == nil || r == nil || r.StatusCode != http.StatusConflict {
		t.Errorf("a display in use: %v, %v", r, err)
	}
}

func TestCancelEvacuation(t *testing.T) {
	h := start(t)
	vmi := &kubevirtv1.VirtualMachineInstance{ObjectMeta: metav1.ObjectMeta{Name: "leaving"}}
	vmi.Status.Phase, vmi.Status.EvacuationNodeName = kubevirtv1.Running, "host1"
	h.storeInstance(t, vmi)
	h.createVMI(t, "staying", kubevirtv1.Running)
	evacuated := func() string {
		u, err := h.dynamic(t).Resource(vmiResource).Namespace("default").Get(t.Context(), "leaving", getOptions)
		if err != nil {
			t.Fatal(err)
		}
		status, _ := u.Object["status"].(map[string]any)
		name, _ := status["evacuationNodeName"].(string)
		return name
	}
	cancel := func(name, body string) error {
		return h.put(t, "virtualmachineinstances", name, "evacuate/cancel", body)
	}
	if err := cancel("staying", "{}"); err != nil {
		t.Errorf("an instance that nobody evacuates: %v", err)
	}
	if err := cancel("leaving", `{"evacuationNodeName":"host2"}`); !apierrors.IsConflict(err) || evacuated() != "host1" {
		t.Errorf("another host: %v", err)
	}
	if err := cancel("leaving", `{"evacuationNodeName":"host1","dryRun":["All"]}`); err != nil || evacuated() != "host1" {
		t.Errorf("a dry run: %v", err)
	}
	if err := cancel("leaving", `{"evacuationNodeName":"host1"}`); err != nil || evacuated() != "" {
		t.Errorf("%v, and it is evacuated from %q", err, evacuated())
	}
	if err := h.put(t, "virtualmachines", "none", "evacuate/cancel", "{}"); !apierrors.IsNotFound(err) {
		t.Errorf("no machine: %v", err)
	}
}

func TestExpandSpec(t *testing.T) {
	h := start(t)
	h.createVM(t, "vm", "Halted")
	client := h.admin(t).Discovery().RESTClient()
	stored, err := client.Get().AbsPath(subresourcesOf + "virtualmachines/vm/expand-spec").DoRaw(t.Context())
	var vm kubevirtv1.VirtualMachine
	if err != nil || json.Unmarshal(stored, &vm) != nil || vm.Name != "vm" || vm.Kind != "VirtualMachine" || vm.Spec.Template == nil {
		t.Errorf("%s, %v", stored, err)
	}
	put := func(namespace, body string) ([]byte, error) {
		r := client.Put().AbsPath("/apis/subresources.kubevirt.io/v1/namespaces/" + namespace + "/expand-vm-spec").Body([]byte(body)).Do(t.Context())
		answer, _ := r.Raw()
		return answer, r.Error()
	}
	const machine = `{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachine","metadata":{"name":"new"%s},"spec":{"runStrategy":"Halted"%s,"template":{"spec":{"domain":{"devices":{}}}}}}`
	fill := func(meta, spec string) string {
		return strings.Replace(strings.Replace(machine, "%s", meta, 1), "%s", spec, 1)
	}
	var brought kubevirtv1.VirtualMachine
	if body, err := put("default", fill("", "")); err != nil || json.Unmarshal(body, &brought) != nil || brought.Namespace != "default" || brought.Name != "new" {
		t.Errorf("%s, %v", body, err)
	}
	for says, body := range map[string]string{
		"empty request body": "", "Can not unmarshal": "{", "Object is not a valid VirtualMachine": fill("", `,"nonsense":1`),
		"VM namespace must be empty or default":                                                    fill(`,"namespace":"other"`, ""),
		"VirtualMachineClusterInstancetype.instancetype.kubevirt.io \"big\" cannot be written out": fill("", `,"instancetype":{"name":"big"}`),
		"VirtualMachinePreference.instancetype.kubevirt.io \"fedora\" cannot be written out":       fill("", `,"preference":{"kind":"VirtualMachinePreference","name":"fedora"}`),
	} {
		if _, err := put("default", body); !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", body, err, says)
		}
	}
	if err := client.Get().AbsPath(subresourcesOf + "expand-vm-spec").Do(t.Context()).Error(); !apierrors.IsMethodNotSupported(err) {
		t.Errorf("a GET: %v", err)
	}
	nobody := h.config(t, "somebody", "people")
	err = discovery.NewDiscoveryClientForConfigOrDie(nobody).RESTClient().Put().AbsPath(subresourcesOf + "expand-vm-spec").Body([]byte("{}")).Do(t.Context()).Error()
	if !apierrors.IsForbidden(err) {
		t.Errorf("who may do nothing: %v", err)
	}
}

func TestObjectGraph(t *testing.T) {
	h := start(t)
	obj := parse(t, vmManifest)
	obj.SetName("vm")
	set(t, obj, "Halted", "spec", "runStrategy")
	place := func(value any, path ...string) {
		t.Helper()
		if err := unstructured.SetNestedField(obj.Object, value, path...); err != nil {
			t.Fatal(err)
		}
	}
	place([]any{
		map[string]any{"name": "root", "dataVolume": map[string]any{"name": "disk"}},
		map[string]any{"name": "data", "persistentVolumeClaim": map[string]any{"claimName": "claim"}},
		map[string]any{"name": "seed", "cloudInitNoCloud": map[string]any{"secretRef": map[string]any{"name": "seed"}}},
	}, "spec", "template", "spec", "volumes")
	disk := func(name string) any {
		return map[string]any{"name": name, "disk": map[string]any{"bus": "virtio"}}
	}
	place([]any{disk("root"), disk("data"), disk("seed")}, "spec", "template", "spec", "domain", "devices", "disks")
	place([]any{map[string]any{"name": "lan", "multus": map[string]any{"networkName": "other/lan"}}}, "spec", "template", "spec", "networks")
	place([]any{map[string]any{"name": "lan", "bridge": map[string]any{}}}, "spec", "template", "spec", "domain", "devices", "interfaces")
	if _, err := h.dynamic(t).Resource(vmResource).Namespace("default").Create(t.Context(), obj, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	client := h.admin(t).Discovery().RESTClient()
	graph := func(body string) []string {
		t.Helper()
		answer, err := client.Get().AbsPath(subresourcesOf + "virtualmachines/vm/objectgraph").Body([]byte(body)).DoRaw(t.Context())
		var root kubevirtv1.ObjectGraphNode
		if err != nil || json.Unmarshal(answer, &root) != nil || root.ObjectReference.Kind != "VirtualMachine" || root.ObjectReference.Name != "vm" {
			t.Fatalf("%s, %v", answer, err)
		}
		found := map[string]bool{}
		var walk func(kubevirtv1.ObjectGraphNode)
		walk = func(n kubevirtv1.ObjectGraphNode) {
			for _, c := range n.Children {
				found[strings.Join([]string{c.ObjectReference.Kind, *c.ObjectReference.Namespace, c.ObjectReference.Name, c.Labels["kubevirt.io/dependency-type"]}, " ")] = true
				walk(c)
			}
		}
		walk(root)
		return slices.Sorted(maps.Keys(found))
	}
	const lan = "NetworkAttachmentDefinition other lan network"
	storage := []string{"DataVolume default disk storage", "PersistentVolumeClaim default claim storage", "PersistentVolumeClaim default disk storage"}
	for body, want := range map[string][]string{
		"":                               append([]string{storage[0], lan}, append(storage[1:], "Secret default seed config")...),
		`{"includeOptionalNodes":false}`: append(slices.Clone(storage), "Secret default seed config"),
		`{"labelSelector":{"matchLabels":{"kubevirt.io/dependency-type":"storage"}}}`: storage,
	} {
		if got := graph(body); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", body, got, want)
		}
	}
	h.createVMI(t, "alone", kubevirtv1.Running)
	if answer, err := client.Get().AbsPath(subresourcesOf + "virtualmachineinstances/alone/objectgraph").DoRaw(t.Context()); err != nil || !strings.Contains(string(answer), `"kind":"VirtualMachineInstance"`) {
		t.Errorf("%s, %v", answer, err)
	}
}
