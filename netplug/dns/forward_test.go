package dns

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// upstream is a server that answers with one handler.
func upstream(t *testing.T, handle mdns.HandlerFunc) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait) // Runs after the shutdowns.
	up := make(chan struct{}, 2)
	for _, s := range []*mdns.Server{{PacketConn: pc}, {Listener: ln}} {
		s.Handler = handle
		s.NotifyStartedFunc = func() { up <- struct{}{} }
		wg.Go(func() { _ = s.ActivateAndServe() })
		<-up
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return netip.MustParseAddrPort(pc.LocalAddr().String())
}

func answerWith(text string) mdns.HandlerFunc {
	return func(w mdns.ResponseWriter, req *mdns.Msg) {
		m := new(mdns.Msg).SetReply(req)
		for i := range 40 {
			m.Answer = append(m.Answer, &mdns.TXT{Hdr: header(req.Question[0].Name, mdns.TypeTXT), Txt: []string{fmt.Sprint(text, i)}})
		}
		_ = w.WriteMsg(m)
	}
}

func failWith(code int) mdns.HandlerFunc {
	return func(w mdns.ResponseWriter, req *mdns.Msg) { _ = w.WriteMsg(new(mdns.Msg).SetRcode(req, code)) }
}

func TestForward(t *testing.T) {
	z := zone()
	z.Upstreams = []netip.AddrPort{upstream(t, failWith(mdns.RcodeServerFailure)), upstream(t, answerWith("x"))}
	b := start(t, z, nil)
	if m := b.ask("tcp", "example.org.", mdns.TypeTXT); m.Rcode != mdns.RcodeSuccess || len(m.Answer) != 40 {
		t.Errorf("over TCP: %s", short(m))
	}
	// What does not fit is marked, so that the client asks again over TCP.
	m := b.ask("udp", "example.org.", mdns.TypeTXT)
	m.Compress = true // As it was sent.
	if !m.Truncated || m.Len() > mdns.MinMsgSize {
		t.Errorf("over UDP: %d bytes, truncated: %v", m.Len(), m.Truncated)
	}
	b.Set(Zone{Upstreams: []netip.AddrPort{upstream(t, failWith(mdns.RcodeNameError)), upstream(t, answerWith("x"))}})
	if got := short(b.ask("udp", "none.example.org.", mdns.TypeTXT)); got != "NXDOMAIN" {
		t.Errorf("a name that does not exist: %s", got)
	}
	b.Set(Zone{Upstreams: []netip.AddrPort{upstream(t, failWith(mdns.RcodeServerFailure))}})
	if got := short(b.ask("udp", "example.org.", mdns.TypeTXT)); got != "SERVFAIL" {
		t.Errorf("an upstream that fails: %s", got)
	}
	for _, want := range []struct {
		source, rcode string
		n             float64
	}{{"upstream", "NOERROR", 2}, {"upstream", "NXDOMAIN", 1}, {"upstream", "SERVFAIL", 1}} {
		if got := testutil.ToFloat64(b.cfg.Metrics.queries.WithLabelValues(want.source, want.rcode)); got != want.n {
			t.Errorf("%s %s is counted %v times, want %v", want.source, want.rcode, got, want.n)
		}
	}
}

func TestSilentUpstream(t *testing.T) {
	t.Parallel()
	silent := upstream(t, func(mdns.ResponseWriter, *mdns.Msg) {})
	b := start(t, Zone{Upstreams: []netip.AddrPort{silent, upstream(t, answerWith("x"))}}, func(c *Config) { c.UpstreamTimeout = 4 * time.Second })
	if got := b.ask("tcp", "example.org.", mdns.TypeTXT); got.Rcode != mdns.RcodeSuccess {
		t.Errorf("past a silent upstream: %s", short(got))
	}
	b = start(t, Zone{Upstreams: []netip.AddrPort{silent}}, func(c *Config) { c.UpstreamTimeout = 50 * time.Millisecond })
	if got := short(b.ask("udp", "example.org.", mdns.TypeTXT)); got != "SERVFAIL" {
		t.Errorf("only a silent upstream: %s", got)
	}
}

func TestUpstreams(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	conf := "nameserver 10.9.0.1\nnameserver 192.0.2.1\nnameserver fd00::1\nnameserver nonsense\nsearch x\n"
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Upstreams(path, netip.MustParseAddr("10.9.0.1"))
	want := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("[fd00::1]:53")}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("upstreams are %v, %v", got, err)
	}
	if _, err := Upstreams(path + "none"); err == nil {
		t.Error("no file is no error")
	}
}
