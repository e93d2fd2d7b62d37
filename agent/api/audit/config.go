package audit

import (
	"errors"
	"fmt"
	"path/filepath"
)

// Config says what is written down and where. It is a part of the agent's configuration file.
type Config struct {
	// Off writes nothing.
	Off bool `json:"off,omitempty"`
	// File is the log; empty: audit/audit.log in the agent's state directory.
	File string `json:"file,omitempty"`
	// Policy is a file with a Policy of audit.k8s.io/v1; empty: DefaultPolicy.
	Policy string `json:"policy,omitempty"`
	// MaxSizeMiB is the size at which a new file is begun; 0: 20.
	MaxSizeMiB int `json:"maxSizeMiB,omitempty"`
	// MaxFiles is how many older files are kept, compressed; 0: 10.
	MaxFiles int `json:"maxFiles,omitempty"`
	// MaxAgeDays is for how long an older file is kept; 0: as long as there are no more than
	// MaxFiles.
	MaxAgeDays int `json:"maxAgeDays,omitempty"`
}

const (
	defaultSizeMiB = 20
	defaultFiles   = 10
)

// Validate returns an error that names every invalid setting.
func (c Config) Validate() error {
	var errs []error
	for field, path := range map[string]string{"audit.file": c.File, "audit.policy": c.Policy} {
		if path != "" && !filepath.IsAbs(path) {
			errs = append(errs, fmt.Errorf("%s: %q is not an absolute path", field, path))
		}
	}
	for field, n := range map[string]int{"audit.maxSizeMiB": c.MaxSizeMiB, "audit.maxFiles": c.MaxFiles, "audit.maxAgeDays": c.MaxAgeDays} {
		if n < 0 {
			errs = append(errs, fmt.Errorf("%s: must not be negative", field))
		}
	}
	return errors.Join(errs...)
}
