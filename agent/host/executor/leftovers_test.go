package executor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/raftstore"
)

// adopt replaces the executor as after an agent that was killed, and reconciles
// what it names by itself.
func (w *world) adopt() []stewards.Key {
	w.t.Helper()
	w.restart()
	var keys []stewards.Key
	w.executor.Subscribe(func(key stewards.Key) { keys = append(keys, key) })()
	for _, key := range keys {
		if _, err := w.executor.Reconcile(w.t.Context(), key); err != nil {
			w.t.Errorf("%s: %v", key, err)
		}
	}
	return keys
}

func TestDisksOfInstancesThatAreGoneAreSwept(t *testing.T) {
	w := newWorld(t)
	live := w.running("live")
	gone := hypervisor.Ref{Namespace: "ns", Name: "gone", UID: "0f7d8a1e-0000-4000-8000-000000000001"}
	before := hypervisor.Ref{Namespace: "ns", Name: "live", UID: "0f7d8a1e-0000-4000-8000-000000000002"}
	w.volumes.left = []hypervisor.Ref{gone, refOf(live), before}
	w.volumes.removed = nil
	w.adopt()
	if len(w.volumes.removed) != 2 || !slices.Contains(w.volumes.removed, gone) || !slices.Contains(w.volumes.removed, before) {
		t.Errorf("removed %v", w.volumes.removed)
	}
	if domain, _ := w.domain(live); domain.State != hypervisor.StateRunning {
		t.Errorf("the live guest is %s", domain.State)
	}
}

func TestNothingIsSweptWhileTheMeshCannotBeAsked(t *testing.T) {
	w := newWorld(t)
	gone := hypervisor.Ref{Namespace: "ns", Name: "gone", UID: "0f7d8a1e-0000-4000-8000-000000000001"}
	w.volumes.left = []hypervisor.Ref{gone}
	w.restart()
	w.store.cut.Store(true)
	if _, err := w.executor.Reconcile(t.Context(), keyOf(gone)); !errors.Is(err, raftstore.ErrNoLeader) || len(w.volumes.removed) != 0 {
		t.Errorf("error %v, removed %v", err, w.volumes.removed)
	}
	w.store.cut.Store(false)
	if _, err := w.executor.Reconcile(t.Context(), keyOf(gone)); err != nil || len(w.volumes.removed) != 1 {
		t.Errorf("error %v, removed %v", err, w.volumes.removed)
	}
}

// A domain may have ended, and its instance been deleted, while no agent ran.
func TestDomainsAreAdoptedAtTheStart(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.forget(vmi)
	w.sync(vmi)
	if keys := w.adopt(); !slices.Contains(keys, objects.KeyOf(vmi)) {
		t.Errorf("named %v", keys)
	}
	if _, found := w.domain(vmi); found {
		t.Error("the orphan is still there")
	}
}

// writeLog makes the files that virtlogd leaves for an instance.
func (w *world) writeLog(namespace, name string) []string {
	w.t.Helper()
	path, err := w.executor.logs.makeSerialLog(stewards.Key{Namespace: namespace, Name: name})
	if err != nil {
		w.t.Fatal(err)
	}
	files := []string{path, path + ".0", path + ".1"}
	for _, file := range files {
		if err := os.WriteFile(file, []byte("login:"), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	return files
}

func exist(files []string) (n int) {
	for _, file := range files {
		if _, err := os.Stat(file); err == nil {
			n++
		}
	}
	return n
}

// As a pod's logs, those of a guest stay as long as its instance is there to be
// looked at, and no longer.
func TestSerialLogEndsWithItsInstance(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	files := w.writeLog("ns", "a")
	other := w.writeLog("ns", "a.serial.log") // a name that looks like a log
	w.act(w.hv.Machine().Crash(refOf(vmi)))
	w.reconcile(vmi)
	w.expectEnded(vmi, kubevirtv1.Failed)
	w.reconcile(vmi)
	if exist(files) != len(files) {
		t.Error("the log went although the instance can still be looked at")
	}
	w.forget(vmi)
	w.reconcile(vmi)
	if exist(files) != 0 || exist(other) != len(other) {
		t.Errorf("%d files of the instance are left, %d of another", exist(files), exist(other))
	}
}

func TestSerialLogsOfInstancesThatAreGoneAreSwept(t *testing.T) {
	w := newWorld(t)
	live := w.running("live")
	gone, kept := w.writeLog("elsewhere", "gone"), w.writeLog(live.Namespace, live.Name)
	w.adopt()
	if exist(gone) != 0 || exist(kept) != len(kept) {
		t.Errorf("%d files of the one that is gone are left, %d of the live one", exist(gone), exist(kept))
	}
	if _, err := os.Stat(filepath.Join(w.config.LogDir, "elsewhere")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder of a namespace without logs is left: %v", err)
	}
}

// A guest that an earlier version started writes a log beside the folders. It is not
// taken for that of an instance that is gone, and goes with its own.
func TestSerialLogsOfAnEarlierVersion(t *testing.T) {
	w := newWorld(t)
	live := w.running("live")
	log := func(name string) []string {
		var files []string
		for _, part := range []string{"", ".0", ".1"} {
			file := filepath.Join(w.config.LogDir, "ns", name+"-serial.log"+part)
			w.act(os.WriteFile(file, []byte("login: "), 0o600))
			files = append(files, file)
		}
		return files
	}
	gone, kept := log("gone"), log(live.Name)
	w.adopt()
	if exist(gone) != 0 || exist(kept) != len(kept) {
		t.Errorf("%d files of the one that is gone are left, %d of the live one", exist(gone), exist(kept))
	}
}

func TestTheEmulatorsLogGoesWithItsInstance(t *testing.T) {
	w := newWorld(t)
	w.config.EmulatorLogDir = t.TempDir()
	w.restart()
	vmi := w.running("a")
	var files []string
	for _, name := range []string{"ns_a.log", "ns_a.log.0", "ns_a.log.1", "ns_b.log"} {
		files = append(files, filepath.Join(w.config.EmulatorLogDir, name))
		w.act(os.WriteFile(files[len(files)-1], []byte("qemu: "), 0o600))
	}
	w.act(w.hv.Machine().PowerOff(refOf(vmi)))
	w.reconcile(vmi)
	w.expectEnded(vmi, kubevirtv1.Succeeded)
	if exist(files) != len(files) {
		t.Error("the log went although the instance can still be looked at")
	}
	w.forget(vmi)
	w.reconcile(vmi)
	if exist(files[:3]) != 0 || exist(files[3:]) != 1 {
		t.Errorf("%d files of the instance are left, %d of another", exist(files[:3]), exist(files[3:]))
	}
}

// A name may be as long as a file's name can be.
func TestInstancesWithLongNamesHaveLogs(t *testing.T) {
	w := newWorld(t)
	vmi := w.running(strings.Repeat("a", 253))
	files := w.writeLog(vmi.Namespace, vmi.Name)
	w.unclaim(vmi)
	w.forget(vmi)
	w.adopt()
	if n := exist(files); n != 0 {
		t.Errorf("%d files are left", n)
	}
}

// An agent runs for months: what it remembers of instances goes with them.
func TestNothingIsRememberedOfAnInstanceThatIsGone(t *testing.T) {
	w := newWorld(t)
	h := w.witnessed()
	vmi := w.running("a")
	w.act(w.hv.Machine().SetAgent(refOf(vmi), &guestAnswer))
	w.hear(vmi)
	h.deaf = true
	w.deleteWith(vmi, 30)
	w.reconcile(vmi)
	w.pass(30 * time.Second)
	w.reconcile(vmi)
	late := w.place(scheduled("b"))
	w.network.fail = errors.New("no bridge")
	if _, err := w.try(late); err == nil {
		t.Fatal("started without a network")
	}
	w.deleteWith(late, 30)
	w.reconcile(late)
	e := w.executor
	if n := len(e.failures.byUID) + len(e.shutdowns.byUID) + len(e.flips.byUID) + len(e.agents.guests) + len(e.preparations.byUID) + len(e.traces.keys()); n != 0 {
		t.Errorf("failures %v, shutdowns %v, flips %v, agents %v, preparations %v, traces %v",
			e.failures.byUID, e.shutdowns.byUID, e.flips.byUID, e.agents.guests, e.preparations.byUID, e.traces.keys())
	}
}
