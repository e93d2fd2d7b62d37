package identity_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/raftstore"
)

// rotating is a mesh whose CA can be replaced, in a store without a network.
type rotating struct {
	*identitytest.Mesh
	t testing.TB
	// signing is the CA that signs, next the one that was made last.
	signing, next *identity.CA
}

func newRotating(t testing.TB) *rotating {
	t.Helper()
	r := &rotating{Mesh: identitytest.NewMesh(t), t: t}
	r.signing = r.CA
	r.must(identity.RecordBundle(t.Context(), r.Store, identity.BundleMade{CAPin: r.CA.Pin().String(), Host: "host1"}))
	r.must(identity.WithdrawCAKey(t.Context(), r.Store))
	return r
}

func (r *rotating) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rotating) record() identity.CARecord {
	r.t.Helper()
	rec, err := identity.ReadCARecord(r.t.Context(), r.Store, raftstore.ReadOptions{})
	r.must(err)
	return rec
}

// note makes the next CA and notes it.
func (r *rotating) note(rotation string) error {
	r.t.Helper()
	next, successor, err := r.signing.NewSuccessor(r.First.MeshID())
	r.must(err)
	before := r.record().Next
	err = identity.NoteNextCA(r.t.Context(), r.Store, rotation, before, next.CertificatePEM(), successor)
	if err == nil && bytes.Equal(r.record().Next, next.CertificatePEM()) {
		r.next = next
	}
	return err
}

// replace replaces the CA from the beginning to the end.
func (r *rotating) replace(rotation string, until time.Time) {
	r.t.Helper()
	ctx := r.t.Context()
	r.must(identity.WantCA(ctx, r.Store, rotation))
	r.must(r.note(rotation))
	r.must(identity.GiveCA(ctx, r.Store, rotation, r.next.Pin()))
	r.must(identity.SignWithNextCA(ctx, r.Store, rotation))
	r.must(identity.ReplaceCA(ctx, r.Store, rotation, until))
	r.signing = r.next
}

func pinsIn(t testing.TB, bundle []byte) (pins []identity.Pin) {
	t.Helper()
	certs, err := identity.ParseCertificates(bundle)
	if err != nil {
		t.Fatal(err)
	}
	for _, cert := range certs {
		pins = append(pins, identity.PinOf(cert))
	}
	return pins
}

// Whatever two rotations do in whichever order: the CA that signs is trusted, and was trusted
// before it signed; hosts trust two at most; a step that was taken changes nothing again; and who
// trusts the CAs of before the change can tell that the new ones come from them.
func TestStagesOfTheCA(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newRotating(t)
		ctx := t.Context()
		steps := map[string]func(string) error{
			"want":    func(by string) error { return identity.WantCA(ctx, r.Store, by) },
			"note":    r.note,
			"sign":    func(by string) error { return identity.SignWithNextCA(ctx, r.Store, by) },
			"replace": func(by string) error { return identity.ReplaceCA(ctx, r.Store, by, time.Now().Add(time.Hour)) },
			"give": func(by string) error {
				if r.next == nil {
					return nil
				}
				return identity.GiveCA(ctx, r.Store, by, r.next.Pin())
			},
		}
		names := []string{"want", "note", "give", "sign", "replace"}
		for range rapid.IntRange(1, 14).Draw(rt, "steps") {
			before := r.record()
			name, by := rapid.SampledFrom(names).Draw(rt, "step"), rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "by")
			err := steps[name](by)
			after := r.record()
			changed := !bytes.Equal(before.Bundle, after.Bundle) || before.Stage != after.Stage || !bytes.Equal(before.Next, after.Next) || before.Rotation != after.Rotation
			if want := before.Generation + 1; changed && (after.Generation != want || err != nil) || !changed && after.Generation != before.Generation {
				rt.Fatalf("%s by %s: generation %d after %d, changed %v, %v", name, by, after.Generation, before.Generation, changed, err)
			}
			trusted, signs := pinsIn(t, after.Bundle), pinsIn(t, after.Certificate)[0]
			if len(trusted) > 2 || trusted[0] != signs || !slices.Contains(pinsIn(t, before.Bundle), signs) {
				rt.Fatalf("%s by %s: %s signs, hosts trust %v, before %v", name, by, signs, trusted, pinsIn(t, before.Bundle))
			}
			if err := after.CheckVouched(before.Bundle); err != nil {
				rt.Fatalf("%s by %s: %v", name, by, err)
			}
			if r.next != nil && signs == r.next.Pin() {
				r.signing = r.next
			}
			if name == "note" || err != nil {
				continue
			}
			if steps[name](by) != nil || r.record().Generation != after.Generation {
				rt.Fatalf("%s by %s a second time changes something", name, by)
			}
		}
	})
}

// A host takes no CA from the mesh's state that no CA of the mesh has vouched for: any host can
// write there. One that missed some changes takes the result.
func TestNobodyWritesHimselfIntoTheTrust(t *testing.T) {
	r := newRotating(t)
	first := r.CA.CertificatePEM()
	r.replace("one", time.Now().Add(time.Hour))
	r.replace("two", time.Now().Add(time.Hour))
	rec := r.record()
	if err := rec.CheckVouched(first); err != nil {
		t.Errorf("who trusts the first CA alone: %v", err)
	}
	thief, err := identity.NewCA(r.First.MeshID())
	r.must(err)
	rec.Bundle = append(rec.Bundle, thief.CertificatePEM()...)
	if err := rec.CheckVouched(first); err == nil {
		t.Error("a CA that nobody vouched for is taken")
	}
	rec.Successor = thief.CertificatePEM() // signed by itself
	if err := rec.CheckVouched(first); err == nil {
		t.Error("a CA that vouches for itself is taken")
	}
}

// knowsServers returns an error unless a client that knows only a CA verifies a server.
func (r *rotating) knowsServers(ca *x509.Certificate, chain []byte) error {
	r.t.Helper()
	certs, err := identity.ParseCertificates(chain)
	r.must(err)
	between, roots := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(ca)
	for _, cert := range certs[1:] {
		between.AddCert(cert)
	}
	_, err = certs[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: identity.ServerName})
	return err
}

// A client that knows only a CA of before verifies servers of the one that signs, until the time of
// that former CA ends, however often the CA was replaced meanwhile.
func TestOldKubeconfigsKnowTheServers(t *testing.T) {
	r := newRotating(t)
	former := []*identity.CA{r.CA}
	for _, rotation := range []string{"one", "two", "three"} {
		r.replace(rotation, time.Now().Add(time.Hour))
		chain, rec := r.issue(t, "host1"), r.record()
		for n, ca := range former {
			if err := r.knowsServers(ca.Certificate(), chain); err != nil {
				t.Errorf("after rotation %s, who knows the CA %d: %v", rotation, n, err)
			}
		}
		if vouch := rec.Vouches(); len(vouch) != len(former) || slices.Contains(vouch, false) {
			t.Errorf("after rotation %s the former CAs vouch: %v", rotation, vouch)
		}
		former = append(former, r.next)
	}
	s := newRotating(t)
	s.replace("one", time.Now().Add(-time.Second))
	if certs, err := identity.ParseCertificates(s.issue(t, "host1")); err != nil || len(certs) != 2 {
		t.Errorf("%d certificates after the time, %v", len(certs), err)
	}
}

// A CA that allows none below it vouches for none, and those after it do.
func TestAnEarlierCADoesNotVouch(t *testing.T) {
	r := newRotating(t)
	earlier := r.earlierCA()
	next, successor, err := earlier.NewSuccessor("mesh")
	r.must(err)
	last, lastSuccessor, err := next.NewSuccessor("mesh")
	r.must(err)
	rec := identity.CARecord{Certificate: last.CertificatePEM(), Former: []identity.FormerCA{
		{Certificate: next.CertificatePEM(), Successor: lastSuccessor}, {Certificate: earlier.CertificatePEM(), Successor: successor},
	}}
	if got := rec.Vouches(); !slices.Equal(got, []bool{true, false}) {
		t.Errorf("the next CA and the one of an earlier version vouch: %v", got)
	}
}

// issue has a certificate of a host signed by the CA that signs.
func (r *rotating) issue(t *testing.T, host string) []byte {
	t.Helper()
	r.must(keep(r.First, r.signing))
	signer := identity.NewSigner(r.Store, time.Hour).WithKeyring(r.First.CAKeyOf, nil)
	csr, err := r.First.NextCSR()
	r.must(err)
	issued, err := signer.RenewHost(t.Context(), r.First.Node(), csr)
	r.must(err)
	return issued.Chain
}

func keep(id *identity.Identity, ca *identity.CA) error {
	key, err := ca.KeyPEM()
	if err != nil {
		return err
	}
	return id.KeepCAKey(key)
}

// Certificates of people from a former CA are taken until its time ends and as long as they are
// listed; what is signed with its stolen key never.
func TestPeopleOfAFormerCA(t *testing.T) {
	r := newRotating(t)
	signer := identity.NewSigner(r.Store, time.Hour).WithKeyring(r.First.CAKeyOf, nil)
	listed, _, _, err := signer.IssueClient(t.Context(), identity.ClientRequest{Key: &newKey(t).PublicKey, Host: "host1"})
	r.must(err)
	certs, err := identity.ParseCertificates(listed)
	r.must(err)
	stolen := r.Admin(t, time.Hour).Leaf
	former, clients := identity.NewFormerCAs(r.Store, nil), identity.NewClients(r.Store)
	verify := func(cert *x509.Certificate) error {
		_, err := cert.Verify(x509.VerifyOptions{Roots: former.AddTo(mustPool(t, r.record().Bundle)), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		return err
	}
	if of, err := former.Check(certs[0]); of || err != nil {
		t.Errorf("before the CA is replaced: %v, %v", of, err)
	}
	r.replace("one", time.Now().Add(time.Hour))
	for _, cert := range []*x509.Certificate{certs[0], stolen} {
		if of, err := former.Check(cert); !of || err != nil || verify(cert) != nil {
			t.Errorf("after it is replaced: %v, %v, %v", of, err, verify(cert))
		}
	}
	if err := clients.MustBeListed(certs[0]); err != nil {
		t.Error(err)
	}
	if err := clients.MustBeListed(stolen); !errors.Is(err, fault.Unauthorized) {
		t.Errorf("one that the mesh has not listed: %v", err)
	}
	second, _, _, err := identity.NewSigner(r.Store, time.Hour).WithKeyring(func(pin identity.Pin) []byte {
		r.must(keep(r.First, r.signing))
		return r.First.CAKeyOf(pin)
	}, nil).IssueClient(t.Context(), identity.ClientRequest{Key: &newKey(t).PublicKey, Host: "host1"})
	r.must(err)
	certs, err = identity.ParseCertificates(second)
	r.must(err)
	r.replace("two", time.Now().Add(-time.Second))
	if of, err := former.Check(certs[0]); !of || !errors.Is(err, fault.Unauthorized) || verify(certs[0]) == nil {
		t.Errorf("after the time of its CA: %v, %v", of, err)
	}
}

func mustPool(t *testing.T, bundle []byte) *x509.CertPool {
	t.Helper()
	pool, err := identity.NewPool(bundle)
	if err != nil {
		t.Fatal(err)
	}
	return pool
}

// At each moment of a change of CA what is on the disk opens: with the new trust and the old
// certificate, and with both new.
func TestTrustAndCertificateOpenApart(t *testing.T) {
	r := newRotating(t)
	r.replace("one", time.Now().Add(time.Hour))
	id := r.Host(t, "host2", 0)
	rec := r.record()
	if changed, err := id.KeepTrust(rec.Bundle, rec.Generation); err != nil || !changed {
		t.Fatal(changed, err)
	}
	between := open(t, id.Dir())
	if _, generation := between.Trust(); generation != rec.Generation || between.SignedBy() != r.CA.Pin() || !bytes.Equal(between.CABundle(), rec.Bundle) {
		t.Errorf("generation %d, signed by %s", generation, between.SignedBy())
	}
	key := newKey(t)
	chain, err := r.signing.IssueNode(&key.PublicKey, id.Node(), nil, time.Hour)
	r.must(err)
	r.must(between.Install(key, identity.Issued{Chain: chain}))
	if after := open(t, id.Dir()); after.SignedBy() != r.signing.Pin() {
		t.Errorf("signed by %s", after.SignedBy())
	}
}

// Keys of several CAs are on the disk of a voter, known by the pins of their CAs.
func TestKeysOfSeveralCAs(t *testing.T) {
	r := newRotating(t)
	next, _, err := r.CA.NewSuccessor(r.First.MeshID())
	r.must(err)
	r.must(keep(r.First, next))
	again := open(t, r.First.Dir())
	if held := again.HeldCAs(); len(held) != 2 || !again.HoldsCAKey(next.Pin()) {
		t.Errorf("%v", held)
	}
	if pin, ok := again.HeldCA(); !ok || pin != r.CA.Pin() {
		t.Error("it would sign with a CA that nobody trusts")
	}
	r.must(again.DropCAKeysBut(next.Pin()))
	if again = open(t, r.First.Dir()); again.HoldsCAKey(r.CA.Pin()) || !again.HoldsCAKey(next.Pin()) {
		t.Errorf("%v", again.HeldCAs())
	}
}
