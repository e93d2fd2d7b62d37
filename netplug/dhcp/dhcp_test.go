package dhcp

import (
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

var mac = net.HardwareAddr{2, 0, 0, 0, 0, 1}

func pool() Pool {
	return Pool{
		Gateway: netip.MustParsePrefix("10.9.0.1/20"), LeaseTime: 8 * time.Minute, MTU: 1400,
		DNS: []netip.Addr{netip.MustParseAddr("10.9.0.1")}, Domain: "vm.example", Search: []string{"ns.vm.example"},
		Reservations: []Reservation{{
			MAC: mac, Address: netip.MustParseAddr("10.9.0.9"), Hostname: "a", Search: []string{"own.vm.example"},
			Options: Options{
				BootFile: "pxe.0", TFTPServer: "10.9.0.3",
				NTPServers: []netip.Addr{netip.MustParseAddr("10.9.0.4")},
				Private:    map[uint8]string{230: "x"},
			},
		}},
	}
}

func request(t testing.TB, kind dhcpv4.MessageType, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(mac), dhcpv4.WithMessageType(kind)}, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func asking(addr string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(addr)))
}

func from(server string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.ParseIP(server)))
}

func TestReply(t *testing.T) {
	for _, tc := range []struct {
		name    string
		req     *dhcpv4.DHCPv4
		outcome Outcome
		kind    dhcpv4.MessageType // of the answer; 0 for none
		yours   string
	}{
		{"discover", request(t, dhcpv4.MessageTypeDiscover), Offered, dhcpv4.MessageTypeOffer, "10.9.0.9"},
		{"take the offer", request(t, dhcpv4.MessageTypeRequest, from("10.9.0.1"), asking("10.9.0.9")), Acked, dhcpv4.MessageTypeAck, "10.9.0.9"},
		{"take another's offer", request(t, dhcpv4.MessageTypeRequest, from("10.9.0.2"), asking("10.9.0.50")), Ignored, 0, ""},
		{"come back", request(t, dhcpv4.MessageTypeRequest, asking("10.9.0.9")), Acked, dhcpv4.MessageTypeAck, "10.9.0.9"},
		{"come back with an old address", request(t, dhcpv4.MessageTypeRequest, asking("10.8.0.9")), Nacked, dhcpv4.MessageTypeNak, "0.0.0.0"},
		{"renew", request(t, dhcpv4.MessageTypeRequest, dhcpv4.WithClientIP(net.IP{10, 9, 0, 9})), Acked, dhcpv4.MessageTypeAck, "10.9.0.9"},
		{"renew an old address", request(t, dhcpv4.MessageTypeRequest, dhcpv4.WithClientIP(net.IP{10, 9, 0, 8})), Nacked, dhcpv4.MessageTypeNak, "0.0.0.0"},
		{"ask for nothing", request(t, dhcpv4.MessageTypeRequest), Nacked, dhcpv4.MessageTypeNak, "0.0.0.0"},
		{"inform", request(t, dhcpv4.MessageTypeInform, dhcpv4.WithClientIP(net.IP{10, 9, 0, 77})), Acked, dhcpv4.MessageTypeAck, "0.0.0.0"},
		{"decline", request(t, dhcpv4.MessageTypeDecline), Declined, 0, ""},
		{"release", request(t, dhcpv4.MessageTypeRelease), Released, 0, ""},
		{"another card", request(t, dhcpv4.MessageTypeDiscover, dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, 9})), Unknown, 0, ""},
		{"through a relay", request(t, dhcpv4.MessageTypeDiscover, dhcpv4.WithGatewayIP(net.IP{192, 0, 2, 1})), Ignored, 0, ""},
		{"an answer", request(t, dhcpv4.MessageTypeOffer, func(m *dhcpv4.DHCPv4) { m.OpCode = dhcpv4.OpcodeBootReply }), Ignored, 0, ""},
		{"no kind", request(t, dhcpv4.MessageTypeNone), Ignored, 0, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			resp, outcome, err := pool().Reply(tc.req)
			if err != nil {
				t.Fatal(err)
			}
			if outcome != tc.outcome || (resp == nil) != (tc.kind == 0) {
				t.Fatalf("outcome is %s, answer %v", outcome, resp)
			}
			if resp == nil {
				return
			}
			if resp.MessageType() != tc.kind || !resp.YourIPAddr.Equal(net.ParseIP(tc.yours)) || resp.TransactionID != tc.req.TransactionID {
				t.Errorf("answer is %s", resp.Summary())
			}
			if got := resp.ServerIdentifier(); !got.Equal(net.IP{10, 9, 0, 1}) {
				t.Errorf("server is %s", got)
			}
			if lease := resp.IPAddressLeaseTime(0); (lease > 0) != (resp.YourIPAddr.To4()[0] != 0) {
				t.Errorf("lease of %s for %s", lease, resp.YourIPAddr)
			}
		})
	}
}

func TestOptions(t *testing.T) {
	resp, _, err := pool().Reply(request(t, dhcpv4.MessageTypeDiscover))
	if err != nil {
		t.Fatal(err)
	}
	// As a client reads it.
	if resp, err = dhcpv4.FromBytes(resp.ToBytes()); err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string][2]string{
		"subnet mask": {net.IP(resp.SubnetMask()).String(), "255.255.240.0"},
		"router":      {resp.Router()[0].String(), "10.9.0.1"},
		"dns":         {resp.DNS()[0].String(), "10.9.0.1"},
		"domain":      {resp.DomainName(), "vm.example"},
		"search":      {strings.Join(resp.DomainSearch().Labels, " "), "own.vm.example ns.vm.example"},
		"hostname":    {resp.HostName(), "a"},
		"lease":       {resp.IPAddressLeaseTime(0).String(), "8m0s"},
		"renewal":     {resp.IPAddressRenewalTime(0).String(), "4m0s"},
		"rebinding":   {resp.IPAddressRebindingTime(0).String(), "7m0s"},
		"boot file":   {resp.BootFileNameOption(), "pxe.0"},
		"boot field":  {resp.BootFileName, "pxe.0"},
		"tftp":        {resp.TFTPServerName(), "10.9.0.3"},
		"next server": {resp.ServerIPAddr.String(), "10.9.0.3"},
		"ntp":         {resp.NTPServers()[0].String(), "10.9.0.4"},
		"mtu":         {string(resp.GetOneOption(dhcpv4.OptionInterfaceMTU)), "\x05\x78"},
		"private":     {string(resp.GetOneOption(dhcpv4.GenericOptionCode(230))), "x"},
	} {
		if got[0] != got[1] {
			t.Errorf("%s is %q, want %q", name, got[0], got[1])
		}
	}
}

// server is a server on loopback with a client's socket. Answers go to the port of that
// client, as they would go to a client without an address.
type server struct {
	*Server
	t      *testing.T
	client *net.UDPConn
	reg    *prometheus.Registry
}

// redirect sends what is for DHCP clients to the test's client.
type redirect struct {
	net.PacketConn
	to   net.Addr
	sent chan net.Addr
}

func (r redirect) WriteTo(b []byte, addr net.Addr) (int, error) {
	r.sent <- addr
	return r.PacketConn.WriteTo(b, r.to)
}

func startServer(t *testing.T) (*server, chan net.Addr) {
	t.Helper()
	client, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	s := &server{t: t, client: client, reg: prometheus.NewRegistry()}
	metrics, err := NewMetrics(s.reg)
	if err != nil {
		t.Fatal(err)
	}
	sent := make(chan net.Addr, 10)
	s.Server, err = Start(Config{
		Interface: "lo", Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Metrics: metrics,
		Listen: func(string) (net.PacketConn, error) {
			pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
			return redirect{pc, client.LocalAddr(), sent}, err
		},
	}, pool())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, sent
}

func (s *server) send(packet []byte) {
	s.t.Helper()
	if _, err := s.client.WriteTo(packet, s.conn.LocalAddr()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) receive() *dhcpv4.DHCPv4 {
	s.t.Helper()
	buf := make([]byte, maxMessage)
	if err := s.client.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	n, err := s.client.Read(buf)
	if err != nil {
		s.t.Fatal(err)
	}
	m, err := dhcpv4.FromBytes(buf[:n])
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

func TestServer(t *testing.T) {
	s, sent := startServer(t)
	s.send([]byte("not DHCP"))
	s.send(request(t, dhcpv4.MessageTypeDiscover, dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, 9})).ToBytes())
	s.send(request(t, dhcpv4.MessageTypeDiscover).ToBytes())
	if m := s.receive(); m.MessageType() != dhcpv4.MessageTypeOffer {
		t.Errorf("answer is %s", m.Summary())
	}
	if got := (<-sent).String(); got != "255.255.255.255:68" {
		t.Errorf("an offer goes to %s", got)
	}
	p := pool()
	p.Reservations[0].Address = netip.MustParseAddr("10.9.0.10")
	s.Set(p)
	s.send(request(t, dhcpv4.MessageTypeRequest, dhcpv4.WithClientIP(net.IP{10, 9, 0, 9})).ToBytes())
	if m := s.receive(); m.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("answer is %s", m.Summary())
	}
	if got := (<-sent).String(); got != "255.255.255.255:68" {
		t.Errorf("a refusal goes to %s", got)
	}
	for client, want := range map[string]string{"10.9.0.10": "10.9.0.10:68", "192.0.2.1": "255.255.255.255:68"} {
		s.send(request(t, dhcpv4.MessageTypeInform, dhcpv4.WithClientIP(net.ParseIP(client))).ToBytes())
		s.receive()
		if got := (<-sent).String(); got != want {
			t.Errorf("an answer to %s goes to %s, want %s", client, got, want)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for outcome, want := range map[Outcome]float64{Malformed: 1, Unknown: 1, Offered: 1, Nacked: 1, Acked: 2} {
		if got := testutil.ToFloat64(s.cfg.Metrics.requests.WithLabelValues(string(outcome))); got != want {
			t.Errorf("%s is counted %v times, want %v", outcome, got, want)
		}
	}
}

func TestServerEndsWithItsSocket(t *testing.T) {
	s, _ := startServer(t)
	select {
	case <-s.Done():
		t.Fatal("the server has ended")
	default:
	}
	s.conn.Close()
	<-s.Done()
}

func TestStartIsChecked(t *testing.T) {
	m, err := NewMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []Config{
		{}, {Interface: "lo"}, {Interface: "lo", Logger: slog.Default()},
		{Interface: "there-is-none", Logger: slog.Default(), Metrics: m},
	} {
		if s, err := Start(cfg, pool()); err == nil {
			s.Close()
			t.Errorf("starts with %+v", cfg)
		}
	}
}

// FuzzReply passes arbitrary messages, as guests may send them, to Pool.Reply.
func FuzzReply(f *testing.F) {
	f.Add(request(f, dhcpv4.MessageTypeDiscover).ToBytes())
	f.Add(request(f, dhcpv4.MessageTypeRequest, from("10.9.0.1"), asking("10.9.0.9")).ToBytes())
	f.Add(request(f, dhcpv4.MessageTypeInform, dhcpv4.WithClientIP(net.IP{1, 2, 3, 4})).ToBytes())
	f.Fuzz(func(t *testing.T, packet []byte) {
		req, err := dhcpv4.FromBytes(packet)
		if err != nil {
			return
		}
		resp, _, err := pool().Reply(req)
		if err != nil || resp == nil {
			return
		}
		if string(req.ClientHWAddr) != string(mac) {
			t.Fatalf("an answer for %s", req.ClientHWAddr)
		}
		if got := resp.YourIPAddr; !got.IsUnspecified() && !got.Equal(net.IP{10, 9, 0, 9}) {
			t.Fatalf("gives out %s", got)
		}
		if _, err := dhcpv4.FromBytes(resp.ToBytes()); err != nil {
			t.Fatalf("the answer cannot be read: %v", err)
		}
		to := replyTo(pool().Gateway, req, resp)
		if !to.IP.Equal(net.IPv4bcast) && !pool().Gateway.Contains(netip.AddrFrom4([4]byte(to.IP.To4()))) {
			t.Fatalf("the answer goes to %s", to)
		}
	})
}
