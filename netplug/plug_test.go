package netplug_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"virtmesh/netplug"
	"virtmesh/netplug/dhcp"
	"virtmesh/netplug/dns"
	"virtmesh/netplug/guestservices"
	"virtmesh/netplug/netplugtest"
)

// servers replaces the DHCP and DNS servers and records what they were started with.
type servers struct {
	log  []string
	fail error
	all  map[string]*server
	// made counts how often the bridges were made: the kernel gives a new one a new number.
	made int
}

func (s *servers) services() netplug.Services {
	return guestservices.NewServers(guestservices.ServersConfig{
		Starter: s, Logger: slog.New(slog.DiscardHandler), LinkIndex: func(string) int { return s.made },
	})
}

type server struct {
	s    *servers
	name string
	done chan struct{}
}

func (s *servers) start(name string, told any) (*server, error) {
	if s.fail != nil {
		return nil, s.fail
	}
	s.log = append(s.log, fmt.Sprintf("start %s %s", name, told))
	if s.all == nil {
		s.all = map[string]*server{}
	}
	s.all[name] = &server{s: s, name: name, done: make(chan struct{})}
	return s.all[name], nil
}

func (s *servers) StartDHCP(_ context.Context, b guestservices.Bridge, _ guestservices.Sockets) (guestservices.DHCPServer, error) {
	srv, err := s.start("dhcp "+b.Name, describePool(*b.DHCP))
	return dhcpServer{srv}, err
}

func (s *servers) StartDNS(_ context.Context, b guestservices.Bridge, z dns.Zone, _ guestservices.Sockets) (guestservices.DNSServer, error) {
	srv, err := s.start("dns "+b.Name, fmt.Sprintf("%s %s %v", b.Gateway, z.Domain, z.Upstreams))
	return dnsServer{srv}, err
}

func (s *server) Done() <-chan struct{} { return s.done }

func (s *server) Close() error {
	s.s.log = append(s.s.log, "close "+s.name)
	return nil
}

type dhcpServer struct{ *server }

func (dhcpServer) Socket() syscall.Conn { return nil }

func (d dhcpServer) Set(p dhcp.Pool) { d.s.log = append(d.s.log, "set "+d.name+" "+describePool(p)) }

type dnsServer struct{ *server }

func (dnsServer) Sockets() (udp, tcp syscall.Conn) { return nil, nil }

func (d dnsServer) Set(z dns.Zone) { d.s.log = append(d.s.log, "set "+d.name+" "+z.Domain) }

func describePool(p dhcp.Pool) string {
	s := p.Gateway.String()
	for _, r := range p.Reservations {
		s += fmt.Sprintf(" %s=%s", r.MAC, r.Address)
	}
	return s
}

func (s *servers) takeLog() string {
	out := strings.Join(s.log, "\n")
	s.log = nil
	return out
}

func newPlug(t *testing.T, k netplug.Kernel, s *servers, reg prometheus.Registerer) *netplug.Plug {
	t.Helper()
	cfg := netplug.DefaultConfig()
	cfg.Kernel, cfg.Services, cfg.Registerer = k, s.services(), reg
	cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	cfg.ResolvConf = filepath.Join(t.TempDir(), "none")
	p, err := netplug.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func podBridge() netplug.Bridge {
	return netplug.Bridge{
		Name: "vm-pod", Address: netip.MustParsePrefix("10.9.0.1/24"),
		NAT: true, DNS: true, DHCP: &netplug.DHCP{},
	}
}

// tapOf returns a tap of a VM; n makes its address.
func tapOf(bridge, vm string, n byte) netplug.Tap {
	return netplug.Tap{
		Name: "vm-" + vm, Namespace: "ns", VM: vm, Interface: "net0",
		Bridge: bridge, MAC: net.HardwareAddr{2, 0, 0, 0, 0, n},
	}
}

func TestFakeKernelSuite(t *testing.T) {
	netplugtest.TestKernel(t, netplugtest.NewFake(uplink("up0")), "up0")
	t.Run("WithoutVLANs", func(t *testing.T) {
		netplugtest.TestKernel(t, netplugtest.NewFake(uplink("up0")).WithoutVLANs(), "up0")
	})
}

func uplink(name string) netplug.Link {
	return netplug.Link{Name: name, Kind: netplug.KindDevice, MTU: 1500, Up: true}
}

func TestServersFollowTheWant(t *testing.T) {
	k, s := netplugtest.NewFake(), &servers{}
	p := newPlug(t, k, s, nil)
	w := netplug.Want{Bridges: []netplug.Bridge{podBridge()}, DNS: netplug.DNS{
		Domain: "x.example", Upstreams: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53")},
	}}
	step := func(change func(), want string) {
		t.Helper()
		change()
		if _, err := p.Set(t.Context(), w); err != nil {
			t.Fatal(err)
		}
		if got := s.takeLog(); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
	step(func() {}, "start dhcp vm-pod 10.9.0.1/24\nstart dns vm-pod 10.9.0.1/24 x.example [192.0.2.1:53]")
	step(func() {
		tap := tapOf("vm-pod", "a", 1)
		tap.Address = netip.MustParseAddr("10.9.0.9")
		w.Taps = []netplug.Tap{tap}
	}, "set dhcp vm-pod 10.9.0.1/24 02:00:00:00:00:01=10.9.0.9\nset dns vm-pod x.example")
	step(func() { close(s.all["dhcp vm-pod"].done) },
		"close dhcp vm-pod\nstart dhcp vm-pod 10.9.0.1/24 02:00:00:00:00:01=10.9.0.9\nset dns vm-pod x.example")
	step(func() { k.Change(func(w *netplug.World) { w.Links = nil }); s.made++ },
		"close dhcp vm-pod\nclose dns vm-pod\nstart dhcp vm-pod 10.9.0.1/24 02:00:00:00:00:01=10.9.0.9\nstart dns vm-pod 10.9.0.1/24 x.example [192.0.2.1:53]")
	step(func() { w.Bridges[0].DNS = false }, "close dns vm-pod\nset dhcp vm-pod 10.9.0.1/24 02:00:00:00:00:01=10.9.0.9")
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if got := s.takeLog(); got != "close dhcp vm-pod" {
		t.Errorf("Close does %q", got)
	}
	if _, err := p.Set(t.Context(), w); !errors.Is(err, netplug.ErrClosed) {
		t.Errorf("Set after Close: %v", err)
	}
}

func TestServerThatDoesNotStart(t *testing.T) {
	s := &servers{fail: errors.New("port in use")}
	p := newPlug(t, netplugtest.NewFake(), s, nil)
	w := netplug.Want{Bridges: []netplug.Bridge{podBridge()}}
	res, err := p.Set(t.Context(), w)
	if err == nil || res.Failed["dhcp vm-pod"] == nil || res.Failed["dns vm-pod"] == nil {
		t.Fatalf("failed are %v, error %v", res.Failed, err)
	}
	s.fail = nil
	if _, err := p.Set(t.Context(), w); err != nil {
		t.Errorf("the next Set: %v", err)
	}
}

// TestOneFailureAlone makes each change fail in turn. Changes that do not need it are still
// made, and the next Set makes the rest.
func TestOneFailureAlone(t *testing.T) {
	w := netplug.Want{
		Bridges: []netplug.Bridge{podBridge(), {Name: "br1", Uplink: "up0"}},
		Taps:    []netplug.Tap{tapOf("vm-pod", "a", 1), tapOf("br1", "b", 2)},
	}
	k := netplugtest.NewFake(uplink("up0"))
	if _, err := newPlug(t, k, &servers{}, nil).Set(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	whole := k.World().String()
	for _, op := range k.Done() {
		t.Run(strings.ReplaceAll(op.String(), "/", "_"), func(t *testing.T) {
			broken := errors.New("broken")
			k := netplugtest.NewFake(uplink("up0"))
			k.FailWhen(func(o netplug.Op) error {
				if o.String() == op.String() {
					return broken
				}
				return nil
			})
			p := newPlug(t, k, &servers{}, nil)
			res, err := p.Set(t.Context(), w)
			if !errors.Is(err, broken) {
				t.Fatalf("error is %v", err)
			}
			aBroken, bBroken := res.Tap("vm-a") != nil, res.Tap("vm-b") != nil
			_, isFilter := op.(netplug.LoadFilter)
			if aBroken && bBroken && !isFilter {
				t.Errorf("both taps fail: %v", err)
			}
			if isFilter && (!aBroken || !bBroken || strings.Contains(k.World().String(), "link vm-a")) {
				t.Errorf("taps without a filter: %v\n%s", err, k.World())
			}
			k.FailWhen(nil)
			if _, err := p.Set(t.Context(), w); err != nil {
				t.Fatal(err)
			}
			if got := sorted(k.World().String()); got != sorted(whole) {
				t.Errorf("after the next Set\n%s\nwant\n%s", got, whole)
			}
		})
	}
}

func sorted(lines string) string {
	return strings.Join(slices.Sorted(strings.SplitSeq(lines, "\n")), "\n")
}

func TestSetStopsWithItsContext(t *testing.T) {
	k := netplugtest.NewFake()
	p := newPlug(t, k, &servers{}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	k.FailWhen(func(netplug.Op) error { cancel(); return nil })
	if _, err := p.Set(ctx, netplug.Want{Bridges: []netplug.Bridge{podBridge()}}); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	if n := len(k.Done()); n != 1 {
		t.Errorf("%d changes after the first", n-1)
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	p := newPlug(t, netplugtest.NewFake(), &servers{}, reg)
	tap := tapOf("vm-pod", "a", 1)
	tap.Address = netip.MustParseAddr("10.9.0.9")
	w := netplug.Want{Bridges: []netplug.Bridge{podBridge(), {Name: "br1", Uplink: "none"}}, Taps: []netplug.Tap{tap}}
	if _, err := p.Set(t.Context(), w); err == nil {
		t.Fatal("a bridge without its uplink is no error")
	}
	err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP virtmesh_netplug_bridges Bridges wanted on this host.
# TYPE virtmesh_netplug_bridges gauge
virtmesh_netplug_bridges 2
# HELP virtmesh_netplug_dhcp_reservations Addresses that DHCP serves on this host.
# TYPE virtmesh_netplug_dhcp_reservations gauge
virtmesh_netplug_dhcp_reservations 1
# HELP virtmesh_netplug_failed_parts Parts of the network that the last change could not make as wanted.
# TYPE virtmesh_netplug_failed_parts gauge
virtmesh_netplug_failed_parts 1
# HELP virtmesh_netplug_taps Taps wanted on this host.
# TYPE virtmesh_netplug_taps gauge
virtmesh_netplug_taps 1
`), "virtmesh_netplug_bridges", "virtmesh_netplug_dhcp_reservations", "virtmesh_netplug_failed_parts", "virtmesh_netplug_taps")
	if err != nil {
		t.Error(err)
	}
	if n := testutil.CollectAndCount(reg, "virtmesh_netplug_set_duration_seconds"); n != 1 {
		t.Errorf("%d durations", n)
	}
}

// TestRepeatedSetsAreQuiet sets the same want over and over, as a caller does that repairs
// the network from time to time.
func TestRepeatedSetsAreQuiet(t *testing.T) {
	var log bytes.Buffer
	k := netplugtest.NewFake(netplug.Link{Name: "vm-a", Kind: netplug.KindTap, Alias: "virtmesh:tap:ns/a/net0", Carrier: true})
	cfg := netplug.DefaultConfig()
	cfg.Kernel, cfg.Services, cfg.ResolvConf = k, (&servers{}).services(), filepath.Join(t.TempDir(), "none")
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	p, err := netplug.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	w := netplug.Want{Bridges: []netplug.Bridge{podBridge()}}
	if _, err := p.Set(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"in use, so it is kept", "no upstream name servers"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the first Set does not say %q:\n%s", want, &log)
		}
	}
	log.Reset()
	if _, err := p.Set(t.Context(), w); err != nil || log.Len() > 0 {
		t.Errorf("the second Set says %q: %v", &log, err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	if _, err := netplug.New(netplug.DefaultConfig()); err == nil || !strings.Contains(err.Error(), "Kernel") {
		t.Errorf("a Config without a kernel: %v", err)
	}
}

// TestKernelWithoutGates has the filter alone, without marks, and says so once.
func TestKernelWithoutGates(t *testing.T) {
	k := netplugtest.NewFake(hand()...).WithoutGates()
	p := newPlug(t, k, &servers{}, nil)
	w := netplug.Want{Bridges: []netplug.Bridge{podBridge()}, Taps: []netplug.Tap{tapOf("vm-pod", "a", 1)}}
	res, err := p.Set(t.Context(), w)
	if !errors.Is(err, netplug.ErrUnsupported) || len(res.Failed) != 1 || res.Tap("vm-a") != nil {
		t.Errorf("the first Set: %v", err)
	}
	if res, err := p.Set(t.Context(), w); err != nil || len(res.Plan.Steps) != 1 || strings.Contains(loadedBy(res), "meta mark") {
		t.Errorf("the second Set does not take the marks away that no gate does: %v\n%s%s", err, res.Plan, loadedBy(res))
	}
	if res, err := p.Set(t.Context(), w); err != nil || len(res.Plan.Steps) != 0 {
		t.Errorf("the third Set: %v\n%s", err, res.Plan)
	}
}

// loadedBy returns the packet filter that a Set loaded, as nft(8) reads it.
func loadedBy(res netplug.Result) string {
	for _, s := range res.Plan.Steps {
		if load, ok := s.Op.(netplug.LoadFilter); ok {
			return load.Ruleset.String()
		}
	}
	return ""
}
