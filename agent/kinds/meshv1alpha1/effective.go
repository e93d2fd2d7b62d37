package meshv1alpha1

// Limits of the settings, inclusive.
const (
	// MinCPUAllocationRatio and MaxCPUAllocationRatio bound
	// spec.capacity.cpuAllocationRatio.
	MinCPUAllocationRatio, MaxCPUAllocationRatio = 1, 100
	// MinMemoryOvercommitPercent and MaxMemoryOvercommitPercent bound
	// spec.capacity.memoryOvercommitPercent.
	MinMemoryOvercommitPercent, MaxMemoryOvercommitPercent = 10, 1000
	// MinStorageOvercommitPercent and MaxStorageOvercommitPercent bound
	// capacity.storageOvercommitPercent.
	MinStorageOvercommitPercent, MaxStorageOvercommitPercent = 10, 1000
	// MinHotplugRatio and MaxHotplugRatio bound
	// spec.virtualMachine.maxHotplugRatio.
	MinHotplugRatio, MaxHotplugRatio = 1, 16
)

// Effective returns the settings that are in force under config: those that it sets,
// and the defaults of the others. A nil config stands for a mesh without the object,
// where all settings have their defaults. No pointer in the result is nil, and the
// result shares no memory with config.
func Effective(config *MeshConfig) MeshConfigSpec {
	var spec MeshConfigSpec
	if config != nil {
		config.Spec.DeepCopyInto(&spec)
	}
	setDefault(&spec.Capacity.CPUAllocationRatio, 10)
	setDefault(&spec.Capacity.MemoryOvercommitPercent, 100)
	if spec.Capacity.Strategy == "" {
		spec.Capacity.Strategy = Balance
	}
	setDefault(&spec.VirtualMachine.MaxHotplugRatio, 4)
	if spec.FeatureLevel == "" {
		spec.FeatureLevel = FeatureLevelManual
	}
	return spec
}

// setDefault sets *field to value if it is not set.
func setDefault(field **int64, value int64) {
	if *field == nil {
		*field = &value
	}
}

// EncryptedKinds returns the kinds that are encrypted besides Secrets.
func EncryptedKinds(config *MeshConfig) []string {
	if config == nil || config.Spec.Encryption == nil {
		return nil
	}
	return config.Spec.Encryption.Kinds
}

// MaxImageOverlay bounds spec.capacity.imageOverlay, in bytes.
const MaxImageOverlay = 1 << 40

// ImageOverlay returns the setting of that name in bytes, or its default. It is not among the
// defaults that Effective fills in, as a mesh of an earlier feature level must not store it.
func ImageOverlay(config *MeshConfig) int64 {
	if config == nil || config.Spec.Capacity.ImageOverlay == nil {
		return 0
	}
	return config.Spec.Capacity.ImageOverlay.Value()
}

// StorageOvercommitPercent returns the setting of that name, or its default. It is not among
// the defaults that Effective fills in, as a mesh of an earlier feature level must not store it.
func StorageOvercommitPercent(config *MeshConfig) int64 {
	if config == nil || config.Spec.Capacity.StorageOvercommitPercent == nil {
		return 100
	}
	return *config.Spec.Capacity.StorageOvercommitPercent
}
