package membership

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/port"
	"virtmesh/agent/port/enrol"
	"virtmesh/raftstore/raftstoretest"
)

// caRotationBy returns the steps of the replacement of the CA that a host carries out.
func caRotationBy(m *Member, uid types.UID, deadline time.Duration) []Step {
	op := &meshv1alpha1.Operation{}
	op.UID, op.Spec.DeadlineSeconds = uid, int64(deadline/time.Second)
	return m.RotateCASteps(op, objects.FromRaft(m.store, nil))
}

// keepKeyring lets a host look after its keyring and the escrow, often, until the test ends.
func keepKeyring(t *testing.T, m *Member) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_, _ = m.keyringKeeper().step(ctx)
			_, _ = m.escrowKeeper().step(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	m.onClose(func(context.Context) {
		cancel()
		<-done
	})
}

// replaceable founds a mesh of host1, which votes, and host2, with a recovery bundle, whose hosts
// look after their keyrings.
func replaceable(t *testing.T) (first, second *Member) {
	t.Helper()
	first, second = pair(t)
	if err := first.startRecord(t.Context()); err != nil { // its record says that it keeps its key
		t.Fatal(err)
	}
	makeGoodBundle(t, first)
	keepKeyring(t, first)
	keepKeyring(t, second)
	raftstoretest.Eventually(t, func() error {
		if custodyOf(t, first).InState() {
			return errors.New("the key has not left the state")
		}
		return nil
	})
	hears(t, first, "host2")
	hears(t, second, "host1")
	return first, second
}

// forgedHost returns a certificate that somebody made with the key of a CA, for a host and a key
// of his own, as the identity of a machine of his.
func forgedHost(t *testing.T, of *Member, ca *identity.CA, node identity.Node) *identity.Identity {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := identity.EncodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ca.IssueNode(&key.PublicKey, node, []string{"127.0.0.1"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	err = identity.CreateState(dir, identity.State{
		Info:  identity.Info{MeshID: of.identity.MeshID(), Host: node.Name, HostID: node.ID, MeshAddress: "127.0.0.1:1", GossipAddress: "127.0.0.1:1"},
		Chain: chain, Key: keyPEM, CABundle: append(ca.CertificatePEM(), of.identity.CABundle()...), GossipKeys: of.identity.GossipKeys(),
	})
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// answers returns an error unless a host answers on its mesh port to who has an identity.
func answers(t *testing.T, host *Member, caller *identity.Identity) error {
	t.Helper()
	cfg := port.DefaultConfig()
	cfg.Bind, cfg.Credentials = "127.0.0.1:0", caller
	dialer, err := port.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer dialer.Close()
	_, err = askForLeader(t.Context(), dialer, host.config.MeshAddress())
	return err
}

// stolenCA returns the CA of a mesh as somebody has it who took its key from a voter.
func stolenCA(t *testing.T, voter *Member) *identity.CA {
	t.Helper()
	ca, err := identity.ParseCA(voter.identity.CABundle(), voter.identity.CAKey())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// mustFollow waits until a host trusts the mesh's CA alone and has a certificate of it.
func mustFollow(t *testing.T, m *Member, want *identity.Identity) {
	t.Helper()
	raftstoretest.Eventually(t, func() error {
		trust, have := identity.TrustFingerprint(want.CABundle()), identity.TrustFingerprint(m.identity.CABundle())
		if have != trust || m.identity.SignedBy() != want.SignedBy() {
			return fmt.Errorf("%s trusts %s, want %s; its certificate is of %s, want %s", m.config.Name, have, trust, m.identity.SignedBy(), want.SignedBy())
		}
		return nil
	})
}

// Half of the hosts are off while the CA is replaced, and one host continues what another has
// begun. The hosts that come back are known by their keys; whoever stole the key of the former CA
// is nobody.
func TestTheCAIsReplacedWhileHostsAreOff(t *testing.T) {
	t.Parallel()
	first, second := replaceable(t)
	path3, config3 := newMachine(t, "host3")
	invite(t, second, path3, config3)
	third := boot(t, config3)
	if err := third.joinStore(t.Context()); err != nil {
		t.Fatal(err)
	}
	hears(t, first, "host3")
	hears(t, second, "host3")
	raftstoretest.Eventually(t, func() error {
		for _, m := range []*Member{first, second, third} {
			if len(m.identity.Info().Seeds) != 2 || !m.identity.Info().Seeds[0].KeepsKey() || !m.identity.Info().Seeds[1].KeepsKey() {
				return fmt.Errorf("%s does not know the keys of the others: %+v", m.config.Name, m.identity.Info().Seeds)
			}
		}
		return nil
	})
	before := stolenCA(t, first)
	asThird := forgedHost(t, first, before, third.identity.Node())
	shutdown(third)
	raftstoretest.Eventually(t, func() error {
		if slices.Contains(second.peers.otherLive(), "host3") || slices.Contains(first.peers.otherLive(), "host3") {
			return errors.New("the others have not found out yet that host3 is off")
		}
		return nil
	})
	if _, _, err := identity.NewTokens(first.store).Create(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	insist(t, caRotationBy(second, "one", time.Hour)[:3]) // host2 may get the vote meanwhile, and then the key
	insist(t, caRotationBy(first, "one", time.Hour))
	mustFollow(t, second, first.identity)
	if unused, err := unusedTokens(t.Context(), identity.NewTokens(first.store)); err != nil || len(unused) > 0 {
		t.Errorf("join tokens of the former CA are left: %v, %v", unused, err)
	}
	if first.identity.SignedBy() == before.Pin() || slices.Contains(first.identity.HeldCAs(), before.Pin()) && custodyOf(t, first).CA == before.Pin() {
		t.Error("the former CA still signs")
	}
	raftstoretest.Eventually(t, func() error {
		if held := first.identity.HeldCAs(); len(held) != 1 || held[0] != first.identity.SignedBy() {
			return fmt.Errorf("host1 holds %d keys", len(held))
		}
		return nil
	})
	for _, m := range []*Member{first, second} {
		for name, thief := range map[string]*identity.Identity{
			"another host": forgedHost(t, first, before, identity.NewNode("host9")), "a host": asThird,
			"itself": forgedHost(t, first, before, m.identity.Node()),
		} {
			if err := answers(t, m, thief); err == nil {
				t.Errorf("%s answers to who calls himself %s with the key of the former CA", m.config.Name, name)
			}
			proof, err := proofOf(thief)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.signer.SignRenewal(t.Context(), proof); !errors.Is(err, fault.BadProof) {
				t.Errorf("%s signs for who calls himself %s: %v", m.config.Name, name, err)
			}
		}
	}
	back := boot(t, config3)
	mustFollow(t, back, first.identity)
	if err := back.joinStore(t.Context()); err != nil {
		t.Fatal(err)
	}
	hears(t, first, "host3")
	if err := answers(t, first, back.identity); err != nil {
		t.Errorf("host1 does not answer to host3: %v", err)
	}
	sameCopy(t, first, back)
}

func proofOf(id *identity.Identity) (identity.RenewalProof, error) {
	csr, err := id.NextCSR()
	if err != nil {
		return identity.RenewalProof{}, err
	}
	return id.Prove(csr)
}

// A host that comes back after the time is refused, and told what to do; one that was removed
// meanwhile learns that, however late.
func TestWhoComesBackTooLateIsTold(t *testing.T) {
	t.Parallel()
	first, second := replaceable(t)
	raftstoretest.Eventually(t, func() error {
		if seeds := second.identity.Info().Seeds; len(seeds) != 1 || !seeds[0].KeepsKey() {
			return errors.New("host2 does not know the key of host1")
		}
		return nil
	})
	shutdown(second)
	raftstoretest.Eventually(t, func() error {
		if slices.Contains(first.peers.otherLive(), "host2") {
			return errors.New("host1 has not found out yet that host2 is off")
		}
		return nil
	})
	carryOut(t, caRotationBy(first, "one", time.Second))
	proof, err := proofOf(second.identity)
	if err != nil {
		t.Fatal(err)
	}
	raftstoretest.Eventually(t, func() error {
		_, err := first.signer.SignRenewal(t.Context(), proof)
		if told := fault.Of(err); !errors.Is(err, fault.BadProof) || told.Remedy != joinAnewOf("host2") {
			return fmt.Errorf("%v", err)
		}
		return nil
	})
	if err := identity.NewHosts(first.store).Expel(t.Context(), "host2"); err != nil {
		t.Fatal(err)
	}
	said, err := enrol.AskStanding(t.Context(), second.identity, "test", first.config.MeshAddress(), second.peers.keeps)
	if err != nil || !said.Expelled || said.By != first.identity.Node() {
		t.Errorf("the removed host is told %+v, %v", said, err)
	}
}

func joinAnewOf(host string) string {
	return "run 'virtmesh agent leave --local --yes' there, remove the host with 'virtmesh node remove " + host + "', and join it with a new token"
}

// Without what gives back the key of the next CA nothing is replaced, and people are told why.
func TestTheCAIsNotReplacedWithoutABundle(t *testing.T) {
	t.Parallel()
	first, _ := pair(t)
	err := caRotationBy(first, "one", 0)[0].Do(t.Context(), nil)
	if told := fault.Of(err); told.Code != fault.Conflict || told.Remedy == "" {
		t.Errorf("without a bundle: %+v", told)
	}
	if first.store.FeatureLevel() < level.Succession {
		t.Fatal("a new mesh is below the level of this test")
	}
	if rec, err := identity.ReadCARecord(t.Context(), first.store, localRead); err != nil || rec.Stage != "" {
		t.Errorf("%s, %v", rec.Stage, err)
	}
}

// Any host goes on with what another one has begun, at each step; a connection that is open stays
// open, and the mesh decides all the while.
func TestAnyHostGoesOnWithTheReplacement(t *testing.T) {
	t.Parallel()
	first, second := replaceable(t)
	listener, err := first.port.Listen("virtmesh-test")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := second.port.DialHost(t.Context(), "virtmesh-test", "host1", first.config.MeshAddress())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	before := first.identity.SignedBy()
	for n := 1; n <= 4; n++ {
		uid := types.UID(fmt.Sprint("rotation ", n))
		carryOut(t, caRotationBy(second, uid, time.Hour)[:n])
		carryOut(t, caRotationBy(first, uid, time.Hour))
		mustFollow(t, second, first.identity)
		if first.identity.SignedBy() == before {
			t.Fatalf("replacement %d: the CA is the same", n)
		}
		before = first.identity.SignedBy()
	}
	if n := first.port.CutOff(first.admission.Ended) + second.port.CutOff(second.admission.Ended); n != 0 {
		t.Errorf("%d connections are cut off", n)
	}
	if _, err := conn.Write([]byte("still")); err != nil {
		t.Error(err)
	}
	text := make([]byte, 5)
	if _, err := io.ReadFull(accepted, text); err != nil || string(text) != "still" {
		t.Errorf("the connection from before has ended: %q, %v", text, err)
	}
}

// A rotation that takes over from one that was given up goes on with another CA: who is to be
// shut out may know the key of that one. One whose new CA signs already is ended first.
func TestAReplacementTakesOver(t *testing.T) {
	t.Parallel()
	first, second := replaceable(t)
	carryOut(t, caRotationBy(first, "given up", time.Hour)[:3])
	rec, err := identity.ReadCARecord(t.Context(), first.store, localRead)
	if err != nil {
		t.Fatal(err)
	}
	abandoned, _ := rec.NextCA()
	carryOut(t, caRotationBy(first, "taking over", time.Hour)[:4])
	signs := first.identity.SignedBy()
	if signs == abandoned {
		t.Error("the CA of the one that was given up signs")
	}
	carryOut(t, caRotationBy(second, "the third", time.Hour))
	mustFollow(t, second, first.identity)
	rec, err = identity.ReadCARecord(t.Context(), first.store, localRead)
	if err != nil || len(rec.Former) != 2 || first.identity.SignedBy() == signs {
		t.Errorf("%d former CAs, %v", len(rec.Former), err)
	}
	// Who carried out the ones before is satisfied.
	carryOut(t, caRotationBy(first, "the third", time.Hour))
}

// If whoever made the next CA is gone with its key before others have it, the leader makes another.
func TestTheNextCAIsMadeAgain(t *testing.T) {
	t.Parallel()
	first, _ := pair(t)
	makeGoodBundle(t, first)
	stepUntil(t, first, withdrawKey)
	if err := identity.WantCA(t.Context(), first.store, "one"); err != nil {
		t.Fatal(err)
	}
	stepUntil(t, first, makeNext)
	lost, err := identity.ReadCARecord(t.Context(), first.store, localRead)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.identity.DropCAKeysBut(lost.InUse()[0]); err != nil {
		t.Fatal(err)
	}
	stepUntil(t, first, fetchNext)
	rec, err := identity.ReadCARecord(t.Context(), first.store, localRead)
	next, ok := rec.NextCA()
	if before, _ := lost.NextCA(); err != nil || !ok || next == before || !first.identity.HoldsCAKey(next) {
		t.Errorf("%v, %v", ok, err)
	}
}

// The removal of a host that may have the CA's key ends with another CA; why not, is said.
func TestARemovalReplacesTheCA(t *testing.T) {
	t.Parallel()
	bare, _ := pair(t)
	if bare.whyCAStays(t.Context()) == "" {
		t.Error("without a bundle nothing keeps the CA")
	}
	first, second := replaceable(t)
	if why := first.whyCAStays(t.Context()); why != "" {
		t.Errorf("the CA stays because %q", why)
	}
	before := stolenCA(t, first)
	op := &meshv1alpha1.Operation{Spec: meshv1alpha1.OperationSpec{Type: meshv1alpha1.RemoveHost, Target: "host2", Force: true, ReplaceCA: true}}
	op.UID = "removal"
	shutdown(second)
	carryOut(t, first.RemovalSteps(op, objects.FromRaft(first.store, nil), func(context.Context, string) error { return nil }, nil))
	if first.identity.SignedBy() == before.Pin() {
		t.Error("the CA is the same")
	}
	if err := answers(t, first, forgedHost(t, first, before, identity.NewNode("host9"))); err == nil {
		t.Error("the key of the CA of before opens the mesh")
	}
}
