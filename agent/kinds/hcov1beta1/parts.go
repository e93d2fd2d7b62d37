package hcov1beta1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
	cdiv1 "kubevirt.io/containerized-data-importer-api/pkg/apis/core/v1beta1"
)

// HyperConvergedFeatureGates switch features on and off.
type HyperConvergedFeatureGates struct {
	// DownwardMetrics lets guests read metrics of their host.
	// +optional
	DownwardMetrics *bool `json:"downwardMetrics,omitempty"`
	// WithHostPassthroughCPU had to do with CPU models. It has no effect.
	// +optional
	WithHostPassthroughCPU *bool `json:"withHostPassthroughCPU,omitempty"`
	// EnableCommonBootImageImport imports common images and keeps them new. Default true.
	// +optional
	EnableCommonBootImageImport *bool `json:"enableCommonBootImageImport,omitempty"`
	// DeployTektonTaskResources brings tasks and pipelines for Tekton.
	// +optional
	DeployTektonTaskResources *bool `json:"deployTektonTaskResources,omitempty"`
	// DeployVMConsoleProxy brings the proxy for VNC tokens.
	// +optional
	DeployVMConsoleProxy *bool `json:"deployVmConsoleProxy,omitempty"`
	// VMPersistentState keeps the state of firmware and TPM of machines that ask for it.
	// +optional
	VMPersistentState *bool `json:"VMPersistentState,omitempty"`
	// HotplugVolumes lets volumes be added to running machines.
	// +optional
	HotplugVolumes *bool `json:"HotplugVolumes,omitempty"`
	// DeployKubeSecondaryDNS brings the name server for secondary networks.
	// +optional
	DeployKubeSecondaryDNS *bool `json:"deployKubeSecondaryDNS,omitempty"`
	// DeployKubevirtIpamController brings the controller that keeps addresses of machines.
	// +optional
	DeployKubevirtIpamController *bool `json:"deployKubevirtIpamController,omitempty"`
	// NonRoot had to do with the user of guests. It has no effect.
	// +optional
	NonRoot *bool `json:"nonRoot,omitempty"`
	// DisableMDevConfiguration leaves mediated devices to others.
	// +optional
	DisableMDevConfiguration *bool `json:"disableMDevConfiguration,omitempty"`
	// PersistentReservation lets guests use SCSI persistent reservations.
	// +optional
	PersistentReservation *bool `json:"persistentReservation,omitempty"`
	// EnableManagedTenantQuota brought quotas. It has no effect.
	// +optional
	EnableManagedTenantQuota *bool `json:"enableManagedTenantQuota,omitempty"`
	// AutoResourceLimits sets limits in namespaces with quotas.
	// +optional
	AutoResourceLimits *bool `json:"autoResourceLimits,omitempty"`
	// AlignCPUs rounds the dedicated CPUs of a machine up to an even number.
	// +optional
	AlignCPUs *bool `json:"alignCPUs,omitempty"`
	// EnableApplicationAwareQuota brings the Application Aware Quota operator.
	// +optional
	EnableApplicationAwareQuota *bool `json:"enableApplicationAwareQuota,omitempty"`
	// PrimaryUserDefinedNetworkBinding lets machines use primary networks of users.
	// +optional
	PrimaryUserDefinedNetworkBinding *bool `json:"primaryUserDefinedNetworkBinding,omitempty"`
	// EnableMultiArchBootImageImport imports images for every architecture.
	// +optional
	EnableMultiArchBootImageImport *bool `json:"enableMultiArchBootImageImport,omitempty"`
	// DecentralizedLiveMigration lets machines migrate to other clusters.
	// +optional
	DecentralizedLiveMigration *bool `json:"decentralizedLiveMigration,omitempty"`
	// DeclarativeHotplugVolumes lets volumes be added by changing a machine's template.
	// +optional
	DeclarativeHotplugVolumes *bool `json:"declarativeHotplugVolumes,omitempty"`
	// VideoConfig lets machines choose their video device. It has no effect.
	// +optional
	VideoConfig *bool `json:"videoConfig,omitempty"`
	// ObjectGraph brings the subresource objectgraph.
	// +optional
	ObjectGraph *bool `json:"objectGraph,omitempty"`
	// IncrementalBackup lets backups copy changed blocks only.
	// +optional
	IncrementalBackup *bool `json:"incrementalBackup,omitempty"`
	// ContainerPathVolumes lets guests mount paths of the pod that runs them.
	// +optional
	ContainerPathVolumes *bool `json:"containerPathVolumes,omitempty"`
}

// LiveMigrationConfigurations limit live migrations.
type LiveMigrationConfigurations struct {
	// ParallelMigrationsPerCluster is how many migrations run at once. Default 5.
	// +optional
	ParallelMigrationsPerCluster *uint32 `json:"parallelMigrationsPerCluster,omitempty"`
	// ParallelOutboundMigrationsPerNode is how many leave one host at once. Default 2.
	// +optional
	ParallelOutboundMigrationsPerNode *uint32 `json:"parallelOutboundMigrationsPerNode,omitempty"`
	// BandwidthPerMigration is in bytes a second, such as 64Mi. Without it, or with 0, there
	// is no limit.
	// +optional
	BandwidthPerMigration *string `json:"bandwidthPerMigration,omitempty"`
	// CompletionTimeoutPerGiB is how many seconds a migration may take for each GiB of memory
	// and of disks that migrate. Default 150.
	// +optional
	CompletionTimeoutPerGiB *int64 `json:"completionTimeoutPerGiB,omitempty"`
	// ProgressTimeout is how many seconds a migration may make no progress. Default 150.
	// +optional
	ProgressTimeout *int64 `json:"progressTimeout,omitempty"`
	// Network names the NetworkAttachmentDefinition of the network for migrations.
	// +optional
	Network *string `json:"network,omitempty"`
	// AllowAutoConverge slows a guest down that changes memory faster than it is copied.
	// +optional
	AllowAutoConverge *bool `json:"allowAutoConverge,omitempty"`
	// AllowPostCopy lets a guest go on at its target before its memory is there.
	// +optional
	AllowPostCopy *bool `json:"allowPostCopy,omitempty"`
	// AllowWorkloadDisruption pauses a guest, or goes on with post-copy, instead of cancelling.
	// +optional
	AllowWorkloadDisruption *bool `json:"allowWorkloadDisruption,omitempty"`
}

// PermittedHostDevices are the devices of hosts that guests can be given.
type PermittedHostDevices struct {
	// PciHostDevices are PCI devices.
	// +optional
	// +listType=map
	// +listMapKey=pciDeviceSelector
	PciHostDevices []PciHostDevice `json:"pciHostDevices,omitempty"`
	// USBHostDevices are USB devices.
	// +optional
	// +listType=map
	// +listMapKey=resourceName
	USBHostDevices []USBHostDevice `json:"usbHostDevices,omitempty"`
	// MediatedDevices are parts of devices.
	// +optional
	// +listType=map
	// +listMapKey=mdevNameSelector
	MediatedDevices []MediatedHostDevice `json:"mediatedDevices,omitempty"`
}

// PciHostDevice is a PCI device that guests can be given.
type PciHostDevice struct {
	// PCIDeviceSelector is vendor:product, in hexadecimal digits.
	PCIDeviceSelector string `json:"pciDeviceSelector"`
	// ResourceName is the name by which machines ask for it.
	ResourceName string `json:"resourceName"`
	// ExternalResourceProvider is true if another program offers it.
	// +optional
	ExternalResourceProvider bool `json:"externalResourceProvider,omitempty"`
	// Disabled takes the device out.
	// +optional
	Disabled bool `json:"disabled,omitempty"`
}

// USBHostDevice is a USB device that guests can be given.
type USBHostDevice struct {
	// ResourceName is the name by which machines ask for it.
	ResourceName string `json:"resourceName"`
	// Selectors are the devices.
	// +optional
	// +listType=atomic
	Selectors []USBSelector `json:"selectors,omitempty"`
	// ExternalResourceProvider is true if another program offers it.
	// +optional
	ExternalResourceProvider bool `json:"externalResourceProvider,omitempty"`
	// Disabled takes the device out.
	// +optional
	Disabled bool `json:"disabled,omitempty"`
}

// USBSelector selects USB devices.
type USBSelector struct {
	// Vendor and Product are in hexadecimal digits.
	Vendor  string `json:"vendor"`
	Product string `json:"product"`
}

// MediatedHostDevice is a mediated device that guests can be given.
type MediatedHostDevice struct {
	// MDEVNameSelector is the name of the type.
	MDEVNameSelector string `json:"mdevNameSelector"`
	// ResourceName is the name by which machines ask for it.
	ResourceName string `json:"resourceName"`
	// ExternalResourceProvider is true if another program offers it.
	// +optional
	ExternalResourceProvider bool `json:"externalResourceProvider,omitempty"`
	// Disabled takes the device out.
	// +optional
	Disabled bool `json:"disabled,omitempty"`
}

// MediatedDevicesConfiguration names the mediated devices that hosts make.
type MediatedDevicesConfiguration struct {
	// MediatedDeviceTypes are the types on hosts that NodeMediatedDeviceTypes do not select.
	// +optional
	// +listType=atomic
	MediatedDeviceTypes []string `json:"mediatedDeviceTypes,omitempty"`
	// MediatedDevicesTypes is an older name of MediatedDeviceTypes.
	// +optional
	// +listType=atomic
	MediatedDevicesTypes []string `json:"mediatedDevicesTypes,omitempty"`
	// NodeMediatedDeviceTypes are the types on hosts that they select.
	// +optional
	// +listType=atomic
	NodeMediatedDeviceTypes []NodeMediatedDeviceTypesConfig `json:"nodeMediatedDeviceTypes,omitempty"`
}

// NodeMediatedDeviceTypesConfig names the mediated devices of some hosts.
type NodeMediatedDeviceTypesConfig struct {
	// NodeSelector selects the hosts by their labels.
	NodeSelector map[string]string `json:"nodeSelector"`
	// MediatedDeviceTypes are the types.
	// +optional
	// +listType=atomic
	MediatedDeviceTypes []string `json:"mediatedDeviceTypes,omitempty"`
	// MediatedDevicesTypes is an older name of MediatedDeviceTypes.
	// +optional
	// +listType=atomic
	MediatedDevicesTypes []string `json:"mediatedDevicesTypes,omitempty"`
}

// HyperConvergedCertConfig says how long internal certificates are good, and when they are
// renewed. No value is below ten minutes.
type HyperConvergedCertConfig struct {
	// CA is about the certificates of authorities. Default 48h0m0s and 24h0m0s.
	// +optional
	CA CertRotateConfig `json:"ca,omitempty"`
	// Server is about the certificates of servers. Default 24h0m0s and 12h0m0s.
	// +optional
	Server CertRotateConfig `json:"server,omitempty"`
}

// CertRotateConfig is about one sort of certificates.
type CertRotateConfig struct {
	// Duration is how long a certificate is good.
	// +optional
	Duration *metav1.Duration `json:"duration,omitempty"`
	// RenewBefore is how long before its end a certificate is renewed.
	// +optional
	RenewBefore *metav1.Duration `json:"renewBefore,omitempty"`
}

// OperandResourceRequirements are about what components and machines request.
type OperandResourceRequirements struct {
	// StorageWorkloads are the requests and limits of imports and uploads.
	// +optional
	StorageWorkloads *corev1.ResourceRequirements `json:"storageWorkloads,omitempty"`
	// VmiCPUAllocationRatio is how many virtual CPUs share one CPU of a host.
	// +optional
	VmiCPUAllocationRatio *int `json:"vmiCPUAllocationRatio,omitempty"`
	// AutoCPULimitNamespaceLabelSelector selects the namespaces whose machines get a limit of
	// as many CPUs as they have.
	// +optional
	AutoCPULimitNamespaceLabelSelector *metav1.LabelSelector `json:"autoCPULimitNamespaceLabelSelector,omitempty"`
}

// HyperConvergedObsoleteCPUs names CPU models that nodes should not offer.
type HyperConvergedObsoleteCPUs struct {
	// MinCPUModel is the model whose features every host has.
	// +optional
	MinCPUModel string `json:"minCPUModel,omitempty"`
	// CPUModels are added to the models that are known to be obsolete.
	// +optional
	// +listType=set
	CPUModels []string `json:"cpuModels,omitempty"`
}

// StorageImportConfig configures imports of data.
type StorageImportConfig struct {
	// InsecureRegistries are host:port of registries that are used without TLS, or whose
	// certificate is not checked.
	// +optional
	// +listType=set
	InsecureRegistries []string `json:"insecureRegistries,omitempty"`
}

// HyperConvergedWorkloadUpdateStrategy says how running machines get to newer versions of
// what runs them.
type HyperConvergedWorkloadUpdateStrategy struct {
	// WorkloadUpdateMethods are LiveMigrate and Evict. Default LiveMigrate; an empty list
	// leaves running machines alone.
	// +optional
	// +listType=atomic
	WorkloadUpdateMethods []string `json:"workloadUpdateMethods"`
	// BatchEvictionSize is how many machines are evicted at once. Default 10.
	// +optional
	BatchEvictionSize *int `json:"batchEvictionSize,omitempty"`
	// BatchEvictionInterval is the time between two batches. Default 1m0s.
	// +optional
	BatchEvictionInterval *metav1.Duration `json:"batchEvictionInterval,omitempty"`
}

// DataImportCronTemplate is an image that is imported again and again.
type DataImportCronTemplate struct {
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// Spec says from where, when and to what. It is required unless the annotation
	// dataimportcrontemplate.kubevirt.io/enable is "false".
	// +optional
	Spec *cdiv1.DataImportCronSpec `json:"spec,omitempty"`
}

// LogVerbosityConfiguration says how much components log: from 1 to 9.
type LogVerbosityConfiguration struct {
	// Kubevirt is about the components of KubeVirt.
	// +optional
	Kubevirt *kubevirtv1.LogVerbosity `json:"kubevirt,omitempty"`
	// CDI is about imports.
	// +optional
	CDI *int32 `json:"cdi,omitempty"`
}
