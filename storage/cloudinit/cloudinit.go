// Package cloudinit makes the small disks that give a guest its identity and
// configuration: cloud-init's NoCloud and ConfigDrive seeds, and plain ISO 9660
// images of a few files, as KubeVirt uses them for sysprep, config maps and secrets.
//
// Equal input gives equal bytes, on any host and at any time: the target of a live
// migration makes the seed again and must get the disk that the guest already uses.
//
// The caller passes content as bytes, wherever it comes from (a manifest, base64, a
// secret); Pick helps to choose it. The package writes no files.
package cloudinit

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// Volume labels by which cloud-init finds its seed.
const (
	NoCloudLabel     = "cidata"
	ConfigDriveLabel = "config-2"
)

// Seed is the data that a guest gets.
type Seed struct {
	// InstanceID identifies the guest. When it changes, cloud-init repeats the work of
	// a first boot. Required.
	InstanceID string
	// Hostname is the guest's host name. Required.
	Hostname string
	// InstanceType is shown in the guest's metadata if it is not empty.
	InstanceType string
	// PublicKeys are SSH keys for the guest's default user.
	PublicKeys []string
	// UserData is a script or a cloud-config; NetworkData is a network configuration in
	// a format that the guest's cloud-init knows. nil means none.
	UserData, NetworkData []byte
}

func (s Seed) validate() error {
	if s.InstanceID == "" {
		return errors.New("cloud-init seed: no instance ID")
	}
	if s.Hostname == "" {
		return errors.New("cloud-init seed: no host name")
	}
	return nil
}

// NoCloud returns an ISO image that cloud-init's NoCloud source reads.
func NoCloud(s Seed) ([]byte, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	// The metadata is written as JSON, which is valid YAML and quotes every character
	// that a name may contain.
	meta, err := json.Marshal(struct {
		InstanceID   string            `json:"instance-id"`
		Hostname     string            `json:"local-hostname"`
		InstanceType string            `json:"instance-type,omitempty"`
		PublicKeys   map[string]string `json:"public-keys,omitempty"`
	}{s.InstanceID, s.Hostname, s.InstanceType, numbered(s.PublicKeys)})
	if err != nil {
		return nil, fmt.Errorf("cloud-init seed: %w", err)
	}
	files := map[string][]byte{"meta-data": append(meta, '\n'), "user-data": s.UserData}
	if s.NetworkData != nil {
		files["network-config"] = s.NetworkData
	}
	return ISO(NoCloudLabel, files)
}

// ConfigDrive returns an ISO image that cloud-init's ConfigDrive source, and
// cloudbase-init on Windows, read.
func ConfigDrive(s Seed) ([]byte, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	meta, err := json.Marshal(struct {
		InstanceID   string            `json:"instance_id"`
		UUID         string            `json:"uuid"`
		Hostname     string            `json:"hostname"`
		LocalName    string            `json:"local_hostname"`
		InstanceType string            `json:"instance_type,omitempty"`
		PublicKeys   map[string]string `json:"public_keys,omitempty"`
	}{s.InstanceID, s.InstanceID, s.Hostname, s.Hostname, s.InstanceType, numbered(s.PublicKeys)})
	if err != nil {
		return nil, fmt.Errorf("cloud-init seed: %w", err)
	}
	const latest = "openstack/latest/"
	files := map[string][]byte{latest + "meta_data.json": append(meta, '\n')}
	if s.UserData != nil {
		files[latest+"user_data"] = s.UserData
	}
	if s.NetworkData != nil {
		files[latest+"network_data.json"] = s.NetworkData
	}
	return ISO(ConfigDriveLabel, files)
}

func numbered(keys []string) map[string]string {
	if len(keys) == 0 {
		return nil
	}
	m := map[string]string{}
	for i, k := range keys {
		m[strconv.Itoa(i)] = k
	}
	return m
}

// Pick returns the content that a manifest gives in one of three ways: as text, in
// base64, or in a secret. It returns nil if there is none, and an error if there is
// more than one. Errors begin with field and never quote the content.
func Pick(field, text, encoded string, secret []byte) ([]byte, error) {
	given := 0
	for _, there := range []bool{text != "", encoded != "", secret != nil} {
		if there {
			given++
		}
	}
	if given > 1 {
		return nil, fmt.Errorf("%s: given in more than one way", field)
	}
	switch {
	case text != "":
		return []byte(text), nil
	case encoded != "":
		b, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return nil, fmt.Errorf("%sBase64: %w", field, err)
		}
		return b, nil
	}
	return secret, nil
}
