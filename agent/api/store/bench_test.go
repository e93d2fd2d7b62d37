package store_test

import (
	"encoding/json"
	"strconv"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apistorage "k8s.io/apiserver/pkg/storage"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/api/store"
	"virtmesh/agent/kinds"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// BenchmarkUpdate changes the status of an instance through the store of the API: as this
// version stores it, and with a field that only a newer version knows.
func BenchmarkUpdate(b *testing.B) {
	for _, name := range []string{"known", "newer"} {
		b.Run(name, func(b *testing.B) {
			replica := objects.FromRaft(raftstoretest.New(b), nil)
			kind := kinds.For[*kubevirtv1.VirtualMachineInstance]()
			s := store.New(store.Config{
				Backend: replica, Codec: store.NewCodec(kind), Resource: schema.GroupResource{Resource: kind.Resource},
				Prefix: "/registry/kubevirt.io/virtualmachineinstances", New: func() runtime.Object { return kind.New() },
			})
			vmi := &kubevirtv1.VirtualMachineInstance{}
			vmi.Namespace, vmi.Name = "ns", "a"
			for i := range 12 {
				vmi.Spec.Domain.Devices.Disks = append(vmi.Spec.Domain.Devices.Disks, kubevirtv1.Disk{Name: "disk-" + strconv.Itoa(i)})
				vmi.Spec.Volumes = append(vmi.Spec.Volumes, kubevirtv1.Volume{Name: "disk-" + strconv.Itoa(i)})
				vmi.Status.Conditions = append(vmi.Status.Conditions, kubevirtv1.VirtualMachineInstanceCondition{Type: "Ready", Message: "all is as it was wished for"})
			}
			value, err := objects.Encode(vmi)
			if err != nil {
				b.Fatal(err)
			}
			if name == "newer" {
				var v map[string]any
				if err := json.Unmarshal(value, &v); err != nil {
					b.Fatal(err)
				}
				v["newer"] = true
				if value, err = json.Marshal(v); err != nil {
					b.Fatal(err)
				}
			}
			key := kind.StoreKey(kinds.KeyOf(vmi))
			if _, err := replica.Commit(b.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: key, Value: value}}}); err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			for i := range b.N {
				out := &kubevirtv1.VirtualMachineInstance{}
				err := s.GuaranteedUpdate(b.Context(), key, out, false, nil, apistorage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
					obj.(*kubevirtv1.VirtualMachineInstance).Status.Reason = strconv.Itoa(i)
					return obj, nil
				}), nil)
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
