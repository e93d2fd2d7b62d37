package vmi

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

const (
	// maxVolumes is the most volumes of one instance.
	maxVolumes = 256
	// maxCloudInit bounds cloud-init data in the manifest itself; larger data goes
	// into a secret.
	maxCloudInit = 2048
)

func validateVolumes(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	at = at.Child("volumes")
	var errs field.ErrorList
	if len(spec.Volumes) > maxVolumes {
		errs = append(errs, field.TooMany(at, len(spec.Volumes), maxVolumes))
	}
	seen := map[string]bool{}
	once := map[string]int{}
	for i := range spec.Volumes {
		volume := &spec.Volumes[i]
		p := at.Index(i)
		if seen[volume.Name] {
			errs = append(errs, field.Duplicate(p.Child("name"), volume.Name))
		}
		seen[volume.Name] = true
		errs = append(errs, messages(p.Child("name"), volume.Name, validation.IsDNS1123Label(volume.Name))...)
		sources := sourcesOf(volume)
		if len(sources) != 1 {
			errs = append(errs, field.Invalid(p, strings.Join(sources, ", "), "must have exactly one source type set"))
		}
		for _, s := range sources {
			once[s]++
		}
		errs = append(errs, validateSource(p, volume)...)
		errs = append(errs, validateCloudInit(p, volume)...)
	}
	for _, s := range []string{"serviceAccount", "downwardMetrics", "memoryDump"} {
		if once[s] > 1 {
			errs = append(errs, field.Invalid(at, once[s], fmt.Sprintf("must have max one %s volume set", s)))
		}
	}
	return errs
}

// sourcesOf returns the names of the sources that a volume sets.
func sourcesOf(v *kubevirtv1.Volume) []string {
	var set []string
	value := reflect.ValueOf(v.VolumeSource)
	for i := range value.NumField() {
		if !value.Field(i).IsNil() {
			key, _, _ := strings.Cut(value.Type().Field(i).Tag.Get("json"), ",")
			set = append(set, key)
		}
	}
	return set
}

// validateSource checks that the source of a volume has its mandatory fields.
func validateSource(at *field.Path, v *kubevirtv1.Volume) field.ErrorList {
	var errs field.ErrorList
	named := func(set bool, value string, path ...string) {
		if set && value == "" {
			errs = append(errs, field.Required(at.Child(path[0], path[1:]...), ""))
		}
	}
	if s := v.ContainerDisk; s != nil {
		errs = append(errs, ValidateImage(at.Child("containerDisk", "image"), s.Image)...)
		errs = append(errs, validateImagePath(at.Child("containerDisk", "path"), s.Path)...)
		if s.ImagePullPolicy != "" {
			errs = append(errs, oneOf(at.Child("containerDisk", "imagePullPolicy"), s.ImagePullPolicy,
				[]corev1.PullPolicy{corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever})...)
		}
	}
	if s := v.PersistentVolumeClaim; s != nil {
		named(true, s.ClaimName, "persistentVolumeClaim", "claimName")
	}
	if s := v.DataVolume; s != nil {
		named(true, s.Name, "dataVolume", "name")
	}
	if s := v.Ephemeral; s != nil {
		named(s.PersistentVolumeClaim == nil || s.PersistentVolumeClaim.ClaimName == "", "", "ephemeral", "persistentVolumeClaim", "claimName")
	}
	if s := v.EmptyDisk; s != nil && s.Capacity.Sign() <= 0 {
		errs = append(errs, field.Invalid(at.Child("emptyDisk", "capacity"), s.Capacity.String(), "must be greater than 0"))
	}
	if s := v.ConfigMap; s != nil {
		named(true, s.Name, "configMap", "name")
	}
	if s := v.Secret; s != nil {
		named(true, s.SecretName, "secret", "secretName")
	}
	if s := v.ServiceAccount; s != nil {
		named(true, s.ServiceAccountName, "serviceAccount", "serviceAccountName")
	}
	if s := v.Sysprep; s != nil && (s.Secret == nil) == (s.ConfigMap == nil) {
		errs = append(errs, field.Invalid(at.Child("sysprep"), v.Name, "must have either a secret or a configMap"))
	}
	if s := v.HostDisk; s != nil {
		named(true, s.Path, "hostDisk", "path")
		errs = append(errs, oneOf(at.Child("hostDisk", "type"), s.Type, []kubevirtv1.HostDiskType{kubevirtv1.HostDiskExists, kubevirtv1.HostDiskExistsOrCreate})...)
		if s.Type == kubevirtv1.HostDiskExists && !s.Capacity.IsZero() {
			errs = append(errs, field.Invalid(at.Child("hostDisk", "capacity"), s.Capacity.String(), "is allowed only with type DiskOrCreate"))
		}
	}
	return errs
}

// cloudInit holds the fields that the two kinds of cloud-init volumes have in common.
type cloudInit struct {
	name                string
	userRef, networkRef *corev1.LocalObjectReference
	user, user64        string
	network, network64  string
}

func cloudInitOf(v *kubevirtv1.Volume) *cloudInit {
	switch {
	case v.CloudInitNoCloud != nil:
		s := v.CloudInitNoCloud
		return &cloudInit{name: "cloudInitNoCloud", userRef: s.UserDataSecretRef, networkRef: s.NetworkDataSecretRef,
			user: s.UserData, user64: s.UserDataBase64, network: s.NetworkData, network64: s.NetworkDataBase64}
	case v.CloudInitConfigDrive != nil:
		s := v.CloudInitConfigDrive
		return &cloudInit{name: "cloudInitConfigDrive", userRef: s.UserDataSecretRef, networkRef: s.NetworkDataSecretRef,
			user: s.UserData, user64: s.UserDataBase64, network: s.NetworkData, network64: s.NetworkDataBase64}
	}
	return nil
}

func validateCloudInit(at *field.Path, v *kubevirtv1.Volume) field.ErrorList {
	c := cloudInitOf(v)
	if c == nil {
		return nil
	}
	at = at.Child(c.name)
	user, errs := validateCloudData(at, "userData", c.userRef, c.user, c.user64)
	network, more := validateCloudData(at, "networkData", c.networkRef, c.network, c.network64)
	errs = append(errs, more...)
	if user+network == 0 {
		errs = append(errs, field.Required(at, "must have at least one userdatasource or one networkdatasource set."))
	}
	return errs
}

// validateCloudData checks one document of a cloud-init volume and returns how many
// sources it has.
func validateCloudData(at *field.Path, name string, ref *corev1.LocalObjectReference, plain, encoded string) (int, field.ErrorList) {
	var errs field.ErrorList
	sources, size := 0, 0
	if ref != nil && ref.Name != "" {
		sources++
	}
	if plain != "" {
		sources++
		size = len(plain)
	}
	if encoded != "" {
		sources++
		n, ok := base64Length(encoded)
		if !ok {
			errs = append(errs, field.Invalid(at.Child(name+"Base64"), "(data)", "is not a valid base64 value."))
		}
		size = max(size, n)
	}
	if sources > 1 {
		errs = append(errs, field.Invalid(at.Child(name), sources, "must have only one source set."))
	}
	if size > maxCloudInit {
		errs = append(errs, field.Invalid(at.Child(name), size, fmt.Sprintf("exceeds %d byte limit. Should use %sSecretRef for larger data.", maxCloudInit, name)))
	}
	return sources, errs
}

// validateEveryVolumeUsed reports volumes that no disk or filesystem shows to the
// guest.
func validateEveryVolumeUsed(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	disks, filesystems := map[string]bool{}, map[string]bool{}
	for _, d := range spec.Domain.Devices.Disks {
		disks[d.Name] = true
	}
	for _, f := range spec.Domain.Devices.Filesystems {
		filesystems[f.Name] = true
	}
	var errs field.ErrorList
	for i, v := range spec.Volumes {
		name := at.Child("volumes").Index(i).Child("name")
		switch {
		case v.MemoryDump != nil:
		case v.ContainerPath != nil && !filesystems[v.Name]:
			errs = append(errs, field.Invalid(name, v.Name, "a containerPath volume must have a filesystem in spec.domain.devices.filesystems"))
		case !disks[v.Name] && !filesystems[v.Name]:
			errs = append(errs, field.Invalid(name, v.Name, "no disk or filesystem of spec.domain.devices has this name"))
		}
	}
	return errs
}

// ValidateImage checks that image is the name of a container image, as a registry would
// understand it. KubeVirt also takes one that begins with docker://.
func ValidateImage(at *field.Path, image string) field.ErrorList {
	if image == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	// What the library says is advice to who calls it.
	if _, err := name.ParseReference(strings.TrimPrefix(image, "docker://")); err != nil {
		return field.ErrorList{field.Invalid(at, image, "must be the name of a container image, such as registry.example.org/disks/debian:12")}
	}
	return nil
}
