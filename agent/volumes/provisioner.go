package volumes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/controller"
	"virtmesh/agent/controllers/instance"
	"virtmesh/agent/domainxml"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/claims"
	"virtmesh/raftstore"
	"virtmesh/storage"
	"virtmesh/storage/containerdisk"
)

// Annotations of a PersistentVolumeClaim.
const (
	// SelectedNode is the host that holds the volume of a claim, as Kubernetes
	// names it; a shared pool's claim has none.
	SelectedNode = "volume.kubernetes.io/selected-node"
	// importSource and importEndpoint fill a new volume from a container disk,
	// as CDI's annotations do: "registry" and "docker://image".
	importSource   = "cdi.kubevirt.io/storage.import.source"
	importEndpoint = "cdi.kubevirt.io/storage.import.endpoint"
	// defaultClass marks the StorageClass of claims that name none.
	defaultClass = "storageclass.kubernetes.io/is-default-class"
)

// instanceGoneInterval is how often a claim under deletion looks whether its
// instance has ended.
const instanceGoneInterval = 2 * time.Second

// scheme begins the endpoint of an import from a registry.
const scheme = "docker://"

// claimFinalizer keeps a claim until its volume is deleted.
const claimFinalizer = "virtmesh.io/volume"

// parameterPool is the StorageClass parameter that names the pool, as for
// KubeVirt's hostpath provisioner.
const parameterPool = "storagePool"

// DefaultPool is used by claims without a StorageClass when none is default.
const DefaultPool = "local"

// ProvisionerConfig is what a Provisioner needs. All fields are required.
type ProvisionerConfig struct {
	Host   string
	Store  objects.Store
	Cache  *objects.Cache
	Pools  map[string]storage.Pool
	Images Images
	Logger *slog.Logger
}

// Provisioner makes the volumes of PersistentVolumeClaims, and deletes them
// with their claims. It is a controller.Reconciler of claims.
type Provisioner struct {
	ProvisionerConfig
	claims *objects.Informer[*corev1.PersistentVolumeClaim]
	vmis   *objects.Informer[*kubevirtv1.VirtualMachineInstance]
}

var _ controller.Reconciler = (*Provisioner)(nil)

// NewProvisioner makes a Provisioner. It deletes nothing before its controller
// runs.
func NewProvisioner(config ProvisionerConfig) *Provisioner {
	return &Provisioner{
		ProvisionerConfig: config,
		claims:            objects.For[*corev1.PersistentVolumeClaim](config.Cache),
		vmis:              objects.For[*kubevirtv1.VirtualMachineInstance](config.Cache),
	}
}

// disk returns the volume of a claim, and makes it if this is its first use.
func (p *Provisioner) disk(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, volume kubevirtv1.Volume) (domainxml.Disk, error) {
	name := volume.PersistentVolumeClaim.ClaimName
	key := objects.Key{Namespace: vmi.Namespace, Name: name}
	claim, err := objects.Get[*corev1.PersistentVolumeClaim](ctx, p.Store, key, raftstore.ReadOptions{})
	if apierrors.IsNotFound(err) {
		return domainxml.Disk{}, &instance.VolumeError{Volume: volume.Name, Reason: reasonPVCNotFound, Err: fmt.Errorf("PersistentVolumeClaim %s does not exist", name)}
	}
	if err != nil {
		return domainxml.Disk{}, fmt.Errorf("read claim %s: %w", name, err)
	}
	if claim.DeletionTimestamp != nil {
		return domainxml.Disk{}, fmt.Errorf("claim %s is being deleted", name)
	}
	if home := claim.Annotations[SelectedNode]; home != "" && home != p.Host {
		return domainxml.Disk{}, fmt.Errorf("the volume of claim %s is on %s", name, home)
	}
	pool, err := p.poolOf(ctx, claim)
	if err != nil {
		return domainxml.Disk{}, err
	}
	made, err := p.ensure(ctx, pool, claim)
	if err != nil {
		return domainxml.Disk{}, err
	}
	if err := p.attach(ctx, vmi, claim); err != nil {
		return domainxml.Disk{}, err
	}
	return domainxml.Disk{Type: domainxml.DiskFile, Path: made.Path, Format: string(made.Format)}, nil
}

// attach claims the volume for the instance. The store refuses the claim while
// another instance holds a volume that only one may write.
func (p *Provisioner) attach(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, claim *corev1.PersistentVolumeClaim) error {
	held, err := claims.GetVolume(ctx, p.Store, objects.KeyOf(claim), raftstore.ReadOptions{})
	if err != nil || slices.Contains(held.Holders, vmi.UID) {
		return err
	}
	held.Shared = slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteMany)
	var tx objects.Tx
	claims.Attach(&tx, held, vmi.UID)
	if _, err := tx.Commit(ctx, p.Store); err != nil {
		return fmt.Errorf("attach claim %s: %w", claim.Name, err)
	}
	return nil
}

// Detach adds to tx what gives up the instance's volumes.
func (p *Provisioner) Detach(ctx context.Context, tx *objects.Tx, vmi *kubevirtv1.VirtualMachineInstance) error {
	for _, volume := range vmi.Spec.Volumes {
		if volume.PersistentVolumeClaim == nil {
			continue
		}
		key := objects.Key{Namespace: vmi.Namespace, Name: volume.PersistentVolumeClaim.ClaimName}
		held, err := claims.GetVolume(ctx, p.Store, key, raftstore.ReadOptions{})
		if err != nil {
			return err
		}
		claims.Detach(tx, held, vmi.UID)
	}
	return nil
}

// poolOf finds the pool that a claim's StorageClass names.
func (p *Provisioner) poolOf(ctx context.Context, claim *corev1.PersistentVolumeClaim) (storage.Pool, error) {
	name, err := p.poolName(ctx, claim)
	if err != nil {
		return nil, err
	}
	pool, ok := p.Pools[name]
	if !ok {
		return nil, fmt.Errorf("host %s has no pool %q, which the StorageClass of claim %s names; its configuration has %v",
			p.Host, name, claim.Name, poolNames(p.Pools))
	}
	return pool, nil
}

func (p *Provisioner) poolName(ctx context.Context, claim *corev1.PersistentVolumeClaim) (string, error) {
	if claim.Spec.StorageClassName != nil && *claim.Spec.StorageClassName != "" {
		class, err := objects.Get[*storagev1.StorageClass](ctx, p.Store, objects.Key{Name: *claim.Spec.StorageClassName}, localRead)
		if err != nil {
			return "", fmt.Errorf("claim %s: StorageClass %s: %w", claim.Name, *claim.Spec.StorageClassName, err)
		}
		return classPool(class), nil
	}
	classes, _, err := objects.List[*storagev1.StorageClass](ctx, p.Store, "", localRead)
	if err != nil {
		return "", fmt.Errorf("list storage classes: %w", err)
	}
	for _, class := range classes {
		if class.Annotations[defaultClass] == "true" {
			return classPool(class), nil
		}
	}
	return DefaultPool, nil
}

// classPool is the pool of a class: the one it names, or the one it is named
// after.
func classPool(class *storagev1.StorageClass) string {
	if pool := class.Parameters[parameterPool]; pool != "" {
		return pool
	}
	return class.Name
}

func poolNames(pools map[string]storage.Pool) []string {
	names := make([]string, 0, len(pools))
	for name := range pools {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// ensure makes the claim's volume and binds the claim to it. The claim is
// bound first, with its finalizer: a volume that nobody knows of would never
// be deleted.
func (p *Provisioner) ensure(ctx context.Context, pool storage.Pool, claim *corev1.PersistentVolumeClaim) (storage.Volume, error) {
	size := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if claim.Status.Phase != corev1.ClaimBound {
		if err := p.bind(ctx, pool, claim, size); err != nil {
			return storage.Volume{}, err
		}
	}
	name := volumeName(claim)
	made, err := pool.Get(ctx, name)
	if !errors.Is(err, storage.ErrNotFound) {
		return made, err
	}
	source, release, err := p.source(ctx, claim)
	if err != nil {
		return storage.Volume{}, fmt.Errorf("claim %s: %w", claim.Name, err)
	}
	defer release()
	made, err = pool.Create(ctx, storage.VolumeSpec{Name: name, Size: size.Value(), Source: source})
	if errors.Is(err, storage.ErrExists) {
		// Another host was faster; the pool is shared.
		return pool.Get(ctx, name)
	}
	if err != nil {
		return storage.Volume{}, fmt.Errorf("claim %s: %w", claim.Name, err)
	}
	return made, nil
}

func volumeName(claim *corev1.PersistentVolumeClaim) string { return "pvc-" + string(claim.UID) }

func (p *Provisioner) bind(ctx context.Context, pool storage.Pool, claim *corev1.PersistentVolumeClaim, size resource.Quantity) error {
	bound := claim.DeepCopy()
	bound.Spec.VolumeName = volumeName(claim)
	if !pool.Info().Capabilities.Shared {
		if bound.Annotations == nil {
			bound.Annotations = map[string]string{}
		}
		bound.Annotations[SelectedNode] = p.Host
	}
	objects.AddFinalizer(bound, claimFinalizer)
	bound.Status.Phase = corev1.ClaimBound
	bound.Status.AccessModes = bound.Spec.AccessModes
	bound.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: size}
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
	endpoint := claim.Annotations[importEndpoint]
	if endpoint == "" {
		return nil, func() {}, nil
	}
	if from := claim.Annotations[importSource]; from != "registry" {
		return nil, nil, fmt.Errorf("annotation %s: only registry is supported, not %q", importSource, from)
	}
	reference, ok := strings.CutPrefix(endpoint, scheme)
	if !ok {
		return nil, nil, fmt.Errorf("annotation %s: %q does not begin with %s", importEndpoint, endpoint, scheme)
	}
	image, release, err := p.Images.Pull(ctx, reference, containerdisk.PullOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("import %s: %w", reference, err)
	}
	return &storage.Source{File: image.Path, FileFormat: storage.Format(image.Format)}, release, nil
}

// Reconcile implements controller.Reconciler: it deletes the volume of a claim
// that is being deleted, once no instance uses it.
func (p *Provisioner) Reconcile(ctx context.Context, key controller.Key) (controller.Result, error) {
	claim, ok := p.claims.Get(key)
	if !ok || claim.DeletionTimestamp == nil || !slices.Contains(claim.Finalizers, claimFinalizer) {
		return controller.Result{}, nil
	}
	if home := claim.Annotations[SelectedNode]; home != "" && home != p.Host {
		return controller.Result{}, nil
	}
	if p.inUse(claim) {
		return controller.Result{RequeueAfter: instanceGoneInterval}, nil
	}
	pool, err := p.poolOf(ctx, claim)
	if err != nil {
		return controller.Result{}, err
	}
	if err := pool.Delete(ctx, volumeName(claim)); err != nil {
		return controller.Result{}, fmt.Errorf("claim %s: %w", key, err)
	}
	released := claim.DeepCopy()
	objects.RemoveFinalizer(released, claimFinalizer)
	var tx objects.Tx
	tx.Update(claim, released)
	if _, err := tx.Commit(ctx, p.Store); err != nil && !apierrors.IsNotFound(err) {
		return controller.Result{}, fmt.Errorf("release claim %s: %w", key, err)
	}
	return controller.Result{}, nil
}

// inUse tells whether an instance that has not ended uses the claim.
func (p *Provisioner) inUse(claim *corev1.PersistentVolumeClaim) bool {
	return slices.ContainsFunc(p.vmis.List(claim.Namespace), func(vmi *kubevirtv1.VirtualMachineInstance) bool {
		return !vmi.IsFinal() && slices.ContainsFunc(vmi.Spec.Volumes, func(v kubevirtv1.Volume) bool {
			return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim.Name
		})
	})
}

// Usage tells how full the host's pools are, by name. A pool that cannot be
// measured is left out.
func (p *Provisioner) Usage(ctx context.Context) map[string]storage.Usage {
	usage := map[string]storage.Usage{}
	for name, pool := range p.Pools {
		u, err := pool.Usage(ctx)
		if err != nil {
			p.Logger.Warn("a pool cannot be measured", "pool", name, "err", err)
			continue
		}
		usage[name] = u
	}
	return usage
}
