package network

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	k8scni "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/host/domain"
	"virtmesh/agent/host/hosttest"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/netplug"
)

const thisHost = "host1"

var subnet = netip.MustParsePrefix("10.64.3.0/24")

// plug keeps what was wanted last, and refuses what netplug would.
type plug struct {
	mu     sync.Mutex
	last   netplug.Want
	failed map[string]error
	set    chan struct{}
	// disturbed reports changes to the filter; an error ends the watch.
	disturbed chan error
	// lost is whether Set finds the filter lost.
	lost bool
	// at are the times of all calls.
	at []time.Time
}

// times returns how long after begin the calls since the last time were.
func (p *plug) times(begin time.Time) (after []time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, at := range p.at {
		after = append(after, at.Sub(begin))
	}
	p.at = nil
	return after
}

func (p *plug) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed = nil
	if err != nil {
		p.failed = map[string]error{"bridge br-lan": err}
	}
}

func (p *plug) Set(_ context.Context, want netplug.Want) (netplug.Result, error) {
	if err := want.Validate(); err != nil {
		return netplug.Result{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = want
	p.at = append(p.at, time.Now())
	select {
	case p.set <- struct{}{}:
	default:
	}
	var err error
	if len(p.failed) > 0 {
		err = errors.New("not all of it")
	}
	return netplug.Result{Failed: p.failed, FilterLost: p.lost}, err
}

// WatchFilter waits for disturb. Unlike netplug's it does not call changed when it begins.
func (p *plug) WatchFilter(ctx context.Context, changed func()) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-p.disturbed:
			if err != nil {
				return err
			}
			changed()
		}
	}
}

type world struct {
	*hosttest.World
	t       *testing.T
	plug    *plug
	config  Config
	network *Network
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{World: hosttest.New(t, objectstest.New(claims.Rules()...)), t: t, plug: &plug{set: make(chan struct{}, 1), disturbed: make(chan error)}}
	dir := t.TempDir()
	w.config = Config{
		Host: thisHost, Subnet: subnet, Domain: "mesh.test",
		LeaseFile: filepath.Join(dir, "leases.json"), AttachmentFile: filepath.Join(dir, "attachments.json"),
		Bridges:    []HostBridge{{Name: "br-lan", Uplink: "eth1"}, {Name: "br-other", Uplink: "eth2"}, {Name: "br-admin"}},
		Protection: Protection{Protected: func() []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} }},
		Instances:  objects.For[*kubevirtv1.VirtualMachineInstance](w.Cache),
		Claims:     claims.NewCache(w.Cache, w.Logger),
		Networks:   objects.For[*k8scni.NetworkAttachmentDefinition](w.Cache),
		Plug:       w.plug, Logger: w.Logger,
	}
	w.Start()
	ctx := t.Context()
	if err := errors.Join(w.config.Instances.WaitForSync(ctx), w.config.Claims.WaitForSync(ctx), w.config.Networks.WaitForSync(ctx)); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{thisHost, "host2"} {
		w.Commit(func(tx *objects.Tx) { claims.Publish(tx, claims.Capacity{Host: host}) })
	}
	w.restart()
	return w
}

// restart opens the network anew, as a restart of the agent does.
func (w *world) restart() {
	w.t.Helper()
	network, err := New(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	w.network = network
}

func pod(name string) (kubevirtv1.Interface, kubevirtv1.Network) {
	return kubevirtv1.Interface{Name: name}, kubevirtv1.Network{Name: name, NetworkSource: kubevirtv1.NetworkSource{Pod: &kubevirtv1.PodNetwork{}}}
}

// instance returns one on this host with a card in the pod network.
func instance(name string) *kubevirtv1.VirtualMachineInstance {
	nic, network := pod("default")
	vmi := &kubevirtv1.VirtualMachineInstance{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Status:     kubevirtv1.VirtualMachineInstanceStatus{NodeName: thisHost, Phase: kubevirtv1.Scheduled},
	}
	vmi.Spec.Domain.Devices.Interfaces = []kubevirtv1.Interface{nic}
	vmi.Spec.Networks = []kubevirtv1.Network{network}
	return vmi
}

// attach gives the instance a card in a secondary network.
func attach(vmi *kubevirtv1.VirtualMachineInstance, card, definition string) *kubevirtv1.VirtualMachineInstance {
	vmi.Spec.Domain.Devices.Interfaces = append(vmi.Spec.Domain.Devices.Interfaces, kubevirtv1.Interface{Name: card})
	vmi.Spec.Networks = append(vmi.Spec.Networks, kubevirtv1.Network{Name: card,
		NetworkSource: kubevirtv1.NetworkSource{Multus: &kubevirtv1.MultusNetwork{NetworkName: definition}}})
	return vmi
}

// create stores the instance with a claim on the host that its status names.
func (w *world) create(vmi *kubevirtv1.VirtualMachineInstance) *kubevirtv1.VirtualMachineInstance {
	w.t.Helper()
	return w.createOn(vmi, vmi.Status.NodeName)
}

// createOn stores the instance with a claim on a host.
func (w *world) createOn(vmi *kubevirtv1.VirtualMachineInstance, host string) *kubevirtv1.VirtualMachineInstance {
	w.t.Helper()
	w.Commit(func(tx *objects.Tx) { tx.Create(vmi) })
	w.Commit(func(tx *objects.Tx) {
		claims.Place(tx, claims.Instance{UID: vmi.UID, Namespace: vmi.Namespace, Name: vmi.Name, Host: host}, claims.Epoch{})
	})
	w.AwaitShown(func() bool {
		got, ok := w.config.Instances.Get(objects.KeyOf(vmi))
		_, claimed := w.config.Claims.Instance(vmi.UID)
		return ok && got.UID == vmi.UID && claimed
	})
	return vmi
}

// release ends the claim of an instance.
func (w *world) release(vmi *kubevirtv1.VirtualMachineInstance) {
	w.t.Helper()
	claim, _ := w.config.Claims.Instance(vmi.UID)
	w.Commit(func(tx *objects.Tx) { claims.Release(tx, claim) })
	w.AwaitShown(func() bool { _, claimed := w.config.Claims.Instance(vmi.UID); return !claimed })
}

func (w *world) update(vmi *kubevirtv1.VirtualMachineInstance, edit func(*kubevirtv1.VirtualMachineInstance)) *kubevirtv1.VirtualMachineInstance {
	w.t.Helper()
	next := vmi.DeepCopy()
	edit(next)
	w.Commit(func(tx *objects.Tx) { tx.Update(vmi, next) })
	w.AwaitShown(func() bool {
		got, ok := w.config.Instances.Get(objects.KeyOf(vmi))
		return ok && got.ResourceVersion == next.ResourceVersion
	})
	return next
}

func (w *world) define(namespace, name, config string) {
	w.t.Helper()
	definition := &k8scni.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	definition.Spec.Config = config
	w.Commit(func(tx *objects.Tx) { tx.Create(definition) })
	w.AwaitShown(func() bool { _, ok := w.config.Networks.Get(objects.KeyOf(definition)); return ok })
}

func (w *world) connect(vmi *kubevirtv1.VirtualMachineInstance) {
	w.t.Helper()
	if _, err := w.network.Connect(w.t.Context(), vmi); err != nil {
		w.t.Fatal(err)
	}
}

// want returns what is wanted now, which must be valid.
func (w *world) want() netplug.Want {
	w.t.Helper()
	want := w.network.buildWant(nil).want
	if err := want.Validate(); err != nil {
		w.t.Errorf("wanted is what cannot be: %v", err)
	}
	return want
}

// tap returns the wanted tap of a card; ok is false when there is none.
func (w *world) tap(vmi *kubevirtv1.VirtualMachineInstance, card string) (netplug.Tap, bool) {
	w.t.Helper()
	taps := w.want().Taps
	i := slices.IndexFunc(taps, func(tap netplug.Tap) bool { return tap.Name == w.network.tapName(vmi.Namespace, vmi.Name, card) })
	if i < 0 {
		return netplug.Tap{}, false
	}
	return taps[i], true
}

var refOf = domain.Ref
