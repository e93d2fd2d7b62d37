package hcov1beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubevirtv1 "kubevirt.io/api/core/v1"
	cdiv1 "kubevirt.io/containerized-data-importer-api/pkg/apis/core/v1beta1"
	placement "kubevirt.io/controller-lifecycle-operator-sdk/api"
)

// GroupName is the API group of the kind in this package.
const GroupName = "hco.kubevirt.io"

// Name is the name of the one HyperConverged of a mesh.
const Name = "kubevirt-hyperconverged"

// Namespace is where the object is stored. Clients of KubeVirt without OpenShift look for it in
// OtherNamespace, where the API shows it, too.
const (
	Namespace      = "openshift-cnv"
	OtherNamespace = "kubevirt-hyperconverged"
)

// SchemeGroupVersion is the group and version at which the API serves these types.
var SchemeGroupVersion = schema.GroupVersion{Group: GroupName, Version: "v1beta1"}

// HyperConverged configures virtualization for all hosts. There is one, named
// kubevirt-hyperconverged. A field that is taken out gets its default again.
//
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
type HyperConverged struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is the configuration.
	// +optional
	Spec HyperConvergedSpec `json:"spec,omitempty"`
	// Status says whether the configuration is in force.
	// +optional
	Status HyperConvergedStatus `json:"status,omitempty"`
}

// HyperConvergedList is a list of HyperConverged.
//
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
type HyperConvergedList struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	// Items holds the objects of the list: at most one.
	Items []HyperConverged `json:"items"`
}

// HyperConvergedSpec is the configuration.
type HyperConvergedSpec struct {
	// LocalStorageClassName is a name that earlier versions used. It has no effect.
	// +optional
	LocalStorageClassName string `json:"localStorageClassName,omitempty"`
	// TuningPolicy says where the limits of requests come from: "annotation", from the
	// annotation hco.kubevirt.io/tuningPolicy, or "highBurst".
	// +optional
	TuningPolicy string `json:"tuningPolicy,omitempty"`
	// Infra says on which nodes the components run that serve the whole cluster.
	// +optional
	Infra HyperConvergedConfig `json:"infra,omitempty"`
	// Workloads says on which nodes virtual machines can run.
	// +optional
	Workloads HyperConvergedConfig `json:"workloads,omitempty"`
	// FeatureGates switch features on and off.
	// +optional
	FeatureGates HyperConvergedFeatureGates `json:"featureGates,omitempty"`
	// LiveMigrationConfig limits live migrations.
	// +optional
	LiveMigrationConfig LiveMigrationConfigurations `json:"liveMigrationConfig,omitempty"`
	// PermittedHostDevices are the devices of hosts that guests can be given.
	// +optional
	PermittedHostDevices *PermittedHostDevices `json:"permittedHostDevices,omitempty"`
	// MediatedDevicesConfiguration names the mediated devices that hosts make.
	// +optional
	MediatedDevicesConfiguration *MediatedDevicesConfiguration `json:"mediatedDevicesConfiguration,omitempty"`
	// CertConfig says how long internal certificates are good, and when they are renewed.
	// +optional
	CertConfig HyperConvergedCertConfig `json:"certConfig,omitempty"`
	// ResourceRequirements are about what components and machines request.
	// +optional
	ResourceRequirements *OperandResourceRequirements `json:"resourceRequirements,omitempty"`
	// ScratchSpaceStorageClass names the storage class for what imports need for a while.
	// +optional
	ScratchSpaceStorageClass *string `json:"scratchSpaceStorageClass,omitempty"`
	// VddkInitImage is the image of VMware's library, for imports from there.
	// +optional
	VddkInitImage *string `json:"vddkInitImage,omitempty"`
	// DefaultCPUModel is the CPU model of machines that name none; without it, they have the
	// host's (host-model). A change is for machines that start after it.
	// +optional
	DefaultCPUModel *string `json:"defaultCPUModel,omitempty"`
	// DefaultRuntimeClass is the runtime class of pods that run machines.
	// +optional
	DefaultRuntimeClass *string `json:"defaultRuntimeClass,omitempty"`
	// ObsoleteCPUs names CPU models that nodes should not offer.
	// +optional
	ObsoleteCPUs *HyperConvergedObsoleteCPUs `json:"obsoleteCPUs,omitempty"`
	// CommonTemplatesNamespace is where the templates are that come with the product.
	// +optional
	CommonTemplatesNamespace *string `json:"commonTemplatesNamespace,omitempty"`
	// StorageImport configures imports of data.
	// +optional
	StorageImport *StorageImportConfig `json:"storageImport,omitempty"`
	// WorkloadUpdateStrategy says how running machines get to newer versions of what runs
	// them.
	// +optional
	WorkloadUpdateStrategy HyperConvergedWorkloadUpdateStrategy `json:"workloadUpdateStrategy,omitempty"`
	// DataImportCronTemplates are images that are imported again and again.
	// +optional
	// +listType=atomic
	DataImportCronTemplates []DataImportCronTemplate `json:"dataImportCronTemplates,omitempty"`
	// FilesystemOverhead is what file systems take of a volume: fractions such as "0.055".
	// +optional
	FilesystemOverhead *cdiv1.FilesystemOverhead `json:"filesystemOverhead,omitempty"`
	// UninstallStrategy says what becomes of machines when the object is deleted:
	// "BlockUninstallIfWorkloadsExist", the default, or "RemoveWorkloads".
	// +optional
	UninstallStrategy string `json:"uninstallStrategy,omitempty"`
	// LogVerbosityConfig says how much components log: from 1 to 9.
	// +optional
	LogVerbosityConfig *LogVerbosityConfiguration `json:"logVerbosityConfig,omitempty"`
	// TLSSecurityProfile says which versions and ciphers of TLS servers accept.
	// +optional
	TLSSecurityProfile *TLSSecurityProfile `json:"tlsSecurityProfile,omitempty"`
	// TektonPipelinesNamespace is where example pipelines are.
	// +optional
	TektonPipelinesNamespace *string `json:"tektonPipelinesNamespace,omitempty"`
	// TektonTasksNamespace is where tasks for pipelines are.
	// +optional
	TektonTasksNamespace *string `json:"tektonTasksNamespace,omitempty"`
	// KubeSecondaryDNSNameServerIP is the address of the name server for secondary networks.
	// +optional
	KubeSecondaryDNSNameServerIP *string `json:"kubeSecondaryDNSNameServerIP,omitempty"`
	// KubeMacPoolConfiguration is the range that MAC addresses are taken from.
	// +optional
	KubeMacPoolConfiguration *KubeMacPoolConfig `json:"kubeMacPoolConfiguration,omitempty"`
	// EvictionStrategy is that of machines that name none: None, LiveMigrate,
	// LiveMigrateIfPossible or External. A machine that runs gets it when its VirtualMachine
	// changes, at the latest at its next start.
	// +optional
	EvictionStrategy *kubevirtv1.EvictionStrategy `json:"evictionStrategy,omitempty"`
	// VMStateStorageClass names the storage class for the state of firmware and TPM.
	// +optional
	VMStateStorageClass *string `json:"vmStateStorageClass,omitempty"`
	// VirtualMachineOptions are about all machines.
	// +optional
	VirtualMachineOptions *VirtualMachineOptions `json:"virtualMachineOptions,omitempty"`
	// CommonBootImageNamespace is where the images are that come with the product.
	// +optional
	CommonBootImageNamespace *string `json:"commonBootImageNamespace,omitempty"`
	// KSMConfiguration selects the nodes that merge equal pages of memory.
	// +optional
	KSMConfiguration *kubevirtv1.KSMConfiguration `json:"ksmConfiguration,omitempty"`
	// ChangedBlockTrackingLabelSelectors select the machines whose changed blocks are tracked.
	// +optional
	ChangedBlockTrackingLabelSelectors *kubevirtv1.ChangedBlockTrackingSelectors `json:"changedBlockTrackingLabelSelectors,omitempty"`
	// NetworkBinding are the plugins that bind guests to networks, by name.
	// +optional
	NetworkBinding map[string]kubevirtv1.InterfaceBindingPlugin `json:"networkBinding,omitempty"`
	// ApplicationAwareConfig configures the quotas of the Application Aware Quota operator.
	// +optional
	ApplicationAwareConfig *ApplicationAwareConfigurations `json:"applicationAwareConfig,omitempty"`
	// HigherWorkloadDensity says how much more memory guests see than hosts have.
	// +optional
	HigherWorkloadDensity *HigherWorkloadDensityConfiguration `json:"higherWorkloadDensity,omitempty"`
	// EnableCommonBootImageImport switches the import of common images.
	// +optional
	EnableCommonBootImageImport *bool `json:"enableCommonBootImageImport,omitempty"`
	// InstancetypeConfig is about references to instance types.
	// +optional
	InstancetypeConfig *kubevirtv1.InstancetypeConfiguration `json:"instancetypeConfig,omitempty"`
	// CommonInstancetypesDeployment switches the common instance types.
	// +optional
	CommonInstancetypesDeployment *kubevirtv1.CommonInstancetypesDeployment `json:"CommonInstancetypesDeployment,omitempty"`
	// DeployVMConsoleProxy switches the proxy for VNC tokens.
	// +optional
	DeployVMConsoleProxy *bool `json:"deployVmConsoleProxy,omitempty"`
	// EnableApplicationAwareQuota switches the Application Aware Quota operator.
	// +optional
	EnableApplicationAwareQuota *bool `json:"enableApplicationAwareQuota,omitempty"`
	// LiveUpdateConfiguration limits how far machines can grow while they run.
	// +optional
	LiveUpdateConfiguration *kubevirtv1.LiveUpdateConfiguration `json:"liveUpdateConfiguration,omitempty"`
	// Hypervisors names what runs machines; at most one.
	// +optional
	// +listType=atomic
	Hypervisors []kubevirtv1.HypervisorConfiguration `json:"hypervisors,omitempty"`
	// RoleAggregationStrategy says whether roles of KubeVirt are added to those of
	// Kubernetes: "AggregateToDefault" or "Manual".
	// +optional
	RoleAggregationStrategy *kubevirtv1.RoleAggregationStrategy `json:"roleAggregationStrategy,omitempty"`
}

// HyperConvergedConfig is about a group of components.
type HyperConvergedConfig struct {
	// NodePlacement says on which nodes they run.
	// +optional
	NodePlacement *placement.NodePlacement `json:"nodePlacement,omitempty"`
}

var (
	_ runtime.Object = (*HyperConverged)(nil)
	_ runtime.Object = (*HyperConvergedList)(nil)
)
