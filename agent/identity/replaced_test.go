package identity_test

import (
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/raftstore"
)

// replaced makes host2 a member, expels it and lets another machine join under its name.
// It returns the old machine.
func replaced(t *testing.T, m mesh) *identity.Identity {
	t.Helper()
	if _, err := m.signer.Admit(t.Context(), candidate(m.token(t), newKey(t), "host2")); err != nil {
		t.Fatal(err)
	}
	old := m.Host(t, "host2", time.Hour)
	if err := m.hosts.Expel(t.Context(), "host2"); err != nil {
		t.Fatal(err)
	}
	if _, err := m.signer.Admit(t.Context(), candidate(m.token(t), newKey(t), "host2")); err != nil {
		t.Fatal(err)
	}
	return old
}

// TestReplacedMachineStaysOut: a machine that was removed is powered on after another has
// taken its name. Its certificate is valid, and no door opens.
func TestReplacedMachineStaysOut(t *testing.T) {
	m := newMesh(t)
	old := replaced(t, m)
	if now := m.node(t, "host2"); old.Node() == now {
		t.Fatalf("both machines are %s", now)
	}
	err := m.hosts.Update(t.Context(), old.Node(), func(r *identity.HostRecord) { r.MeshAddress = "10.0.0.66:7443" })
	if !errors.Is(err, fault.Expelled) {
		t.Errorf("it changes the record of the other: %v", err)
	}
	if err := m.hosts.Admit(m.node(t, "host2"), identity.Pin{}); err != nil {
		t.Errorf("the machine that bears the name: %v", err)
	}
	key := newKey(t)
	csr, _ := identity.NewCSR(key, "host2")
	proof, err := old.Prove(csr)
	if err != nil {
		t.Fatal(err)
	}
	_, _, renewed := renewByProof(t, m.signer, proof)
	_, signed := m.signer.RenewHost(t.Context(), old.Node(), csr)
	for door, err := range map[string]error{
		"connection": m.hosts.Admit(old.Node(), identity.Pin{}), "renewal by proof": renewed, "renewal": signed,
	} {
		if !errors.Is(err, fault.Expelled) || !strings.Contains(err.Error(), old.Node().ID) || !strings.Contains(err.Error(), "join it with a new token") {
			t.Errorf("%s: %v", door, err)
		}
	}
}

// TestReplacedMachineCannotSignItselfIn: it holds the CA's key, but the certificate that
// it makes for itself names the membership that has ended.
func TestReplacedMachineCannotSignItselfIn(t *testing.T) {
	m := newMesh(t)
	if err := m.hosts.Expel(t.Context(), "host1"); err != nil {
		t.Fatal(err)
	}
	if _, err := m.signer.Admit(t.Context(), candidate(m.token(t), newKey(t), "host1")); err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	csr, _ := identity.NewCSR(key, "host1")
	issued, err := identity.SelfIssuer(m.First, nil, 0).IssueNode(t.Context(), csr)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := identity.ParseCertificates(issued.Chain)
	if err != nil {
		t.Fatal(err)
	}
	node, err := identity.VerifyNode(chain, m.First.Roots(), time.Now(), x509.ExtKeyUsageClientAuth)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.hosts.Admit(node, identity.Pin{}); !errors.Is(err, fault.Expelled) {
		t.Errorf("admitted: %v", err)
	}
}

// TestReplacedWithoutQuorum: who lags may know the machine before. It must not say that the
// one that bears the name now, which may lead the group, was expelled, and must not sign for
// it either.
func TestReplacedWithoutQuorum(t *testing.T) {
	m := newMesh(t)
	newer := identity.NewNode("host1")
	if err := m.hosts.Admit(newer, identity.Pin{}); !errors.Is(err, identity.ErrUnrecorded) {
		t.Errorf("a machine newer than the replica: %v", err)
	}
	m.Store.BeforeRead = func(o raftstore.ReadOptions) error {
		if o.Consistency != raftstore.Local {
			return raftstore.ErrNoLeader
		}
		return nil
	}
	csr, _ := identity.NewCSR(newKey(t), "host1")
	if _, err := m.signer.RenewHost(t.Context(), newer, csr); !errors.Is(err, raftstore.ErrNoLeader) || errors.Is(err, fault.Expelled) {
		t.Errorf("renew: %v", err)
	}
}

// TestExpelledIsTold: also while nobody has taken the name, the reason is the removal.
func TestExpelledIsTold(t *testing.T) {
	m := newMesh(t)
	if err := m.hosts.Expel(t.Context(), "host1"); err != nil {
		t.Fatal(err)
	}
	csr, _ := identity.NewCSR(newKey(t), "host1")
	if _, err := m.signer.RenewHost(t.Context(), m.First.Node(), csr); !errors.Is(err, fault.Expelled) {
		t.Errorf("renew: %v", err)
	}
	if err := m.hosts.Admit(m.First.Node(), identity.Pin{}); !errors.Is(err, fault.Expelled) {
		t.Errorf("connect: %v", err)
	}
}

// TestUnreadableReplicaAdmitsNobody: what cannot be looked up is not waved through.
func TestUnreadableReplicaAdmitsNobody(t *testing.T) {
	store := identitytest.NewStore()
	store.BeforeRead = func(raftstore.ReadOptions) error { return raftstore.ErrClosed }
	if err := identity.NewHosts(store).Admit(identity.NewNode("host1"), identity.Pin{}); !errors.Is(err, raftstore.ErrClosed) {
		t.Errorf("admitted: %v", err)
	}
}

func TestNodeValidate(t *testing.T) {
	good := identity.NewNode("host1")
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for _, bad := range []identity.Node{
		{}, {Name: "host1"}, {ID: good.ID}, {Name: "host1", ID: "../" + good.ID[3:]},
		{Name: "host1", ID: good.ID[1:]}, {Name: "host1", ID: good.ID + "00"}, {Name: "host1", ID: strings.Repeat("A", 32)},
	} {
		if err := bad.Validate(); err == nil {
			t.Errorf("%+v passed", bad)
		}
	}
}
