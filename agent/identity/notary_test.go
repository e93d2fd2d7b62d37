package identity_test

import (
	"strings"
	"testing"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
)

// A host's signature counts for the message that it signed, as long as the host is a member
// and its certificate valid, and only within its mesh.
func TestSignaturesOfHosts(t *testing.T) {
	m := newMesh(t)
	if _, err := m.signer.Admit(t.Context(), candidate(m.token(t), newKey(t), "host2")); err != nil {
		t.Fatal(err)
	}
	second := m.Host(t, "host2", time.Hour)
	ours := identity.NewNotary(m.First, m.hosts.StillMember)
	message := []byte("what host2 says")
	sign := func(id *identity.Identity) []byte {
		t.Helper()
		signed, err := identity.NewNotary(id, nil).Sign(message)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	signed := sign(second)
	if host, err := ours.Verify(message, signed); err != nil || host != "host2" {
		t.Fatalf("verified as %q, %v", host, err)
	}
	stranger := identitytest.NewMesh(t)
	expired := m.Host(t, "host2", time.Nanosecond)
	for name, c := range map[string]struct {
		message, signed []byte
		want            string
	}{
		"another message":  {[]byte("what host2 said"), signed, "does not fit"},
		"another mesh":     {message, sign(stranger.First), "verify host certificate"},
		"ended":            {message, sign(expired), "expired"},
		"no signature":     {message, nil, "read signature"},
		"no certificate":   {message, []byte(`{"sum":"AAAA"}`), "read the certificate"},
		"beyond all bound": {message, make([]byte, 1<<20), "1048576 bytes"},
	} {
		if host, err := ours.Verify(c.message, c.signed); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q, %v, want an error with %q", name, host, err, c.want)
		}
	}
	for how, end := range map[string]func() error{
		"expelled": func() error { return m.hosts.Expel(t.Context(), "host2") },
		"left":     func() error { return m.hosts.Remove(t.Context(), "host1") },
	} {
		if err := end(); err != nil {
			t.Fatal(err)
		}
		of := map[string]*identity.Identity{"expelled": second, "left": m.First}[how]
		if host, err := ours.Verify(message, sign(of)); err == nil || !strings.Contains(err.Error(), "membership has ended") {
			t.Errorf("%s: %q, %v", how, host, err)
		}
	}
}
