package volumes

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/domain"
	"virtmesh/agent/host/executor"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
	"virtmesh/storage"
	"virtmesh/storage/containerdisk"
	"virtmesh/storage/ephemeral"
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

// localRead is for objects that a controller has already seen.
var localRead = raftstore.ReadOptions{Consistency: raftstore.Local}

// Images is the part of *containerdisk.Cache that this package uses.
type Images interface {
	Pull(ctx context.Context, ref string, o containerdisk.PullOptions) (containerdisk.Image, func(), error)
}

// Config is what a Volumes needs. All fields are required.
type Config struct {
	Store objects.Store
	// Secrets reads the Secrets that the guests of this host use.
	Secrets objects.Store
	// Images are the container disks on this host, Disks the disks that live as long
	// as an instance, Claims the volumes that outlive it.
	Images Images
	Disks  *ephemeral.Disks
	Claims *Provisioner
	// Group is the gid that emulators have, which may open the host's KVM and the images.
	Group uint32
	// LetPass opens the way of emulators with users of their own to what libvirt makes for
	// them, and reports whether that holds of TPMs too. It is called before each start.
	LetPass func() (toTPMs bool, err error)
	// Room returns why nothing new that takes room on the host's disk may begin; nil if it may.
	Room   func() error
	Events *objects.Recorder
}

// Volumes prepares the volumes of this host's instances. Its methods may be
// called at once, though not for the same instance.
type Volumes struct {
	Config

	mu     sync.Mutex
	pulled pulledImages
}

var _ executor.Volumes = (*Volumes)(nil)

// New makes a Volumes.
func New(config Config) *Volumes { return &Volumes{Config: config} }

// Prepare implements executor.Volumes. release ends the hold on the images once QEMU
// uses their overlays: from then on the cache detects which files QEMU has open.
func (v *Volumes) Prepare(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance) (map[string]domain.Disk, func(), error) {
	if err := v.Claims.holdState(ctx, vmi); err != nil {
		return nil, nil, err
	}
	p := preparation{Volumes: v, vmi: vmi, disks: map[string]domain.Disk{}}
	for _, volume := range vmi.Spec.Volumes {
		if err := p.addVolume(ctx, volume); err != nil {
			p.releaseImages()
			var told *executor.VolumeError
			if !errors.As(err, &told) {
				reason := reasonVolume
				if errors.Is(err, storage.ErrNoSpace) {
					reason = reasonNoSpace
				}
				err = &executor.VolumeError{Volume: volume.Name, Reason: reason, Err: err}
			}
			return nil, nil, err
		}
	}
	return p.disks, p.releaseImages, nil
}

// preparation collects the disks of one instance.
type preparation struct {
	*Volumes
	vmi      *kubevirtv1.VirtualMachineInstance
	disks    map[string]domain.Disk
	releases []func()
}

// releaseImages ends the hold on the images.
func (p *preparation) releaseImages() {
	for _, release := range p.releases {
		release()
	}
}

// addVolume prepares one volume, and adds its disk.
func (p *preparation) addVolume(ctx context.Context, volume kubevirtv1.Volume) (err error) {
	if volume.ContainerDisk != nil || volume.EmptyDisk != nil {
		if err := p.Room(); err != nil {
			return err
		}
	}
	switch {
	case volume.ContainerDisk != nil:
		return p.addContainerDisk(ctx, volume)
	case volume.EmptyDisk != nil:
		return p.addEphemeralDisk(ctx, ephemeral.Disk{Name: volume.Name,
			Empty: &ephemeral.Empty{Size: volume.EmptyDisk.Capacity.Value(), Format: qemuimg.QCOW2}})
	case volume.CloudInitNoCloud != nil:
		image, err := p.makeSeed(ctx, p.vmi, volume.CloudInitNoCloud)
		if err != nil {
			return err
		}
		return p.addEphemeralDisk(ctx, ephemeral.Disk{Name: volume.Name, Content: image})
	case volume.PersistentVolumeClaim != nil:
		p.disks[volume.Name], err = p.Claims.disk(ctx, p.vmi, volume)
		return err
	}
	return &executor.VolumeError{Volume: volume.Name, Reason: reasonUnsupported,
		Err: errors.New("only containerDisk, emptyDisk, cloudInitNoCloud and persistentVolumeClaim are supported")}
}

// addEphemeralDisk makes a disk that lives as long as the instance.
func (p *preparation) addEphemeralDisk(ctx context.Context, disk ephemeral.Disk) error {
	owner := ephemeral.VM{Namespace: p.vmi.Namespace, Name: p.vmi.Name, UID: string(p.vmi.UID)}
	prepared, err := p.Disks.Prepare(ctx, owner, []ephemeral.Disk{disk})
	if err != nil {
		return err
	}
	made := prepared[0]
	result := fileDisk(made.Path, string(made.Format))
	result.ReadOnly = made.ReadOnly
	if made.Backing != "" {
		backing := fileDisk(made.Backing, string(made.BackingFormat))
		backing.ReadOnly = true
		result.Backing = &backing
	}
	p.disks[disk.Name] = result
	return nil
}

// addContainerDisk pulls the image and puts an overlay for the guest's writes on
// top of it.
func (p *preparation) addContainerDisk(ctx context.Context, volume kubevirtv1.Volume) error {
	image, release, err := p.pullImage(ctx, p.vmi, volume)
	if err != nil {
		return err
	}
	p.releases = append(p.releases, release)
	return p.addEphemeralDisk(ctx, ephemeral.Disk{Name: volume.Name,
		Overlay: &ephemeral.Overlay{Backing: image.Path, BackingFormat: qemuimg.Format(image.Format), Origin: image.Digest}})
}

// pullImage pulls the image of a container disk.
func (v *Volumes) pullImage(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, volume kubevirtv1.Volume) (containerdisk.Image, func(), error) {
	source := volume.ContainerDisk
	fail := func(err error) (containerdisk.Image, func(), error) {
		reason := reasonErrImagePull
		if errors.Is(err, containerdisk.ErrNoSpace) {
			reason = reasonNoSpace
		}
		return containerdisk.Image{}, nil, &executor.VolumeError{Volume: volume.Name, Reason: reason, Err: err}
	}
	options := containerdisk.PullOptions{
		Policy: containerdisk.Policy(source.ImagePullPolicy), File: source.Path, Progress: v.progressEvents(vmi, source.Image),
	}
	if source.ImagePullSecret != "" {
		secret, err := v.readSecret(ctx, vmi.Namespace, source.ImagePullSecret)
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
	v.pulled.noteImage(source.Image)
	v.mu.Unlock()
	return image, release, nil
}

// progressInterval is how often a long pull is reported in an event.
const progressInterval = 10 * time.Second

// progressEvents returns a function that reports the progress of a long pull in events.
// A short pull needs no event.
func (v *Volumes) progressEvents(vmi *kubevirtv1.VirtualMachineInstance, ref string) func(done, total int64) {
	last := time.Now()
	return func(done, total int64) {
		if now := time.Now(); now.Sub(last) > progressInterval {
			last = now
			v.Events.Event(vmi, corev1.EventTypeNormal, "Pulling",
				fmt.Sprintf("Pulling image %s: %d of %d MiB", ref, done>>20, total>>20))
		}
	}
}

// User implements executor.Volumes.
func (v *Volumes) User(ctx context.Context, ref hypervisor.Ref) (domain.User, error) {
	toTPMs, err := v.LetPass()
	if err != nil {
		return domain.User{}, err
	}
	uid, err := v.Disks.User(ctx, ephemeral.VM{Namespace: ref.Namespace, Name: ref.Name, UID: ref.UID})
	return domain.User{UID: uid, GID: v.Group, ReachesTPM: toTPMs}, err
}

// AgentSocket implements executor.Volumes.
func (v *Volumes) AgentSocket(ctx context.Context, ref hypervisor.Ref) (string, error) {
	return v.Disks.AgentSocket(ctx, ephemeral.VM{Namespace: ref.Namespace, Name: ref.Name, UID: ref.UID})
}

// Remove implements executor.Volumes.
func (v *Volumes) Remove(ctx context.Context, ref hypervisor.Ref) error {
	if err := v.Disks.Remove(ctx, ref.UID); err != nil {
		return fmt.Errorf("remove the disks of %s/%s: %w", ref.Namespace, ref.Name, err)
	}
	return nil
}

// ImageDigests implements executor.Volumes.
func (v *Volumes) ImageDigests(ref hypervisor.Ref) (map[string]string, error) {
	digests, err := v.Disks.Origins(ref.UID)
	if err != nil {
		return nil, fmt.Errorf("read the image digests of %s: %w", ref, err)
	}
	return digests, nil
}

// ClaimInfo implements executor.Volumes.
func (v *Volumes) ClaimInfo(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance) (map[string]*kubevirtv1.PersistentVolumeClaimInfo, error) {
	return v.Claims.claimInfo(ctx, vmi)
}

// Detach implements executor.Volumes.
func (v *Volumes) Detach(ctx context.Context, tx *objects.Tx, vmi *kubevirtv1.VirtualMachineInstance) error {
	return v.Claims.Detach(ctx, tx, vmi)
}

// Owners implements executor.Volumes.
func (v *Volumes) Owners() ([]hypervisor.Ref, error) {
	vms, err := v.Disks.List()
	if err != nil {
		return nil, err
	}
	refs := make([]hypervisor.Ref, 0, len(vms))
	for _, vm := range vms {
		refs = append(refs, hypervisor.Ref{Namespace: vm.Namespace, Name: vm.Name, UID: vm.UID})
	}
	return refs, nil
}

// ImageReferences lists the images that this host pulled last, as many as fit, sorted
// by name. Placement uses the list.
func (v *Volumes) ImageReferences() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.pulled.list()
}

func (v *Volumes) readSecret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	secret, err := objects.Get[*corev1.Secret](ctx, v.Secrets, objects.Key{Namespace: namespace, Name: name}, localRead)
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", name, err)
	}
	return secret, nil
}
