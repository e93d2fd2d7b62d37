package volumes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/host/domain"
	"virtmesh/agent/host/executor"
	"virtmesh/agent/kinds"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	machine "virtmesh/agent/vmi"
	"virtmesh/raftstore"
	"virtmesh/storage"
	"virtmesh/storage/containerdisk"
)

// Annotations of a PersistentVolumeClaim that are recorded at the first use, because the
// class may change or be deleted.
const (
	// SelectedNode names the host, and poolAnnotation the pool.
	SelectedNode   = kinds.SelectedNode
	poolAnnotation = kinds.VolumePool
	// policyAnnotation is the reclaim policy of the class, unless that is Delete.
	policyAnnotation = "virtmesh.io/reclaim-policy"
)

const claimFinalizer = kinds.VolumeFinalizer

// ProvisionerConfig is what a Provisioner needs. All fields are required but
// Unusable.
type ProvisionerConfig struct {
	Host  string
	Store objects.Store
	// Confirm returns once what this host knows of the mesh is certain, see
	// raftstore.Store.Confirm.
	Confirm func(ctx context.Context) error
	Cache   *objects.Cache
	// Pools returns the pools of this host that can be used, by name. Unusable returns
	// why a pool of the host's configuration is not among them.
	Pools    func() map[string]storage.Pool
	Unusable func(name string) error
	Images   Images
	// States keeps what TPMs and firmware keep between instances.
	States States
	// Removed reports whether a host was removed from the mesh, by a linearizable read.
	Removed func(ctx context.Context, host string) (bool, error)
	// Mine reports whether this host, of all hosts that could act on a claim, is the
	// one to do so.
	Mine   func(key objects.Key) bool
	Events *objects.Recorder
	Logger *slog.Logger
}

// Provisioner makes the volumes of PersistentVolumeClaims, and deletes them
// with their claims. It is a stewards.Reconciler of claims.
type Provisioner struct {
	ProvisionerConfig
	claims *objects.Informer[*corev1.PersistentVolumeClaim]
	vmis   *objects.Informer[*kubevirtv1.VirtualMachineInstance]
	// users are the running instances, by the claims that they have attached.
	users *objects.Index[*kubevirtv1.VirtualMachineInstance]
}

var _ stewards.Reconciler = (*Provisioner)(nil)

// NewProvisioner makes a Provisioner. It deletes nothing before its controller
// runs.
func NewProvisioner(config ProvisionerConfig) *Provisioner {
	vmis := objects.For[*kubevirtv1.VirtualMachineInstance](config.Cache)
	return &Provisioner{
		ProvisionerConfig: config,
		claims:            objects.For[*corev1.PersistentVolumeClaim](config.Cache),
		vmis:              vmis,
		users:             objects.NewIndex(vmis, usedClaims),
	}
}

// disk returns the disk of a claim's volume, and makes the volume at its first use.
func (p *Provisioner) disk(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, volume kubevirtv1.Volume) (domain.Disk, error) {
	claim, err := p.usableClaim(ctx, vmi.Namespace, volume.PersistentVolumeClaim.ClaimName, volume.Name)
	if err != nil {
		return domain.Disk{}, err
	}
	place, err := p.placeOf(ctx, claim)
	if err != nil {
		return domain.Disk{}, err
	}
	if claim, err = p.attachClaim(ctx, vmi, claim, place); err != nil {
		return domain.Disk{}, err
	}
	made, err := p.ensureVolume(ctx, place.pool, claim)
	if err != nil {
		return domain.Disk{}, err
	}
	disk, err := volumeDisk(ctx, place.pool, made)
	if err != nil {
		return domain.Disk{}, fmt.Errorf("claim %s: %w", claim.Name, err)
	}
	disk.ReadOnly, disk.HeldByMany = volume.PersistentVolumeClaim.ReadOnly, heldByMany(claim)
	return disk, nil
}

// heldByMany reports whether several instances may have a claim's volume at the same time.
func heldByMany(claim *corev1.PersistentVolumeClaim) bool {
	return slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteMany)
}

// usableClaim reads the claim that the volume uses, if it can be used on this host.
func (p *Provisioner) usableClaim(ctx context.Context, namespace, name, volume string) (*corev1.PersistentVolumeClaim, error) {
	key := objects.Key{Namespace: namespace, Name: name}
	claim, err := objects.Get[*corev1.PersistentVolumeClaim](ctx, p.Store, key, raftstore.ReadOptions{})
	if apierrors.IsNotFound(err) {
		return nil, &executor.VolumeError{Volume: volume, Reason: reasonPVCNotFound, Err: fmt.Errorf("PersistentVolumeClaim %s does not exist", name)}
	}
	if err != nil {
		return nil, fmt.Errorf("read claim %s: %w", name, err)
	}
	if claim.DeletionTimestamp != nil {
		return nil, fmt.Errorf("claim %s is being deleted", name)
	}
	if home := claim.Annotations[SelectedNode]; home != "" && home != p.Host {
		return nil, fmt.Errorf("the volume of claim %s is on %s", name, home)
	}
	return claim, nil
}

// attachClaim attaches the claim to the instance and, at its first use, records where
// its volume will be and claims room for it, in one transaction. All are written before the volume is
// made: a volume without the record would never be deleted, and a volume without a
// holder could be deleted while it is made. The transaction fails while another
// instance holds a volume that only one may write, and when the claim has changed,
// for example because its deletion has begun.
func (p *Provisioner) attachClaim(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, claim *corev1.PersistentVolumeClaim, place place) (*corev1.PersistentVolumeClaim, error) {
	taken := claim.DeepCopy()
	p.record(taken, place)
	objects.AddFinalizer(taken, claimFinalizer)
	var tx objects.Tx
	if err := p.takeSpace(ctx, &tx, claim, place); err != nil {
		return taken, err
	}
	return taken, p.attach(ctx, &tx, vmi, claim, taken)
}

// attach writes taken in place of claim and attaches it to the instance, in one
// transaction, which tx may have begun, on condition that nobody has changed the claim since
// it was read.
func (p *Provisioner) attach(ctx context.Context, tx *objects.Tx, vmi *kubevirtv1.VirtualMachineInstance, claim, taken *corev1.PersistentVolumeClaim) error {
	held, err := claims.GetVolume(ctx, p.Store, objects.KeyOf(claim), raftstore.ReadOptions{})
	if err != nil {
		return err
	}
	tx.Unchanged(claim)
	tx.Update(claim, taken)
	if !slices.Contains(held.Holders, vmi.UID) {
		held.Shared = heldByMany(claim)
		claims.Attach(tx, held, vmi.UID)
	}
	if _, err := tx.Commit(ctx, p.Store); err != nil {
		return fmt.Errorf("attach claim %s: %w", claim.Name, err)
	}
	return nil
}

// Detach adds to tx the writes that detach the instance's volumes. It works also for
// an instance that names one claim in several volumes.
func (p *Provisioner) Detach(ctx context.Context, tx *objects.Tx, vmi *kubevirtv1.VirtualMachineInstance) error {
	for _, name := range slices.Sorted(maps.Keys(attachedClaims(vmi))) {
		key := objects.Key{Namespace: vmi.Namespace, Name: name}
		held, err := claims.GetVolume(ctx, p.Store, key, raftstore.ReadOptions{})
		if err != nil {
			return err
		}
		claims.Detach(tx, held, vmi.UID)
	}
	return nil
}

// usedClaims returns the keys of the claims that a running instance has attached, none of
// one that does not run.
func usedClaims(vmi *kubevirtv1.VirtualMachineInstance) []objects.Key {
	if !vmi.IsRunning() {
		return nil
	}
	var keys []objects.Key
	for name := range attachedClaims(vmi) {
		keys = append(keys, objects.Key{Namespace: vmi.Namespace, Name: name})
	}
	return keys
}

// attachedClaims returns the claims that an instance has attached while it runs: those of
// its volumes, and the one for what its TPM and firmware keep.
func attachedClaims(vmi *kubevirtv1.VirtualMachineInstance) map[string]bool {
	names := map[string]bool{}
	for _, volume := range vmi.Spec.Volumes {
		if volume.PersistentVolumeClaim != nil {
			names[volume.PersistentVolumeClaim.ClaimName] = true
		}
	}
	if name := machine.StateClaim(vmi.Name, &vmi.Spec); name != "" {
		names[name] = true
	}
	return names
}

// ensureVolume returns the claim's volume. For a claim that is not bound, it makes the
// volume and binds the claim. A volume is made for a claim once: if the volume of a
// bound claim is missing, its data is elsewhere or lost, and a blank disk in its
// place would hide that from the guest's owner.
func (p *Provisioner) ensureVolume(ctx context.Context, pool storage.Pool, claim *corev1.PersistentVolumeClaim) (storage.Volume, error) {
	made, err := pool.Get(ctx, volumeName(claim))
	if errors.Is(err, storage.ErrNotFound) {
		if claim.Status.Phase == corev1.ClaimBound {
			return storage.Volume{}, fmt.Errorf("claim %s is bound, but pool %s on host %s does not hold its volume %s; "+
				"no blank one is made in its place: see that the pool's file system is mounted, and that annotation %s of the claim is as it was",
				claim.Name, pool.Info().Name, p.Host, volumeName(claim), SelectedNode)
		}
		made, err = p.makeVolume(ctx, pool, claim)
	}
	if err != nil {
		return storage.Volume{}, fmt.Errorf("claim %s: %w", claim.Name, err)
	}
	if claim.Status.Phase == corev1.ClaimBound {
		return made, nil
	}
	return made, p.bindClaim(ctx, claim)
}

// makeVolume makes the claim's volume with its first content.
func (p *Provisioner) makeVolume(ctx context.Context, pool storage.Pool, claim *corev1.PersistentVolumeClaim) (storage.Volume, error) {
	source, release, err := p.source(ctx, claim)
	if err != nil {
		return storage.Volume{}, err
	}
	defer release()
	size := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	made, err := pool.Create(ctx, storage.VolumeSpec{Name: volumeName(claim), Size: size.Value(), Source: source})
	if errors.Is(err, storage.ErrExists) {
		// The pool is shared, and another host has made the volume first.
		return pool.Get(ctx, volumeName(claim))
	}
	return made, err
}

// volumeName is unique for all time and in all pools, as the uid is.
func volumeName(claim *corev1.PersistentVolumeClaim) string { return "pvc-" + string(claim.UID) }

// bindClaim writes that the claim is Bound: its volume exists.
func (p *Provisioner) bindClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	bound := claim.DeepCopy()
	bound.Spec.VolumeName = volumeName(claim)
	bound.Status.Phase = corev1.ClaimBound
	bound.Status.AccessModes = bound.Spec.AccessModes
	bound.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]}
	var tx objects.Tx
	tx.Update(claim, bound)
	if _, err := tx.Commit(ctx, p.Store); err != nil {
		return fmt.Errorf("bind claim %s: %w", claim.Name, err)
	}
	return nil
}

// source returns the first content of a claim's volume, nil for none. release
// must be called when the content has been copied.
func (p *Provisioner) source(ctx context.Context, claim *corev1.PersistentVolumeClaim) (source *storage.Source, release func(), err error) {
	endpoint := claim.Annotations[kinds.ImportEndpoint]
	if endpoint == "" {
		return nil, func() {}, nil
	}
	if from := claim.Annotations[kinds.ImportSource]; from != "registry" {
		return nil, nil, fmt.Errorf("annotation %s: only registry is supported, not %q", kinds.ImportSource, from)
	}
	reference, ok := strings.CutPrefix(endpoint, kinds.ImportScheme)
	if !ok {
		return nil, nil, fmt.Errorf("annotation %s: %q does not begin with %s", kinds.ImportEndpoint, endpoint, kinds.ImportScheme)
	}
	image, release, err := p.Images.Pull(ctx, reference, containerdisk.PullOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("import %s: %w", reference, err)
	}
	return &storage.Source{File: image.Path, FileFormat: storage.Format(image.Format)}, release, nil
}
