package kernel

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	mdl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"virtmesh/netplug"
	"virtmesh/netplug/ruleset"
)

// nft loads rulesets and tells which one is loaded. Each call opens a socket of its own.
type nft struct{}

// markChain begins the name of a chain without rules, which remembers in its name what
// was loaded: the kernel has no better place to note it within the transaction.
const markChain = "loaded_"

// socketBuffer holds the acknowledgements of a large ruleset, one for each message.
const socketBuffer = 8 << 20

func (nft) open() (*nftables.Conn, error) {
	return nftables.New(nftables.WithSockOptions(func(c *mdl.Conn) error {
		return errors.Join(c.SetReadBuffer(socketBuffer), c.SetWriteBuffer(socketBuffer))
	}))
}

// load replaces the tables of the ruleset as one transaction.
func (n nft) load(rs ruleset.Ruleset) error {
	conn, err := n.open()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	mark := fmt.Sprintf("%s%s_%d", markChain, rs.Fingerprint(), countRules(rs))
	for _, t := range rs.Tables {
		table := &nftables.Table{Name: t.Name, Family: family(t.Family)}
		// Adding first makes the removal succeed where there is no such table yet.
		conn.AddTable(table)
		conn.DelTable(table)
		if len(t.Chains) == 0 {
			continue
		}
		conn.AddTable(table)
		conn.AddChain(&nftables.Chain{Name: mark, Table: table})
		if err := addTable(conn, table, t); err != nil {
			return fmt.Errorf("table %s %s: %w", t.Family, t.Name, err)
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("load packet filter: %w", err)
	}
	return nil
}

func family(f ruleset.Family) nftables.TableFamily {
	if f == ruleset.Bridge {
		return nftables.TableFamilyBridge
	}
	return nftables.TableFamilyINet
}

// addTable adds chains, then the maps that name them, then the rules that use both.
func addTable(conn *nftables.Conn, table *nftables.Table, t ruleset.Table) error {
	chains := make(map[string]*nftables.Chain, len(t.Chains))
	for _, c := range t.Chains {
		chains[c.Name] = conn.AddChain(chain(table, c))
	}
	sets := make(map[string]*nftables.Set, len(t.Maps))
	for _, m := range t.Maps {
		set := &nftables.Set{
			Table: table, Name: m.Name, IsMap: true,
			KeyType: nftables.TypeIFName, DataType: nftables.TypeVerdict,
			// Only so that nft(8) prints the names.
			KeyByteOrder: binaryutil.NativeEndian,
		}
		elements := make([]nftables.SetElement, len(m.Entries))
		for i, e := range m.Entries {
			v, err := verdict(e.Verdict)
			if err != nil {
				return err
			}
			elements[i] = nftables.SetElement{Key: interfaceName(e.Interface), VerdictData: v}
		}
		if err := conn.AddSet(set, elements); err != nil {
			return fmt.Errorf("map %s: %w", m.Name, err)
		}
		sets[m.Name] = set
	}
	for _, c := range t.Chains {
		for _, r := range c.Rules {
			exprs, err := compile(t.Family, r, sets)
			if err != nil {
				return fmt.Errorf("chain %s: rule %q: %w", c.Name, r, err)
			}
			conn.AddRule(&nftables.Rule{Table: table, Chain: chains[c.Name], Exprs: exprs})
		}
	}
	return nil
}

func chain(table *nftables.Table, c ruleset.Chain) *nftables.Chain {
	out := &nftables.Chain{Name: c.Name, Table: table}
	if h := c.Hook; h != nil {
		policy := nftables.ChainPolicyAccept
		out.Type = nftables.ChainType(h.Type)
		out.Hooknum = nftables.ChainHookRef(hookNumber(h.Point))
		out.Priority = nftables.ChainPriorityRef(nftables.ChainPriority(h.Priority))
		out.Policy = &policy
	}
	return out
}

// hookNumber is the same in families inet and bridge.
func hookNumber(p ruleset.Point) nftables.ChainHook {
	switch p {
	case ruleset.Prerouting:
		return unix.NF_INET_PRE_ROUTING
	case ruleset.Input:
		return unix.NF_INET_LOCAL_IN
	case ruleset.Forward:
		return unix.NF_INET_FORWARD
	}
	return unix.NF_INET_POST_ROUTING
}

func countRules(rs ruleset.Ruleset) int {
	n := 0
	for _, t := range rs.Tables {
		n += t.RuleCount()
	}
	return n
}

// loaded returns the fingerprint of the ruleset in the kernel. One that is not whole any
// more, because a chain or a rule was added or removed, is FilterChanged.
func (n nft) loaded() (string, error) {
	conn, err := n.open()
	if err != nil {
		return "", fmt.Errorf("open nftables: %w", err)
	}
	tables, err := conn.ListTables()
	if err != nil {
		return "", fmt.Errorf("list tables: %w", err)
	}
	ours := 0
	for _, t := range tables {
		if t.Name == netplug.FilterTable && (t.Family == nftables.TableFamilyBridge || t.Family == nftables.TableFamilyINet) {
			ours++
		}
	}
	if ours == 0 {
		return "", nil
	}
	chains, err := conn.ListChains()
	if err != nil {
		return "", fmt.Errorf("list chains: %w", err)
	}
	rules := 0
	for _, f := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyBridge} {
		count, err := rulesIn(f)
		if err != nil {
			return "", fmt.Errorf("list rules: %w", err)
		}
		rules += count
	}
	return fingerprintOf(chains, ours, rules), nil
}

// fingerprintOf reads the marks of our tables, which must be there once in each and agree
// with one another and with the number of rules.
func fingerprintOf(chains []*nftables.Chain, tables, rules int) string {
	mark := ""
	for _, c := range chains {
		if c.Table.Name != netplug.FilterTable || !strings.HasPrefix(c.Name, markChain) {
			continue
		}
		if mark != "" && c.Name != mark {
			return netplug.FilterChanged
		}
		mark = c.Name
		tables--
	}
	fingerprint, count, ok := strings.Cut(strings.TrimPrefix(mark, markChain), "_")
	if !ok || tables != 0 || count != fmt.Sprint(rules) {
		return netplug.FilterChanged
	}
	return fingerprint
}

// rulesIn counts the rules of our table in a family. The library lists rules chain by
// chain only, which is one listing for every tap.
func rulesIn(f nftables.TableFamily) (int, error) {
	conn, err := mdl.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	attrs, err := mdl.MarshalAttributes([]mdl.Attribute{
		{Type: unix.NFTA_RULE_TABLE, Data: []byte(netplug.FilterTable + "\x00")},
	})
	if err != nil {
		return 0, err
	}
	replies, err := conn.Execute(mdl.Message{
		Header: mdl.Header{
			Type:  mdl.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE),
			Flags: mdl.Request | mdl.Dump,
		},
		Data: append([]byte{byte(f), unix.NFNETLINK_V0, 0, 0}, attrs...),
	})
	if err != nil {
		return 0, err
	}
	return len(replies), nil
}

// verdict compiles a verdict that ends or leaves a chain.
func verdict(v ruleset.Verdict) (*expr.Verdict, error) {
	switch v := v.(type) {
	case ruleset.Accept:
		return &expr.Verdict{Kind: expr.VerdictAccept}, nil
	case ruleset.Drop:
		return &expr.Verdict{Kind: expr.VerdictDrop}, nil
	case ruleset.Jump:
		return &expr.Verdict{Kind: expr.VerdictJump, Chain: v.Chain}, nil
	}
	return nil, fmt.Errorf("%s cannot be a verdict here", v)
}
