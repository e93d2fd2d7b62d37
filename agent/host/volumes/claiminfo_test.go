package volumes

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestClaimsAreDescribedForTheStatus(t *testing.T) {
	w := newWorld(t)
	w.claim("data", "local", func(claim *corev1.PersistentVolumeClaim) {
		mode := corev1.PersistentVolumeFilesystem
		claim.Spec.VolumeMode = &mode
		claim.Annotations = map[string]string{preallocation: "true"}
	})
	vmi := w.create(vmiWith("a", usesClaim("data"), usesClaim("missing")))
	infos, err := w.claims.claimInfo(t.Context(), vmi)
	if err != nil || len(infos) != 1 || infos["vol0"] == nil {
		t.Fatalf("%+v, %v", infos, err)
	}
	if before := infos["vol0"]; before.ClaimName != "data" || len(before.Capacity) != 0 {
		t.Errorf("before it is bound: %+v", before)
	}
	w.prepare(w.create(vmiWith("b", usesClaim("data"))))
	infos, err = w.claims.claimInfo(t.Context(), vmi)
	if err != nil {
		t.Fatal(err)
	}
	got := infos["vol0"]
	capacity, request := got.Capacity[corev1.ResourceStorage], got.Requests[corev1.ResourceStorage]
	if capacity.Value() != 1<<30 || request.Value() != 1<<30 || len(got.AccessModes) != 1 || *got.VolumeMode != corev1.PersistentVolumeFilesystem ||
		!got.Preallocated || *got.FilesystemOverhead != "0" {
		t.Errorf("%+v", got)
	}
}
