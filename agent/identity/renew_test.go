package identity_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/agent/identity"
)

func TestRenewerAtTwoThirds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		cfg := identity.DefaultRenewerConfig()
		cfg.Identity, cfg.Issuers = m.First, []identity.Issuer{m.signer.For(m.First.Node())}
		r, err := identity.NewRenewer(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Shutdown()
		first := m.First.Leaf()
		time.Sleep(identity.DefaultNodeLifetime * 56 / 100)
		synctest.Wait()
		if m.First.Leaf() != first {
			t.Error("renewed before 17/30 of its life")
		}
		time.Sleep(identity.DefaultNodeLifetime * 22 / 100)
		synctest.Wait()
		second := m.First.Leaf()
		if second == first {
			t.Fatal("not renewed at 23/30 of its life")
		}
		if identity.PinOf(first) != identity.PinOf(second) {
			t.Error("the host has another key")
		}
		// A month on, the certificate is still fresh, also on the disk.
		time.Sleep(30 * 24 * time.Hour)
		synctest.Wait()
		for _, leaf := range []time.Time{m.First.Leaf().NotAfter, open(t, m.First.Dir()).Leaf().NotAfter} {
			if left := time.Until(leaf); left < identity.DefaultNodeLifetime/5 {
				t.Errorf("%s are left", left)
			}
		}
	})
}

func TestRenewerKeepsTrying(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		var asked atomic.Int64
		var broken atomic.Bool
		broken.Store(true)
		down := identity.IssuerFunc(func(context.Context, []byte) (identity.Issued, error) {
			asked.Add(1)
			return identity.Issued{}, errors.New("down")
		})
		second := identity.IssuerFunc(func(ctx context.Context, csr []byte) (identity.Issued, error) {
			if broken.Load() {
				<-ctx.Done() // a member that does not answer
				return identity.Issued{}, ctx.Err()
			}
			return m.signer.RenewHost(ctx, m.First.Node(), csr)
		})
		reg := prometheus.NewRegistry()
		cfg := identity.DefaultRenewerConfig()
		cfg.Identity, cfg.Issuers, cfg.Registerer = m.First, []identity.Issuer{down, second}, reg
		r, err := identity.NewRenewer(cfg)
		if err != nil {
			t.Fatal(err)
		}
		first := m.First.Leaf()
		time.Sleep(3 * identity.DefaultNodeLifetime) // well past its end
		synctest.Wait()
		if n := asked.Load(); m.First.Leaf() != first || n < 100 || n > 2000 {
			t.Errorf("asked %d times in two days", n)
		}
		broken.Store(false)
		time.Sleep(cfg.RetryMax + 2*cfg.Attempt)
		synctest.Wait()
		if time.Until(m.First.Leaf().NotAfter) < 23*time.Hour {
			t.Error("not renewed once an issuer answers")
		}
		got := gather(t, reg)
		if end := float64(m.First.Leaf().NotAfter.Unix()); got["virtmesh_identity_certificate_expiry_timestamp_seconds"] != end {
			t.Errorf("metrics %v, want the certificate's end %v", got, end)
		}
		if got["virtmesh_identity_renewals_total success"] != 1 || got["virtmesh_identity_renewals_total failure"] < 100 {
			t.Errorf("metrics %v", got)
		}
		r.Shutdown()
		if families, _ := reg.Gather(); len(families) != 0 {
			t.Error("metrics stay registered after Shutdown")
		}
	})
}

func TestRenewerShutdownWhileAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		hang := identity.IssuerFunc(func(ctx context.Context, _ []byte) (identity.Issued, error) {
			<-ctx.Done()
			return identity.Issued{}, ctx.Err()
		})
		cfg := identity.DefaultRenewerConfig()
		cfg.Identity, cfg.Issuers, cfg.Attempt = m.First, []identity.Issuer{hang}, 1000*time.Hour
		r, err := identity.NewRenewer(cfg)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(identity.DefaultNodeLifetime)
		synctest.Wait()
		r.Shutdown() // hangs, and synctest says so, if the goroutine does not end
	})
}

func TestRenewerConfig(t *testing.T) {
	m := newMesh(t)
	good := identity.DefaultRenewerConfig()
	good.Identity, good.Issuers = m.First, []identity.Issuer{m.signer.For(m.First.Node())}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for want, spoil := range map[string]func(*identity.RenewerConfig){
		"Identity": func(c *identity.RenewerConfig) { c.Identity = nil },
		"Issuer":   func(c *identity.RenewerConfig) { c.Issuers = nil },
		"Attempt":  func(c *identity.RenewerConfig) { c.Attempt = 0 },
		"RetryMin": func(c *identity.RenewerConfig) { c.RetryMax = 1 },
		"Logger":   func(c *identity.RenewerConfig) { c.Logger = nil },
	} {
		bad := good
		spoil(&bad)
		if _, err := identity.NewRenewer(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// gather returns the values of counters and gauges by name and label values.
func gather(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			values[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return values
}

// A certificate is renewed on a disk that guests have filled.
func TestRenewalOnAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	m := newMesh(t)
	dir := m.First.Dir()
	files := os.DirFS(dir)
	full := filepath.Join(t.TempDir(), "full")
	if err := errors.Join(os.Mkdir(full, 0o755), syscall.Mount("tmpfs", full, "tmpfs", 0, "size=1m")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(full, syscall.MNT_DETACH) })
	if err := os.CopyFS(filepath.Join(full, "identity"), files); err != nil {
		t.Fatal(err)
	}
	host, err := identity.Open(filepath.Join(full, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	guest := filepath.Join(full, "guest")
	if err := os.WriteFile(guest, make([]byte, 2<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	cfg := identity.DefaultRenewerConfig()
	cfg.Identity, cfg.Issuers = host, []identity.Issuer{m.signer.For(host.Node())}
	cfg.MakeRoom = func() bool { return os.Truncate(guest, 512<<10) == nil }
	r, err := identity.NewRenewer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Shutdown()
	before := host.Leaf()
	if err := r.Renew(t.Context()); err != nil || host.Leaf() == before {
		t.Errorf("not renewed on a full disk: %v", err)
	}
}
