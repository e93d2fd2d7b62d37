package hcov1beta1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TLSSecurityProfile says which versions and ciphers of TLS servers accept, in OpenShift's
// form.
type TLSSecurityProfile struct {
	// Type is Old, Intermediate, Modern or Custom.
	// +optional
	Type string `json:"type,omitempty"`
	// Old, Intermediate and Modern have no settings.
	// +optional
	Old *TLSProfile `json:"old,omitempty"`
	// +optional
	Intermediate *TLSProfile `json:"intermediate,omitempty"`
	// +optional
	Modern *TLSProfile `json:"modern,omitempty"`
	// Custom is what a profile of type Custom accepts.
	// +optional
	Custom *CustomTLSProfile `json:"custom,omitempty"`
}

// TLSProfile is a profile that has a name and no settings.
type TLSProfile struct{}

// CustomTLSProfile is what servers accept.
type CustomTLSProfile struct {
	// Ciphers are names of OpenSSL.
	// +optional
	// +listType=atomic
	Ciphers []string `json:"ciphers,omitempty"`
	// MinTLSVersion is VersionTLS10 to VersionTLS13.
	// +optional
	MinTLSVersion string `json:"minTLSVersion,omitempty"`
}

// KubeMacPoolConfig is a range of MAC addresses.
type KubeMacPoolConfig struct {
	// RangeStart is the first address, RangeEnd the last one.
	// +optional
	RangeStart *string `json:"rangeStart,omitempty"`
	// +optional
	RangeEnd *string `json:"rangeEnd,omitempty"`
}

// VirtualMachineOptions are about all machines.
type VirtualMachineOptions struct {
	// DisableFreePageReporting keeps what guests have freed from going back to the host.
	// +optional
	DisableFreePageReporting *bool `json:"disableFreePageReporting,omitempty"`
	// DisableSerialConsoleLog keeps what guests write to their serial console out of logs.
	// +optional
	DisableSerialConsoleLog *bool `json:"disableSerialConsoleLog,omitempty"`
}

// ApplicationAwareConfigurations configure the quotas of the Application Aware Quota operator.
type ApplicationAwareConfigurations struct {
	// VmiCalcConfigName says what a machine counts.
	// +optional
	VmiCalcConfigName *string `json:"vmiCalcConfigName,omitempty"`
	// NamespaceSelector selects the namespaces.
	// +optional
	NamespaceSelector *metav1.LabelSelector `json:"namespaceSelector,omitempty"`
	// AllowApplicationAwareClusterResourceQuota allows quotas of several namespaces.
	// +optional
	AllowApplicationAwareClusterResourceQuota bool `json:"allowApplicationAwareClusterResourceQuota,omitempty"`
}

// HigherWorkloadDensityConfiguration says how much more memory guests see than hosts have.
type HigherWorkloadDensityConfiguration struct {
	// MemoryOvercommitPercentage is guest memory in percent of what a machine is charged.
	// +optional
	MemoryOvercommitPercentage int `json:"memoryOvercommitPercentage,omitempty"`
}
