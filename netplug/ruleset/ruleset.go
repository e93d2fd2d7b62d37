// Package ruleset describes a packet filter as a value: tables, chains, rules.
//
// With it, the decision what to filter is a pure function whose result can be printed,
// compared and tested without a kernel. String prints the syntax that nft(8) reads. Package
// netplug builds these values and package netplug/kernel loads them.
//
// The package has only the matches and verdicts that netplug needs. It does not parse
// rulesets, and it does not talk to the kernel.
package ruleset

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// Family is the address family of a table.
type Family string

// The families that netplug uses.
const (
	Inet   Family = "inet"
	Bridge Family = "bridge"
)

// Ruleset is a whole wanted packet filter. Its tables are replaced in one transaction; a
// table without chains is removed.
type Ruleset struct {
	Tables []Table
}

// Table is a namespace of chains.
type Table struct {
	Family Family
	Name   string
	Maps   []VerdictMap
	Sets   []Set
	Chains []Chain
}

// VerdictMap is a named map from the name of an interface to a verdict. The cost of finding
// the chain for a packet does not depend on the number of interfaces.
type VerdictMap struct {
	Name    string
	Entries []MapEntry
}

// MapEntry is one interface of a VerdictMap.
type MapEntry struct {
	Interface string
	Verdict   Verdict
}

// Set is a named set of at most Size addresses, which rules fill. With a Timeout each stays
// for so long after it was seen last.
type Set struct {
	Name    string
	Of      SetType
	Size    int
	Timeout time.Duration
}

// SetType is what a set holds.
type SetType string

// The types of sets.
const (
	EtherAddrs SetType = "ether_addr"
	IPv4Addrs  SetType = "ipv4_addr"
)

// Chain is a list of rules that is evaluated from the top until a rule gives a verdict.
// Hook is nil for a chain that is only the target of jumps.
type Chain struct {
	Name  string
	Hook  *Hook
	Rules []Rule
}

// ChainType says what a base chain may do.
type ChainType string

// The chain types netplug uses.
const (
	Filter ChainType = "filter"
	NAT    ChainType = "nat"
)

// Hook places a base chain into the path of packets. The policy of the chain is always
// accept, so that packets which no rule matches pass.
type Hook struct {
	Type     ChainType
	Point    Point
	Priority int
}

// Point is a place in the path of packets.
type Point string

// The points netplug hooks into.
const (
	Prerouting  Point = "prerouting"
	Input       Point = "input"
	Forward     Point = "forward"
	Postrouting Point = "postrouting"
)

// Rule applies the verdict Do to packets for which all matches in If hold.
type Rule struct {
	If []Match
	Do Verdict
}

// Fingerprint returns a hash of the ruleset's content.
func (r Ruleset) Fingerprint() string {
	sum := sha256.Sum256([]byte(r.String()))
	return hex.EncodeToString(sum[:8])
}

// String prints the ruleset as nft(8) reads it.
func (r Ruleset) String() string {
	var b strings.Builder
	for _, t := range r.Tables {
		t.print(&b)
	}
	return b.String()
}

// RuleCount returns the number of rules in all chains of the table.
func (t Table) RuleCount() int {
	n := 0
	for _, c := range t.Chains {
		n += len(c.Rules)
	}
	return n
}

func (t Table) print(b *strings.Builder) {
	fmt.Fprintf(b, "table %s %s {\n", t.Family, t.Name)
	for _, m := range t.Maps {
		m.print(b)
	}
	for _, s := range t.Sets {
		s.print(b)
	}
	for _, c := range t.Chains {
		c.print(b)
	}
	b.WriteString("}\n")
}

func (s Set) print(b *strings.Builder) {
	fmt.Fprintf(b, "\tset %s {\n\t\ttype %s\n\t\tsize %d\n", s.Name, s.Of, s.Size)
	if s.Timeout == 0 {
		b.WriteString("\t\tflags dynamic\n\t}\n")
		return
	}
	fmt.Fprintf(b, "\t\tflags dynamic,timeout\n\t\ttimeout %ds\n\t}\n", int(s.Timeout.Seconds()))
}

func (m VerdictMap) print(b *strings.Builder) {
	fmt.Fprintf(b, "\tmap %s {\n\t\ttype ifname : verdict\n", m.Name)
	if len(m.Entries) > 0 {
		parts := make([]string, len(m.Entries))
		for i, e := range m.Entries {
			parts[i] = fmt.Sprintf("%q : %s", e.Interface, e.Verdict)
		}
		fmt.Fprintf(b, "\t\telements = { %s }\n", strings.Join(parts, ", "))
	}
	b.WriteString("\t}\n")
}

func (c Chain) print(b *strings.Builder) {
	fmt.Fprintf(b, "\tchain %s {\n", c.Name)
	if h := c.Hook; h != nil {
		fmt.Fprintf(b, "\t\ttype %s hook %s priority %d; policy accept;\n", h.Type, h.Point, h.Priority)
	}
	for _, r := range c.Rules {
		fmt.Fprintf(b, "\t\t%s\n", r)
	}
	b.WriteString("\t}\n")
}

// String prints the rule as nft(8) reads it.
func (r Rule) String() string {
	parts := make([]string, 0, len(r.If)+1)
	for _, m := range r.If {
		parts = append(parts, m.String())
	}
	return strings.Join(append(parts, r.Do.String()), " ")
}
