package network

import (
	"os"
	"strings"
	"testing"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
)

func (w *world) redefine(namespace, name, config string) {
	w.t.Helper()
	before, ok := w.config.Networks.Get(objects.Key{Namespace: namespace, Name: name})
	if !ok {
		w.t.Fatalf("there is no definition %s/%s", namespace, name)
	}
	after := before.DeepCopy()
	after.Spec.Config = config
	w.Commit(func(tx *objects.Tx) {
		if config == "" {
			tx.Delete(before, objects.DeleteOptions{})
			return
		}
		tx.Update(before, after)
	})
	w.AwaitShown(func() bool {
		now, ok := w.config.Networks.Get(objects.KeyOf(before))
		return !ok && config == "" || ok && now.Spec.Config == config
	})
}

// A definition counts when a guest starts. What becomes of it then, and whether
// the agent restarts, is nothing to a guest that runs.
func TestRunningGuestsKeepTheirNetwork(t *testing.T) {
	for name, config := range map[string]string{
		"deleted": "", "moved": `{"type":"bridge","bridge":"br-other"}`, "broken": "{",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.define("ns", "lan", lan)
			vmi := w.create(attach(instance("a"), "one", "lan"))
			w.connect(vmi)
			vmi = w.update(vmi, func(vmi *kubevirtv1.VirtualMachineInstance) { vmi.Status.Phase = kubevirtv1.Running })
			w.redefine("ns", "lan", config)
			for _, when := range []string{"at once", "after a restart"} {
				tap, ok := w.tap(vmi, "one")
				if !ok || tap.Bridge != "br-lan" || tap.MTU != 1400 || !tap.MACSpoofCheck || !tap.Isolated {
					t.Errorf("%s: a tap is %v: %+v", when, ok, tap)
				}
				w.restart()
				w.network.matchInstances()
			}
			next := w.create(attach(instance("b"), "one", "lan"))
			_, err := w.network.Connect(t.Context(), next)
			if tap, _ := w.tap(next, "one"); name == "moved" && tap.Bridge != "br-other" {
				t.Errorf("a guest that starts is on %q: %v", tap.Bridge, err)
			} else if name != "moved" && err == nil {
				t.Error("a guest starts without a definition of its network")
			}
		})
	}
}

// An instance whose start failed begins again, with the definition as it is then.
func TestStartReadsTheDefinitionAnew(t *testing.T) {
	w := newWorld(t)
	w.define("ns", "lan", lan)
	vmi := w.create(attach(instance("a"), "one", "lan"))
	w.connect(vmi)
	w.redefine("ns", "lan", `{"type":"bridge","bridge":"br-other"}`)
	w.connect(vmi)
	if tap, _ := w.tap(vmi, "one"); tap.Bridge != "br-other" {
		t.Errorf("%+v", tap)
	}
}

func TestAttachmentsEndWithTheirInstance(t *testing.T) {
	w := newWorld(t)
	w.define("ns", "lan", lan)
	vmi, gone := w.create(attach(instance("a"), "one", "lan")), w.create(attach(instance("b"), "one", "lan"))
	w.connect(vmi)
	w.connect(gone)
	if err := w.network.Release(refOf(vmi)); err != nil {
		t.Fatal(err)
	}
	w.update(gone, func(vmi *kubevirtv1.VirtualMachineInstance) { vmi.Status.Phase = kubevirtv1.Succeeded })
	w.restart()
	w.network.matchInstances()
	if data, err := os.ReadFile(w.config.AttachmentFile); err != nil || strings.TrimSpace(string(data)) != "{}" {
		t.Errorf("the file holds %s: %v", data, err)
	}
}

// An agent that remembered nothing of its guests' networks started them.
func TestNetworksOfRunningGuestsAreLookedUp(t *testing.T) {
	w := newWorld(t)
	w.define("ns", "lan", lan)
	running, starting := attach(instance("a"), "one", "lan"), attach(instance("b"), "one", "lan")
	running.Status.Phase = kubevirtv1.Running
	w.create(running)
	w.create(starting)
	w.network.matchInstances()
	if tap, _ := w.tap(running, "one"); tap.Bridge != "br-lan" {
		t.Errorf("the guest that runs has %+v", tap)
	}
	if _, ok := w.tap(starting, "one"); ok {
		t.Error("an instance that is not started yet has a tap")
	}
}
