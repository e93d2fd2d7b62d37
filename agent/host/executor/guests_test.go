package executor

import (
	"context"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/fault"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/port/guests"
	machine "virtmesh/agent/vmi"
)

// requests are all that may be asked of a guest, by name.
func requests(ctx context.Context, g Guests) map[string]func(name string) error {
	stream := func(kind guests.StreamKind) func(string) error {
		return func(name string) error {
			s, err := g.Stream(ctx, "ns", name, guests.StreamRequest{Kind: kind})
			if err == nil {
				err = s.Close()
			}
			return err
		}
	}
	return map[string]func(string) error{
		"console": stream(guests.Console), "VNC": stream(guests.VNC),
		"pause":       func(name string) error { return g.Pause(ctx, "ns", name) },
		"unpause":     func(name string) error { return g.Unpause(ctx, "ns", name) },
		"OS":          func(name string) error { _, err := g.GuestOSInfo(ctx, "ns", name); return err },
		"users":       func(name string) error { _, err := g.Users(ctx, "ns", name); return err },
		"filesystems": func(name string) error { _, err := g.Filesystems(ctx, "ns", name); return err },
		"reboot":      func(name string) error { return g.Reboot(ctx, "ns", name) },
		"reset":       func(name string) error { return g.Reset(ctx, "ns", name) },
		"freeze":      func(name string) error { return g.Freeze(ctx, "ns", name, 0) },
		"unfreeze":    func(name string) error { return g.Unfreeze(ctx, "ns", name) },
		"picture":     func(name string) error { _, err := g.Screenshot(ctx, "ns", name, false); return err },
	}
}

// Who asks for a guest that is not there is told so, and not that something is broken.
func TestRequestsForGuestsThatAreNotThere(t *testing.T) {
	w := newWorld(t)
	off := w.running("off")
	w.act(w.hv.Machine().PowerOff(refOf(off)))
	w.sync(w.place(scheduled("waits")))
	for what, ask := range requests(t.Context(), w.executor.Guests()) {
		if err := ask("nobody"); !errors.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "ns/nobody") {
			t.Errorf("%s of no instance: %v", what, err)
		}
		for _, name := range []string{"off", "waits"} {
			if err := ask(name); !errors.Is(err, fault.NotRunning) || !strings.Contains(err.Error(), "ns/"+name) {
				t.Errorf("%s of a guest that is %s: %v", what, name, err)
			}
		}
	}
}

func TestRequestsForAGuestThatRuns(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.act(w.hv.Machine().SetAgent(refOf(vmi), &fullAnswer))
	w.hear(vmi)
	for what, ask := range requests(t.Context(), w.executor.Guests()) {
		if what == "pause" || what == "unpause" {
			continue
		}
		if err := ask("a"); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	g := w.executor.Guests()
	vnc, err := g.Stream(t.Context(), "ns", "a", guests.StreamRequest{Kind: guests.VNC})
	if err != nil {
		t.Fatal(err)
	}
	greeting := make([]byte, 3)
	if _, err := io.ReadFull(vnc, greeting); err != nil || string(greeting) != "RFB" {
		t.Errorf("the display greets with %q, %v", greeting, err)
	}
	w.act(vnc.Close())
	if _, err := g.Stream(t.Context(), "ns", "a", guests.StreamRequest{Kind: "fax"}); err == nil || !strings.Contains(err.Error(), "fax") {
		t.Errorf("a stream of no kind: %v", err)
	}
	users, err := g.Users(t.Context(), "ns", "a")
	if want := []kubevirtv1.VirtualMachineInstanceGuestOSUser{{UserName: "me", Domain: "here", LoginTime: 1}}; err != nil || !reflect.DeepEqual(users.Items, want) {
		t.Errorf("users %+v, %v", users, err)
	}
	disks, err := g.Filesystems(t.Context(), "ns", "a")
	want := []kubevirtv1.VirtualMachineInstanceFileSystem{{
		DiskName: "vda1", MountPoint: "/", FileSystemType: "ext4", UsedBytes: 1, TotalBytes: 2,
		Disk: []kubevirtv1.VirtualMachineInstanceFileSystemDisk{{Serial: "s1", BusType: "virtio"}},
	}}
	if err != nil || !reflect.DeepEqual(disks.Items, want) {
		t.Errorf("filesystems %+v, %v", disks, err)
	}
}

func TestAPauseIsAskedForOnce(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	g := w.executor.Guests()
	if err := g.Unpause(t.Context(), "ns", "a"); !errors.Is(err, fault.Conflict) {
		t.Errorf("a guest that runs was woken: %v", err)
	}
	w.hv.Machine().Fail("Suspend", hypervisor.ErrNotRunning)
	if err := g.Pause(t.Context(), "ns", "a"); !errors.Is(err, fault.NotRunning) {
		t.Errorf("a guest that ended meanwhile: %v", err)
	}
	w.hv.Machine().Fail("Suspend", errors.New("no such luck"))
	if err := g.Pause(t.Context(), "ns", "a"); err == nil || !strings.Contains(err.Error(), "ns/a: no such luck") {
		t.Errorf("a pause that fails: %v", err)
	}
	w.act(g.Pause(t.Context(), "ns", "a"))
	if err := g.Pause(t.Context(), "ns", "a"); !errors.Is(err, fault.Conflict) {
		t.Errorf("paused twice: %v", err)
	}
	w.hv.Machine().Fail("Resume", hypervisor.ErrNotFound)
	if err := g.Unpause(t.Context(), "ns", "a"); !errors.Is(err, fault.NotRunning) {
		t.Errorf("a guest that is gone meanwhile: %v", err)
	}
	w.act(g.Unpause(t.Context(), "ns", "a"))
	if domain, _ := w.domain(vmi); domain.State != hypervisor.StateRunning {
		t.Errorf("the guest is %v", domain.State)
	}
}

// A session that could not be opened is not remembered, whether there was one before
// or not, and does not replace one that was opened meanwhile.
func TestASessionThatFailsLeavesNothing(t *testing.T) {
	c := newConsoles()
	fails := errors.New("no console")
	if _, err := c.openSession("a", false, func() (io.ReadWriteCloser, error) { return nil, fails }); !errors.Is(err, fails) || len(c.byUID) != 0 {
		t.Errorf("%v; %d sessions are remembered", err, len(c.byUID))
	}
	server, client := newPipe()
	var second io.ReadWriteCloser
	_, err := c.openSession("a", false, func() (io.ReadWriteCloser, error) {
		var err error
		if second, err = c.openSession("a", false, func() (io.ReadWriteCloser, error) { return client, nil }); err != nil {
			t.Fatal(err)
		}
		return nil, fails
	})
	if !errors.Is(err, fails) {
		t.Fatal(err)
	}
	w := server.Close()
	if text := rest(t, second); w != nil || text != "" {
		t.Errorf("the session that was opened meanwhile ends with %q", text)
	}
	if err := second.Close(); err != nil || len(c.byUID) != 0 {
		t.Errorf("%v; %d sessions are remembered", err, len(c.byUID))
	}
}

// newPipe returns both ends of a stream.
func newPipe() (server io.WriteCloser, client io.ReadWriteCloser) {
	reader, writer := io.Pipe()
	return writer, struct {
		io.Reader
		io.Writer
		io.Closer
	}{reader, io.Discard, reader}
}

// What is recorded with a domain is short and one line, and is read back as it was.
func TestRecords(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("CET", 3600))
	how := end{Phase: kubevirtv1.Failed, Message: "a\tb\x7fc\ufffdd\n", PowerCut: true}
	text, err := formatEnd(how)
	if err != nil {
		t.Fatal(err)
	}
	now := at.Add(time.Hour) // the clock was set: a second has passed
	asked, read := readRecords(hypervisor.Domain{Records: map[string]string{recordShutdown: formatShutdown(at, time.Minute), recordEnd: text}}, now, time.Minute+time.Second)
	if want := (end{Phase: kubevirtv1.Failed, Message: "a b c d ", PowerCut: true}); !asked.Equal(now.Add(-time.Second)) || read == nil || *read != want {
		t.Errorf("read %v, %+v", asked, read)
	}
	for length, want := range map[int]int{0: 0, maxEndMessage - 1: maxEndMessage - 1, maxEndMessage: maxEndMessage, maxEndMessage + 1: maxEndMessage} {
		if got := printable(strings.Repeat("ä", length)); got != strings.Repeat("ä", want) {
			t.Errorf("of %d characters %d are kept, want %d", length, len([]rune(got)), want)
		}
	}
	if asked, _ := readRecords(hypervisor.Domain{Records: map[string]string{recordShutdown: at.Format(time.RFC3339Nano)}}, now, time.Hour); !asked.Equal(at) {
		t.Errorf("the record of an older version is read as %v", asked)
	}
	for _, bad := range []map[string]string{nil, {recordShutdown: "yesterday", recordEnd: "{"}, {recordShutdown: "yesterday 1s?"}, {recordShutdown: formatShutdown(at, 2*time.Hour)}, {recordEnd: "{}"}, {recordEnd: `{"message":"x"}`}} {
		if asked, how := readRecords(hypervisor.Domain{Records: bad}, now, time.Hour); !asked.IsZero() || how != nil {
			t.Errorf("%v is read as %v, %+v", bad, asked, how)
		}
	}
}

func TestTheSoonerOfTwoLooks(t *testing.T) {
	for _, c := range [][3]time.Duration{{0, 0, 0}, {0, 5, 5}, {5, 0, 5}, {3, 5, 3}, {5, 3, 3}, {4, 4, 4}} {
		if got := sooner(c[0], c[1]); got != c[2] {
			t.Errorf("of %d and %d the sooner is %d, want %d", c[0], c[1], got, c[2])
		}
	}
}

// What the status said before stays where nothing newer is known.
func TestTheStatusKeepsWhatItKnows(t *testing.T) {
	w := newWorld(t)
	vmi := scheduled("a")
	boot := resource.MustParse("32Mi")
	vmi.Status.Memory = &kubevirtv1.MemoryStatus{GuestAtBoot: &boot}
	vmi.Status.Machine = &kubevirtv1.Machine{Type: "pc-q35-6.2"}
	vmi.Status.VolumeStatus = []kubevirtv1.VolumeStatus{
		{Name: "root", Target: "sda", Size: 7}, {Name: "late", HotplugVolume: &kubevirtv1.HotplugVolumeStatus{}}, {Name: "gone"},
	}
	w.place(vmi)
	w.reconcile(vmi)
	got := w.get(vmi)
	s := got.Status
	if s.Memory.GuestAtBoot.Cmp(boot) != 0 || s.Memory.GuestRequested.Value() != 64<<20 || s.Memory.GuestCurrent.Value() != 64<<20 {
		t.Errorf("memory %+v", s.Memory)
	}
	if s.Memory.MemoryOverhead == nil || s.Memory.MemoryOverhead.Value() != machine.Overhead(&vmi.Spec) {
		t.Errorf("overhead %v", s.Memory.MemoryOverhead)
	}
	if s.Machine.Type != "pc-q35-6.2" {
		t.Errorf("machine %s", s.Machine.Type)
	}
	if v := s.VolumeStatus; len(v) != 2 || v[0].Name != "root" || v[0].Target != "vda" || v[0].Size != 7 || v[1].Name != "late" {
		t.Errorf("volumes %+v", v)
	}
	if cpu := s.CurrentCPUTopology; cpu == nil || *cpu != (kubevirtv1.CPUTopology{Cores: 1, Sockets: 1, Threads: 1}) {
		t.Errorf("topology %+v", cpu)
	}
	if got.Annotations[AnnotationImages] != `{"root":"sha256:12"}` {
		t.Errorf("annotations %v", got.Annotations)
	}
	// A later image of the same name is not the one that the disk was made from.
	w.change(vmi, func(vmi *kubevirtv1.VirtualMachineInstance) { vmi.Annotations[AnnotationImages] = "earlier" })
	w.reconcile(vmi)
	if got := w.get(vmi).Annotations[AnnotationImages]; got != "earlier" {
		t.Errorf("annotation %s", got)
	}
}

// A host that cannot tell of images or memory tells the rest.
func TestAStatusWithoutImagesAndMemory(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.volumes.mu.Lock()
	w.volumes.left = nil // the digests cannot be read
	w.volumes.mu.Unlock()
	w.change(vmi, func(vmi *kubevirtv1.VirtualMachineInstance) { vmi.Annotations = nil })
	w.reconcile(vmi)
	if got := w.get(vmi); got.Annotations[AnnotationImages] != "" {
		t.Errorf("annotations %v", got.Annotations)
	}
	r := &run{situation: situation{ref: refOf(vmi), now: time.Now()}}
	silent := vmi.DeepCopy()
	silent.Status.Memory = nil
	w.executor.describeMemory(silent, r)
	if m := silent.Status.Memory; m.GuestCurrent.Value() != 64<<20 {
		t.Errorf("a domain that does not tell its memory: %+v", m)
	}
	for _, memory := range []*kubevirtv1.Memory{nil, {}} {
		silent.Status.Memory, silent.Spec.Domain.Memory = nil, memory
		if w.executor.describeMemory(silent, r); silent.Status.Memory != nil {
			t.Errorf("a guest of no memory: %+v", silent.Status.Memory)
		}
	}
}

// An agent that is replaced by one that can do all is no longer called unsupported; one
// that does not say what it can do changes nothing.
func TestAnAgentThatLearns(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	const kind = kubevirtv1.VirtualMachineInstanceUnsupportedAgent
	answer := func(commands ...hypervisor.GuestCommand) {
		info := fullAnswer
		info.Commands = commands
		w.pass(guestInfoInterval + maxFlipPause)
		w.act(w.hv.Machine().SetAgent(refOf(vmi), &info))
		w.hear(vmi)
	}
	var all, none []hypervisor.GuestCommand
	for _, name := range strings.Split(machine.MissingAgentCommands(nil), ", ") {
		all, none = append(all, hypervisor.GuestCommand{Name: name, Enabled: true}), append(none, hypervisor.GuestCommand{Name: name})
	}
	answer(none...)
	w.expectCondition(w.get(vmi), kind, corev1.ConditionTrue, "AgentCommandsMissing")
	answer()
	w.expectCondition(w.get(vmi), kind, corev1.ConditionTrue, "AgentCommandsMissing")
	answer(all...)
	if c := condition(w.get(vmi), kind); c != nil {
		t.Errorf("an agent that can do all: %+v", c)
	}
	answer()
	if c := condition(w.get(vmi), kind); c != nil {
		t.Errorf("an agent that does not say: %+v", c)
	}
}

// Who waits for a guest's answer waits no longer than it likes, and an executor that
// has stopped asks nobody.
func TestWhoAsksNeedNotWait(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.act(w.hv.Machine().SetAgent(refOf(vmi), &fullAnswer))
	answer := make(chan struct{})
	defer close(answer)
	w.counted(answer)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.executor.agents.awaitAnswer(ctx, refOf(vmi)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	w.executor.Close()
	w.pass(guestInfoPause)
	if _, err := w.executor.agents.awaitAnswer(t.Context(), refOf(vmi)); !errors.Is(err, errStopped) {
		t.Errorf("after the end: %v", err)
	}
}

// A host whose disk takes no log starts no guest, and says why.
func TestALogThatCannotBeMade(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"no folder": func(dir string) error { return os.WriteFile(filepath.Join(dir, "ns"), nil, 0o600) },
		"no file":   func(dir string) error { return os.MkdirAll(filepath.Join(dir, "ns", "a", serialLog), 0o755) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.act(spoil(w.config.LogDir))
			vmi := w.place(scheduled("a"))
			if _, err := w.try(vmi); err == nil || !strings.Contains(err.Error(), "serial log") {
				t.Errorf("got %v", err)
			}
			if _, found := w.domain(vmi); found {
				t.Error("a guest was started")
			}
			got := w.get(vmi)
			if c := condition(got, kubevirtv1.VirtualMachineInstanceReady); c == nil || !strings.Contains(c.Message, "serial log") {
				t.Errorf("condition %+v", c)
			}
		})
	}
}

// A preparation that does not end holds up its own instance only, and who waits for it
// no longer than it likes.
func TestAPreparationThatDoesNotEnd(t *testing.T) {
	w := newWorld(t)
	stuck := make(chan struct{})
	w.volumes.pull = func(context.Context) error { <-stuck; return nil }
	vmi := w.place(scheduled("a"))
	if _, err := w.once(vmi); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.executor.preparations.endPreparation(ctx, string(vmi.UID)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if w.executor.preparations.of(string(vmi.UID)) == nil {
		t.Error("its disks could be removed under it")
	}
	close(stuck)
	if err := w.executor.preparations.endPreparation(t.Context(), string(vmi.UID)); err != nil || w.executor.preparations.of(string(vmi.UID)) != nil {
		t.Errorf("ended: %v", err)
	}
	w.volumes.mu.Lock()
	defer w.volumes.mu.Unlock()
	if w.volumes.released != w.volumes.prepared {
		t.Errorf("%d prepared, %d released", w.volumes.prepared, w.volumes.released)
	}
}

// A guest may claim sizes that do not fit into the answer.
func TestSizesOfFilesystemsAreBounded(t *testing.T) {
	got := guestFilesystem(hypervisor.GuestFilesystem{UsedBytes: math.MaxUint64, TotalBytes: 1 << 63})
	if got.UsedBytes != math.MaxInt || got.TotalBytes != math.MaxInt {
		t.Errorf("%+v", got)
	}
}
