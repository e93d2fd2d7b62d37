package volumes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/controllers/instance"
	"virtmesh/agent/domainxml"
	"virtmesh/agent/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/storage/containerdisk"
	"virtmesh/storage/qemuimg"
)

// Reasons of failures, as KubeVirt names them.
const (
	reasonErrImagePull = "ErrImagePull"
	reasonPVCNotFound  = "FailedPvcNotFound"
	reasonVolume       = "FailedVolume"
	reasonUnsupported  = "UnsupportedVolume"
	reasonNoSpace      = "NoSpaceLeft"
)

// Images is the part of *containerdisk.Cache that this package uses.
type Images interface {
	Pull(ctx context.Context, ref string, o containerdisk.PullOptions) (containerdisk.Image, func(), error)
	Hold(path string) (release func(), err error)
}

// Config is what a Volumes needs. All fields are required.
type Config struct {
	// Host is this host's name.
	Host string
	// Dir holds a directory per instance.
	Dir string
	// Owner and Group are the user QEMU runs as, who may read the disks.
	Owner, Group int
	Store        objects.Store
	Images       Images
	Tool         qemuimg.Tool
	Claims       *Provisioner
	Events       *objects.Recorder
	Logger       *slog.Logger
}

// Volumes prepares the volumes of this host's instances. Its methods may be
// called at once, though not for the same instance.
type Volumes struct {
	Config

	mu sync.Mutex
	// held releases the images of an instance, by its UID.
	held map[string][]func()
	// references are the images that were pulled here, by reference.
	references map[string]bool
}

var _ instance.Volumes = (*Volumes)(nil)

// New makes the directory of instances and takes hold of the images that
// guests which already run are using.
func New(config Config) (*Volumes, error) {
	if err := os.MkdirAll(config.Dir, 0o711); err != nil {
		return nil, fmt.Errorf("make the directory of instances: %w", err)
	}
	v := &Volumes{Config: config, held: map[string][]func(){}, references: map[string]bool{}}
	return v, v.holdUsedImages()
}

// Prepare implements instance.Volumes.
func (v *Volumes) Prepare(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance) (map[string]domainxml.Disk, error) {
	dir := v.instanceDir(string(vmi.UID))
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("make the instance's directory: %w", err)
	}
	disks := map[string]domainxml.Disk{}
	for _, volume := range vmi.Spec.Volumes {
		if filepath.Base(volume.Name) != volume.Name {
			return nil, fmt.Errorf("volume %q: its name cannot be used in a path", volume.Name)
		}
		disk, err := v.prepareOne(ctx, vmi, dir, volume)
		if err != nil {
			var told *instance.VolumeError
			if errors.As(err, &told) {
				return nil, err
			}
			return nil, &instance.VolumeError{Volume: volume.Name, Reason: reasonVolume, Err: err}
		}
		disks[volume.Name] = disk
	}
	return disks, nil
}

func (v *Volumes) prepareOne(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, dir string, volume kubevirtv1.Volume) (domainxml.Disk, error) {
	switch {
	case volume.ContainerDisk != nil:
		return v.containerDisk(ctx, vmi, dir, volume)
	case volume.EmptyDisk != nil:
		return v.emptyDisk(ctx, dir, volume)
	case volume.CloudInitNoCloud != nil:
		return v.cloudInit(ctx, vmi, dir, volume)
	case volume.PersistentVolumeClaim != nil:
		return v.Claims.disk(ctx, vmi, volume)
	}
	return domainxml.Disk{}, &instance.VolumeError{Volume: volume.Name, Reason: reasonUnsupported,
		Err: errors.New("only containerDisk, emptyDisk, cloudInitNoCloud and persistentVolumeClaim are supported")}
}

// containerDisk pulls the image and puts an overlay for the guest's writes on
// top of it.
func (v *Volumes) containerDisk(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, dir string, volume kubevirtv1.Volume) (domainxml.Disk, error) {
	image, err := v.pull(ctx, vmi, volume)
	if err != nil {
		return domainxml.Disk{}, err
	}
	path := filepath.Join(dir, volume.Name+".qcow2")
	if err := v.once(path, func(temporary string) error {
		return v.Tool.CreateOverlay(ctx, temporary, image.Path, qemuimg.Format(image.Format), 0)
	}); err != nil {
		return domainxml.Disk{}, fmt.Errorf("make the overlay of %s: %w", image.Ref, err)
	}
	return domainxml.Disk{
		Type: domainxml.DiskFile, Path: path, Format: string(qemuimg.QCOW2),
		Backing: &domainxml.Disk{Type: domainxml.DiskFile, Path: image.Path, Format: image.Format, ReadOnly: true},
	}, nil
}

func (v *Volumes) pull(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, volume kubevirtv1.Volume) (containerdisk.Image, error) {
	source := volume.ContainerDisk
	fail := func(err error) (containerdisk.Image, error) {
		reason := reasonErrImagePull
		if errors.Is(err, containerdisk.ErrNoSpace) {
			reason = reasonNoSpace
		}
		return containerdisk.Image{}, &instance.VolumeError{Volume: volume.Name, Reason: reason, Err: err}
	}
	options := containerdisk.PullOptions{
		Policy: containerdisk.Policy(source.ImagePullPolicy), File: source.Path, Progress: v.progress(vmi, source.Image),
	}
	if source.ImagePullSecret != "" {
		secret, err := v.secret(ctx, vmi.Namespace, source.ImagePullSecret)
		if err != nil {
			return fail(err)
		}
		options.PullSecrets = [][]byte{secret.Data[corev1.DockerConfigJsonKey]}
	}
	image, release, err := v.Images.Pull(ctx, source.Image, options)
	if err != nil {
		return fail(err)
	}
	v.mu.Lock()
	v.held[string(vmi.UID)] = append(v.held[string(vmi.UID)], release)
	v.references[source.Image] = true
	v.mu.Unlock()
	if err := v.recordImage(string(vmi.UID), image.Path); err != nil {
		return fail(err)
	}
	return image, nil
}

// progressInterval is how often a long pull is reported in an event.
const progressInterval = 10 * time.Second

// progress reports a pull that takes long; a short one needs no event.
func (v *Volumes) progress(vmi *kubevirtv1.VirtualMachineInstance, ref string) func(done, total int64) {
	last := time.Now()
	return func(done, total int64) {
		if now := time.Now(); now.Sub(last) > progressInterval {
			last = now
			v.Events.Event(vmi, corev1.EventTypeNormal, "Pulling",
				fmt.Sprintf("Pulling image %s: %d of %d MiB", ref, done>>20, total>>20))
		}
	}
}

func (v *Volumes) emptyDisk(ctx context.Context, dir string, volume kubevirtv1.Volume) (domainxml.Disk, error) {
	path := filepath.Join(dir, volume.Name+".qcow2")
	size := volume.EmptyDisk.Capacity.Value()
	if err := v.once(path, func(temporary string) error {
		return v.Tool.Create(ctx, temporary, qemuimg.QCOW2, size)
	}); err != nil {
		return domainxml.Disk{}, fmt.Errorf("make the empty disk: %w", err)
	}
	return domainxml.Disk{Type: domainxml.DiskFile, Path: path, Format: string(qemuimg.QCOW2)}, nil
}

// once makes a file unless an earlier attempt did: build writes to a temporary
// name, and the file appears whole or not at all.
func (v *Volumes) once(path string, build func(temporary string) error) error {
	if _, err := os.Lstat(path); err == nil {
		return nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	temporary := path + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := build(temporary); err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(temporary, 0o600), os.Chown(temporary, v.Owner, v.Group)); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// Remove implements instance.Volumes.
func (v *Volumes) Remove(_ context.Context, ref hypervisor.Ref) error {
	if err := os.RemoveAll(v.instanceDir(ref.UID)); err != nil {
		return fmt.Errorf("remove the disks of %s/%s: %w", ref.Namespace, ref.Name, err)
	}
	v.mu.Lock()
	releases := v.held[ref.UID]
	delete(v.held, ref.UID)
	v.mu.Unlock()
	for _, release := range releases {
		release()
	}
	return nil
}

// ImageReferences lists the images that were pulled here, for placement.
func (v *Volumes) ImageReferences() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	references := make([]string, 0, len(v.references))
	for reference := range v.references {
		references = append(references, reference)
	}
	return references
}

// instanceDir is named by UID alone. Kubernetes makes UIDs, so they are safe
// in a path; Base makes sure.
func (v *Volumes) instanceDir(uid string) string { return filepath.Join(v.Dir, filepath.Base(uid)) }

func (v *Volumes) secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	secret, err := objects.Get[*corev1.Secret](ctx, v.Store, objects.Key{Namespace: namespace, Name: name}, localRead)
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", name, err)
	}
	return secret, nil
}
