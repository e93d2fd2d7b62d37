package membership

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/level"
	"virtmesh/agent/port"
	"virtmesh/agent/port/admin"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// meshAt is a mesh at a feature level.
func meshAt(t *testing.T, at uint32) (*identitytest.Mesh, administration) {
	t.Helper()
	mesh := identitytest.NewMesh(t)
	store := raftstoretest.New(t, raftstoretest.WithConfig(func(c *raftstore.Config) {
		c.FeatureLevel = raftstore.LevelRange{Lowest: level.Lowest, Highest: at}
	}))
	copyMesh(t, mesh.Store, store, mesh.Host(t, "host2", 0))
	m := newMember(DefaultConfig(), Options{Logger: slog.New(slog.DiscardHandler)})
	m.store, m.records, m.signer = store, store, identity.NewSigner(store, 0)
	return mesh, administration{Member: m}
}

func credentialsFor(t *testing.T, user string, administrator bool) admin.CredentialsRequest {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return admin.CredentialsRequest{
		CSR: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})), User: user, Administrator: administrator,
	}
}

// TestUsersWaitForTheirLevel: below it nobody but administrators can be, and 'kubeconfig --user'
// makes nobody one who was not said to be.
func TestUsersWaitForTheirLevel(t *testing.T) {
	t.Parallel()
	_, a := meshAt(t, level.Access-1)
	_, err := a.AddUser(t.Context(), admin.UserRequest{Name: "alice"}, "root")
	if !errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "virtmesh level raise") {
		t.Errorf("a user below the level: %v", err)
	}
	if users, err := a.ListUsers(t.Context()); err != nil || len(users) != 0 {
		t.Errorf("users below the level: %+v, %v", users, err)
	}
	if made, err := a.IssueCredentials(t.Context(), credentialsFor(t, "ada", false), ""); !errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "virtmesh level raise") || !strings.Contains(err.Error(), "--admin") {
		t.Errorf("a certificate for a user below the level: %+v, %v", made, err)
	}
	made, err := a.IssueCredentials(t.Context(), credentialsFor(t, "ada", true), "")
	if err != nil || made.OfUser {
		t.Fatalf("an administrator's certificate below the level: %+v, %v", made, err)
	}
	for _, name := range []string{"", "ada"} {
		if next, err := a.IssueCredentials(t.Context(), credentialsFor(t, name, false), made.KeyHash); err != nil || next.User != "ada" {
			t.Errorf("her next one, asked for as %q: %+v, %v", name, next, err)
		}
	}
	if made, err := a.IssueCredentials(t.Context(), credentialsFor(t, "", false), ""); err != nil || made.OfUser {
		t.Errorf("root's certificate: %+v, %v", made, err)
	}
}

// TestUsersOfAMesh: from the level on a name is a user's, unless it is said to be an
// administrator's.
func TestUsersOfAMesh(t *testing.T) {
	t.Parallel()
	_, a := meshAt(t, level.Access)
	if _, err := a.IssueCredentials(t.Context(), credentialsFor(t, "bea", false), ""); !errors.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "--admin") {
		t.Errorf("a certificate of nobody: %v", err)
	}
	if made, err := a.IssueCredentials(t.Context(), credentialsFor(t, "bea", true), ""); err != nil || made.OfUser {
		t.Errorf("a certificate of an administrator: %+v, %v", made, err)
	}
	change, err := a.AddUser(t.Context(), admin.UserRequest{Name: "alice", Groups: []string{"dev"}}, "root")
	if err != nil || !change.Created || change.User.CreatedBy != "root" {
		t.Fatalf("a user: %+v, %v", change, err)
	}
	made, err := a.IssueCredentials(t.Context(), credentialsFor(t, "alice", false), "")
	if err != nil || !made.OfUser {
		t.Fatalf("a certificate of a user: %+v, %v", made, err)
	}
	if users, err := a.ListUsers(t.Context()); err != nil || len(users) != 1 || len(users[0].Certificates) != 1 || !users[0].Certificates[0].OfUser {
		t.Errorf("users: %+v, %v", users, err)
	}
	if ended, err := a.RemoveUser(t.Context(), "alice", "root"); err != nil || len(ended) != 1 || ended[0].KeyHash != made.KeyHash {
		t.Errorf("removed: %+v, %v", ended, err)
	}
}

// userConn is an open connection of a user.
type userConn struct {
	cert *x509.Certificate
	conn net.Conn
}

// TestUsersAreCutOff: who is removed, or gets other groups, loses his open connections, and the
// others keep theirs.
func TestUsersAreCutOff(t *testing.T) {
	t.Parallel()
	mesh, a := meshAt(t, level.Access)
	m := a.Member
	m.admission.open(m.store, &groupOf{level: level.Access, hears: true}, nil, nil)
	cfg := port.DefaultConfig()
	cfg.Bind, cfg.Credentials, cfg.Admit = "127.0.0.1:0", mesh.First, m.admission.Admit
	opened, err := port.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	m.port = opened
	t.Cleanup(func() { opened.Close() })
	listener, err := opened.API()
	if err != nil {
		t.Fatal(err)
	}
	go acceptAndHold(listener)
	ctx, stop := context.WithCancel(t.Context())
	cutting := make(chan error)
	go func() { cutting <- m.CutOffEnded(ctx) }()

	dial := func(name string) *userConn {
		if _, err := a.AddUser(t.Context(), admin.UserRequest{Name: name, Groups: []string{"dev"}}, "root"); err != nil {
			t.Fatal(err)
		}
		key, err := identity.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		chain, _, _, err := m.signer.IssueClient(t.Context(), identity.ClientRequest{Key: &key.PublicKey, User: name, Host: "host1"})
		if err != nil {
			t.Fatal(err)
		}
		cert := keyPair(t, chain, key)
		if err := m.admission.Judge(t.Context(), cert.Leaf); err != nil {
			t.Fatal(err)
		}
		return &userConn{cert.Leaf, dialAs(t, mesh, opened, cert, "h2")}
	}
	alice, bob, carol := dial("alice"), dial("bob"), dial("carol")
	if _, err := a.RemoveUser(t.Context(), "alice", "root"); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, "alice, who was removed", alice.conn)
	if _, err := a.AddUser(t.Context(), admin.UserRequest{Name: "bob", ReplaceGroups: true}, "root"); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, "bob, who lost a group", bob.conn)
	for who, c := range map[string]*userConn{"alice": alice, "bob": bob} {
		if err := m.admission.Judge(t.Context(), c.cert); !errors.Is(err, fault.Unauthorized) {
			t.Errorf("a request of %s: %v", who, err)
		}
	}
	if _, err := carol.conn.Write([]byte("x")); err != nil || m.admission.Judge(t.Context(), carol.cert) != nil {
		t.Errorf("carol: %v", err)
	}
	stop()
	if err := <-cutting; err != nil {
		t.Error(err)
	}
}
