package identity_test

import (
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/raftstore"
)

// A mesh that is recovered goes on with the newest CA whose key is at hand: neither a backup from
// before a rotation nor a host that was off meanwhile brings the CA of before back.
func TestTheNewestCAIsRecovered(t *testing.T) {
	const older, newer = "the older CA", "the newer CA"
	for name, c := range map[string]struct {
		trusts, signs string   // the host trusts in version 1, by the state signs
		generation    uint64   // the version in the state
		holds         []string // keys
		inState       bool     // the key of the CA that signs is in the state
		want          string   // "" is none
		changes       bool     // the record is changed
	}{
		"nothing was replaced":                      {older, older, 1, []string{older}, false, older, false},
		"nothing was replaced, and there is no key": {older, older, 1, nil, false, "", false},
		"the key is in the state":                   {older, older, 1, nil, true, older, false},
		"a backup of an older version":              {older, older, 0, []string{older}, false, older, true},
		"the same, and the key is in the state":     {older, older, 0, nil, true, older, true},
		"a backup from before the rotation":         {newer, older, 0, []string{older, newer}, false, newer, true},
		"the same, and its state has the old key":   {newer, older, 0, []string{newer}, true, newer, true},
		"the same, and only the old key is left":    {newer, older, 0, []string{older}, false, older, true},
		"a host that was off during the rotation":   {older, newer, 2, []string{older, newer}, false, newer, false},
		"the same, and the new key is lost":         {older, newer, 2, []string{older}, false, older, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := identitytest.NewMesh(t)
				time.Sleep(time.Hour)
				next, err := identity.NewCA(m.First.MeshID())
				if err != nil {
					t.Fatal(err)
				}
				cas := map[string]*identity.CA{older: m.CA, newer: next}
				host := m.Host(t, "host2", 0)
				if _, err := host.KeepTrust(cas[c.trusts].CertificatePEM(), 1); err != nil {
					t.Fatal(err)
				}
				for _, name := range c.holds {
					if err := host.KeepCAKey(must(cas[name].KeyPEM())); err != nil {
						t.Fatal(err)
					}
				}
				rec := identity.CARecord{MeshID: m.First.MeshID(), Generation: c.generation, Certificate: cas[c.signs].CertificatePEM(), Bundle: cas[c.signs].CertificatePEM()}
				if c.inState {
					rec.Key = must(cas[c.signs].KeyPEM())
				}
				ops, err := host.RecoverCA(raftstore.Record{Key: identity.KeyCA, Value: must(json.Marshal(rec))})
				if c.want == "" {
					if !errors.Is(err, identity.ErrNoCAKey) || len(ops) > 0 {
						t.Errorf("%d changes, %v", len(ops), err)
					}
					return
				}
				if err != nil || (len(ops) > 0) != c.changes {
					t.Fatalf("%d changes, %v", len(ops), err)
				}
				for _, op := range ops {
					rec = identity.CARecord{}
					if err := json.Unmarshal(op.Value, &rec); err != nil || op.Key != identity.KeyCA || (len(rec.Key) > 0 && c.want != c.signs) || rec.Generation <= max(c.generation, 1) {
						t.Errorf("the change %s: generation %d, a key of %d bytes, %v", op.Key, rec.Generation, len(rec.Key), err)
					}
				}
				if again := open(t, host.Dir()); again.SignedBy() != cas[c.want].Pin() && c.trusts != c.want {
					t.Errorf("the host's certificate is of %s", again.SignedBy())
				}
				if !host.HoldsCAKey(cas[c.want].Pin()) && len(rec.Key) == 0 {
					t.Error("the key is lost")
				}
				if want := cas[c.want].Pin(); rec.InUse()[0] != want || !trusts(t, host, want) {
					t.Errorf("%s signs, and is trusted: %v", rec.InUse()[0], trusts(t, host, want))
				}
			})
		})
	}
}

func trusts(t *testing.T, host *identity.Identity, ca identity.Pin) bool {
	t.Helper()
	certs, err := identity.ParseCertificates(open(t, host.Dir()).CABundle())
	if err != nil {
		t.Fatal(err)
	}
	for _, cert := range certs {
		if identity.PinOf(cert) == ca {
			return true
		}
	}
	return false
}
