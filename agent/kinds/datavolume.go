package kinds

import (
	"net/url"
	"reflect"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	cdiv1 "kubevirt.io/containerized-data-importer-api/pkg/apis/core/v1beta1"

	machine "virtmesh/agent/vmi"
)

func dataVolumeKind() *Kind {
	type dv = cdiv1.DataVolume
	return &Kind{
		GVK: cdiv1.SchemeGroupVersion.WithKind("DataVolume"), Resource: "datavolumes", Singular: "datavolume",
		ShortNames: []string{"dv", "dvs"}, Categories: everything, Namespaced: true, Status: true, Generation: true,
		Object: &dv{}, List: &cdiv1.DataVolumeList{},
		Support:        "accepted: validated and stored, also those made from `dataVolumeTemplates`, and nothing fills them, which a warning and their condition `Ready` say. An instance that uses one waits. Use a PersistentVolumeClaim, if needed with the import annotations",
		Writers:        Writers{Spec: "users, stewards/vm", Status: "the API, when it is created"},
		Default:        defaultWith(defaultDataVolume),
		Warnings:       forType(func(*dv) []string { return []string{dataVolumesAreNotFilled} }),
		Validate:       validateWith(validateDataVolume),
		ValidateUpdate: validateUpdateWith(validateDataVolumeUpdate),
		Columns: []Column{
			{Name: "Phase", Type: "string", Description: "The phase the data volume is in", Value: forType(func(d *dv) any { return string(d.Status.Phase) })},
			{Name: "Progress", Type: "string", Description: "Transfer progress in percentage if known, N/A otherwise", Value: forType(func(d *dv) any { return string(d.Status.Progress) })},
			{Name: "Restarts", Type: "integer", Description: "The number of times the transfer has been restarted.", Value: forType(func(d *dv) any { return int64(d.Status.RestartCount) })},
			age,
		},
	}
}

// dataVolumesAreNotFilled is what users are told of every DataVolume.
const dataVolumesAreNotFilled = "nothing fills DataVolumes in this version: use a PersistentVolumeClaim, " +
	"if needed with the annotations " + ImportSource + " and " + ImportEndpoint

// SetNewDataVolume gives a new DataVolume its phase, and the condition that says that it
// stays as it is.
func SetNewDataVolume(d *cdiv1.DataVolume, now time.Time) {
	stamp := metav1.NewTime(now.Truncate(time.Second))
	d.Status = cdiv1.DataVolumeStatus{Phase: cdiv1.Pending, Conditions: []cdiv1.DataVolumeCondition{{
		Type: cdiv1.DataVolumeReady, Status: corev1.ConditionFalse, Reason: "NotSupported", Message: dataVolumesAreNotFilled,
		LastTransitionTime: stamp, LastHeartbeatTime: stamp,
	}}}
}

// defaultDataVolume sets the status of a new DataVolume, and clears the namespace of a clone's source if it is the DataVolume's
// own.
func defaultDataVolume(d *cdiv1.DataVolume) {
	SetNewDataVolume(d, time.Now())
	if d.Spec.Source == nil {
		return
	}
	if s := d.Spec.Source.PVC; s != nil && s.Namespace == "" {
		s.Namespace = d.Namespace
	}
	if s := d.Spec.Source.Snapshot; s != nil && s.Namespace == "" {
		s.Namespace = d.Namespace
	}
}

func validateDataVolume(d *cdiv1.DataVolume) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	switch spec := &d.Spec; {
	case spec.Source != nil && spec.SourceRef != nil:
		errs = append(errs, field.Invalid(path.Child("sourceRef"), spec.SourceRef.Name, "source and sourceRef are mutually exclusive"))
	case spec.Source != nil:
		errs = append(errs, validateDataSource(path.Child("source"), spec.Source)...)
	case spec.SourceRef != nil:
		errs = append(errs, validateSourceRef(path.Child("sourceRef"), spec.SourceRef)...)
	case !hasPopulator(spec):
		errs = append(errs, field.Required(path.Child("source"), "either source or sourceRef must be set"))
	}
	errs = append(errs, validateTarget(path, d)...)
	if t := d.Spec.ContentType; t != "" {
		errs = append(errs, checkOneOf(path.Child("contentType"), t, []cdiv1.DataVolumeContentType{cdiv1.DataVolumeKubeVirt, cdiv1.DataVolumeArchive})...)
	}
	return errs
}

// hasPopulator reports whether the claim itself names the source of its content.
func hasPopulator(s *cdiv1.DataVolumeSpec) bool {
	return s.PVC != nil && (s.PVC.DataSource != nil || s.PVC.DataSourceRef != nil) ||
		s.Storage != nil && (s.Storage.DataSource != nil || s.Storage.DataSourceRef != nil)
}

// validateDataSource requires exactly one source, with its required fields.
func validateDataSource(path *field.Path, s *cdiv1.DataVolumeSource) field.ErrorList {
	var set []string
	value := reflect.ValueOf(s).Elem()
	for i := range value.NumField() {
		if !value.Field(i).IsNil() {
			name, _, _ := strings.Cut(value.Type().Field(i).Tag.Get("json"), ",")
			set = append(set, name)
		}
	}
	if len(set) != 1 {
		return field.ErrorList{field.Invalid(path, strings.Join(set, ", "), "must have exactly one source")}
	}
	switch {
	case s.HTTP != nil:
		return validateURL(path.Child("http", "url"), s.HTTP.URL, "http", "https")
	case s.S3 != nil:
		return validateURL(path.Child("s3", "url"), s.S3.URL, "http", "https", "s3")
	case s.GCS != nil:
		return validateURL(path.Child("gcs", "url"), s.GCS.URL, "http", "https", "gs")
	case s.Registry != nil:
		return validateRegistry(path.Child("registry"), s.Registry)
	case s.PVC != nil && s.PVC.Name == "":
		return field.ErrorList{field.Required(path.Child("pvc", "name"), "")}
	case s.Snapshot != nil && s.Snapshot.Name == "":
		return field.ErrorList{field.Required(path.Child("snapshot", "name"), "")}
	}
	return nil
}

func validateURL(path *field.Path, raw string, schemes ...string) field.ErrorList {
	if raw == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	u, err := url.Parse(raw)
	if err != nil {
		return field.ErrorList{field.Invalid(path, raw, "must be a URL: "+err.Error())}
	}
	for _, s := range schemes {
		if u.Scheme == s && u.Host != "" {
			return nil
		}
	}
	return field.ErrorList{field.Invalid(path, raw, "must be a URL with a host and one of the schemes "+strings.Join(schemes, ", "))}
}

func validateRegistry(path *field.Path, r *cdiv1.DataVolumeSourceRegistry) field.ErrorList {
	switch {
	case (r.URL == nil) == (r.ImageStream == nil):
		return field.ErrorList{field.Invalid(path, deref(r.URL), "must have exactly one of url and imageStream")}
	case r.URL != nil:
		errs := validateURL(path.Child("url"), *r.URL, "docker", "oci-archive")
		if len(errs) == 0 && strings.HasPrefix(*r.URL, ImportScheme) {
			errs = machine.ValidateImage(path.Child("url"), *r.URL)
		}
		if r.PullMethod != nil {
			errs = append(errs, checkOneOf(path.Child("pullMethod"), *r.PullMethod, []cdiv1.RegistryPullMethod{cdiv1.RegistryPullPod, cdiv1.RegistryPullNode})...)
		}
		return errs
	}
	return nil
}

func validateSourceRef(path *field.Path, r *cdiv1.DataVolumeSourceRef) field.ErrorList {
	errs := checkOneOf(path.Child("kind"), r.Kind, []string{cdiv1.DataVolumeDataSource})
	if r.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	return errs
}

// validateTarget checks the claim that would be created. The size may be omitted if it
// follows from the source.
func validateTarget(path *field.Path, d *cdiv1.DataVolume) field.ErrorList {
	pvc, storage := d.Spec.PVC, d.Spec.Storage
	if (pvc == nil) == (storage == nil) {
		return field.ErrorList{field.Invalid(path, "pvc, storage", "must have exactly one of pvc and storage")}
	}
	var errs field.ErrorList
	var res corev1.VolumeResourceRequirements
	if pvc != nil {
		path, res = path.Child("pvc"), pvc.Resources
		if len(pvc.AccessModes) == 0 {
			errs = append(errs, field.Required(path.Child("accessModes"), "at least one access mode is required"))
		}
	} else {
		path, res = path.Child("storage"), storage.Resources
	}
	path = path.Child("resources", "requests").Key(string(corev1.ResourceStorage))
	size, ok := res.Requests[corev1.ResourceStorage]
	clone := d.Spec.SourceRef != nil || d.Spec.Source != nil && (d.Spec.Source.PVC != nil || d.Spec.Source.Snapshot != nil)
	switch {
	case !ok && (pvc != nil || !clone):
		errs = append(errs, field.Required(path, ""))
	case ok && size.Sign() <= 0:
		errs = append(errs, field.Invalid(path, size.String(), "must be greater than zero"))
	}
	return errs
}

// validateDataVolumeUpdate requires that the spec is unchanged, except for the
// checkpoints of a multi-stage import.
func validateDataVolumeUpdate(d, old *cdiv1.DataVolume) field.ErrorList {
	spec := d.Spec.DeepCopy()
	spec.Checkpoints, spec.FinalCheckpoint = old.Spec.Checkpoints, old.Spec.FinalCheckpoint
	if !equal(spec, &old.Spec) {
		return field.ErrorList{field.Forbidden(field.NewPath("spec"), "Cannot update DataVolume Spec")}
	}
	return nil
}
