package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"virtmesh/cli/lab/guestimage"
	"virtmesh/cli/lab/registry"
)

// Image puts a guest image into the lab's registry and returns the reference
// that manifests use. what is the name of an image the lab can build, or the
// URL or path of any disk image. Built images are kept, also after Down.
func (l *Lab) Image(ctx context.Context, what string, progress func(string, ...any)) (string, error) {
	if !l.Exists() {
		return "", ErrNoLab
	}
	disk, name, err := l.findImage(ctx, what, progress)
	if err != nil {
		return "", err
	}
	reference := l.Registry() + "/" + name + ":latest"
	progress("pushing %s", reference)
	if _, err := guestimage.Push(ctx, disk, reference, true); err != nil {
		return "", fmt.Errorf("push %s: %w", reference, err)
	}
	return reference, nil
}

func (l *Lab) findImage(ctx context.Context, what string, progress func(string, ...any)) (disk, name string, err error) {
	options := guestimage.Options{
		Dir: l.imagesDir(), Progress: func(line string) { progress("%s", line) },
	}
	if slices.Contains(guestimage.Names(), what) {
		disk, err = guestimage.Build(ctx, what, options)
		return disk, what, err
	}
	disk, err = guestimage.Fetch(ctx, what, options)
	if err != nil {
		return "", "", fmt.Errorf("%w; the lab itself can build %s", err, strings.Join(guestimage.Names(), ", "))
	}
	return disk, repository(path.Base(what)), nil
}

var notInRepository = regexp.MustCompile(`[^a-z0-9]+`)

// repository makes a registry repository's name of a file's.
func repository(file string) string {
	stem := strings.TrimSuffix(strings.ToLower(file), strings.ToLower(filepath.Ext(file)))
	if name := strings.Trim(notInRepository.ReplaceAllString(stem, "-"), "-"); name != "" {
		return name
	}
	return "image"
}

// ServeRegistry runs the lab's registry until ctx ends, on this machine's
// loopback and on a UNIX socket that the hosts reach it by. Hosts that are whole
// machines reach it at the lab's gateway.
func (l *Lab) ServeRegistry(ctx context.Context) error {
	if !l.Exists() {
		return ErrNoLab
	}
	server, err := registry.Start(registry.Config{Dir: filepath.Join(l.dir, "registry"), Addr: l.Registry()})
	if err != nil {
		return fmt.Errorf("start the registry: %w", err)
	}
	defer server.Close(context.WithoutCancel(ctx))
	os.Remove(l.registrySocket())
	ways := map[string]string{"unix": l.registrySocket()}
	if l.state.Metal {
		ways["tcp"] = fmt.Sprintf("%s:%d", l.gateway(), l.state.RegistryPort)
	}
	group, ctx := errgroup.WithContext(ctx)
	for network, address := range ways {
		listener, err := (&net.ListenConfig{Control: l.onlyFromHosts}).Listen(ctx, network, address)
		if err != nil {
			return fmt.Errorf("listen for the hosts: %w", err)
		}
		group.Go(func() error { return forwardAll(ctx, listener, "tcp", l.Registry()) })
	}
	return group.Wait()
}

// onlyFromHosts keeps a TCP listener to the bridge of the lab's hosts: else whoever routes
// packets to this machine could reach the lab's address too, and push images.
func (l *Lab) onlyFromHosts(network, _ string, conn syscall.RawConn) error {
	if network == "unix" {
		return nil
	}
	var failed error
	err := conn.Control(func(fd uintptr) {
		failed = syscall.SetsockoptString(int(fd), syscall.SOL_SOCKET, syscall.SO_BINDTODEVICE, l.bridge())
	})
	return errors.Join(err, failed)
}
