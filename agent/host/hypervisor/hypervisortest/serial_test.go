package hypervisortest

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"virtmesh/agent/host/hypervisor"
)

// TestBootDiskIsBootable: a BIOS boots what is marked as bootable and fits its sector.
func TestBootDiskIsBootable(t *testing.T) {
	disk := BootDisk()
	if len(disk) != bootDiskSize || disk[510] != 0x55 || disk[511] != 0xaa {
		t.Errorf("%d bytes, marked % x", len(disk), disk[510:512])
	}
	for _, text := range []string{Ready, Bye} {
		at := strings.Index(string(disk[:510]), text+"\x00")
		if at < 0 {
			t.Errorf("the guest cannot print %q", text)
		}
	}
	// A test that writes to its disk does not change another's.
	disk[0] = 0xff
	if BootDisk()[0] == 0xff {
		t.Error("two disks share their bytes")
	}
}

func TestSerialPortHasOneListener(t *testing.T) {
	var typed strings.Builder
	port := newFakeSerial(func(b byte) { typed.WriteByte(b) })
	port.print("lost: nobody listens")
	if !port.spoken() {
		t.Error("what was printed is not known to have been")
	}
	first := port.open()
	port.print("one")
	second := port.open()
	port.print("two")
	if got, err := io.ReadAll(first); err != nil || string(got) != "one" {
		t.Errorf("the first session read %q, %v", got, err)
	}
	if n, err := first.Write([]byte("x")); n != 0 || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("it still types: %d, %v", n, err)
	}
	if n, err := second.Write([]byte("ab")); n != 2 || err != nil || typed.String() != "ab" {
		t.Errorf("the second typed %q: %d, %v", typed.String(), n, err)
	}
	port.hangUp()
	if got, err := io.ReadAll(second); err != nil || string(got) != "two" {
		t.Errorf("the second session read %q, %v", got, err)
	}
	port.hangUp()
}

func TestSerialReaderIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		port := newFakeSerial(func(byte) {})
		session := port.open()
		released := make(chan error, 1)
		go func() { _, err := session.Read(make([]byte, 1)); released <- err }()
		synctest.Wait()
		if err := errors.Join(session.Close(), session.Close()); err != nil {
			t.Fatal(err)
		}
		if err := <-released; !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("the reader ends with %v", err)
		}
	})
}

// TestPausedGuestObeysNobody: its CPUs do not run.
func TestPausedGuestObeysNobody(t *testing.T) {
	f, _, ref := startFake(t)
	console, err := f.Console(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Suspend(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(console, CmdPowerOff); err != nil {
		t.Fatal(err)
	}
	if got, err := f.Get(t.Context(), ref); err != nil || got.State != hypervisor.StatePaused {
		t.Errorf("it is %s, %v", got.State, err)
	}
}

func TestDefinitionsAreReadAsLibvirtDoes(t *testing.T) {
	good := fakeXML(someone)
	for what, text := range map[string]string{
		"no XML":                "what",
		"not ours":              strings.Replace(good, "<metadata>"+someone.Metadata()+"</metadata>", "", 1),
		"another name":          strings.Replace(good, "<name>", "<name>x", 1),
		"devices that are open": strings.Replace(good, "</disk>", "", 1),
	} {
		if _, _, _, err := parse(text); !errors.Is(err, hypervisor.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	def, devices, owner, err := parse(good)
	if err != nil || owner != someone || len(devices) != 2 || devices[0].name != Disk || devices[1].name != Drive {
		t.Fatalf("read %+v, %+v, %v", devices, owner, err)
	}
	d := def.define(owner, devices, good)
	if d.sizes.vcpus != 1 || d.sizes.maxVCPUs != 2 || d.sizes.booted != 32<<20 || d.state != hypervisor.StateShutoff {
		t.Errorf("defined %+v", d.sizes)
	}
	for unit, want := range map[string]int64{"": 3 << 10, "b": 3, "KiB": 3 << 10, "MiB": 3 << 20, "GiB": 3 << 30} {
		if got := (size{Value: 3, Unit: unit}).bytes(); got != want {
			t.Errorf("3 %s are %d bytes", unit, got)
		}
	}
	if got := replaceContent("<a><devices x='1'>old</devices></a>", "devices", "new"); got != "<a><devices x='1'>new</devices></a>" {
		t.Errorf("replaced: %s", got)
	}
	if got := replaceContent("<a/>", "devices", "new"); got != "<a/>" {
		t.Errorf("replaced where nothing is: %s", got)
	}
}
