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

	"golang.org/x/sys/unix"

	"virtmesh/netplug/ruleset"
)

// nft loads rulesets with nft(8) and reads over netlink which one is loaded.
type nft struct{}

// markChain begins the name of a chain without rules. The name holds the fingerprint and the
// number of rules of the loaded ruleset, because the kernel has no better place to store
// them in the same transaction.
const markChain = "loaded_"

// contentChain begins the name of a chain without rules in each table. The name holds the
// hash of what the kernel has in the tables, which is known only when they are loaded. A
// filter without it was not loaded to the end.
const contentChain = "content_"

// loadTimeout bounds a run of nft(8), which takes a tenth of a second for the rules of 200
// taps.
const loadTimeout = 30 * time.Second

// loadRuleset replaces the tables of the ruleset in one transaction, and then marks them
// with the hash of what the kernel made of them. nft(8) reads the printed form of the
// ruleset, so a printed ruleset is exactly what the kernel has.
func (n nft) loadRuleset(ctx context.Context, rs ruleset.Ruleset) error {
	if err := runScript(ctx, script(rs)); err != nil {
		return err
	}
	have, err := readTables()
	if err != nil {
		return fmt.Errorf("read the packet filter that was loaded: %w", err)
	}
	if have.tables == 0 {
		return nil
	}
	var b strings.Builder
	for _, t := range rs.Tables {
		if len(t.Chains) > 0 {
			fmt.Fprintf(&b, "add chain %s %s %s%s\n", t.Family, t.Name, contentChain, have.content)
		}
	}
	return runScript(ctx, b.String())
}

// runScript runs nft(8) with a script, which it carries out as one transaction.
func runScript(ctx context.Context, script string) error {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
	cmd.WaitDelay = time.Second
	cmd.Stdin = strings.NewReader(script)
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
// is none. It returns FilterChanged if anything in its tables was changed, added or removed.
func (n nft) loadedFingerprint() (string, error) {
	have, err := readTables()
	if err != nil || have.tables == 0 {
		return "", err
	}
	return have.fingerprint(), nil
}
