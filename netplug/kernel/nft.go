package kernel

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/google/nftables"
	mdl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"virtmesh/netplug"
	"virtmesh/netplug/ruleset"
)

// nft loads rulesets with nft(8) and reads over netlink which one is loaded.
type nft struct{}

// markChain begins the name of a chain without rules. The name holds the fingerprint and the
// number of rules of the loaded ruleset, because the kernel has no better place to store
// them in the same transaction.
const markChain = "loaded_"

// loadTimeout bounds a run of nft(8), which takes a tenth of a second for the rules of 200
// taps.
const loadTimeout = 30 * time.Second

// loadRuleset replaces the tables of the ruleset in one transaction. nft(8) reads the
// printed form of the ruleset, so a printed ruleset is exactly what the kernel has.
func (n nft) loadRuleset(ctx context.Context, rs ruleset.Ruleset) error {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
	cmd.WaitDelay = time.Second
	cmd.Stdin = strings.NewReader(script(rs))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Start()
	if err == nil {
		// The kernel spares the agent when memory runs out; that is for the agent alone.
		_ = os.WriteFile("/proc/"+strconv.Itoa(cmd.Process.Pid)+"/oom_score_adj", []byte("0"), 0)
		err = cmd.Wait()
	}
	if err == nil {
		return nil
	}
	text, _, _ := strings.Cut(strings.TrimSpace(out.String()), "\n")
	if strings.Contains(text, "Operation not supported") {
		err = unix.EOPNOTSUPP
	}
	return fmt.Errorf("load packet filter: nft: %w: %s", err, text)
}

// script returns the input for nft(8). It adds each table, so that deleting the table
// succeeds even if it does not exist yet, deletes it, and makes it anew with the mark.
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

// loadedFingerprint returns the fingerprint of the ruleset in the kernel, or empty if there
// is none. It returns FilterChanged if a table, the mark or a rule was removed, or a rule
// was added.
func (n nft) loadedFingerprint() (string, error) {
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

// fingerprintOf returns the fingerprint in the marks of netplug's tables. Each table must
// have one mark, and all marks must agree with each other and with the number of rules.
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

// rulesIn counts the rules of netplug's table in a family. It does not use the nftables
// library, which lists rules only chain by chain: that would be one listing for every tap.
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
