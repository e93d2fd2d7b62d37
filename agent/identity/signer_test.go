package identity_test

import (
	"crypto/ecdsa"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/raftstore"
)

func TestSignerWithoutQuorum(t *testing.T) {
	m := newMesh(t)
	m.Store.BeforeRead = func(o raftstore.ReadOptions) error {
		if o.Consistency != raftstore.Local {
			return raftstore.ErrNoLeader
		}
		return nil
	}
	csr, _ := identity.NewCSR(newKey(t), "host1")
	if _, err := m.signer.For(m.First.Node()).IssueNode(t.Context(), csr); err != nil {
		t.Errorf("no renewal without a quorum: %v", err)
	}
	if _, err := m.signer.RenewHost(t.Context(), identity.NewNode("host2"), csr); !errors.Is(err, raftstore.ErrNoLeader) || errors.Is(err, fault.NoHost) {
		t.Errorf("a host that the replica does not know, which proves nothing: %v", err)
	}
	if _, _, err := m.tokens.Create(t.Context(), 0); !errors.Is(err, raftstore.ErrNoLeader) {
		t.Errorf("a token without a quorum: %v", err)
	}
}

// withdrawKey takes the key of the CA out of the state.
func (m *mesh) withdrawKey(t *testing.T) {
	t.Helper()
	pin, _ := m.First.HeldCA()
	if err := identity.RecordBundle(t.Context(), m.Store, identity.BundleMade{CAPin: pin.String(), Host: "host1"}); err != nil {
		t.Fatal(err)
	}
	if err := identity.WithdrawCAKey(t.Context(), m.Store); err != nil {
		t.Fatal(err)
	}
}

// A host without the key passes a renewal on at once, also without a quorum: who asks it does
// not wait for long, and a voter may need some time too.
func TestARenewalIsPassedOnWithoutAQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		m.withdrawKey(t)
		m.Store.BeforeRead = func(o raftstore.ReadOptions) error {
			if o.Consistency != raftstore.Local {
				time.Sleep(2 * time.Second)
				return raftstore.ErrNoLeader
			}
			return nil
		}
		csr, _ := identity.NewCSR(newKey(t), "host1")
		proof, err := m.First.Prove(csr)
		if err != nil {
			t.Fatal(err)
		}
		voter := m.signer.WithKeyring(m.First.CAKeyOf, nil)
		follower := m.signer.WithKeyring(func(identity.Pin) []byte { return nil }, voter)
		start := time.Now()
		if _, err := follower.SignRenewal(t.Context(), proof); err != nil || time.Since(start) > 2*time.Second {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
}

func TestSignerBeforeSeed(t *testing.T) {
	if _, err := identity.CAPin(t.Context(), identitytest.NewStore()); !errors.Is(err, identity.ErrNotSeeded) {
		t.Errorf("empty store: %v", err)
	}
}

func TestRenewByProof(t *testing.T) {
	m := newMesh(t)
	if _, err := m.signer.Admit(t.Context(), candidate(m.token(t), newKey(t), "host2")); err != nil {
		t.Fatal(err)
	}
	id := m.Host(t, "host2", time.Hour)
	next := newKey(t)
	csr, _ := identity.NewCSR(next, "host2")
	proof, err := id.Prove(csr)
	if err != nil {
		t.Fatal(err)
	}
	host, issued, err := renewByProof(t, m.signer, proof)
	if host != "host2" || err != nil {
		t.Fatalf("host %q, %v", host, err)
	}
	if err := id.Install(next, issued); err != nil {
		t.Error(err)
	}

	otherCSR, _ := identity.NewCSR(newKey(t), "host2")
	admin := m.Admin(t, time.Hour)
	foreign := identitytest.NewMesh(t).Host(t, "host2", time.Hour)
	foreignProof, _ := foreign.Prove(csr)
	for name, spoil := range map[string]func(*identity.RenewalProof){
		"request exchanged":   func(p *identity.RenewalProof) { p.CSR = otherCSR },
		"not signed":          func(p *identity.RenewalProof) { p.Signature = nil },
		"administrator":       func(p *identity.RenewalProof) { p.Chain = identity.EncodeCertificates(admin.Leaf) },
		"another mesh":        func(p *identity.RenewalProof) { *p = foreignProof },
		"no certificate":      func(p *identity.RenewalProof) { p.Chain = nil },
		"a CA as certificate": func(p *identity.RenewalProof) { p.Chain = m.CA.CertificatePEM() },
	} {
		bad := proof
		spoil(&bad)
		if _, _, err := renewByProof(t, m.signer, bad); !errors.Is(err, fault.BadProof) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRenewByExpiredProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		csr, _ := identity.NewCSR(newKey(t), "host1")
		time.Sleep(identity.DefaultNodeLifetime + identity.RenewGrace - time.Minute)
		proof, err := m.First.Prove(csr)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := renewByProof(t, m.signer, proof); err != nil {
			t.Errorf("within the grace: %v", err)
		}
		time.Sleep(2 * time.Minute)
		if _, _, err := renewByProof(t, m.signer, proof); !errors.Is(err, fault.BadProof) {
			t.Errorf("after the grace: %v", err)
		}
	})
}

// TestRenewByProofOfAKnownKey: a host that was off for years is known by the key in its record,
// and by no other; and somebody who has its old certificate and the CA's key is not it.
func TestRenewByProofOfAKnownKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		forged := m.Host(t, "host1", 0)
		keepKey(t, m, m.First)
		time.Sleep(3 * 365 * 24 * time.Hour)
		for name, c := range map[string]struct {
			id   *identity.Identity
			want error
		}{"the host": {m.First, nil}, "another key": {forged, fault.BadProof}} {
			csr, err := c.id.NextCSR()
			if err != nil {
				t.Fatal(err)
			}
			proof, err := c.id.Prove(csr)
			if err != nil {
				t.Fatal(err)
			}
			_, issued, err := renewByProof(t, m.signer, proof)
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("%s: %v", name, err)
			}
			if err == nil && c.id.Install(c.id.Certificate().PrivateKey.(*ecdsa.PrivateKey), issued) != nil {
				t.Errorf("%s cannot use the certificate", name)
			}
		}
		if err := m.hosts.Remove(t.Context(), "host1"); err != nil {
			t.Fatal(err)
		}
		csr, err := m.First.NextCSR()
		if err != nil {
			t.Fatal(err)
		}
		proof, err := m.First.Prove(csr)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := renewByProof(t, m.signer, proof); err == nil {
			t.Error("a host without a record was renewed")
		}
		time.Sleep(3 * 365 * 24 * time.Hour)
		if _, err := m.signer.VerifyProof(t.Context(), proof); err != nil {
			t.Errorf("a host that was removed long ago does not learn of it: %v", err)
		}
		csr, err = forged.NextCSR()
		if err != nil {
			t.Fatal(err)
		}
		if proof, err = forged.Prove(csr); err != nil {
			t.Fatal(err)
		}
		if _, err := m.signer.VerifyProof(t.Context(), proof); !errors.Is(err, fault.BadProof) {
			t.Errorf("another key than the removed host had: %v", err)
		}
	})
}

func TestSelfIssuer(t *testing.T) {
	m := newMesh(t)
	key := newKey(t)
	csr, _ := identity.NewCSR(key, "host1")
	issued, err := identity.SelfIssuer(m.First, []string{"10.0.0.8"}, time.Hour).IssueNode(t.Context(), csr)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.First.Install(key, issued); err != nil {
		t.Fatal(err)
	}
	if left := time.Until(m.First.Leaf().NotAfter); left > time.Hour || left < 59*time.Minute {
		t.Errorf("%v left", left)
	}
	for _, name := range []string{"127.0.0.1", "10.0.0.8"} {
		if err := m.First.Leaf().VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	poor := m.Host(t, "host2", 0)
	if _, err := identity.SelfIssuer(poor, nil, 0).IssueNode(t.Context(), csr); !errors.Is(err, identity.ErrNoCAKey) {
		t.Errorf("without the CA key: %v", err)
	}
}

func TestRemovedHostDoesNotSignForItself(t *testing.T) {
	m := newMesh(t)
	if err := m.hosts.Remove(t.Context(), "host1"); err != nil {
		t.Fatal(err)
	}
	cfg := identity.DefaultRenewerConfig()
	cfg.Identity = m.First
	cfg.Issuers = []identity.Issuer{m.signer.For(m.First.Node()), identity.SelfIssuer(m.First, nil, 0)}
	r, err := identity.NewRenewer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Shutdown()
	before := m.First.Leaf()
	if err := r.Renew(t.Context()); !errors.Is(err, fault.NoHost) || m.First.Leaf() != before {
		t.Errorf("renew: %v", err)
	}
	m.Store.BeforeRead = func(raftstore.ReadOptions) error { return raftstore.ErrNoLeader }
	if err := r.Renew(t.Context()); err != nil || m.First.Leaf() == before {
		t.Errorf("renew while nobody answers: %v", err)
	}
}

// renewByProof verifies a proof and signs its request, as the server of the join protocol
// does.
func renewByProof(t *testing.T, signer *identity.Signer, proof identity.RenewalProof) (string, identity.Issued, error) {
	t.Helper()
	node, err := signer.VerifyProof(t.Context(), proof)
	if err != nil {
		return "", identity.Issued{}, err
	}
	issued, err := signer.RenewHost(t.Context(), node, proof.CSR)
	return node.Name, issued, err
}
