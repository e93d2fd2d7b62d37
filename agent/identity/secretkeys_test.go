package identity_test

import (
	"errors"
	"testing"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/sealed"
)

// A record that does not hold the key that it names is an error: nothing may be stored in clear
// because of it, nor sealed with another key.
func TestARecordWithoutItsActiveKey(t *testing.T) {
	one, err := sealed.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	other, err := sealed.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	listed := identity.NewSecretKeyRecord(one)
	of := func(public []byte) identity.SecretKeyRecord {
		return identity.SecretKeyRecord{ID: one.ID(), Public: public}
	}
	for name, c := range map[string]struct {
		record identity.SecretKeysRecord
		want   string
		fails  bool
	}{
		"nothing is encrypted":  {record: identity.SecretKeysRecord{Keys: []identity.SecretKeyRecord{listed}}},
		"the key is listed":     {record: identity.SecretKeysRecord{Active: one.ID(), Keys: []identity.SecretKeyRecord{listed}}, want: one.ID()},
		"the key is not listed": {record: identity.SecretKeysRecord{Active: other.ID(), Keys: []identity.SecretKeyRecord{listed}}, fails: true},
		"no key is listed":      {record: identity.SecretKeysRecord{Active: one.ID()}, fails: true},
		"another public key":    {record: identity.SecretKeysRecord{Active: one.ID(), Keys: []identity.SecretKeyRecord{of(other.Public().Bytes())}}, fails: true},
	} {
		key, err := c.record.Recipient()
		if key.ID() != c.want || errors.Is(err, fault.Unavailable) != c.fails {
			t.Errorf("%s: %q, %v", name, key.ID(), err)
		}
	}
}
