package hypervisortest

import (
	"bytes"
	"image/png"
	"io"
	"strings"
	"testing"

	"virtmesh/agent/host/hypervisor"
)

func testConsole(t *testing.T, w *world) {
	console := w.boot()
	const text = "A guest that echoes. "
	console.write(text)
	console.await(text)
}

func testConsoleTakeover(t *testing.T, w *world) {
	first := w.boot()
	second := w.console()
	if _, err := io.ReadAll(first.rwc); err != nil {
		t.Errorf("the first session ends with %v", err)
	}
	second.write("x")
	second.await("x")
}

func testConsoleClose(t *testing.T, w *world) {
	console := w.boot()
	released := make(chan error, 1)
	go func() {
		_, err := console.rwc.Read(make([]byte, 1))
		released <- err
	}()
	if err := console.rwc.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	select {
	case err := <-released:
		if err == nil {
			t.Error("a read after the close succeeded")
		}
	case <-w.ctx.Done():
		t.Error("the reader is still blocked")
	}
	if _, err := console.rwc.Write([]byte("x")); err == nil {
		t.Error("a write after the close succeeded")
	}
}

func testVNC(t *testing.T, w *world) {
	w.start()
	display, err := w.hv.VNC(w.ctx, w.owner.Ref)
	if err != nil {
		t.Fatal(err)
	}
	defer display.Close()
	greeting := make([]byte, len("RFB 003.008\n"))
	if _, err := io.ReadFull(display, greeting); err != nil || !strings.HasPrefix(string(greeting), "RFB 003.") {
		t.Errorf("greeted with %q, %v", greeting, err)
	}
}

func testScreenshot(t *testing.T, w *world) {
	w.start()
	for _, wake := range []bool{false, true} {
		picture, err := w.hv.Screenshot(w.ctx, w.owner.Ref, wake)
		if err != nil {
			t.Fatal(err)
		}
		if img, err := png.Decode(bytes.NewReader(picture)); err != nil || img.Bounds().Empty() {
			t.Errorf("the picture is %v, %v", img, err)
		}
	}
	if err := w.hv.Destroy(w.ctx, w.owner.Ref); err != nil {
		t.Fatal(err)
	}
	if _, err := w.hv.Screenshot(w.ctx, w.owner.Ref, false); !errorIs(err, hypervisor.ErrNotRunning) {
		t.Errorf("a picture of a guest that is off: %v", err)
	}
}

func testNoAgent(t *testing.T, w *world) {
	w.start()
	if _, err := w.hv.GuestInfo(w.ctx, w.owner.Ref); !errorIs(err, hypervisor.ErrNoAgent) {
		t.Errorf("guest info: %v", err)
	}
	if err := w.hv.Freeze(w.ctx, w.owner.Ref); !errorIs(err, hypervisor.ErrNoAgent) {
		t.Errorf("freeze: %v", err)
	}
	if err := w.hv.Thaw(w.ctx, w.owner.Ref); !errorIs(err, hypervisor.ErrNoAgent) {
		t.Errorf("thaw: %v", err)
	}
	if w.get().AgentConnected {
		t.Error("an agent is said to be connected")
	}
}

func testStats(t *testing.T, w *world) {
	w.boot()
	all, err := w.hv.Stats(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.Ref != w.owner.Ref {
			continue
		}
		if s.State != hypervisor.StateRunning || len(s.CPU.VCPUs) != 1 || s.CPU.VCPUs[0].Time == 0 || s.Memory.Current == 0 {
			t.Errorf("CPU or memory is not counted: %+v", s)
		}
		for _, disk := range s.Disks {
			if disk.Alias == Disk && disk.ReadBytes > 0 {
				return
			}
		}
		t.Errorf("the boot disk is not counted under its name: %+v", s.Disks)
		return
	}
	t.Errorf("not among %v", all)
}
