package hcov1beta1

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// SetDefaults fills in what spec does not say. The values are those of the HyperConverged
// Cluster Operator, in the version that the manual of OpenShift Virtualization describes.
// Settings that MeshConfig has are left out: their defaults are there.
func SetDefaults(spec *HyperConvergedSpec) {
	setFeatureGates(&spec.FeatureGates)
	migration := &spec.LiveMigrationConfig
	setDefault(&migration.ParallelMigrationsPerCluster, 5)
	setDefault(&migration.ParallelOutboundMigrationsPerNode, 2)
	setDefault(&migration.CompletionTimeoutPerGiB, 150)
	setDefault(&migration.ProgressTimeout, 150)
	setDefault(&migration.AllowAutoConverge, false)
	setDefault(&migration.AllowPostCopy, false)
	setDefault(&spec.CertConfig.CA.Duration, metav1.Duration{Duration: 48 * time.Hour})
	setDefault(&spec.CertConfig.CA.RenewBefore, metav1.Duration{Duration: 24 * time.Hour})
	setDefault(&spec.CertConfig.Server.Duration, metav1.Duration{Duration: 24 * time.Hour})
	setDefault(&spec.CertConfig.Server.RenewBefore, metav1.Duration{Duration: 12 * time.Hour})
	update := &spec.WorkloadUpdateStrategy
	if update.WorkloadUpdateMethods == nil {
		update.WorkloadUpdateMethods = []string{"LiveMigrate"}
	}
	setDefault(&update.BatchEvictionSize, 10)
	setDefault(&update.BatchEvictionInterval, metav1.Duration{Duration: time.Minute})
	if spec.UninstallStrategy == "" {
		spec.UninstallStrategy = BlockUninstall
	}
	if spec.VirtualMachineOptions == nil {
		spec.VirtualMachineOptions = &VirtualMachineOptions{}
	}
	setDefault(&spec.VirtualMachineOptions.DisableFreePageReporting, false)
	setDefault(&spec.VirtualMachineOptions.DisableSerialConsoleLog, false)
}

// The values of uninstallStrategy.
const (
	// BlockUninstall keeps the object from being deleted while there are machines.
	BlockUninstall = "BlockUninstallIfWorkloadsExist"
	// RemoveWorkloads deletes the machines.
	RemoveWorkloads = "RemoveWorkloads"
)

// setFeatureGates fills in the gates that the manual switches with "op: replace", which needs
// a value to replace, and those that the operator shows.
func setFeatureGates(gates *HyperConvergedFeatureGates) {
	setDefault(&gates.EnableCommonBootImageImport, true)
	for _, gate := range []**bool{
		&gates.DownwardMetrics, &gates.DeployTektonTaskResources, &gates.DeployVMConsoleProxy, &gates.VMPersistentState,
		&gates.DeployKubeSecondaryDNS, &gates.DisableMDevConfiguration, &gates.PersistentReservation, &gates.AlignCPUs,
	} {
		setDefault(gate, false)
	}
}

// setDefault sets *field to value if it is not set.
func setDefault[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}
