package claims

import (
	"context"
	"testing"
	"time"

	"pgregory.net/rapid"

	"virtmesh/agent/objects"
	machine "virtmesh/agent/vmi"
	"virtmesh/agent/vmi/vmitest"
	"virtmesh/raftstore"
)

// Whatever the API accepts can be claimed and let go again: the transactions are
// built of lists in the manifest, and name no key twice.
func TestWhatIsAcceptedCanBeReleased(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := machine.DefaultDefaults()
		d.Architecture = "amd64"
		vmi := vmitest.Instance(t)
		machine.SetNewInstance(d, vmi, time.Unix(0, 0))
		if len(machine.ValidateInstance(d, vmi)) > 0 {
			t.Skip("refused")
		}
		s := mesh(t, "h1")
		in := inst("a", "h1", 1)
		volumes := func() (held []Volume) {
			for _, name := range machine.ClaimNames(&vmi.Spec) {
				v, err := GetVolume(context.Background(), s, objects.Key{Namespace: "ns", Name: name}, raftstore.ReadOptions{})
				if err != nil {
					t.Fatal(err)
				}
				held = append(held, v)
			}
			return held
		}
		must(t, s, func(tx *objects.Tx) {
			Place(tx, in, Epoch{})
			for _, v := range volumes() {
				Attach(tx, v, in.UID)
			}
		})
		stored := read(t, s, in.UID)
		must(t, s, func(tx *objects.Tx) {
			for _, v := range volumes() {
				Detach(tx, v, in.UID)
			}
			Release(tx, stored)
		})
		if left := append(s.Keys(volumePrefix), s.Keys(hostPrefix)...); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
}
