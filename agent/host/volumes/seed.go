package volumes

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	machine "virtmesh/agent/vmi"
	"virtmesh/storage/cloudinit"
)

// makeSeed makes the NoCloud seed of an instance.
func (v *Volumes) makeSeed(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, source *kubevirtv1.CloudInitNoCloudSource) ([]byte, error) {
	userData, err := v.readSeedPart(ctx, vmi.Namespace, "userData", source.UserData, source.UserDataBase64, source.UserDataSecretRef)
	if err != nil {
		return nil, err
	}
	networkData, err := v.readSeedPart(ctx, vmi.Namespace, "networkData", source.NetworkData, source.NetworkDataBase64, source.NetworkDataSecretRef)
	if err != nil {
		return nil, err
	}
	return cloudinit.NoCloud(cloudinit.Seed{
		// KubeVirt uses the same instance ID. cloud-init runs again when the ID changes.
		InstanceID: vmi.Name + "." + vmi.Namespace, Hostname: machine.Hostname(vmi),
		UserData: userData, NetworkData: networkData,
	})
}

// readSeedPart reads one part of a seed from the place that the specification names. In a
// Secret the key is the field's name as it is or in lower case: KubeVirt accepts both.
func (v *Volumes) readSeedPart(ctx context.Context, namespace, field, inline, encoded string, ref *corev1.LocalObjectReference) ([]byte, error) {
	var fromSecret []byte
	if ref != nil {
		secret, err := v.readSecret(ctx, namespace, ref.Name)
		if err != nil {
			return nil, fmt.Errorf("cloudInitNoCloud.%s: %w", field, err)
		}
		data, ok := secret.Data[strings.ToLower(field)]
		if !ok {
			data, ok = secret.Data[field]
		}
		if !ok {
			return nil, fmt.Errorf("cloudInitNoCloud.%s: secret %s has neither key %q nor key %q", field, ref.Name, strings.ToLower(field), field)
		}
		fromSecret = data
	}
	return cloudinit.Pick("cloudInitNoCloud."+field, inline, encoded, fromSecret)
}
