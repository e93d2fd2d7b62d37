package membership

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/raftstore"
)

// A host that was off has learned of the CA that signs now, from a list of the voters, and no
// voter is up yet. Its copy of the state is behind and nobody confirms it: until it has another
// certificate, the leader refuses it. It must ask for one until it gets it.
func TestACertificateThatNobodyTrustsIsReplacedUntilItIs(t *testing.T) {
	t.Parallel()
	m := identitytest.NewMesh(t)
	host := m.Host(t, "host2", 0)
	m.Store.BeforeRead = func(o raftstore.ReadOptions) error {
		if o.Consistency != raftstore.Local {
			return errors.New("no leader")
		}
		return nil
	}
	renewed := 0
	k := &trust{
		store: m.Store, identity: host, renew: func(context.Context) error { renewed++; return errors.New("nobody signs") },
		announce: func(string, string) error { return nil }, cutOff: func(context.Context) bool { return true },
		learn: func(context.Context) error { return nil }, log: slog.New(slog.DiscardHandler),
	}
	look := func() {
		k.resigned = time.Time{} // the pause between two attempts is over
		k.keepTrust(t.Context())
	}
	if look(); renewed > 0 {
		t.Errorf("the certificate is good, and %d others were asked for", renewed)
	}
	next, err := identity.NewCA(host.MeshID())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := host.KeepTrust(next.CertificatePEM(), 4); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		look()
	}
	if renewed != 3 {
		t.Errorf("asked %d times for another certificate, want 3", renewed)
	}
}
