package kernel

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/google/nftables"
	mdl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"virtmesh/netplug"
	"virtmesh/netplug/ruleset"
)

// nft loads rulesets with nft(8), and tells over netlink which one is loaded.
type nft struct{}

// markChain begins the name of a chain without rules, which remembers in its name what
// was loaded: the kernel has no better place to note it within the transaction.
const markChain = "loaded_"

// loadTimeout bounds nft(8), which needs a tenth of a second for the rules of 200 taps.
const loadTimeout = 30 * time.Second

// load replaces the tables of the ruleset as one transaction. nft(8) reads the ruleset as
// it is printed, so what one reads in a log is what the kernel has.
func (n nft) load(ctx context.Context, rs ruleset.Ruleset) error {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
	cmd.WaitDelay = time.Second
	cmd.Stdin = strings.NewReader(script(rs))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	text, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if strings.Contains(text, "Operation not supported") {
		err = unix.EOPNOTSUPP
	}
	return fmt.Errorf("load packet filter: nft: %w: %s", err, text)
}

// script is what nft(8) is given: each table is added, so that its removal succeeds where
// there is none yet, removed, and made anew with the mark.
func script(rs ruleset.Ruleset) string {
	mark := fmt.Sprintf("%s%s_%d", markChain, rs.Fingerprint(), countRules(rs))
	var b strings.Builder
	var made ruleset.Ruleset
	for _, t := range rs.Tables {
		fmt.Fprintf(&b, "table %[1]s %[2]s\ndelete table %[1]s %[2]s\n", t.Family, t.Name)
		if len(t.Chains) > 0 {
			t.Chains = append([]ruleset.Chain{{Name: mark}}, t.Chains...)
			made.Tables = append(made.Tables, t)
		}
	}
	return b.String() + made.String()
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
	conn, err := nftables.New()
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
