package hypervisortest

import (
	"io"
	"testing"

	"virtmesh/agent/host/hypervisor"
)

func testShutdown(t *testing.T, w *world) {
	console := w.boot()
	if err := w.hv.Shutdown(w.ctx, w.owner.Ref); err != nil {
		t.Fatal(err)
	}
	console.await(Bye)
	w.awaitState(hypervisor.StateShutoff, hypervisor.ReasonShutdown)
	if got := w.get(); got.State != hypervisor.StateShutoff || got.Reason != hypervisor.ReasonShutdown {
		t.Errorf("after the shutdown: %s, %s", got.State, got.Reason)
	}
	if err := w.hv.Shutdown(w.ctx, w.owner.Ref); err != nil {
		t.Errorf("shutdown when off: %v", err)
	}
	if _, err := w.hv.Console(w.ctx, w.owner.Ref); !errorIs(err, hypervisor.ErrNotRunning) {
		t.Errorf("console when off: %v", err)
	}
	if _, err := w.hv.VNC(w.ctx, w.owner.Ref); !errorIs(err, hypervisor.ErrNotRunning) {
		t.Errorf("display when off: %v", err)
	}
	if err := w.hv.Reboot(w.ctx, w.owner.Ref); !errorIs(err, hypervisor.ErrNotRunning) {
		t.Errorf("reboot when off: %v", err)
	}
}

func testGuestPowerOff(t *testing.T, w *world) {
	console := w.boot()
	console.write(CmdPowerOff)
	w.awaitState(hypervisor.StateShutoff, hypervisor.ReasonShutdown)
	if _, err := io.ReadAll(console.rwc); err != nil {
		t.Errorf("the console ends with %v", err)
	}
}

func testReboot(t *testing.T, w *world) {
	console := w.boot()
	console.write(CmdReset)
	w.await("reboot by the guest", func(e hypervisor.Event) bool { return e.Kind == hypervisor.EventReboot })
	console.await(Ready)
	if err := w.hv.Reset(w.ctx, w.owner.Ref); err != nil {
		t.Fatal(err)
	}
	console.await(Ready)
	if err := w.hv.Reboot(w.ctx, w.owner.Ref); err != nil {
		t.Fatal(err)
	}
	console.await(Bye)
	console.await(Ready)
	if got := w.get(); got.State != hypervisor.StateRunning {
		t.Errorf("rebooted, it is %s", got.State)
	}
}

func testDestroy(t *testing.T, w *world) {
	w.start()
	for range 2 {
		if err := w.hv.Destroy(w.ctx, w.owner.Ref); err != nil {
			t.Fatal(err)
		}
		if got := w.get(); got.State != hypervisor.StateShutoff || got.Reason != hypervisor.ReasonDestroyed {
			t.Errorf("destroyed, it is %s, %s", got.State, got.Reason)
		}
	}
	w.awaitState(hypervisor.StateShutoff, hypervisor.ReasonDestroyed)
}

func testUndefine(t *testing.T, w *world) {
	w.start()
	if err := w.hv.Undefine(w.ctx, w.owner.Ref, hypervisor.UndefineOptions{}); !errorIs(err, hypervisor.ErrRunning) {
		t.Errorf("undefine while running: %v", err)
	}
	if got := w.get(); !got.Persistent || got.State != hypervisor.StateRunning {
		t.Errorf("the refused undefine left %+v", got)
	}
	if err := w.hv.Destroy(w.ctx, w.owner.Ref); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.hv.Undefine(w.ctx, w.owner.Ref, hypervisor.UndefineOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	w.await("undefine", func(e hypervisor.Event) bool { return e.Kind == hypervisor.EventUndefined })
	if _, err := w.hv.Get(w.ctx, w.owner.Ref); !errorIs(err, hypervisor.ErrNotFound) {
		t.Errorf("get: %v", err)
	}
}
