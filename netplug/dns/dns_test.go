package dns

import (
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// patience is how long a test waits for an answer that must come.
const patience = 20 * time.Second

func zone() Zone {
	return Zone{
		Domain: "vm.Example",
		Records: map[string][]netip.Addr{
			"a.ns": {netip.MustParseAddr("10.9.0.9"), netip.MustParseAddr("fd00::9")},
			"B.ns": {netip.MustParseAddr("10.9.0.10")},
			// A namespace may be called as a public top-level domain.
			"a.com": {netip.MustParseAddr("10.9.0.11")},
			"bare":  {netip.MustParseAddr("10.9.0.13")},
		},
	}
}

// bed is a server on loopback.
type bed struct {
	*Server
	t *testing.T
}

func start(t *testing.T, z Zone, change func(*Config)) *bed {
	t.Helper()
	metrics, err := NewMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	cfg.Address = netip.MustParseAddrPort("127.0.0.1:0")
	cfg.Clients = netip.MustParsePrefix("127.0.0.0/8")
	cfg.UpstreamTimeout = patience
	cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	cfg.Metrics = metrics
	if change != nil {
		change(&cfg)
	}
	s, err := Start(t.Context(), cfg, z)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &bed{s, t}
}

func (b *bed) ask(network, name string, kind uint16) *mdns.Msg {
	b.t.Helper()
	c := mdns.Client{Net: network, Timeout: patience}
	m, _, err := c.ExchangeContext(b.t.Context(), new(mdns.Msg).SetQuestion(name, kind), b.Addr().String())
	if err != nil {
		b.t.Fatalf("ask %s over %s: %v", name, network, err)
	}
	return m
}

// short prints the code and the data of an answer.
func short(m *mdns.Msg) string {
	out := []string{mdns.RcodeToString[m.Rcode]}
	for _, rr := range m.Answer {
		out = append(out, strings.ReplaceAll(strings.TrimPrefix(rr.String(), rr.Header().String()), "\t", " "))
	}
	return strings.Join(out, " ")
}

// TestNamespaceCalledAsTheDomain has a namespace with the name of the domain, so that short
// names end like full ones.
func TestNamespaceCalledAsTheDomain(t *testing.T) {
	b := start(t, Zone{Domain: "vm.internal", Records: map[string][]netip.Addr{
		"a.internal": {netip.MustParseAddr("10.9.0.12")}, "a.ns": {netip.MustParseAddr("10.9.0.9")},
	}}, nil)
	for name, want := range map[string]string{
		"a.internal.": "NOERROR 10.9.0.12", "a.internal.vm.internal.": "NOERROR 10.9.0.12", "a.ns.vm.internal.": "NOERROR 10.9.0.9",
		"vm.internal.": "NOERROR", "b.internal.": "NXDOMAIN",
	} {
		if got := short(b.ask("udp", name, mdns.TypeA)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestLocalNames(t *testing.T) {
	b := start(t, zone(), nil)
	for _, network := range []string{"udp", "tcp"} {
		for _, tc := range []struct {
			name string
			kind uint16
			want string
		}{
			{"a.ns.vm.example.", mdns.TypeA, "NOERROR 10.9.0.9"},
			{"A.NS.VM.example.", mdns.TypeAAAA, "NOERROR fd00::9"},
			{"a.ns.vm.example.", mdns.TypeANY, "NOERROR 10.9.0.9 fd00::9"},
			{"b.ns.vm.example.", mdns.TypeAAAA, "NOERROR"},
			{"b.ns.vm.example.", mdns.TypeMX, "NOERROR"},
			{"ns.vm.example.", mdns.TypeA, "NOERROR"},
			{"vm.example.", mdns.TypeA, "NOERROR"},
			{"c.ns.vm.example.", mdns.TypeA, "NXDOMAIN"},
			{"9.0.9.10.in-addr.arpa.", mdns.TypePTR, "NOERROR a.ns.vm.example."},
			{"a.ns.", mdns.TypeA, "NOERROR 10.9.0.9"},
			{"B.Ns.", mdns.TypeA, "NOERROR 10.9.0.10"},
			{"b.ns.", mdns.TypeAAAA, "NOERROR"},
			{"c.ns.", mdns.TypeA, "NXDOMAIN"},
			{"www.a.ns.", mdns.TypeA, "NXDOMAIN"},
			{"ns.", mdns.TypeA, "SERVFAIL"},
			{"a.other.", mdns.TypeA, "SERVFAIL"},
			{"a.com.", mdns.TypeA, "SERVFAIL"},
			{"a.com.vm.example.", mdns.TypeA, "NOERROR 10.9.0.11"},
			{"bare.", mdns.TypeA, "SERVFAIL"},
			{"example.", mdns.TypeA, "SERVFAIL"},
			{"xvm.example.", mdns.TypeA, "SERVFAIL"},
		} {
			if got := short(b.ask(network, tc.name, tc.kind)); got != tc.want {
				t.Errorf("%s %s over %s: %s, want %s", tc.name, mdns.TypeToString[tc.kind], network, got, tc.want)
			}
		}
	}
	b.Set(Zone{Domain: "vm.example", Records: map[string][]netip.Addr{"c.ns": {netip.MustParseAddr("10.9.0.11")}}})
	if got := short(b.ask("udp", "c.ns.vm.example.", mdns.TypeA)); got != "NOERROR 10.9.0.11" {
		t.Errorf("a new name: %s", got)
	}
	b.Set(Zone{})
	if got := short(b.ask("udp", "c.ns.vm.example.", mdns.TypeA)); got != "SERVFAIL" {
		t.Errorf("without a zone: %s", got)
	}
}

func TestRefused(t *testing.T) {
	b := start(t, zone(), nil)
	c := mdns.Client{Net: "udp", Timeout: patience}
	for want, spoil := range map[int]func(*mdns.Msg){
		mdns.RcodeNotImplemented: func(m *mdns.Msg) { m.Opcode = mdns.OpcodeUpdate },
		mdns.RcodeRefused:        func(m *mdns.Msg) { m.Question[0].Qclass = mdns.ClassCHAOS },
	} {
		m := new(mdns.Msg).SetQuestion("a.ns.vm.example.", mdns.TypeA)
		spoil(m)
		resp, _, err := c.Exchange(m, b.Addr().String())
		if err != nil || resp.Rcode != want {
			t.Errorf("got %v, %v, want %s", resp, err, mdns.RcodeToString[want])
		}
	}
	if got := short(b.ask("tcp", "vm.example.", mdns.TypeAXFR)); got != "REFUSED" {
		t.Errorf("a transfer: %s", got)
	}
}

func TestStrangersGetNoAnswer(t *testing.T) {
	b := start(t, zone(), func(c *Config) { c.Clients = netip.MustParsePrefix("10.9.0.0/24") })
	if _, ok := b.client(&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4000}); ok {
		t.Error("a client of another network is known")
	}
	if _, ok := b.client(&net.UDPAddr{IP: net.IPv4(10, 9, 0, 7), Port: 53}); ok {
		t.Error("a server is taken for a client")
	}
	if _, ok := b.client(&net.UDPAddr{IP: net.IPv4(10, 9, 0, 7), Port: 4000}); !ok {
		t.Error("a client is not known")
	}
}

// TestBounds fills the server with slow queries. Queries above the bound are refused at
// once, and other clients still get answers for local names.
func TestBounds(t *testing.T) {
	arrived, release := make(chan struct{}, 100), make(chan struct{})
	up := upstream(t, func(w mdns.ResponseWriter, req *mdns.Msg) {
		arrived <- struct{}{}
		<-release
		answerWith("x")(w, req)
	})
	z := zone()
	z.Upstreams = []netip.AddrPort{up}
	b := start(t, z, func(c *Config) { c.MaxQueries = 16 })
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { b.ask("udp", "example.org.", mdns.TypeTXT) })
		<-arrived
	}
	begin := time.Now()
	if got := short(b.ask("udp", "example.org.", mdns.TypeTXT)); got != "SERVFAIL" || time.Since(begin) > patience/2 {
		t.Errorf("a query above the client's share: %s after %s", got, time.Since(begin))
	}
	close(release)
	wg.Wait()
	if got := short(b.ask("udp", "a.ns.vm.example.", mdns.TypeA)); got != "NOERROR 10.9.0.9" {
		t.Errorf("afterwards: %s", got)
	}
}

func TestAdmission(t *testing.T) {
	a := newAdmission(16)
	one, two := netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("10.9.0.2")
	first, ok := a.enter(one)
	if !ok {
		t.Fatal("the first is turned away")
	}
	if _, ok := a.enter(one); !ok {
		t.Error("within its share a client is turned away")
	}
	if _, ok := a.enter(one); ok {
		t.Error("above its share a client enters")
	}
	if _, ok := a.enter(two); !ok {
		t.Error("another client is turned away")
	}
	first()
	first()
	if _, ok := a.enter(one); !ok {
		t.Error("a client that left cannot enter again")
	}
	if _, ok := a.enter(one); ok {
		t.Error("leaving twice counts twice")
	}
	for n := range 13 {
		if _, ok := a.enter(netip.AddrFrom4([4]byte{10, 9, 1, byte(n)})); !ok {
			t.Fatalf("number %d is turned away", n)
		}
	}
	if _, ok := a.enter(two); ok {
		t.Error("above all bounds a client enters")
	}
}

func TestCloseGivesUpQueries(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	up := upstream(t, func(mdns.ResponseWriter, *mdns.Msg) { close(arrived); <-release })
	t.Cleanup(func() { close(release) })
	b := start(t, Zone{Upstreams: []netip.AddrPort{up}}, nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c := mdns.Client{Net: "udp", Timeout: patience}
		_, _, _ = c.Exchange(new(mdns.Msg).SetQuestion("example.org.", mdns.TypeTXT), b.Addr().String())
	}()
	<-arrived
	begin := time.Now()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > patience/2 {
		t.Errorf("Close takes %s", took)
	}
	<-b.Done()
	<-done
}

func TestConfigIsChecked(t *testing.T) {
	if err := DefaultConfig().Validate(); err == nil {
		t.Error("a Config without an address is valid")
	}
	b := start(t, zone(), nil)
	cfg := b.cfg
	cfg.Address = b.Addr()
	if s, err := Start(t.Context(), cfg, zone()); err == nil {
		s.Close()
		t.Error("two servers on one address")
	}
	for _, spoil := range []func(*Config){
		func(c *Config) { c.MaxQueries = 0 }, func(c *Config) { c.UpstreamTimeout = 0 }, func(c *Config) { c.Clients = netip.Prefix{} },
		func(c *Config) { c.Logger = nil }, func(c *Config) { c.Metrics = nil },
	} {
		bad := b.cfg
		spoil(&bad)
		if bad.Validate() == nil {
			t.Errorf("valid: %+v", bad)
		}
	}
}

// FuzzLocal asks the table arbitrary queries, as guests may send them.
func FuzzLocal(f *testing.F) {
	for _, name := range []string{"a.ns.vm.example.", "9.0.9.10.in-addr.arpa.", "x."} {
		packet, err := new(mdns.Msg).SetQuestion(name, mdns.TypeANY).Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packet)
	}
	table := newTable(zone())
	f.Fuzz(func(t *testing.T, packet []byte) {
		req := new(mdns.Msg)
		if req.Unpack(packet) != nil || len(req.Question) != 1 {
			return
		}
		resp, ok := table.answerLocally(req)
		if !ok {
			return
		}
		if _, err := resp.Pack(); err != nil {
			t.Fatalf("the answer cannot be sent: %v", err)
		}
	})
}
