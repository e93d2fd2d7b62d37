// Package cloudinit makes NoCloud seed images: small ISO 9660 file systems
// named "cidata" from which cloud-init in a guest reads its configuration.
//
// The package knows the format of the seed, not of what is in it: user data is
// whatever bytes the caller passes. It writes no image larger than a little
// over MaxBytes, and one image at a time per path.
package cloudinit

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/kdomanski/iso9660"
	"sigs.k8s.io/yaml"
)

// MaxBytes bounds what a seed may hold. KubeVirt limits inline user data to
// 2 KiB; secrets may hold up to 1 MiB.
const MaxBytes = 2 << 20

// volumeLabel is how cloud-init recognises a NoCloud seed.
const volumeLabel = "cidata"

// ErrTooLarge is returned for a seed of more than MaxBytes.
var ErrTooLarge = errors.New("cloud-init data is too large")

// Seed is what a guest is told.
type Seed struct {
	// InstanceID makes cloud-init run anew when it changes.
	InstanceID string
	Hostname   string
	// UserData and NetworkData are passed on as they are; empty NetworkData
	// leaves the network to the image.
	UserData, NetworkData []byte
	// PublicKeys are SSH keys for the image's default user.
	PublicKeys []string
}

// metaData is the seed's meta-data file.
type metaData struct {
	InstanceID    string   `json:"instance-id"`
	LocalHostname string   `json:"local-hostname"`
	PublicKeys    []string `json:"public-keys,omitempty"`
}

// Write makes the seed's image at path, which must not exist.
func (s Seed) Write(path string) (err error) {
	meta, err := yaml.Marshal(metaData{s.InstanceID, s.Hostname, s.PublicKeys})
	if err != nil {
		return fmt.Errorf("encode meta-data: %w", err)
	}
	if n := len(meta) + len(s.UserData) + len(s.NetworkData); n > MaxBytes {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, n, MaxBytes)
	}
	writer, err := iso9660.NewWriter()
	if err != nil {
		return fmt.Errorf("make seed image: %w", err)
	}
	defer func() { err = errors.Join(err, writer.Cleanup()) }()
	files := []struct {
		name string
		data []byte
	}{{"meta-data", meta}, {"user-data", s.UserData}, {"network-config", s.NetworkData}}
	for _, file := range files {
		if file.name == "network-config" && len(file.data) == 0 {
			continue
		}
		if err := writer.AddFile(bytes.NewReader(file.data), file.name); err != nil {
			return fmt.Errorf("make seed image: add %s: %w", file.name, err)
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make seed image: %w", err)
	}
	if err := errors.Join(writer.WriteTo(f, volumeLabel), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("make seed image: %w", err), os.Remove(path))
	}
	return nil
}
