package volumes

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/domain"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/storage"
	"virtmesh/storage/containerdisk"
	"virtmesh/storage/filedisk"
)

func cloudInit(source kubevirtv1.CloudInitNoCloudSource) kubevirtv1.VolumeSource {
	return kubevirtv1.VolumeSource{CloudInitNoCloud: &source}
}

// withImage gives the fake an image file of a mebibyte.
func (w *world) withImage() string {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), "disk.img")
	if err := os.WriteFile(path, bytes.Repeat([]byte{7}, 1<<20), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.images.image = containerdisk.Image{Path: path, Format: "raw", VirtualSize: 1 << 20, FileSize: 1 << 20}
	return path
}

func (w *world) prepare(vmi *kubevirtv1.VirtualMachineInstance) (map[string]domain.Disk, func()) {
	w.t.Helper()
	disks, release, err := w.volumes.Prepare(w.t.Context(), vmi)
	if err != nil {
		w.t.Fatal(err)
	}
	return disks, release
}

func TestContainerDiskIsAnOverlay(t *testing.T) {
	w := newWorld(t)
	path := w.withImage()
	w.images.image.Digest = "sha256:1234"
	w.Commit(func(tx *objects.Tx) {
		tx.Create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "registry"},
			Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte("{}")}})
	})
	vmi := w.create(vmiWith("a", kubevirtv1.VolumeSource{ContainerDisk: &kubevirtv1.ContainerDiskSource{
		Image: "example/disk:1", Path: "/disk/a.img", ImagePullPolicy: corev1.PullAlways, ImagePullSecret: "registry"}}))
	disks, release := w.prepare(vmi)
	disk := disks["vol0"]
	if can := filedisk.Probe(path); disk.Backing != nil && disk.Backing.DirectIO != can.DirectIO {
		t.Errorf("the image's file system can %+v, the disk says %+v", can, disk.Backing)
	}
	if disk.Format != "qcow2" || disk.ReadOnly || disk.Backing == nil || disk.Backing.Path != path || disk.Backing.Format != "raw" {
		t.Errorf("%+v on %+v", disk, disk.Backing)
	}
	if _, err := os.Stat(disk.Path); err != nil {
		t.Error(err)
	}
	if o := w.images.options; w.images.asked != "example/disk:1" || o.File != "/disk/a.img" || o.Policy != "Always" || len(o.PullSecrets) != 1 {
		t.Errorf("asked for %s with %+v", w.images.asked, o)
	}
	if w.images.released != 0 {
		t.Error("the image was let go before the guest has it open")
	}
	release()
	if w.images.released != 1 {
		t.Error("the image is held for good")
	}
	// The tag may name another image tomorrow; the overlay is on this one.
	ref := hypervisor.Ref{Namespace: "ns", Name: "a", UID: string(vmi.UID)}
	if got, err := w.volumes.ImageDigests(ref); err != nil || len(got) != 1 || got["vol0"] != "sha256:1234" {
		t.Errorf("digests %v, %v", got, err)
	}
	if got := w.volumes.ImageReferences(); !slices.Equal(got, []string{"example/disk:1"}) {
		t.Errorf("images on this host: %v", got)
	}
}

func TestPullFailuresHaveKubeVirtsReasons(t *testing.T) {
	source := kubevirtv1.VolumeSource{ContainerDisk: &kubevirtv1.ContainerDiskSource{Image: "example/disk"}}
	for reason, cause := range map[string]error{"ErrImagePull": errors.New("manifest unknown"), "NoSpaceLeft": containerdisk.ErrNoSpace} {
		w := newWorld(t)
		w.images.fail = cause
		if got := w.refusal(vmiWith("a", source)); got.Reason != reason || got.Volume != "vol0" || !errors.Is(got, cause) {
			t.Errorf("%+v, want %s", got, reason)
		}
	}
	w := newWorld(t)
	source.ContainerDisk.ImagePullSecret = "missing"
	if got := w.refusal(vmiWith("a", source)); got.Reason != "ErrImagePull" || !strings.Contains(got.Error(), "missing") {
		t.Error(got)
	}
}

func TestImagesAreLetGoWhenAnotherVolumeFails(t *testing.T) {
	w := newWorld(t)
	w.withImage()
	vmi := w.create(vmiWith("a", kubevirtv1.VolumeSource{ContainerDisk: &kubevirtv1.ContainerDiskSource{Image: "example/disk"}}, usesClaim("missing")))
	if got := w.refusal(vmi); got.Volume != "vol1" || got.Reason != "FailedPvcNotFound" {
		t.Error(got)
	}
	if w.images.held != 1 || w.images.released != 1 {
		t.Errorf("held %d times, released %d", w.images.held, w.images.released)
	}
}

func TestEmptyDiskLivesAsLongAsTheInstance(t *testing.T) {
	w := newWorld(t)
	source := kubevirtv1.VolumeSource{EmptyDisk: &kubevirtv1.EmptyDiskSource{Capacity: resource.MustParse("16Mi")}}
	vmi, next := vmiWith("a", source), vmiWith("a", source)
	vmi.UID, next.UID = "one", "two"
	first, _ := w.prepare(vmi)
	again, _ := w.prepare(vmi)
	if can := filedisk.Probe(first["vol0"].Path); first["vol0"].DirectIO != can.DirectIO || first["vol0"].LogicalBlockSize != can.BlockSize {
		t.Errorf("the file system can %+v, the disk says %+v", can, first["vol0"])
	}
	if first["vol0"].Format != "qcow2" || first["vol0"] != again["vol0"] {
		t.Errorf("%+v, then %+v", first["vol0"], again["vol0"])
	}
	successor, _ := w.prepare(next)
	if successor["vol0"].Path == first["vol0"].Path {
		t.Error("a new instance of the name finds the disk of the old one")
	}
	for range 2 {
		if err := w.volumes.Remove(t.Context(), hypervisor.Ref{Namespace: "ns", Name: "a", UID: "one"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(first["vol0"].Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the disk is still there: %v", err)
	}
	if _, err := os.Stat(successor["vol0"].Path); err != nil {
		t.Errorf("the successor's disk: %v", err)
	}
}

func TestOwnersAreFoundAgain(t *testing.T) {
	w := newWorld(t)
	vmi := w.create(vmiWith("a", kubevirtv1.VolumeSource{EmptyDisk: &kubevirtv1.EmptyDiskSource{Capacity: resource.MustParse("1Mi")}}))
	_, release, err := w.volumes.Prepare(t.Context(), vmi)
	if err != nil {
		t.Fatal(err)
	}
	release()
	ref := hypervisor.Ref{Namespace: "ns", Name: "a", UID: string(vmi.UID)}
	if refs, err := w.volumes.Owners(); err != nil || !slices.Equal(refs, []hypervisor.Ref{ref}) {
		t.Errorf("owners %v, %v", refs, err)
	}
	if err := w.volumes.Remove(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if refs, err := w.volumes.Owners(); err != nil || len(refs) != 0 {
		t.Errorf("owners %v, %v after they were removed", refs, err)
	}
}

func TestCloudInitSeeds(t *testing.T) {
	const user = "#cloud-config\npassword: secret-of-the-test\n"
	const network = "version: 2 # of-the-test\n"
	encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for name, source := range map[string]kubevirtv1.CloudInitNoCloudSource{
		"inline":               {UserData: user, NetworkData: network},
		"base64":               {UserDataBase64: encode(user), NetworkDataBase64: encode(network)},
		"secret":               {UserDataSecretRef: &corev1.LocalObjectReference{Name: "seed"}, NetworkDataSecretRef: &corev1.LocalObjectReference{Name: "seed"}},
		"secret in camel case": {UserDataSecretRef: &corev1.LocalObjectReference{Name: "seed2"}, NetworkDataSecretRef: &corev1.LocalObjectReference{Name: "seed2"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.Commit(func(tx *objects.Tx) {
				tx.Create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "seed"},
					Data: map[string][]byte{"userdata": []byte(user), "networkdata": []byte(network)}})
				tx.Create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "seed2"},
					Data: map[string][]byte{"userData": []byte(user), "networkData": []byte(network)}})
			})
			vmi := vmiWith("a", cloudInit(source))
			vmi.UID = "one"
			vmi.Spec.Hostname = "host-of-the-test"
			disks, _ := w.prepare(vmi)
			disk := disks["vol0"]
			if disk.Format != "raw" || !disk.ReadOnly {
				t.Errorf("%+v", disk)
			}
			image, err := os.ReadFile(disk.Path)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{user, network, "host-of-the-test", "a.ns"} {
				if !bytes.Contains(image, []byte(want)) {
					t.Errorf("the seed does not hold %q", want)
				}
			}
		})
	}
}

func TestCloudInitFaults(t *testing.T) {
	for name, test := range map[string]struct {
		source kubevirtv1.CloudInitNoCloudSource
		want   string
	}{
		"not base64":     {kubevirtv1.CloudInitNoCloudSource{UserDataBase64: "%"}, "cloudInitNoCloud.userDataBase64"},
		"two ways":       {kubevirtv1.CloudInitNoCloudSource{UserData: "a", UserDataBase64: "YQ=="}, "more than one way"},
		"no such secret": {kubevirtv1.CloudInitNoCloudSource{UserDataSecretRef: &corev1.LocalObjectReference{Name: "missing"}}, "secret missing"},
		"no such key":    {kubevirtv1.CloudInitNoCloudSource{NetworkDataSecretRef: &corev1.LocalObjectReference{Name: "empty"}}, `neither key "networkdata" nor key "networkData"`},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.Commit(func(tx *objects.Tx) {
				tx.Create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "empty"}})
			})
			vmi := vmiWith("a", cloudInit(test.source))
			vmi.UID = "one"
			if got := w.refusal(vmi); got.Reason != "FailedVolume" || !strings.Contains(got.Error(), test.want) {
				t.Errorf("%s: %v", got.Reason, got)
			}
		})
	}
}

func TestUnsupportedVolumeIsRefusedByName(t *testing.T) {
	w := newWorld(t)
	vmi := vmiWith("a", kubevirtv1.VolumeSource{HostDisk: &kubevirtv1.HostDisk{Path: "/x"}})
	if got := w.refusal(vmi); got.Volume != "vol0" || got.Reason != "UnsupportedVolume" {
		t.Errorf("%+v", got)
	}
}

// On a host whose disk is nearly full nothing begins that fills it: no image is pulled, no
// disk made, and no volume. What exists can be used.
func TestNothingNewBeginsOnAFullDisk(t *testing.T) {
	w := newWorld(t)
	w.claim("data", "local", nil)
	w.prepare(w.create(vmiWith("before", usesClaim("data"))))
	w.noRoom = fmt.Errorf("%w: 3 MiB are free", storage.ErrNoSpace)
	w.local.FailWith(func(op, _ string) error {
		if op == "Create" {
			return storage.ErrNoSpace
		}
		return nil
	})
	w.claim("new", "local", nil)
	for name, source := range map[string]kubevirtv1.VolumeSource{
		"image": {ContainerDisk: &kubevirtv1.ContainerDiskSource{Image: "example/disk"}},
		"empty": {EmptyDisk: &kubevirtv1.EmptyDiskSource{Capacity: resource.MustParse("1Gi")}},
		"claim": usesClaim("new"),
	} {
		if got := w.refusal(w.create(vmiWith(name, source))); got.Reason != reasonNoSpace || !errors.Is(got, storage.ErrNoSpace) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if w.images.asked != "" {
		t.Errorf("image %s was pulled", w.images.asked)
	}
	before, _ := w.claims.vmis.Get(objects.Key{Namespace: "ns", Name: "before"})
	if disks, _, err := w.volumes.Prepare(t.Context(), before); err != nil || len(disks) != 1 {
		t.Errorf("a volume that exists: %v, %v", disks, err)
	}
}
