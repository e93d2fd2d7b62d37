package host

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os/user"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/agent/claims"
	"virtmesh/agent/host/confinement"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/host/hypervisor/hypervisortest"
	"virtmesh/agent/host/hypervisor/kvmprobe"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/agent/stewards"
	"virtmesh/agent/stewards/stewardstest"
	"virtmesh/gossip"
)

// lonely is a mesh of this host.
type lonely struct{}

func (lonely) SetFacts(gossip.Facts) error                   { return nil }
func (lonely) Subscribe(func()) (cancel func())              { return func() {} }
func (lonely) ProtectedAddresses() []netip.Prefix            { return nil }
func (lonely) Removed(context.Context, string) (bool, error) { return false, nil }

// watched is a hypervisor that notes whether it was closed.
type watched struct {
	*hypervisortest.Fake
	closed int
}

func (w *watched) Close() error {
	w.closed++
	return w.Fake.Close()
}

func testDeps(t *testing.T) Deps {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	store := objectstest.New(claims.Rules()...)
	cacheConfig := objects.DefaultCacheConfig()
	cacheConfig.Store, cacheConfig.Logger = store, log
	cache, err := objects.NewCache(cacheConfig)
	if err != nil {
		t.Fatal(err)
	}
	recorderConfig := objects.DefaultRecorderConfig()
	recorderConfig.Store, recorderConfig.Logger, recorderConfig.Component, recorderConfig.Host = store, log, "virtmesh", "h1"
	recorder, err := objects.NewRecorder(recorderConfig)
	if err != nil {
		t.Fatal(err)
	}
	stewardship := stewards.NewStewardship(stewards.StewardshipConfig{Self: "h1", Members: &stewardstest.Members{}})
	t.Cleanup(stewardship.Close)
	return Deps{
		Self:  Self{Name: "h1", Advertise: "192.0.2.1", StateDir: t.TempDir(), RunDir: t.TempDir(), Facts: gossip.Facts{Zone: "z", Version: "v"}},
		Store: store, Secrets: store, Cache: cache, Claims: claims.NewCache(cache, log), Recorder: recorder,
		Stewardship: stewardship, Mesh: lonely{}, ReachesLeader: func(context.Context) bool { return true },
		Confirm: func(context.Context) error { return nil },
		Subnet:  netip.MustParsePrefix("10.64.0.0/22"), Logger: log, Metrics: prometheus.NewPedanticRegistry(),
	}
}

// testConfig runs guests as whoever runs the test.
func testConfig(t *testing.T, deps Deps) Config {
	t.Helper()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	config := DefaultConfig(deps.Self.StateDir)
	config.Hypervisor.User = me.Username
	return config
}

// testPlatform is a platform that has not looked yet.
func testPlatform(t *testing.T) (*platform, *watched) {
	t.Helper()
	hv := &watched{Fake: hypervisortest.NewFake()}
	probe := kvmprobe.DefaultConfig()
	probe.Mode = kvmprobe.KVM
	prober, err := kvmprobe.NewProber(probe)
	if err != nil {
		t.Fatal(err)
	}
	finder := &confinement.Finder{Root: t.TempDir(), TrySandbox: func(context.Context) error { return nil }}
	return &platform{hypervisor: hv, kvm: prober, confined: finder, reserved: 1 << 30, stateDir: t.TempDir(), log: slog.New(slog.DiscardHandler)}, hv
}

func TestAHostLooksAfterItsGuests(t *testing.T) {
	deps := testDeps(t)
	p, hv := testPlatform(t)
	h, err := assembleHost(t.Context(), testConfig(t, deps), deps, p)
	if err != nil {
		t.Fatal(err)
	}
	var loops []string
	for _, loop := range h.Loops() {
		loops = append(loops, loop.Name)
	}
	if want := []string{"platform", "network", "hypervisor", "executor", "stale claims", "quarantine", "volumes", "pools", "disk", "node", "facts"}; !slices.Equal(loops, want) {
		t.Errorf("loops %q, want %q", loops, want)
	}
	if h.Guests() == nil || h.Offerer() == nil {
		t.Error("the host answers nobody")
	}
	if has, err := h.hasGuest(t.Context(), "nobody"); has || err != nil {
		t.Errorf("a guest that is not there: %v, %v", has, err)
	}
	hv.Machine().SetAway(true)
	if _, err := h.hasGuest(t.Context(), "nobody"); !errors.Is(err, hypervisor.ErrUnavailable) {
		t.Errorf("a hypervisor that does not answer has no guest: %v", err)
	}
	h.Close()
	h.Close()
	if hv.closed != 1 {
		t.Errorf("the hypervisor was closed %d times", hv.closed)
	}
}

// A host that cannot be opened leaves nothing open, and says what is wrong.
func TestAHostThatCannotBeOpened(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(config *Config, deps *Deps)
		names string
	}{
		"no user of that name": {func(c *Config, _ *Deps) { c.Hypervisor.User = "nobody-of-that-name" }, "hypervisor.user"},
		"no place for state":   {func(_ *Config, d *Deps) { d.Self.StateDir = "/proc/nowhere" }, "/proc/nowhere"},
		"no name":              {func(_ *Config, d *Deps) { d.Self.Name = "" }, ""},
		"no subnet":            {func(_ *Config, d *Deps) { d.Subnet = netip.Prefix{} }, "subnet"},
	} {
		t.Run(name, func(t *testing.T) {
			deps := testDeps(t)
			config := testConfig(t, deps)
			c.spoil(&config, &deps)
			p, hv := testPlatform(t)
			h, err := assembleHost(t.Context(), config, deps, p)
			if err == nil {
				h.Close()
				t.Fatal("it was opened")
			}
			if h != nil || hv.closed != 1 || !strings.Contains(err.Error(), c.names) {
				t.Errorf("%v; host %v, hypervisor closed %d times", err, h, hv.closed)
			}
		})
	}
}

func TestCloseUndoesTheLastFirst(t *testing.T) {
	var h Host
	var undone []int
	for i := range 3 {
		h.onClose(func() { undone = append(undone, i) })
	}
	h.Close()
	if !slices.Equal(undone, []int{2, 1, 0}) {
		t.Errorf("undone in the order %v", undone)
	}
}
