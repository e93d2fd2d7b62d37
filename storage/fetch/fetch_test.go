package fetch

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func TestGuard(t *testing.T) {
	g := Guard{
		Closed:  func() []netip.Prefix { return prefixes("10.20.0.0/16", "192.0.2.7/32", "2001:db8:1::/48") },
		Allowed: prefixes("10.20.0.53/32", "127.0.0.0/8"),
	}
	for address, want := range map[string]bool{
		"127.0.0.1": false, "::1": false, "0.0.0.0": false, "::": false, "::ffff:127.0.0.1": false, // allowed or not: it is this host
		"169.254.169.254": false, "fe80::1": false, "fe80::1%eth0": false, "fd00:ec2::254": false, "224.0.0.1": false, "ff02::1": false,
		"10.20.1.1": false, "::ffff:10.20.1.1": false, "64:ff9b::10.20.1.1": false, "64:ff9b::127.0.0.1": false, "192.0.2.7": false, "2001:db8:1::5": false,
		"10.20.0.53": true, "10.21.0.1": true, "192.0.2.8": true, "64:ff9b::192.0.2.8": true, "fd00::1": true, "2001:db8::1": true,
	} {
		err := g.Check(netip.MustParseAddr(address))
		if closed := new(ClosedError); (err == nil) != want || err != nil && !errors.As(err, &closed) {
			t.Errorf("%s: %v", address, err)
		}
	}
	list, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		if own := netip.MustParsePrefix(a.String()).Addr(); (Guard{Allowed: prefixes("0.0.0.0/0", "::/0")}).Check(own) == nil {
			t.Errorf("%s is an address of this host, and open", own)
		}
	}
}

// Addresses are judged when a connection is made, whatever the name was.
func TestTransportJudgesConnections(t *testing.T) {
	asked := 0
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
	defer srv.Close()
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	open := func(netip.Addr) error { return nil }
	for name, c := range map[string]struct {
		check Check
		want  int
	}{"guarded": {Guard{}.Check, 0}, "open": {open, 1}} {
		for _, host := range []string{"127.0.0.1", "localhost"} {
			client := http.Client{Transport: Transport(http.DefaultTransport.(*http.Transport), c.check)}
			resp, err := client.Get("http://" + net.JoinHostPort(host, port))
			if err == nil {
				resp.Body.Close()
			}
			if closed := new(ClosedError); asked != c.want || (c.want == 0) != errors.As(err, &closed) {
				t.Errorf("%s, %s: asked %d times, %v", name, host, asked, err)
			}
			asked = 0
		}
	}
}

// The administrator's proxy is reached wherever it is, and is not asked for addresses that
// are closed.
func TestProxy(t *testing.T) {
	asked := 0
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
	defer proxy.Close()
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(proxy.URL) }
	client := http.Client{Transport: Transport(base, Guard{}.Check)}
	for target, want := range map[string]int{"http://registry.example/v2/": 1, "http://169.254.169.254/latest": 0, "http://[::1]/": 0} {
		resp, err := client.Get(target)
		if err == nil {
			resp.Body.Close()
		}
		if asked != want || (err == nil) != (want == 1) {
			t.Errorf("%s: the proxy was asked %d times, %v", target, asked, err)
		}
		asked = 0
	}
}

func TestTold(t *testing.T) {
	for hostile, want := range map[string]string{
		"not found":                            "not found",
		"a\nb\x1b[31mc\u202ed\u2028e\x00f\xff": "a b[31mcd ef",
		`Get "https://user:hunter2@r.example/v2/?X-Amz-Signature=hunter2#hunter2": EOF`: `Get "https://r.example/v2/": EOF`,
		"GET https://r.example/v2/: 403":                                                "GET https://r.example/v2/: 403",
		"GET https://r.example/v2/?token=hunter2: denied":                               "GET https://r.example/v2/: denied",
		"see http://a.example/?b=hunter2, ftp://u:hunter2@b.example":                    "see http://a.example/, ftp://b.example",
		"parse https://u:hunter2%zz@r.example":                                          "parse https://…",
		"https://user:hun\x00ter2@r.example/":                                           "https://r.example/",
	} {
		err := errors.New(hostile)
		if got := Told(err); got.Error() != want || !errors.Is(got, err) {
			t.Errorf("%q is told as %q, want %q", hostile, got, want)
		}
	}
	if got := Told(errors.New(strings.Repeat("ä", 1<<20))).Error(); len(got) > maxTold || !strings.HasSuffix(got, "ä…") {
		t.Errorf("a long text has %d bytes: %.20s", len(got), got)
	}
	if Told(nil) != nil {
		t.Error("no error is told as one")
	}
}
