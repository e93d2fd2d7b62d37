package kernel

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"

	"github.com/google/nftables"
	mdl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"virtmesh/netplug"
)

// families are the families of netplug's tables.
var families = []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyBridge}

// loaded is what the kernel has in netplug's tables.
type loaded struct {
	tables int
	rules  int
	// marks and contents are what the names of the marking chains say.
	marks, contents []string
	// content is a hash of the base chains with their hooks, of all rules, and of the
	// elements of all sets and maps that rules do not fill themselves.
	content string
}

// fingerprint returns the fingerprint that the tables are marked with, or FilterChanged if
// they are not as they were when they were marked.
func (l loaded) fingerprint() string {
	if len(slices.Compact(l.marks)) != 1 || len(slices.Compact(l.contents)) != 1 ||
		len(l.marks) != l.tables || len(l.contents) != l.tables {
		return netplug.FilterChanged
	}
	fingerprint, count, ok := strings.Cut(l.marks[0], "_")
	if !ok || count != fmt.Sprint(l.rules) || l.contents[0] != l.content {
		return netplug.FilterChanged
	}
	return fingerprint
}

// readTables reads netplug's tables.
func readTables() (loaded, error) {
	var have loaded
	conn, err := nftables.New()
	if err != nil {
		return have, fmt.Errorf("open nftables: %w", err)
	}
	tables, err := conn.ListTables()
	if err != nil {
		return have, fmt.Errorf("list tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == netplug.FilterTable && slices.Contains(families, t.Family) {
			have.tables++
		}
	}
	if have.tables == 0 {
		return have, nil
	}
	sum := sha256.New()
	chains, err := conn.ListChains()
	if err != nil {
		return have, fmt.Errorf("list chains: %w", err)
	}
	have.readChains(sum, chains)
	raw, err := mdl.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return have, fmt.Errorf("open nftables: %w", err)
	}
	defer raw.Close()
	for _, family := range families {
		rules, err := readRules(raw, sum, family)
		if err != nil {
			return have, fmt.Errorf("list rules: %w", err)
		}
		have.rules += rules
		if err := readSets(raw, sum, family); err != nil {
			return have, fmt.Errorf("list sets: %w", err)
		}
	}
	have.content = hex.EncodeToString(sum.Sum(nil)[:8])
	return have, nil
}

// readChains adds the chains to the hash, and takes the marks from their names.
func (l *loaded) readChains(sum hash.Hash, chains []*nftables.Chain) {
	for _, c := range chains {
		if c.Table.Name != netplug.FilterTable || !slices.Contains(families, c.Table.Family) {
			continue
		}
		if mark, ok := strings.CutPrefix(c.Name, markChain); ok {
			l.marks = append(l.marks, mark)
			continue
		}
		if content, ok := strings.CutPrefix(c.Name, contentChain); ok {
			l.contents = append(l.contents, content)
			continue
		}
		fmt.Fprintf(sum, "chain %d %s %s\n", c.Table.Family, c.Name, c.Type)
		if c.Hooknum != nil && c.Priority != nil {
			fmt.Fprintf(sum, "hook %d %d\n", *c.Hooknum, *c.Priority)
		}
		if c.Policy != nil {
			fmt.Fprintf(sum, "policy %d\n", *c.Policy)
		}
	}
}

// dump lists objects of netplug's table in a family. It does not use the nftables library,
// which lists rules only chain by chain: that would be one listing for every tap.
func dump(conn *mdl.Conn, message int, family nftables.TableFamily, attrs ...mdl.Attribute) ([][]mdl.Attribute, error) {
	// The name of the table is attribute 1 of all kinds of objects.
	data, err := mdl.MarshalAttributes(append([]mdl.Attribute{{Type: unix.NFTA_RULE_TABLE, Data: zeroTerminated(netplug.FilterTable)}}, attrs...))
	if err != nil {
		return nil, err
	}
	replies, err := conn.Execute(mdl.Message{
		Header: mdl.Header{
			Type:  mdl.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | message),
			Flags: mdl.Request | mdl.Dump,
		},
		Data: append([]byte{byte(family), unix.NFNETLINK_V0, 0, 0}, data...),
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil // the table, or the set, is gone
	}
	if err != nil {
		return nil, err
	}
	objects := make([][]mdl.Attribute, 0, len(replies))
	for _, r := range replies {
		if len(r.Data) < nfgenLen {
			continue
		}
		attrs, err := mdl.UnmarshalAttributes(r.Data[nfgenLen:])
		if err != nil {
			return nil, err
		}
		objects = append(objects, attrs)
	}
	return objects, nil
}

// nfgenLen is the length of the header that precedes the attributes of a message.
const nfgenLen = 4

func zeroTerminated(s string) []byte { return append([]byte(s), 0) }

// attribute returns the value of an attribute; nil if there is none.
func attribute(attrs []mdl.Attribute, kind uint16) []byte {
	for _, a := range attrs {
		if a.Type&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER) == kind {
			return a.Data
		}
	}
	return nil
}

// readRules adds the rules of a table to the hash, each with its chain, and returns how
// many there are. Their handles do not count, since they differ from load to load.
func readRules(conn *mdl.Conn, sum hash.Hash, family nftables.TableFamily) (int, error) {
	rules, err := dump(conn, unix.NFT_MSG_GETRULE, family)
	for _, attrs := range rules {
		fmt.Fprintf(sum, "rule %d %q %x\n", family, attribute(attrs, unix.NFTA_RULE_CHAIN), attribute(attrs, unix.NFTA_RULE_EXPRESSIONS))
	}
	return len(rules), err
}

// readSets adds the sets and maps of a table to the hash. The elements of those that rules
// fill come and go with the traffic, so they do not count.
func readSets(conn *mdl.Conn, sum hash.Hash, family nftables.TableFamily) error {
	sets, err := dump(conn, unix.NFT_MSG_GETSET, family)
	if err != nil {
		return err
	}
	for _, attrs := range sets {
		name, flags := attribute(attrs, unix.NFTA_SET_NAME), attribute(attrs, unix.NFTA_SET_FLAGS)
		fmt.Fprintf(sum, "set %d %q %x\n", family, name, flags)
		if len(flags) == 4 && binary.BigEndian.Uint32(flags)&unix.NFT_SET_EVAL != 0 {
			continue
		}
		parts, err := dump(conn, unix.NFT_MSG_GETSETELEM, family, mdl.Attribute{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: name})
		if err != nil {
			return err
		}
		elements, err := elementsOf(parts)
		if err != nil {
			return err
		}
		fmt.Fprintf(sum, "elements %s\n", strings.Join(elements, " "))
	}
	return nil
}

// elementsOf returns the elements in the parts of a listing, sorted: the kernel has them in
// any order.
func elementsOf(parts [][]mdl.Attribute) ([]string, error) {
	var elements []string
	for _, attrs := range parts {
		list, err := mdl.UnmarshalAttributes(attribute(attrs, unix.NFTA_SET_ELEM_LIST_ELEMENTS))
		if err != nil {
			return nil, err
		}
		for _, element := range list {
			elements = append(elements, hex.EncodeToString(element.Data))
		}
	}
	slices.Sort(elements)
	return elements, nil
}
