package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"

	"virtmesh/agent/api/audit"
	"virtmesh/agent/host"
	"virtmesh/agent/membership"
	"virtmesh/storage/durable"
)

// DefaultConfigPath is the agent's configuration. It is written last by
// init and join, so its presence means that the host belongs to a mesh.
const DefaultConfigPath = "/etc/virtmesh/agent.yaml"

// The parts of a Config.
type (
	// MembershipConfig says what the host is called and how others reach it.
	MembershipConfig = membership.Config
	// HostConfig says what guests may use of the host.
	HostConfig = host.Config
)

// Config is what an operator can set for one host. In the file the settings of
// both parts stand side by side.
type Config struct {
	MembershipConfig
	// Labels are put on the host's Node object.
	Labels map[string]string `json:"labels,omitempty"`
	HostConfig
	// Audit says what is written down of who did what through this host's APIs.
	Audit audit.Config `json:"audit,omitzero"`
}

// DefaultConfig is the configuration of a host that lacks a name and an address.
func DefaultConfig() Config {
	return Config{MembershipConfig: membership.DefaultConfig(), HostConfig: host.DefaultConfig(membership.DefaultStateDir)}
}

// LoadConfig reads a configuration file over the defaults. Unknown fields are
// errors, so that a mistyped setting is not silently ignored.
func LoadConfig(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	config := DefaultConfig()
	// A list in the file replaces the default list. Decoding into the default
	// list would give its entries' fields to the entries of the file that leave
	// them out.
	pools := config.Pools
	config.Pools = nil
	if err := refuseMeshSettings(data); err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", path, err)
	}
	if err := yaml.UnmarshalStrict(data, &config); err != nil {
		return Config{}, fmt.Errorf("read configuration %s: %w", path, err)
	}
	if config.Pools == nil {
		config.Pools = pools
	}
	if err := config.Validate(); err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", path, err)
	}
	return config, nil
}

// Validate returns an error that names every setting that is not valid.
func (c Config) Validate() error {
	return errors.Join(c.MembershipConfig.Validate(), c.HostConfig.Validate(), c.Audit.Validate())
}

// SalvageConfig returns what can be taken from a configuration file that LoadConfig refuses, for
// who must act all the same: a host that is being shut down. The rest is as by default.
func SalvageConfig(path string) Config {
	config := DefaultConfig()
	if data, err := os.ReadFile(path); err == nil {
		_ = yaml.Unmarshal(data, &config) // what comes before the fault is taken
	}
	return config
}

// refuseMeshSettings returns an error for each setting that used to belong to a
// host and now belongs to the mesh, because it would have no effect in this
// file.
func refuseMeshSettings(data []byte) error {
	var file struct {
		Capacity map[string]any `json:"capacity"`
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		return nil // the strict decoder reports the error
	}
	var errs []error
	for _, moved := range [][2]string{
		{"cpuAllocationRatio", "cpuAllocationRatio"}, {"memoryOvercommitPercent", "memoryOvercommitPercent"}, {"policy", "strategy"},
	} {
		if _, there := file.Capacity[moved[0]]; there {
			errs = append(errs, fmt.Errorf("capacity.%s: remove the line: it is a setting of the whole mesh now, spec.capacity.%s of the MeshConfig named \"mesh\" (kubectl explain meshconfig.spec.capacity)", moved[0], moved[1]))
		}
	}
	return errors.Join(errs...)
}

// File is the configuration file that init and join write at path.
func (c Config) File(path string) membership.ConfigFile {
	return membership.ConfigFile{Path: path, Save: c.Save}
}

// Save writes the configuration for a later LoadConfig, in one step: the
// presence of the file means that the host belongs to a mesh. The file is on
// the disk when Save returns.
func (c Config) Save(path string) error {
	data, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode configuration: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	if err := durable.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}
