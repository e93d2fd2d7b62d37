package libvirt

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"libvirt.org/go/libvirt"

	"virtmesh/agent/host/hypervisor"
)

// TestCloseLeavesWhatHangs: an agent stops although libvirtd answers no more.
func TestCloseLeavesWhatHangs(t *testing.T) {
	d := startDaemon(t)
	cfg := DefaultConfig()
	cfg.URI, cfg.CloseTimeout = d.URI, 50*time.Millisecond
	driver, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	hangs, begun, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	discarded := make(chan int, 1)
	go func() {
		defer close(ended)
		_, err := call(ctx, driver, driver.starts, "start ns/vm", func(v int) { discarded <- v }, func(*libvirt.Connect) (int, error) {
			close(begun)
			<-hangs
			return 7, nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the call ended with %v", err)
		}
	}()
	<-begun
	if err := driver.Close(); err == nil || !strings.Contains(err.Error(), "start ns/vm") {
		t.Errorf("close: %v, want it to name what is left", err)
	}
	if _, err := driver.List(t.Context()); !errors.Is(err, hypervisor.ErrUnavailable) {
		t.Errorf("list after the close: %v", err)
	}
	cancel()
	<-ended
	close(hangs)
	if got := <-discarded; got != 7 {
		t.Errorf("discarded %d", got)
	}
	// With nothing left to wait for, a close is at peace.
	driver.cfg.CloseTimeout = time.Minute
	if err := driver.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
}

// TestFailedStartLeavesNoFirmwareState: a guest that fails to start again and again
// leaves neither variables nor a TPM behind.
func TestFailedStartLeavesNoFirmwareState(t *testing.T) {
	d := startDaemon(t)
	driver := d.open(t)
	owner := hypervisor.Owner{
		Ref:  hypervisor.Ref{Namespace: "failing", Name: "vm", UID: "0f7d8a1e-0000-4000-8000-0000000000d1"},
		Host: "host1", Epoch: 5,
	}
	xml := d.guestXML(t, owner)
	xml = strings.Replace(xml, "<os>", "<os firmware='efi'><firmware><feature enabled='no' name='secure-boot'/></firmware>", 1)
	xml = strings.Replace(xml, "<boot dev='hd'/>", "", 1)
	xml = strings.Replace(xml, "</devices>", "<tpm model='tpm-crb'><backend type='emulator' version='2.0' persistent_state='yes'/></tpm></devices>", 1)
	// QEMU itself refuses it, so libvirt has made everything by then.
	xml = strings.Replace(xml, "<domain type='qemu'>", "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>", 1)
	xml = strings.Replace(xml, "</domain>", "<qemu:commandline><qemu:arg value='-nonsense'/></qemu:commandline></domain>", 1)
	if _, err := driver.Start(t.Context(), xml, hypervisor.StartOptions{}); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Fatalf("start: %v", err)
	}
	err := filepath.WalkDir(filepath.Join(d.cfg.Dir, "lib"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && (strings.Contains(path, owner.DomainName()) || strings.Contains(path, owner.UID)) {
			t.Errorf("left behind: %s", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
