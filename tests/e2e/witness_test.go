//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Two hosts and a witness: one host loses its power, and the mesh goes on changing things,
// while the guest on the other host notices nothing. The witness takes no guest.
func TestTwoHostsAndAWitness(t *testing.T) {
	own := makeLab(t, "vm-e2w-")
	dir, inLab := own.dir, own.run
	must := func(args ...string) string { t.Helper(); return own.must(t, args...) }
	must("up", "--hosts", "2", "--witness")
	if list := must("exec", "host1", "--", "virtmesh", "node", "ls"); !strings.Contains(list, "witness") {
		t.Errorf("no host is a witness:\n%s", list)
	}
	eventually(t, 2*time.Minute, "three voters", func(ctx context.Context) error {
		out, err := inLab(ctx, "exec", "host1", "--", "virtmesh", "status", "-o", "json")
		if err != nil {
			return err
		}
		var status struct{ Members []struct{ Role string } }
		if err := json.Unmarshal([]byte(out), &status); err != nil {
			return err
		}
		voters := 0
		for _, m := range status.Members {
			if m.Role == "voter" || m.Role == "leader" {
				voters++
			}
		}
		if voters != 3 {
			return fmt.Errorf("%d voters: %s", voters, out)
		}
		return nil
	})
	image := must("image", "tiny")
	create := func(ctx context.Context, name string, more ...string) error {
		_, err := program(ctx, nil, append([]string{"--kubeconfig", filepath.Join(dir, "hosts", "host1", "kubeconfig"), "vm", "create", name, "--image", image, "--memory", "64Mi"}, more...)...)
		return err
	}
	if err := create(t.Context(), "here", "--wait", "2m"); err != nil {
		t.Fatal(err)
	}
	where := must("exec", "host1", "--", "virtmesh", "vm", "ls")
	other, host := "host2", "host1"
	if strings.Contains(where, "host2") {
		other, host = "host1", "host2"
	}
	if strings.Contains(where, "host3") {
		t.Fatalf("the witness runs a guest:\n%s", where)
	}
	guest := must("exec", host, "--", "pgrep", "-f", "-o", "[q]emu-system")
	must("kill", other)
	began := time.Now()
	eventually(t, time.Minute, "a change to be made", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		_, err := inLab(ctx, "exec", host, "--", "virtmesh", "token", "create", "--ttl", "1m")
		return err
	})
	t.Logf("a change was made %s after the power cut of %s", time.Since(began).Round(100*time.Millisecond), other)
	if now := must("exec", host, "--", "pgrep", "-f", "-o", "[q]emu-system"); now != guest {
		t.Errorf("the guest's process was %s and is %s", guest, now)
	}
}
