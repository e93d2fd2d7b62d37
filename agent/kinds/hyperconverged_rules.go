package kinds

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/kinds/hcov1beta1"
)

// validateHyperConverged checks a configuration whose defaults are filled in. Rules and words
// are those of the operator's webhook and of its CRD; where the webhook stops at the first
// conflict, all are reported.
func validateHyperConverged(c *hcov1beta1.HyperConverged) field.ErrorList {
	spec, at := &c.Spec, field.NewPath("spec")
	var errs field.ErrorList
	if c.Namespace != hcov1beta1.Namespace {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "namespace"), c.Namespace,
			fmt.Sprintf("must be %s or %s: a mesh has one HyperConverged, which both show", hcov1beta1.Namespace, hcov1beta1.OtherNamespace)))
	}
	errs = append(errs, validateJSONPatches(c)...)
	errs = append(errs, validateCertConfig(at.Child("certConfig"), &spec.CertConfig)...)
	errs = append(errs, validateCronTemplates(at.Child("dataImportCronTemplates"), spec.DataImportCronTemplates)...)
	errs = append(errs, validateTLSProfile(at.Child("tlsSecurityProfile"), spec.TLSSecurityProfile)...)
	errs = append(errs, validateMediatedDevices(at.Child("mediatedDevicesConfiguration"), spec.MediatedDevicesConfiguration)...)
	errs = append(errs, validatePlacement(at.Child("workloads"), "workloads", &spec.Workloads)...)
	errs = append(errs, validatePlacement(at.Child("infra"), "infra", &spec.Infra)...)
	errs = append(errs, validateWords(at, spec)...)
	errs = append(errs, validateMigrations(at.Child("liveMigrationConfig"), &spec.LiveMigrationConfig)...)
	return append(errs, validateAmounts(at, spec)...)
}

// says makes an error whose text holds the operator's own words, which scripts search for.
func says(at *field.Path, text string) *field.Error { return field.Forbidden(at, text) }

func validateJSONPatches(c *hcov1beta1.HyperConverged) field.ErrorList {
	var errs field.ErrorList
	for _, name := range JSONPatches(c) {
		at := field.NewPath("metadata", "annotations").Key(name)
		patch, err := jsonpatch.DecodePatch([]byte(c.Annotations[name]))
		if err != nil {
			errs = append(errs, field.Invalid(at, c.Annotations[name], fmt.Sprintf("must be a JSON patch: %v", err)))
			continue
		}
		for i, op := range patch {
			path, err := op.Path()
			known := slices.Contains([]string{"add", "remove", "replace", "move", "copy", "test"}, op.Kind())
			if err != nil || !known || !strings.HasPrefix(path, "/spec/") {
				errs = append(errs, field.Invalid(at, c.Annotations[name],
					fmt.Sprintf("operation %d must have an op of JSON patches, and a path that begins with /spec/", i)))
			}
		}
	}
	return errs
}

// shortest is the shortest time that certificates may be good for.
const shortest = 10 * time.Minute

func validateCertConfig(at *field.Path, c *hcov1beta1.HyperConvergedCertConfig) field.ErrorList {
	var errs field.ErrorList
	tooSmall := func(at *field.Path, value *metav1.Duration) {
		if value.Duration < shortest {
			errs = append(errs, says(at, at.String()+": value is too small"))
		}
	}
	tooSmall(at.Child("ca", "duration"), c.CA.Duration)
	tooSmall(at.Child("ca", "renewBefore"), c.CA.RenewBefore)
	tooSmall(at.Child("server", "duration"), c.Server.Duration)
	tooSmall(at.Child("server", "renewBefore"), c.Server.RenewBefore)
	if c.CA.Duration.Duration < c.CA.RenewBefore.Duration {
		errs = append(errs, says(at.Child("ca"), "spec.certConfig.ca: duration is smaller than renewBefore"))
	}
	if c.Server.Duration.Duration < c.Server.RenewBefore.Duration {
		errs = append(errs, says(at.Child("server"), "spec.certConfig.server: duration is smaller than renewBefore"))
	}
	if c.CA.Duration.Duration < c.Server.Duration.Duration {
		errs = append(errs, says(at, "spec.certConfig: ca.duration is smaller than server.duration"))
	}
	return errs
}

// enableImport is the annotation that switches one template off.
const enableImport = "dataimportcrontemplate.kubevirt.io/enable"

func validateCronTemplates(at *field.Path, templates []hcov1beta1.DataImportCronTemplate) field.ErrorList {
	var errs field.ErrorList
	for i, template := range templates {
		word, said := template.Annotations[enableImport]
		word = strings.ToLower(word)
		if said && word != "false" && word != "true" {
			errs = append(errs, field.Invalid(at.Index(i).Child("metadata", "annotations").Key(enableImport), word,
				fmt.Sprintf(`the %s annotation of a dataImportCronTemplate must be either "true" or "false"`, enableImport)))
			continue
		}
		if word != "false" && template.Spec == nil {
			errs = append(errs, field.Required(at.Index(i).Child("spec"), "dataImportCronTemplate spec is empty for an enabled DataImportCronTemplate"))
		}
	}
	return errs
}

// http2Ciphers are those of which HTTP/2 needs one below TLS 1.3.
var http2Ciphers = []string{"ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"}

func validateTLSProfile(at *field.Path, p *hcov1beta1.TLSSecurityProfile) field.ErrorList {
	if p == nil {
		return nil
	}
	errs := checkOneOf(at.Child("type"), p.Type, []string{"", "Old", "Intermediate", "Modern", "Custom"})
	if p.Custom == nil {
		if p.Type == "Custom" {
			errs = append(errs, field.Required(at.Child("custom"), "missing required field spec.tlsSecurityProfile.custom when type is Custom"))
		}
		return errs
	}
	versions := []string{"VersionTLS10", "VersionTLS11", "VersionTLS12", "VersionTLS13"}
	modern := p.Custom.MinTLSVersion == "VersionTLS13"
	has := func(cipher string) bool { return slices.Contains(p.Custom.Ciphers, cipher) }
	switch {
	case !slices.Contains(versions, p.Custom.MinTLSVersion):
		errs = append(errs, field.Invalid(at.Child("custom", "minTLSVersion"), p.Custom.MinTLSVersion, "invalid value for spec.tlsSecurityProfile.custom.minTLSVersion"))
	case !modern && !slices.ContainsFunc(http2Ciphers, has):
		errs = append(errs, says(at.Child("custom", "ciphers"), "http2: TLSConfig.CipherSuites is missing an HTTP/2-required AES_128_GCM_SHA256 cipher (need at least one of ECDHE-RSA-AES128-GCM-SHA256 or ECDHE-ECDSA-AES128-GCM-SHA256)"))
	case modern && len(p.Custom.Ciphers) > 0:
		errs = append(errs, says(at.Child("custom", "ciphers"), "custom ciphers cannot be selected when minTLSVersion is VersionTLS13"))
	}
	return errs
}

func validateMediatedDevices(at *field.Path, c *hcov1beta1.MediatedDevicesConfiguration) field.ErrorList {
	if c == nil {
		return nil
	}
	errs := validateDeviceTypes(at, "mediatedDevicesConfiguration", c.MediatedDeviceTypes, c.MediatedDevicesTypes)
	for i, node := range c.NodeMediatedDeviceTypes {
		errs = append(errs, validateDeviceTypes(at.Child("nodeMediatedDeviceTypes").Index(i), "nodeMediatedDeviceTypes", node.MediatedDeviceTypes, node.MediatedDevicesTypes)...)
	}
	return errs
}

func validateDeviceTypes(at *field.Path, of string, types, older []string) field.ErrorList {
	switch {
	case len(types) == 0 && len(older) == 0:
		return field.ErrorList{field.Required(at.Child("mediatedDeviceTypes"),
			fmt.Sprintf("for %s a non-empty mediatedDeviceTypes or mediatedDevicesTypes(deprecated) is required", of))}
	case len(types) > 0 && len(older) > 0 && !slices.Equal(types, older):
		return field.ErrorList{says(at.Child("mediatedDevicesTypes"), "mediatedDevicesTypes is deprecated, please use mediatedDeviceTypes instead")}
	}
	return nil
}

func validatePlacement(at *field.Path, of string, c *hcov1beta1.HyperConvergedConfig) field.ErrorList {
	p := c.NodePlacement
	if p == nil || p.Affinity == nil || p.Affinity.NodeAffinity == nil || p.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	if _, err := nodeaffinity.NewNodeSelector(p.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution); err != nil {
		return field.ErrorList{says(at.Child("nodePlacement", "affinity"), fmt.Sprintf("invalid %s node placement affinity: %v", of, err))}
	}
	return nil
}

// validateWords checks the fields that take one of a few words.
func validateWords(at *field.Path, spec *hcov1beta1.HyperConvergedSpec) field.ErrorList {
	errs := checkOneOf(at.Child("uninstallStrategy"), spec.UninstallStrategy, []string{hcov1beta1.BlockUninstall, hcov1beta1.RemoveWorkloads})
	errs = append(errs, checkOneOf(at.Child("tuningPolicy"), spec.TuningPolicy, []string{"", "annotation", "highBurst"})...)
	if s := spec.EvictionStrategy; s != nil {
		errs = append(errs, checkOneOf(at.Child("evictionStrategy"), *s, []kubevirtv1.EvictionStrategy{
			kubevirtv1.EvictionStrategyNone, kubevirtv1.EvictionStrategyLiveMigrate,
			kubevirtv1.EvictionStrategyLiveMigrateIfPossible, kubevirtv1.EvictionStrategyExternal,
		})...)
	}
	if s := spec.RoleAggregationStrategy; s != nil {
		errs = append(errs, checkOneOf(at.Child("roleAggregationStrategy"), *s, []kubevirtv1.RoleAggregationStrategy{"AggregateToDefault", "Manual"})...)
	}
	for i, method := range spec.WorkloadUpdateStrategy.WorkloadUpdateMethods {
		errs = append(errs, checkOneOf(at.Child("workloadUpdateStrategy", "workloadUpdateMethods").Index(i), method, []string{"LiveMigrate", "Evict"})...)
	}
	return errs
}

func validateMigrations(at *field.Path, c *hcov1beta1.LiveMigrationConfigurations) field.ErrorList {
	var errs field.ErrorList
	if text := c.BandwidthPerMigration; text != nil {
		if q, err := resource.ParseQuantity(*text); err != nil || q.Sign() < 0 {
			errs = append(errs, field.Invalid(at.Child("bandwidthPerMigration"), *text, "must be a quantity of bytes per second, such as 64Mi"))
		}
	}
	for name, seconds := range map[string]*int64{"completionTimeoutPerGiB": c.CompletionTimeoutPerGiB, "progressTimeout": c.ProgressTimeout} {
		if deref(seconds) < 0 {
			errs = append(errs, field.Invalid(at.Child(name), *seconds, "must not be negative"))
		}
	}
	return errs
}

var (
	// fraction is CDI's form of a share of a volume.
	fraction = regexp.MustCompile(`^(0(?:\.\d{1,3})?|1)$`)
	// macAddress is the form of the bounds of a range.
	macAddress = regexp.MustCompile(`^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$`)
)

// validateAmounts checks numbers, and texts that stand for some.
func validateAmounts(at *field.Path, spec *hcov1beta1.HyperConvergedSpec) field.ErrorList {
	var errs field.ErrorList
	if r := spec.ResourceRequirements; r != nil && r.VmiCPUAllocationRatio != nil && *r.VmiCPUAllocationRatio < 1 {
		errs = append(errs, field.Invalid(at.Child("resourceRequirements", "vmiCPUAllocationRatio"), *r.VmiCPUAllocationRatio, "vmiCPUAllocationRatio must be greater than 0"))
	}
	if d := spec.HigherWorkloadDensity; d != nil && d.MemoryOvercommitPercentage != 0 && d.MemoryOvercommitPercentage < 10 {
		errs = append(errs, field.Invalid(at.Child("higherWorkloadDensity", "memoryOvercommitPercentage"), d.MemoryOvercommitPercentage, "must be at least 10"))
	}
	if o := spec.FilesystemOverhead; o != nil {
		path, text := at.Child("filesystemOverhead"), "must be a fraction from 0 to 1 with at most three digits, such as 0.055"
		if o.Global != "" && !fraction.MatchString(string(o.Global)) {
			errs = append(errs, field.Invalid(path.Child("global"), o.Global, text))
		}
		for class, share := range o.StorageClass {
			if !fraction.MatchString(string(share)) {
				errs = append(errs, field.Invalid(path.Child("storageClass").Key(class), share, text))
			}
		}
	}
	if len(spec.Hypervisors) > 1 {
		errs = append(errs, field.TooMany(at.Child("hypervisors"), len(spec.Hypervisors), 1))
	}
	if p := spec.KubeMacPoolConfiguration; p != nil {
		path := at.Child("kubeMacPoolConfiguration")
		if (p.RangeStart == nil) != (p.RangeEnd == nil) {
			errs = append(errs, says(path, "both rangeStart and rangeEnd must be configured together, or both omitted"))
		}
		for name, bound := range map[string]*string{"rangeStart": p.RangeStart, "rangeEnd": p.RangeEnd} {
			if bound != nil && !macAddress.MatchString(*bound) {
				errs = append(errs, field.Invalid(path.Child(name), *bound, "must have the form AA:BB:CC:DD:EE:FF"))
			}
		}
	}
	return errs
}
