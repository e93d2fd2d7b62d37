//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"virtmesh/agent/port/admin"
)

const ownStopped = "/etc/virtmesh/stopped.yaml"

// stopAgent stops the agent of a host of the lab and keeps it stopped.
func (l ownLab) stopAgent(t *testing.T, host string) {
	t.Helper()
	l.must(t, "exec", host, "--", "sh", "-c", killAgentScript(ownStopped))
}

// on runs a command in a host of the lab.
func (l ownLab) on(ctx context.Context, host string, argv ...string) (string, error) {
	return l.run(ctx, append([]string{"exec", host, "--"}, argv...)...)
}

// ca is what a host says of the mesh's CA.
func (l ownLab) ca(ctx context.Context, host string) (ca admin.CAStatus, err error) {
	out, err := l.on(ctx, host, "virtmesh", "ca", "show", "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &ca)
	}
	return ca, err
}

// status is what a host says of the mesh; it may have warnings.
func (l ownLab) status(ctx context.Context, host string) (status admin.Status, err error) {
	out, runErr := l.on(ctx, host, "virtmesh", "status", "-o", "json")
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		return status, errors.Join(err, runErr)
	}
	return status, nil
}

// waitOnlyVoter waits until just one host votes, and no other may.
func (l ownLab) waitOnlyVoter(t *testing.T, host string) {
	t.Helper()
	eventually(t, 2*time.Minute, host+" to be the only voter", func(ctx context.Context) error {
		status, err := l.status(ctx, host)
		if err != nil {
			return err
		}
		for _, m := range status.Members {
			votes := m.Role == "leader" || m.Role == "voter"
			if votes != (m.Name == host) || m.MayNotVote != (m.Name != host) {
				return fmt.Errorf("%s is %s, may not vote: %v", m.Name, m.Role, m.MayNotVote)
			}
		}
		return nil
	})
}

// A mesh of which one host may vote replaces its CA while another host is off. That host gets
// its certificate of the new CA when it comes back; kubeconfigs of before work, and so do new
// ones. When the voter is lost, a host that never had the keys goes on with the bundle that was
// made before the replacement.
func TestTheCAIsReplacedAndTheMeshRecovered(t *testing.T) {
	const voter, heir, off = "host1", "host2", "host3"
	l := makeLab(t, "vm-e2c-")
	l.must(t, "up", "--hosts", "3")
	kubeconfig := func(host string) string { return filepath.Join(l.dir, "hosts", host, "kubeconfig") }
	user := func(ctx context.Context, kubeconfig, stdin string, args ...string) error {
		_, err := program(ctx, strings.NewReader(stdin), append([]string{"--kubeconfig", kubeconfig}, args...)...)
		return err
	}
	limit := "apiVersion: mesh.virtmesh.io/v1alpha1\nkind: MeshConfig\nmetadata: {name: mesh}\nspec: {voters: {hosts: [" + voter + "]}}\n"
	if err := user(t.Context(), kubeconfig(voter), limit, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	l.waitOnlyVoter(t, voter)

	bundle, passphrase := filepath.Join(l.dir, "mesh.bundle"), filepath.Join(l.dir, "passphrase")
	if err := os.WriteFile(passphrase, []byte("correct horse battery staple\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.on(t.Context(), voter, "virtmesh", "ca", "rotate"); err == nil || !strings.Contains(err.Error(), "virtmesh keyring bundle") {
		t.Fatalf("the CA is replaced without a recovery bundle: %v", err)
	}
	l.must(t, "exec", voter, "--", "virtmesh", "keyring", "bundle", "--output", bundle, "--passphrase", "@"+passphrase)
	eventually(t, time.Minute, "the keys to be with the voter", func(ctx context.Context) error {
		status, err := l.status(ctx, voter)
		if err == nil && (status.Keyring.CAKeyInState || !status.Keyring.SecretsEncrypted) {
			err = fmt.Errorf("%+v", status.Keyring)
		}
		return err
	})
	secret := "apiVersion: v1\nkind: Secret\nmetadata: {name: kept, namespace: default}\nstringData: {password: swordfish}\n"
	if err := user(t.Context(), kubeconfig(voter), secret, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	before, err := l.ca(t.Context(), voter)
	if err != nil {
		t.Fatal(err)
	}

	l.must(t, "kill", off)
	began := time.Now()
	l.must(t, "exec", heir, "--", "virtmesh", "ca", "rotate", "--deadline", "1h")
	t.Logf("the CA was replaced in %s", time.Since(began).Round(100*time.Millisecond))
	after, err := l.ca(t.Context(), voter)
	if err != nil || after.Signing.Fingerprint == before.Signing.Fingerprint || !slices.Equal(after.Off, []string{off}) || len(after.Waiting) > 0 || len(after.Former) != 1 || !after.Former[0].Vouched {
		t.Fatalf("%+v, %v", after, err)
	}
	fresh := filepath.Join(l.dir, "fresh.kubeconfig")
	l.must(t, "exec", heir, "--", "virtmesh", "kubeconfig", "--output", fresh)
	for _, config := range []string{kubeconfig(voter), kubeconfig(heir), fresh} {
		if err := user(t.Context(), config, "", "get", "secret", "kept"); err != nil {
			t.Errorf("%s: %v", config, err)
		}
	}
	l.must(t, "start", off)
	eventually(t, 2*time.Minute, off+" to have a certificate of the new CA", func(ctx context.Context) error {
		ca, err := l.ca(ctx, off)
		if err == nil && len(ca.Have) != 3 {
			err = fmt.Errorf("have %q, waiting %q, off %q", ca.Have, ca.Waiting, ca.Off)
		}
		return err
	})

	l.must(t, "kill", voter)
	l.stopAgent(t, heir)
	goOn := func(args ...string) error {
		_, err := l.on(t.Context(), heir, append([]string{"virtmesh", "agent", "recover", "--yes", "--force", "--config", ownStopped}, args...)...)
		return err
	}
	if err := goOn(); err == nil || !strings.Contains(err.Error(), "--keyring-bundle") {
		t.Fatalf("recovered without the keys: %v", err)
	}
	if err := goOn("--keyring-bundle", bundle, "--passphrase", "@"+passphrase); err != nil {
		t.Fatal(err)
	}
	l.must(t, "exec", heir, "--", "mv", ownStopped, "/etc/virtmesh/agent.yaml")
	eventually(t, 2*time.Minute, "the recovered mesh to answer", func(ctx context.Context) error {
		out, err := l.on(ctx, heir, "virtmesh", "get", "secret", "kept", "-o", "yaml")
		if err == nil && !strings.Contains(out, "c3dvcmRmaXNo") {
			err = fmt.Errorf("it says %s", out)
		}
		return err
	})
	if ca, err := l.ca(t.Context(), heir); err != nil || ca.Signing.Fingerprint != after.Signing.Fingerprint {
		t.Errorf("the recovered mesh signs with %+v, %v", ca.Signing, err)
	}
	l.must(t, "exec", heir, "--", "virtmesh", "kubeconfig", "--output", fresh)
	if err := user(t.Context(), fresh, "", "get", "secret", "kept"); err != nil {
		t.Errorf("a kubeconfig that the recovered mesh has made: %v", err)
	}
}
