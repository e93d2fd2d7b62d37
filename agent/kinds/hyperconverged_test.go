package kinds

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"virtmesh/agent/kinds/hcov1beta1"
	machine "virtmesh/agent/vmi"
)

// hco is an object of the kind with its defaults, as it is stored.
func hco(t *testing.T, manifest string) *hcov1beta1.HyperConverged {
	t.Helper()
	k := kind(t, "HyperConverged")
	c := object(t, k, manifest).(*hcov1beta1.HyperConverged)
	c.Namespace = hcov1beta1.Namespace
	k.Default(machine.DefaultDefaults(), c)
	return c
}

func TestHyperConverged(t *testing.T) {
	k := kind(t, "HyperConverged")
	for name, c := range map[string]struct{ manifest, field string }{
		"nothing said":          {`{}`, ""},
		"the manual's example":  {`spec: {certConfig: {ca: {duration: 48h0m0s, renewBefore: 24h0m0s}, server: {duration: 24h0m0s, renewBefore: 12h0m0s}}}`, ""},
		"limits of migrations":  {`spec: {liveMigrationConfig: {bandwidthPerMigration: 64Mi, completionTimeoutPerGiB: 800, parallelMigrationsPerCluster: 5, parallelOutboundMigrationsPerNode: 2, progressTimeout: 150, network: my-net}}`, ""},
		"no bandwidth at all":   {`spec: {liveMigrationConfig: {bandwidthPerMigration: fast}}`, "spec.liveMigrationConfig.bandwidthPerMigration"},
		"time that runs back":   {`spec: {liveMigrationConfig: {progressTimeout: -1}}`, "spec.liveMigrationConfig.progressTimeout"},
		"a default strategy":    {`spec: {evictionStrategy: LiveMigrateIfPossible, defaultCPUModel: EPYC}`, ""},
		"a strategy of no one":  {`spec: {evictionStrategy: Run}`, "spec.evictionStrategy"},
		"updates by eviction":   {`spec: {workloadUpdateStrategy: {workloadUpdateMethods: [LiveMigrate, Evict], batchEvictionSize: 10, batchEvictionInterval: 1m0s}}`, ""},
		"updates by force":      {`spec: {workloadUpdateStrategy: {workloadUpdateMethods: [Kill]}}`, "spec.workloadUpdateStrategy.workloadUpdateMethods[0]"},
		"shares of volumes":     {`spec: {filesystemOverhead: {global: "0.07", storageClass: {mystorageclass: "0.04"}}}`, ""},
		"more than a volume":    {`spec: {filesystemOverhead: {global: "1.5"}}`, "spec.filesystemOverhead.global"},
		"a class of percents":   {`spec: {filesystemOverhead: {storageClass: {a: "7%"}}}`, "spec.filesystemOverhead.storageClass[a]"},
		"a cron template":       {`spec: {dataImportCronTemplates: [{metadata: {name: a}, spec: {schedule: "0 */12 * * *", managedDataSource: a, template: {spec: {source: {registry: {url: "docker://a"}}}}}}]}`, ""},
		"a disabled one":        {`spec: {dataImportCronTemplates: [{metadata: {name: a, annotations: {dataimportcrontemplate.kubevirt.io/enable: "false"}}}]}`, ""},
		"an empty one":          {`spec: {dataImportCronTemplates: [{metadata: {name: a}}]}`, "spec.dataImportCronTemplates[0].spec"},
		"one that may be":       {`spec: {dataImportCronTemplates: [{metadata: {name: a, annotations: {dataimportcrontemplate.kubevirt.io/enable: maybe}}}]}`, "spec.dataImportCronTemplates[0].metadata.annotations[dataimportcrontemplate.kubevirt.io/enable]"},
		"a profile":             {`spec: {tlsSecurityProfile: {type: Intermediate, intermediate: {}}}`, ""},
		"a profile of its own":  {`spec: {tlsSecurityProfile: {type: Custom, custom: {minTLSVersion: VersionTLS12, ciphers: [ECDHE-RSA-AES128-GCM-SHA256]}}}`, ""},
		"a profile of nothing":  {`spec: {tlsSecurityProfile: {type: Custom}}`, "spec.tlsSecurityProfile.custom"},
		"a version of nothing":  {`spec: {tlsSecurityProfile: {type: Custom, custom: {minTLSVersion: TLS1}}}`, "spec.tlsSecurityProfile.custom.minTLSVersion"},
		"ciphers without HTTP2": {`spec: {tlsSecurityProfile: {type: Custom, custom: {minTLSVersion: VersionTLS12, ciphers: [AES128-SHA]}}}`, "spec.tlsSecurityProfile.custom.ciphers"},
		"ciphers of TLS 1.3":    {`spec: {tlsSecurityProfile: {type: Custom, custom: {minTLSVersion: VersionTLS13, ciphers: [AES128-SHA]}}}`, "spec.tlsSecurityProfile.custom.ciphers"},
		"mediated devices":      {`spec: {mediatedDevicesConfiguration: {mediatedDeviceTypes: [nvidia-222], nodeMediatedDeviceTypes: [{nodeSelector: {a: b}, mediatedDeviceTypes: [x]}]}}`, ""},
		"none of them":          {`spec: {mediatedDevicesConfiguration: {}}`, "spec.mediatedDevicesConfiguration.mediatedDeviceTypes"},
		"none on a host":        {`spec: {mediatedDevicesConfiguration: {mediatedDeviceTypes: [a], nodeMediatedDeviceTypes: [{nodeSelector: {a: b}}]}}`, "spec.mediatedDevicesConfiguration.nodeMediatedDeviceTypes[0].mediatedDeviceTypes"},
		"two sorts of them":     {`spec: {mediatedDevicesConfiguration: {mediatedDeviceTypes: [a], mediatedDevicesTypes: [b]}}`, "spec.mediatedDevicesConfiguration.mediatedDevicesTypes"},
		"placement":             {`spec: {workloads: {nodePlacement: {nodeSelector: {a: b}, tolerations: [{key: key, operator: Equal, value: virtualization, effect: NoSchedule}]}}}`, ""},
		"placement nowhere":     {`spec: {infra: {nodePlacement: {affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Is}]}]}}}}}}`, "spec.infra.nodePlacement.affinity"},
		"no CPU":                {`spec: {resourceRequirements: {vmiCPUAllocationRatio: 0}}`, "spec.resourceRequirements.vmiCPUAllocationRatio"},
		"hardly any memory":     {`spec: {higherWorkloadDensity: {memoryOvercommitPercentage: 9}}`, "spec.higherWorkloadDensity.memoryOvercommitPercentage"},
		"half a range":          {`spec: {kubeMacPoolConfiguration: {rangeStart: "02:00:00:00:00:00"}}`, "spec.kubeMacPoolConfiguration"},
		"a range of words":      {`spec: {kubeMacPoolConfiguration: {rangeStart: "02:00:00:00:00:00", rangeEnd: last}}`, "spec.kubeMacPoolConfiguration.rangeEnd"},
		"two hypervisors":       {`spec: {hypervisors: [{name: kvm}, {name: hyperv-direct}]}`, "spec.hypervisors"},
		"removal of machines":   {`spec: {uninstallStrategy: RemoveWorkloads}`, ""},
		"removal of hosts":      {`spec: {uninstallStrategy: RemoveHosts}`, "spec.uninstallStrategy"},
		"tuned by nobody":       {`spec: {tuningPolicy: fast}`, "spec.tuningPolicy"},
		"a strategy for roles":  {`spec: {roleAggregationStrategy: Never}`, "spec.roleAggregationStrategy"},
		"a patch":               {`metadata: {annotations: {kubevirt.kubevirt.io/jsonpatch: '[{"op": "add", "path": "/spec/configuration/migrations/allowPostCopy", "value": true}]'}}`, ""},
		"a patch of words":      {`metadata: {annotations: {ssp.kubevirt.io/jsonpatch: please}}`, "metadata.annotations[ssp.kubevirt.io/jsonpatch]"},
		"a patch of a name":     {`metadata: {annotations: {kubevirt.kubevirt.io/jsonpatch: '[{"op": "replace", "path": "/metadata/name", "value": "a"}]'}}`, "metadata.annotations[kubevirt.kubevirt.io/jsonpatch]"},
		"a patch that shouts":   {`metadata: {annotations: {kubevirt.kubevirt.io/jsonpatch: '[{"op": "shout", "path": "/spec/a"}]'}}`, "metadata.annotations[kubevirt.kubevirt.io/jsonpatch]"},
	} {
		t.Run(name, func(t *testing.T) {
			obj := hco(t, c.manifest)
			check(t, k.Validate(machine.DefaultDefaults(), obj), c.field)
			check(t, k.ValidateUpdate(machine.DefaultDefaults(), obj, hco(t, `{}`)), c.field)
		})
	}
}

// Scripts search for the words of the operator.
func TestCertificatesRotateByTheRulesOfTheOperator(t *testing.T) {
	for manifest, want := range map[string]string{
		`{ca: {duration: 12h0m0s, renewBefore: 6h0m0s}}`: "spec.certConfig: ca.duration is smaller than server.duration",
		`{ca: {renewBefore: 49h0m0s}}`:                   "spec.certConfig.ca: duration is smaller than renewBefore",
		`{server: {renewBefore: 25h0m0s}}`:               "spec.certConfig.server: duration is smaller than renewBefore",
		`{ca: {renewBefore: 9m59s}}`:                     "spec.certConfig.ca.renewBefore: value is too small",
		`{server: {duration: 10m0s, renewBefore: 9m0s}}`: "spec.certConfig.server.renewBefore: value is too small",
		`{ca: {duration: 10m0s, renewBefore: 10m0s}, server: {duration: 10m0s, renewBefore: 10m0s}}`: "",
		`{ca: {duration: 24h0m0s}, server: {duration: 24h0m0s, renewBefore: 24h0m0s}}`:               "",
		`{ca: {duration: 1m0s, renewBefore: 1m0s}, server: {duration: 1m0s, renewBefore: 1m0s}}`:     "spec.certConfig.server.duration: value is too small",
	} {
		errs := validateHyperConverged(hco(t, "spec: {certConfig: "+manifest+"}"))
		if want == "" && len(errs) > 0 || !strings.Contains(words(errs), want) {
			t.Errorf("%s: %v, want %q", manifest, errs, want)
		}
	}
}

// words joins errors as a client sees them.
func words(errs field.ErrorList) string {
	if len(errs) == 0 {
		return ""
	}
	return errs.ToAggregate().Error()
}

// A field that is taken out has its default again, unless the default is in conflict with
// what stays. What the manual replaces by a JSON patch is there to be replaced.
func TestHyperConvergedRestoresDefaults(t *testing.T) {
	k := kind(t, "HyperConverged")
	stored := hco(t, `spec: {liveMigrationConfig: {progressTimeout: 9, parallelMigrationsPerCluster: 7}, workloadUpdateStrategy: {workloadUpdateMethods: []}}`)
	edited := stored.DeepCopy()
	edited.Spec.LiveMigrationConfig.ProgressTimeout = nil
	edited.Spec.FeatureGates = hcov1beta1.HyperConvergedFeatureGates{}
	k.DefaultUpdate(machine.DefaultDefaults(), edited, stored)
	migration, gates := edited.Spec.LiveMigrationConfig, edited.Spec.FeatureGates
	if *migration.ProgressTimeout != 150 || *migration.ParallelMigrationsPerCluster != 7 || *migration.ParallelOutboundMigrationsPerNode != 2 {
		t.Errorf("limits of migrations are %+v", migration)
	}
	if methods := edited.Spec.WorkloadUpdateStrategy.WorkloadUpdateMethods; methods == nil || len(methods) > 0 {
		t.Errorf("an empty list of methods became %q", methods)
	}
	for name, gate := range map[string]*bool{"deployVmConsoleProxy": gates.DeployVMConsoleProxy, "VMPersistentState": gates.VMPersistentState, "deployTektonTaskResources": gates.DeployTektonTaskResources} {
		if gate == nil || *gate {
			t.Errorf("the gate %s is %v", name, gate)
		}
	}
	if gate := gates.EnableCommonBootImageImport; gate == nil || !*gate {
		t.Errorf("the gate enableCommonBootImageImport is %v", gate)
	}
	long := hco(t, `spec: {certConfig: {ca: {duration: 96h0m0s}, server: {duration: 72h0m0s}}}`)
	shorter := long.DeepCopy()
	shorter.Spec.CertConfig.CA.Duration = nil
	k.DefaultUpdate(machine.DefaultDefaults(), shorter, long)
	if got := words(k.ValidateUpdate(machine.DefaultDefaults(), shorter, long)); !strings.Contains(got, "ca.duration is smaller than server.duration") {
		t.Errorf("a default in conflict: %q", got)
	}
}

func TestHyperConvergedIsOne(t *testing.T) {
	k := kind(t, "HyperConverged")
	if faults := k.ValidateName("hyperconverged", false); len(faults) == 0 {
		t.Error("another name is let through")
	}
	elsewhere := hco(t, `{}`)
	elsewhere.Namespace = "default"
	check(t, k.Validate(machine.DefaultDefaults(), elsewhere), "metadata.namespace")
}

// Whoever sets what nothing acts on is told so; a default, or a field that acts, gives no
// warning.
func TestWhatDoesNotActSaysSo(t *testing.T) {
	warnings := kind(t, "HyperConverged").Warnings
	for manifest, want := range map[string]string{
		`{}`: "",
		`spec: {defaultCPUModel: EPYC, evictionStrategy: None}`:           "",
		`spec: {liveMigrationConfig: {progressTimeout: 150}}`:             "",
		`spec: {liveMigrationConfig: {progressTimeout: 151, network: a}}`: "spec.liveMigrationConfig: the value is stored, and nothing acts on it yet",
		`spec: {resourceRequirements: {vmiCPUAllocationRatio: 4}}`:        "MeshConfig, spec.capacity.cpuAllocationRatio",
		`spec: {featureGates: {enableCommonBootImageImport: false}}`:      "spec.featureGates: the value is stored and has no effect",
		`spec: {workloadUpdateStrategy: {workloadUpdateMethods: []}}`:     "spec.workloadUpdateStrategy: ",
		`spec: {tuningPolicy: annotation}`:                                "spec.tuningPolicy: ",
		`metadata: {annotations: {kubevirt.kubevirt.io/jsonpatch: '[]'}}`: "metadata.annotations[kubevirt.kubevirt.io/jsonpatch]: ",
	} {
		got := warnings(hco(t, manifest))
		if (want == "") != (len(got) == 0) || len(got) > 1 || !strings.Contains(strings.Join(got, "\n"), want) {
			t.Errorf("%s: %q, want one with %q", manifest, got, want)
		}
	}
	deprecated := warnings(hco(t, `spec: {tuningPolicy: highBurst}`))
	if !slices.Contains(deprecated, "spec.tuningPolicy: the highBurst profile is deprecated as of v1.16.0 and will be removed in a future release") {
		t.Errorf("a deprecated profile: %q", deprecated)
	}
}
