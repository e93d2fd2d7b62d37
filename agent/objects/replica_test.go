package objects_test

import (
	"context"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

const secretKey = "/registry/core/secrets/ns/a"

func newSecret(value string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a"}, Data: map[string][]byte{"password": []byte(value)}}
}

// Values are sealed in the store and plain for everyone who works with it, in each
// of the ways to get at them.
func TestValuesAreSealedInTheStore(t *testing.T) {
	raft := raftstoretest.New(t)
	s := objects.FromRaft(raft, &objectstest.Sealer{})
	watch, err := s.Watch(t.Context(), raftstore.WatchRequest{Prefix: "/registry/"})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	commit(t, s, func(tx *objects.Tx) { tx.Create(newSecret("first")) })
	old, err := objects.Get[*corev1.Secret](t.Context(), s, objects.Key{Namespace: "ns", Name: "a"}, raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	edited := old.DeepCopy()
	edited.Data["password"] = []byte("second")
	commit(t, s, func(tx *objects.Tx) { tx.Update(old, edited) })

	stored, _, err := raft.Get(t.Context(), secretKey, raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !objectstest.Sealed(stored.Value, "password", "Secret") {
		t.Errorf("stored as %q", stored.Value)
	}
	list, _, err := objects.List[*corev1.Secret](t.Context(), s, "", raftstore.ReadOptions{})
	if err != nil || len(list) != 1 || string(list[0].Data["password"]) != "second" {
		t.Errorf("listed %v (%v)", list, err)
	}
	for _, want := range []string{"first", "second"} {
		ev := <-watch.Events()
		got, err := objects.Decode[*corev1.Secret](ev.Record)
		if err != nil || string(got.Data["password"]) != want {
			t.Errorf("watched %v (%v), want %s", got, err, want)
		}
		if ev.Prev == nil {
			continue
		}
		if was, err := objects.Decode[*corev1.Secret](*ev.Prev); err != nil || string(was.Data["password"]) != "first" {
			t.Errorf("the watch says that it was %v (%v)", was, err)
		}
	}
}

// Sealing makes other bytes each time; whether a write changes anything is judged
// by what they mean.
func TestAWriteWithoutChangeIsNoneWhenSealed(t *testing.T) {
	raft := raftstoretest.New(t)
	s := objects.FromRaft(raft, &objectstest.Sealer{})
	commit(t, s, func(tx *objects.Tx) { tx.Create(newSecret("same")) })
	old, err := objects.Get[*corev1.Secret](t.Context(), s, objects.Key{Namespace: "ns", Name: "a"}, raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	before := raft.Revision()
	commit(t, s, func(tx *objects.Tx) { tx.Update(old, old.DeepCopy()) })
	if raft.Revision() != before {
		t.Error("an update without a change was written")
	}
}

// Who loses a race learns what is there, plain.
func TestALostRaceShowsThePlainValue(t *testing.T) {
	s := objects.FromRaft(raftstoretest.New(t), &objectstest.Sealer{})
	commit(t, s, func(tx *objects.Tx) { tx.Create(newSecret("winner")) })
	var tx objects.Tx
	tx.Create(newSecret("loser"))
	_, err := tx.Commit(t.Context(), s)
	conflict, ok := lost(err)
	if !apierrors.IsAlreadyExists(err) || !ok {
		t.Fatalf("got %v, want a conflict", err)
	}
	if got, err := objects.Decode[*corev1.Secret](*conflict.Current); err != nil || string(got.Data["password"]) != "winner" {
		t.Errorf("the conflict shows %v (%v)", got, err)
	}
}

// One record that cannot be opened hides no other.
func TestARecordThatCannotBeOpenedIsAlone(t *testing.T) {
	raft := raftstoretest.New(t)
	s := objects.FromRaft(raft, &objectstest.Sealer{})
	commit(t, s, func(tx *objects.Tx) { tx.Create(newSecret("good")) })
	bad := raftstore.Op{Key: "/registry/core/secrets/ns/bad", Value: []byte("sealed elsewhere")}
	if _, err := raft.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{bad}}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Get(t.Context(), bad.Key, raftstore.ReadOptions{}); err == nil {
		t.Error("it was read")
	}
	cfg := objects.DefaultCacheConfig()
	cfg.Store, cfg.Logger = s, quiet()
	cache, err := objects.NewCache(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	secrets := objects.For[*corev1.Secret](cache)
	go cache.Run(ctx)
	wait, done := context.WithTimeout(ctx, 10*time.Second)
	defer done()
	if err := secrets.WaitForSync(wait); err != nil {
		t.Fatal(err)
	}
	if got := secrets.List(""); len(got) != 1 || string(got[0].Data["password"]) != "good" {
		t.Errorf("cached %v", got)
	}
}

// A watch that nobody reads any more ends with Stop.
func TestAnUnreadWatchEnds(t *testing.T) {
	raft := raftstoretest.New(t)
	s := objects.FromRaft(raft, &objectstest.Sealer{})
	w, err := s.Watch(t.Context(), raftstore.WatchRequest{Prefix: "/registry/"})
	if err != nil {
		t.Fatal(err)
	}
	commit(t, s, func(tx *objects.Tx) { tx.Create(newSecret("x")) })
	w.Stop()
	w.Stop()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case _, open := <-w.Events():
			if !open {
				return
			}
		case <-timeout:
			t.Fatal("the events do not end")
		}
	}
}

func lost(err error) (*raftstore.ConflictError, bool) {
	var conflict *raftstore.ConflictError
	return conflict, errors.As(err, &conflict)
}

// While those who could open a value are not reached, whoever reads it is told so, and never
// gets the value as it is stored. Who needs no secrets reads and watches on.
func TestNobodyOpensAValue(t *testing.T) {
	raft := raftstoretest.New(t)
	away := errors.New("nobody answers")
	s := objects.FromRaft(raft, &objectstest.Sealer{Fails: func() error { return away }})
	commit(t, s, func(tx *objects.Tx) { tx.Create(newSecret("first")) })
	_, _, getErr := s.Get(t.Context(), secretKey, raftstore.ReadOptions{})
	list, listErr := s.List(t.Context(), raftstore.ListRequest{Prefix: "/registry/"})
	_, _, scanErr := s.Scan(t.Context(), "/registry/", raftstore.ReadOptions{})
	w, err := s.Watch(t.Context(), raftstore.WatchRequest{Prefix: "/registry/"})
	if err != nil {
		t.Fatal(err)
	}
	var tx objects.Tx
	tx.Create(newSecret("loser"))
	_, conflictErr := tx.Commit(t.Context(), s)
	if _, err := raft.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: secretKey, Value: []byte("sealed")}}}); err != nil {
		t.Fatal(err)
	}
	if ev, open := <-w.Events(); open {
		t.Errorf("watched %v", ev)
	}
	for how, err := range map[string]error{"get": getErr, "list": listErr, "scan": scanErr, "lost race": conflictErr, "watch": w.Err()} {
		if !errors.Is(err, away) {
			t.Errorf("%s: %v", how, err)
		}
	}
	if len(list.Records) > 0 {
		t.Errorf("listed %v", list.Records)
	}
	if rec, _, err := objects.SealedFromRaft(raft, &objectstest.Sealer{Fails: func() error { return away }}).Get(t.Context(), secretKey, raftstore.ReadOptions{}); err != nil || string(rec.Value) != "sealed" {
		t.Errorf("without secrets: %q, %v", rec.Value, err)
	}
}

// A value is stored only while what it was sealed with is what seals; otherwise it is sealed
// again, in a request of another name.
func TestAValueIsSealedAgain(t *testing.T) {
	raft := raftstoretest.New(t)
	const with = "/mesh/with"
	put := raftstore.Txn{Ops: []raftstore.Op{{Key: with, Value: []byte("new")}}}
	if _, err := raft.Commit(t.Context(), put); err != nil {
		t.Fatal(err)
	}
	sealings := 0
	s := objects.FromRaft(raft, &objectstest.Sealer{While: func() raftstore.Condition {
		rec, _, err := raft.Get(t.Context(), with, raftstore.ReadOptions{})
		if sealings++; err != nil || sealings == 1 {
			return raftstore.Condition{Key: with} // as it was before the key was there
		}
		return raftstore.Condition{Key: with, ModRevision: rec.ModRevision}
	}})
	txn := raftstore.Txn{RequestID: "r", If: []raftstore.Condition{{Key: secretKey}}, Ops: []raftstore.Op{{Key: secretKey, Value: []byte("x")}}}
	if _, err := s.Commit(t.Context(), txn); err != nil || sealings != 2 {
		t.Errorf("sealed %d times, %v", sealings, err)
	}
	if rec, _, err := s.Get(t.Context(), secretKey, raftstore.ReadOptions{}); err != nil || string(rec.Value) != "x" {
		t.Errorf("stored %q, %v", rec.Value, err)
	}
}
