package executor

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/raftstore"
)

// A guest may end by itself at any moment, also between the look at it and the act.
func TestAGuestThatEndsByItselfBetweenTwoSteps(t *testing.T) {
	for _, act := range []Act{ActCutPower, ActUndefine} {
		t.Run(string(act), func(t *testing.T) {
			w := newWorld(t)
			vmi := scheduled("a")
			vmi.Spec.TerminationGracePeriodSeconds = new(int64)
			w.place(vmi)
			w.reconcile(vmi)
			w.commit(func(tx *objects.Tx) { tx.Delete(w.get(vmi), objects.DeleteOptions{}) })
			met := false
			w.executor.interrupt = func(step Step) error {
				if step.Act != act || met {
					return nil
				}
				met = true
				if act == ActCutPower {
					return w.hv.Machine().PowerOff(refOf(vmi))
				}
				return w.hv.Undefine(t.Context(), refOf(vmi), hypervisor.UndefineOptions{})
			}
			w.reconcile(vmi)
			if !met {
				t.Fatalf("%s was not reached", act)
			}
			if got := w.get(vmi); got != nil {
				t.Errorf("still there: %+v", got.Status)
			}
			w.expectNothingLeft(vmi)
		})
	}
}

// A guest without disks, whose domain somebody else removes, still has addresses here:
// an agent that has seen the domain gives them back.
func TestADomainThatVanishesLeavesNoAddresses(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.volumes.left = nil
	w.restart()
	w.reconcile(vmi)
	w.act(w.hv.Destroy(t.Context(), refOf(vmi)))
	w.act(w.hv.Undefine(t.Context(), refOf(vmi), hypervisor.UndefineOptions{}))
	w.unclaim(vmi)
	w.change(vmi, func(vmi *kubevirtv1.VirtualMachineInstance) { vmi.Finalizers = nil })
	w.commit(func(tx *objects.Tx) { tx.Delete(w.get(vmi), objects.DeleteOptions{}) })
	w.reconcile(vmi)
	if !slices.Contains(w.network.released, refOf(vmi)) {
		t.Error("its addresses are still taken")
	}
}

// While its volumes cannot be detached, an instance is not said to have ended: another
// host could attach them.
func TestAnInstanceWhoseVolumesStayHasNotEnded(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.act(w.hv.Machine().PowerOff(refOf(vmi)))
	w.volumes.stuck = errors.New("the disk is in use")
	if _, err := w.try(vmi); err == nil || !strings.Contains(err.Error(), "the disk is in use") {
		t.Errorf("got %v", err)
	}
	if got := w.get(vmi); got.IsFinal() {
		t.Errorf("phase %s", got.Status.Phase)
	}
	if _, claimed := w.claim(vmi); !claimed {
		t.Error("the claim was given up")
	}
	if _, err := New(w.config); err == nil || !strings.Contains(err.Error(), "the disk is in use") {
		t.Errorf("an executor that does not know which disks it has: %v", err)
	}
	w.volumes.stuck = nil
	w.reconcile(vmi)
	w.expectEnded(vmi, kubevirtv1.Succeeded)
}

// A log that cannot be removed is not forgotten.
func TestALogThatCannotBeRemovedIsTriedAgain(t *testing.T) {
	w := newWorld(t)
	w.config.EmulatorLogDir = t.TempDir()
	w.restart()
	vmi := w.running("a")
	log := filepath.Join(w.config.EmulatorLogDir, refOf(vmi).DomainName()+".log")
	other, err := w.executor.logs.makeSerialLog(stewards.Key{Namespace: "ns", Name: "other"})
	w.act(err)
	// A guest's output is for its owner: others of the host may pass, and not look.
	umask := syscall.Umask(0)
	syscall.Umask(umask)
	for path, mode := range map[string]os.FileMode{filepath.Dir(other): 0o711, other: 0o600} {
		want := mode &^ os.FileMode(umask)
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
	for _, stuck := range []string{log, log + ".0"} {
		w.act(os.MkdirAll(filepath.Join(stuck, "content"), 0o755))
		if err := w.executor.logs.removeLogs(objects.KeyOf(vmi)); err == nil || !strings.Contains(err.Error(), "emulator's log") {
			t.Errorf("%s cannot be removed: %v", stuck, err)
		}
		if !slices.Contains(w.executor.Keys(), objects.KeyOf(vmi)) || !w.executor.logs.has(objects.KeyOf(vmi)) {
			t.Error("the log is forgotten")
		}
		w.act(os.RemoveAll(stuck))
	}
	for _, name := range []string{log, log + ".0", log + ".1"} {
		w.act(os.WriteFile(name, nil, 0o600))
	}
	w.act(w.executor.logs.removeLogs(objects.KeyOf(vmi)))
	if left, err := os.ReadDir(w.config.EmulatorLogDir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Errorf("the log of another: %v", err)
	}
	w.act(w.executor.logs.removeLogs(stewards.Key{Namespace: "ns", Name: "other"}))
	if left, err := os.ReadDir(w.config.LogDir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// What a guest has said is read before the notice that ends a session.
func TestATakeoverLosesNothingThatWasSaid(t *testing.T) {
	c := newConsoles()
	server, client := newPipe()
	first, err := c.openSession("a", false, func() (io.ReadWriteCloser, error) { return client, nil })
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan string)
	go func() { said <- rest(t, first) }()
	_, err = io.WriteString(server, "login: ")
	if _, openErr := c.openSession("a", false, func() (io.ReadWriteCloser, error) {
		_, other := newPipe()
		return other, server.Close()
	}); errors.Join(err, openErr) != nil {
		t.Fatal(err, openErr)
	}
	if got := <-said; got != "login: "+takenOver {
		t.Errorf("read %q", got)
	}
	if err := first.Close(); err != nil || len(c.byUID) != 1 {
		t.Errorf("%v; %d sessions are remembered, want the second", err, len(c.byUID))
	}
}

// The loop of this host hears of instances that are here, or were.
func TestInstancesThatComeOrGoWakeTheirHost(t *testing.T) {
	w := newWorld(t)
	at := func(host string) *kubevirtv1.VirtualMachineInstance {
		vmi := scheduled("a")
		vmi.Status.NodeName = host
		return vmi
	}
	for name, c := range map[string]struct {
		old, new *kubevirtv1.VirtualMachineInstance
		wakes    bool
	}{
		"comes": {at(""), at(thisHost), true}, "is new": {nil, at(thisHost), true}, "stays": {at(thisHost), at(thisHost), true},
		"leaves": {at(thisHost), at(otherHost), true}, "is gone": {at(thisHost), nil, true},
		"is elsewhere": {at(otherHost), at(otherHost), false}, "ends elsewhere": {at(otherHost), nil, false}, "waits": {nil, at(""), false},
	} {
		cacheConfig := objects.DefaultCacheConfig()
		cacheConfig.Store, cacheConfig.Logger = w.store, w.config.Logger
		cache, err := objects.NewCache(cacheConfig) // it never runs
		if err != nil {
			t.Fatal(err)
		}
		instances := objects.For[*kubevirtv1.VirtualMachineInstance](cache)
		here := objects.NewIndex(instances, w.executor.keysHere)
		put := func(vmi *kubevirtv1.VirtualMachineInstance, revision uint64) {
			event := raftstore.Event{Type: raftstore.Delete, Record: raftstore.Record{Key: objects.KindFor[*kubevirtv1.VirtualMachineInstance]().StoreKey(objects.Key{Namespace: "ns", Name: "a"})}, Revision: revision}
			if vmi != nil {
				if event.Record.Value, err = objects.Encode(vmi); err != nil {
					t.Fatal(err)
				}
				event.Type, event.Record.ModRevision = raftstore.Put, revision
			}
			instances.Apply(event)
		}
		put(c.old, 1)
		keys := []stewards.Key{}
		cancel := here.Subscribe(func(key stewards.Key) { keys = append(keys, key) })
		keys = keys[:0] // of what was there before
		put(c.new, 2)
		cancel()
		if len(keys) > 1 || (len(keys) == 1) != c.wakes || c.wakes && keys[0] != (stewards.Key{Namespace: "ns", Name: "a"}) {
			t.Errorf("an instance that %s wakes %v", name, keys)
		}
	}
}
