package volumes

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/domainxml"
	"virtmesh/storage/cloudinit"
)

// cloudInit makes the NoCloud seed of an instance.
func (v *Volumes) cloudInit(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, dir string, volume kubevirtv1.Volume) (domainxml.Disk, error) {
	source := volume.CloudInitNoCloud
	userData, err := v.seedPart(ctx, vmi.Namespace, "userData", source.UserData, source.UserDataBase64, source.UserDataSecretRef, "userdata")
	if err != nil {
		return domainxml.Disk{}, err
	}
	networkData, err := v.seedPart(ctx, vmi.Namespace, "networkData", source.NetworkData, source.NetworkDataBase64, source.NetworkDataSecretRef, "networkdata")
	if err != nil {
		return domainxml.Disk{}, err
	}
	seed := cloudinit.Seed{
		// KubeVirt names the instance so, and cloud-init runs anew for a new one.
		InstanceID: vmi.Name + "." + vmi.Namespace, Hostname: hostname(vmi),
		UserData: userData, NetworkData: networkData,
	}
	image, err := cloudinit.NoCloud(seed)
	if err != nil {
		return domainxml.Disk{}, fmt.Errorf("make the cloud-init seed: %w", err)
	}
	path := filepath.Join(dir, volume.Name+".iso")
	if err := v.once(path, func(temporary string) error { return os.WriteFile(temporary, image, 0o600) }); err != nil {
		return domainxml.Disk{}, fmt.Errorf("make the cloud-init seed: %w", err)
	}
	return domainxml.Disk{Type: domainxml.DiskFile, Path: path, Format: "raw"}, nil
}

// seedPart reads one part of a seed from wherever the specification has it.
func (v *Volumes) seedPart(ctx context.Context, namespace, field, inline, encoded string, ref *corev1.LocalObjectReference, key string) ([]byte, error) {
	var fromSecret []byte
	if ref != nil {
		secret, err := v.secret(ctx, namespace, ref.Name)
		if err != nil {
			return nil, fmt.Errorf("cloudInitNoCloud.%s: %w", field, err)
		}
		data, ok := secret.Data[key]
		if !ok {
			return nil, fmt.Errorf("cloudInitNoCloud.%s: secret %s has no key %q", field, ref.Name, key)
		}
		fromSecret = data
	}
	return cloudinit.Pick("cloudInitNoCloud."+field, inline, encoded, fromSecret)
}

func hostname(vmi *kubevirtv1.VirtualMachineInstance) string {
	if vmi.Spec.Hostname != "" {
		return vmi.Spec.Hostname
	}
	return vmi.Name
}
