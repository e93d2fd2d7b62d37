package claims

import (
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

func TestANameIsHeldOnce(t *testing.T) {
	s := mesh(t)
	mac := Unique{Class: ClassMAC, Name: "02:00:00:00:00:01", Namespace: "ns", Owner: "a", UID: "1"}
	must(t, s, func(tx *objects.Tx) { Hold(tx, mac) })
	other := mac
	other.Owner, other.UID = "b", "2"
	if err := try(s, func(tx *objects.Tx) { Hold(tx, other) }); !apierrors.IsAlreadyExists(err) {
		t.Errorf("held twice: %v", err)
	}
	// The same text in another class is another name.
	other.Class = ClassIP
	must(t, s, func(tx *objects.Tx) { Hold(tx, other) })
	held, ok, err := Holder(t.Context(), s, ClassMAC, mac.Name, raftstore.ReadOptions{})
	if err != nil || !ok || held.Owner != "a" {
		t.Errorf("holder %+v, %v, %v", held, ok, err)
	}
	must(t, s, func(tx *objects.Tx) { Drop(tx, held) })
	if list, err := Held(t.Context(), s, ClassMAC, raftstore.ReadOptions{}); err != nil || len(list) != 0 {
		t.Errorf("held %v, %v", list, err)
	}
}
