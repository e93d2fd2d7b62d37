// Package dns answers the DNS queries of guests.
//
// A Server answers for the names of one Zone and forwards queries for all other names to
// upstream servers. It listens on the gateway address of a bridge and answers only clients
// of that subnet. The number of queries in progress and the time for each are bounded. A
// query above the bound gets SERVFAIL at once, and so does a query for another name when
// there is no upstream.
//
// A record has a full name, NAME.NAMESPACE.DOMAIN, and a short name, NAME.NAMESPACE. The
// short name is for guests that do not take a search domain from DHCP, such as
// systemd-networkd in its default configuration. Queries for short names in a namespace
// that has records are answered by the server and never forwarded, so that nobody outside
// learns the names. A namespace with the name of a public top-level domain has no short
// names, because they would hide real names.
//
// The package does not cache, does not check signatures, and does no zone transfers.
package dns

import (
	"net/netip"
	"strings"

	mdns "github.com/miekg/dns"
	"golang.org/x/net/publicsuffix"
)

// recordTTL is the TTL of records in seconds. It is short, because machines come and go.
const recordTTL = 30

// Zone is what a server answers with.
type Zone struct {
	// Domain is the domain of the records, without a trailing dot. Without a domain, no
	// records are served.
	Domain string
	// Records holds addresses by name relative to Domain. A name may have several.
	Records map[string][]netip.Addr
	// Upstreams are asked for names outside Domain, one after the other.
	Upstreams []netip.AddrPort
}

// table is a zone prepared for answering.
type table struct {
	domain  string
	forward map[string][]netip.Addr
	reverse map[string]string
	parents map[string]bool
	// namespaces are the namespaces that have short names.
	namespaces map[string]bool
	upstreams  []string
}

func newTable(z Zone) *table {
	t := &table{
		forward: make(map[string][]netip.Addr, len(z.Records)),
		reverse: make(map[string]string, len(z.Records)),
		parents: map[string]bool{},

		namespaces: map[string]bool{},
	}
	for _, u := range z.Upstreams {
		t.upstreams = append(t.upstreams, u.String())
	}
	if z.Domain == "" {
		return t
	}
	t.domain = mdns.CanonicalName(z.Domain)
	t.parents[t.domain] = true
	for name, addrs := range z.Records {
		full := mdns.CanonicalName(name + "." + z.Domain)
		if ns := lastLabel(name); ns != "" && !isPublicDomain(ns) {
			t.namespaces[mdns.CanonicalName(ns)] = true
		}
		t.forward[full] = append(t.forward[full], addrs...)
		for _, a := range addrs {
			if ptr, err := mdns.ReverseAddr(a.String()); err == nil {
				t.reverse[ptr] = full
			}
		}
		for up := parent(full); up != t.domain && up != ""; up = parent(up) {
			t.parents[up] = true
		}
	}
	return t
}

// lastLabel returns the last label of a record's name, which is its namespace; empty if the
// name has only one label.
func lastLabel(name string) string {
	i := strings.LastIndexByte(name, '.')
	if i < 0 {
		return ""
	}
	return name[i+1:]
}

// isPublicDomain reports whether the label is a top-level domain of the Internet.
func isPublicDomain(label string) bool {
	_, listed := publicsuffix.PublicSuffix(strings.ToLower(label))
	return listed
}

// fullName returns the full name for a short name in a namespace that has records. It
// returns any other name unchanged.
func (t *table) fullName(name string) string {
	labels := mdns.SplitDomainName(name)
	if mdns.IsSubDomain(t.domain, name) || len(labels) < 2 || !t.namespaces[labels[len(labels)-1]+"."] {
		return name
	}
	return name + t.domain
}

// parent returns the name one label up; empty at the root.
func parent(name string) string {
	_, up, ok := strings.Cut(name, ".")
	if !ok {
		return ""
	}
	return up
}

// answerLocally answers a query from the table. ok is false if the name does not belong to
// the zone.
func (t *table) answerLocally(req *mdns.Msg) (resp *mdns.Msg, ok bool) {
	q := req.Question[0]
	name := mdns.CanonicalName(q.Name)
	resp = new(mdns.Msg)
	resp.SetReply(req)
	resp.Authoritative = true
	resp.RecursionAvailable = true
	if full, found := t.reverse[name]; found {
		if q.Qtype == mdns.TypePTR || q.Qtype == mdns.TypeANY {
			resp.Answer = append(resp.Answer, &mdns.PTR{Hdr: header(q.Name, mdns.TypePTR), Ptr: full})
		}
		return resp, true
	}
	if t.domain == "" {
		return nil, false
	}
	if name = t.fullName(name); !mdns.IsSubDomain(t.domain, name) {
		return nil, false
	}
	addrs, found := t.forward[name]
	if !found && !t.parents[name] {
		resp.Rcode = mdns.RcodeNameError
	}
	for _, a := range addrs {
		if rr := addressRecord(q, a); rr != nil {
			resp.Answer = append(resp.Answer, rr)
		}
	}
	return resp, true
}

// addressRecord returns the record for an address, or nil if the query asks for another
// type.
func addressRecord(q mdns.Question, a netip.Addr) mdns.RR {
	any := q.Qtype == mdns.TypeANY
	switch {
	case a.Is4() && (any || q.Qtype == mdns.TypeA):
		return &mdns.A{Hdr: header(q.Name, mdns.TypeA), A: a.AsSlice()}
	case a.Is6() && (any || q.Qtype == mdns.TypeAAAA):
		return &mdns.AAAA{Hdr: header(q.Name, mdns.TypeAAAA), AAAA: a.AsSlice()}
	}
	return nil
}

func header(name string, rrtype uint16) mdns.RR_Header {
	return mdns.RR_Header{Name: name, Rrtype: rrtype, Class: mdns.ClassINET, Ttl: recordTTL}
}

// Upstreams reads the name servers of a resolv.conf. It leaves out the addresses in own,
// because a server must not forward queries to itself.
func Upstreams(path string, own ...netip.Addr) ([]netip.AddrPort, error) {
	conf, err := mdns.ClientConfigFromFile(path)
	if err != nil {
		return nil, err
	}
	var out []netip.AddrPort
next:
	for _, s := range conf.Servers {
		a, err := netip.ParseAddr(s)
		if err != nil {
			continue
		}
		for _, o := range own {
			if a == o {
				continue next
			}
		}
		out = append(out, netip.AddrPortFrom(a, 53))
	}
	return out, nil
}
