package membership

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/level"
	"virtmesh/agent/port/keyring"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

func TestPlanKeyring(t *testing.T) {
	t.Parallel()
	now, next := level.Keyring, level.Apart
	for name, c := range map[string]struct {
		view keyringView
		want keyringAct
	}{
		"an older mesh":                     {keyringView{level: now - 1, inState: true, bundled: true, voter: true, leader: true, held: true}, nothingToMove},
		"no bundle":                         {keyringView{level: now, inState: true, voter: true, leader: true, held: true}, nothingToMove},
		"a bundle":                          {keyringView{level: now, inState: true, bundled: true, voter: true, leader: true, held: true}, withdrawKey},
		"a bundle, seen by another voter":   {keyringView{level: now, inState: true, bundled: true, voter: true, held: true}, nothingToMove},
		"a bundle, the leader has no key":   {keyringView{level: now, inState: true, bundled: true, voter: true, leader: true}, keepKey},
		"a bundle of an older mesh":         {keyringView{level: next, bundled: true, voter: true, leader: true, held: true}, nameRecipient},
		"the same, before the key left":     {keyringView{level: next, inState: true, bundled: true, voter: true, leader: true, held: true}, nameRecipient},
		"the same, seen by another voter":   {keyringView{level: next, bundled: true, voter: true, held: true}, nothingToMove},
		"a bundle that opens backups":       {keyringView{level: next, inState: true, bundled: true, recipient: true, voter: true, leader: true, held: true}, withdrawKey},
		"a voter that joined without a key": {keyringView{level: now, inState: true, voter: true}, keepKey},
		"a follower before the withdrawal":  {keyringView{level: now, inState: true, bundled: true, held: true}, nothingToMove},
		"a follower after the withdrawal":   {keyringView{level: now, bundled: true, held: true}, dropKey},
		"a follower that dropped it":        {keyringView{level: now, bundled: true}, nothingToMove},
		"a new voter":                       {keyringView{level: now, bundled: true, voter: true}, fetchKey},
		"a voter that holds it":             {keyringView{level: now, bundled: true, voter: true, leader: true, held: true}, nothingToMove},
		"a replacement waits":               {keyringView{level: level.Succession, recipient: true, voter: true, leader: true, held: true, wanted: true, nextHeld: true}, makeNext},
		"the same at another voter":         {keyringView{level: level.Succession, recipient: true, voter: true, held: true, wanted: true, nextHeld: true}, nothingToMove},
		"a next CA":                         {keyringView{level: level.Succession, recipient: true, voter: true, held: true}, fetchNext},
		"a former CA":                       {keyringView{level: level.Succession, recipient: true, voter: true, held: true, nextHeld: true, surplus: true}, dropFormer},
		"keys of no use on a follower":      {keyringView{level: level.Succession, recipient: true, nextHeld: true, surplus: true}, dropKey},
	} {
		if got := planKeyring(c.view); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// custodyOf returns where the key is, by the copy of a host.
func custodyOf(t *testing.T, m *Member) identity.Custody {
	t.Helper()
	custody, err := identity.ReadCustody(t.Context(), m.store, raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil {
		t.Fatal(err)
	}
	return custody
}

// stepUntil lets a host look after its keyring until it has made a move.
func stepUntil(t *testing.T, m *Member, want keyringAct) {
	t.Helper()
	raftstoretest.Eventually(t, func() error {
		if act, err := m.keyringKeeper().step(t.Context()); act != want || err != nil {
			return fmt.Errorf("%s: %s, %v; want %s", m.config.Name, act, err, want)
		}
		return nil
	})
}

// withdrawn founds a mesh of host1, which votes, and host2, which does not, with a recovery
// bundle, and so with the CA's key on host1 alone.
func withdrawn(t *testing.T) (first, second *Member, bundle identity.Bundle) {
	t.Helper()
	first, second = pair(t)
	if act, err := first.keyringKeeper().step(t.Context()); act != nothingToMove || err != nil {
		t.Fatalf("without a bundle: %s, %v", act, err)
	}
	bundle, err := first.KeyringBundle(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := first.KeyringBundleMade(t.Context(), requestOf(t, bundle)); err != nil {
		t.Fatal(err)
	}
	if got := warned(t, first, "recovery bundle"); len(got) > 0 {
		t.Errorf("warned of a new bundle: %q", got)
	}
	stepUntil(t, first, withdrawKey)
	raftstoretest.Eventually(t, func() error {
		if custodyOf(t, second).InState() || !slices.Equal(second.store.Voters(), []string{"host1"}) {
			return fmt.Errorf("host2 has the key in its state, or knows %q as voters", second.store.Voters())
		}
		return nil
	})
	stepUntil(t, second, dropKey)
	return first, second, bundle
}

// Once there is a bundle, only the voters hold the key: neither the state, nor a backup, nor
// the disk of another host, nor the answer to one that joins. Any host still admits, renews
// and makes credentials, because a voter signs.
func TestOnlyVotersHoldTheCAKey(t *testing.T) {
	t.Parallel()
	first, second, bundle := withdrawn(t)
	var backup bytes.Buffer
	if _, err := first.store.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	if block, _ := pem.Decode(bundle.CAKey); bytes.Contains(backup.Bytes(), []byte(base64.StdEncoding.EncodeToString(bundle.CAKey))) || bytes.Contains(backup.Bytes(), block.Bytes) {
		t.Error("the backup holds the key")
	}
	path3, config3 := newMachine(t, "host3")
	invite(t, second, path3, config3)
	for _, config := range []Config{second.config, config3} {
		if _, err := os.Stat(filepath.Join(config.StateDir, "identity", "ca.key")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the key is on the disk of %s: %v", config.Name, err)
		}
	}
	before := second.identity.Leaf().SerialNumber
	if err := second.renewer.Renew(t.Context()); err != nil || second.identity.Leaf().SerialNumber.Cmp(before) == 0 {
		t.Errorf("host2 renews its certificate: %v", err)
	}
	if third := boot(t, config3); third.joinStore(t.Context()) != nil {
		t.Error("host3 does not become a replica")
	}
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := second.signer.IssueClient(t.Context(), identity.ClientRequest{Key: &key.PublicKey, Host: "host2"}); err != nil {
		t.Errorf("host2 makes credentials: %v", err)
	}
	if status, err := second.Status(t.Context()); err != nil || status.Keyring == nil || status.Keyring.CAKeyInState || !status.Keyring.Bundle.Current || status.Keyring.Bundle.Host != "host1" {
		t.Errorf("status %+v, %v", status.Keyring, err)
	}
}

// A mesh whose bundle was made with it has never had the key in its state, its log or a backup,
// and admits hosts like any other.
func TestAMeshThatBeginsWithItsBundle(t *testing.T) {
	t.Parallel()
	path, config := newMachine(t, "host1")
	var bundle identity.Bundle
	if err := Init(config, configFile(path), func(b identity.Bundle) error { bundle = b; return nil }); err != nil {
		t.Fatal(err)
	}
	first := boot(t, config)
	if err := first.joinStore(t.Context()); err != nil {
		t.Fatal(err)
	}
	path2, config2 := newMachine(t, "host2")
	invite(t, first, path2, config2)
	if act, err := first.keyringKeeper().step(t.Context()); act != nothingToMove || err != nil {
		t.Errorf("%s, %v", act, err)
	}
	shutdown(first)
	err := filepath.WalkDir(config.raftDir(), func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if block, _ := pem.Decode(bundle.CAKey); bytes.Contains(data, []byte(base64.StdEncoding.EncodeToString(bundle.CAKey))) || bytes.Contains(data, block.Bytes) {
			t.Errorf("%s holds the key", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A host that does not vote gets neither the key nor a bundle, no certificate for a key that
// no record names, and none of a user that names a host.
func TestTheKeyIsNotForFollowers(t *testing.T) {
	t.Parallel()
	_, second, bundle := withdrawn(t)
	if key, err := second.voters.FetchCAKey(t.Context(), custodyOf(t, second).CA, []string{"host1"}); !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "only a voter gets the key") || len(key) > 0 {
		t.Errorf("host2 asks for the key: %v", err)
	}
	if _, err := second.KeyringBundle(t.Context()); !errors.Is(err, fault.Unavailable) || !strings.Contains(fault.Of(err).Remedy, "on a voter") {
		t.Errorf("host2 makes a bundle: %v", err)
	}
	record, err := identity.NewHosts(second.store).Get(t.Context(), "host2", raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	request, err := identity.NewClientSigning(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.voters.SignAdmission(t.Context(), identity.AdmissionRequest{Host: "host2", ID: record.ID, Key: request.Key}); err == nil || !strings.Contains(err.Error(), "did not join with this ID and key") {
		t.Errorf("host2 asks for a certificate for a key that no record names: %v", err)
	}
	if err := second.identity.KeepCAKey(bundle.CAKey); err != nil {
		t.Fatal(err)
	}
	stepUntil(t, second, dropKey)
}

// Who has the record of a voter rewritten, or deleted to be admitted under the name, gets no
// certificate of the voter, and so not the key. In a mesh below level.Access any host can; here
// the leader does, whom nobody judges.
func TestNobodyIsAdmittedAsAVoter(t *testing.T) {
	t.Parallel()
	first, second, _ := withdrawn(t)
	record, err := identity.NewHosts(second.store).Get(t.Context(), "host1", raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	pin, err := identity.PinOfKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	record.KeyPin = pin.String()
	value, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: identity.HostKey("host1"), Value: value}}}); err != nil {
		t.Fatal(err)
	}
	request := identity.AdmissionRequest{Host: "host1", ID: record.ID, Key: der}
	if issued, err := second.voters.SignAdmission(t.Context(), request); !errors.Is(err, fault.HostTaken) || len(issued.Chain) > 0 {
		t.Errorf("with a record of host1 that names another key: %d bytes of a certificate, %v", len(issued.Chain), err)
	}
	token, _, err := identity.NewTokens(second.store).Create(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: identity.HostKey("host1"), Delete: true}}}); err != nil {
		t.Fatal(err)
	}
	candidate := identity.Candidate{TokenID: token.ID, Secret: token.Secret[:], Key: &key.PublicKey, Host: record}
	if _, err := second.signer.Admit(t.Context(), candidate); !errors.Is(err, fault.HostTaken) || !strings.Contains(fault.Of(err).Remedy, "node remove host1") {
		t.Errorf("a machine that joins as host1 once its record is deleted: %v", err)
	}
	if _, err := identity.NewHosts(second.store).Get(t.Context(), "host1", raftstore.ReadOptions{}); !errors.Is(err, fault.NoHost) {
		t.Errorf("the refused machine has a record: %v", err)
	}
}

// A voter that has no key, such as a new one, gets it from one that has.
func TestANewVoterGetsTheKey(t *testing.T) {
	t.Parallel()
	first, second, bundle := withdrawn(t)
	if err := first.identity.DropCAKey(); err != nil {
		t.Fatal(err)
	}
	if err := second.identity.KeepCAKey(bundle.CAKey); err != nil {
		t.Fatal(err)
	}
	if act, err := second.keyringKeeper().step(t.Context()); act != dropKey || err == nil || !strings.Contains(err.Error(), "host1 votes and does not hold the key") {
		t.Errorf("the last host that holds the key: %s, %v", act, err)
	}
	stepUntil(t, first, fetchKey)
	if !bytes.Equal(first.identity.CAKey(), bundle.CAKey) {
		t.Error("host1 has another key")
	}
	ca := custodyOf(t, first).CA.String()
	want := keyring.Holding{
		Host: "host1", CAPin: ca, CAPins: []string{ca}, Voter: true, SecretKeys: first.identity.SecretKeyIDs(), Bundle: custodyOf(t, first).Bundle, Recoverable: []string{ca},
	}
	if holding, err := second.voters.Holding(t.Context(), "host1"); err != nil || !reflect.DeepEqual(holding, want) {
		t.Errorf("host1 holds %+v, %v", holding, err)
	}
}

// When all voters are lost, a copy of the state and the bundle are enough to go on; without
// the bundle the recovery is refused, says what helps, and changes nothing.
func TestRecoverWithAKeyringBundle(t *testing.T) {
	t.Parallel()
	first, second, bundle := withdrawn(t)
	shutdown(first)
	shutdown(second)
	for range 2 {
		if _, err := Recover(t.Context(), second.config, Recovery{}); !errors.Is(err, fault.Conflict) || !strings.Contains(fault.Of(err).Remedy, "--keyring-bundle") {
			t.Fatalf("recovered without the key: %v", err)
		}
	}
	other := bundle
	other.MeshID = "0123456789abcdef"
	if _, err := Recover(t.Context(), second.config, Recovery{Bundle: &other}); err == nil || !strings.Contains(err.Error(), "is of mesh 0123456789abcdef") {
		t.Fatalf("recovered with the bundle of another mesh: %v", err)
	}
	again := boot(t, second.config)
	if err := again.store.Err(); err != nil {
		t.Fatalf("the refused recovery changed the copy: %v", err)
	}
	shutdown(again)
	if _, err := Recover(t.Context(), second.config, Recovery{Bundle: &bundle}); err != nil {
		t.Fatal(err)
	}
	alone := boot(t, second.config)
	if err := alone.joinStore(t.Context()); err != nil {
		t.Fatal(err)
	}
	raftstoretest.WaitServing(t, alone.store)
	path, config := newMachine(t, "host3")
	invite(t, alone, path, config)
}

// A host without the key has the voters sign its next certificate itself.
func TestVotersRenewWhoAsksThemselves(t *testing.T) {
	t.Parallel()
	_, second, _ := withdrawn(t)
	csr, err := second.identity.NextCSR()
	if err != nil {
		t.Fatal(err)
	}
	issued, err := second.renewals.byVoters(second.voters).IssueNode(t.Context(), csr)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.identity.Install(second.identity.Certificate().PrivateKey.(*ecdsa.PrivateKey), issued); err != nil {
		t.Error(err)
	}
}

// A host that got the vote while it was about to delete its key keeps it, and so does one that
// finds other voters than it has asked.
func TestTheKeyIsNotDroppedByWhoVotesNow(t *testing.T) {
	t.Parallel()
	for name, voters := range map[string][][]string{
		"itself":  {{"host1"}, {"host1", "host2"}},
		"another": {{"host1"}, {"host1"}, {"host1", "host3"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, second, bundle := withdrawn(t)
			if err := second.identity.KeepCAKey(bundle.CAKey); err != nil {
				t.Fatal(err)
			}
			keeper := second.keyringKeeper()
			// What the configuration says each time it is looked at, and from then on.
			keeper.voters = func() []string {
				now := voters[0]
				if len(voters) > 1 {
					voters = voters[1:]
				}
				return now
			}
			if act, err := keeper.step(t.Context()); act != dropKey || err == nil || len(second.identity.CAKey()) == 0 {
				t.Errorf("%s, %v, a key of %d bytes", act, err, len(second.identity.CAKey()))
			}
		})
	}
}
