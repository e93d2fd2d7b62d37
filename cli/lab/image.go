package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

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
	if slices.Contains(guestimage.Names(), what) {
		disk, err = guestimage.Build(ctx, what, guestimage.Options{
			Dir: filepath.Join(l.dir, keptByDown), Progress: func(line string) { progress("%s", line) },
		})
		return disk, what, err
	}
	if u, err := url.Parse(what); err == nil && (u.Scheme == "http" || u.Scheme == "https") {
		progress("downloading %s", what)
		disk, err := l.download(ctx, u)
		return disk, repository(path.Base(u.Path)), err
	}
	if _, err := os.Stat(what); err != nil {
		return "", "", fmt.Errorf("%q is neither an image the lab builds (%s) nor a URL nor a file: %w",
			what, strings.Join(guestimage.Names(), ", "), err)
	}
	return what, repository(filepath.Base(what)), nil
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

func (l *Lab) download(ctx context.Context, u *url.URL) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", fmt.Errorf("download %s: %w", u, err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", fmt.Errorf("download %s: %w", u, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("download %s: the server answered %s", u, response.Status)
	}
	dir := filepath.Join(l.dir, keptByDown)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("download %s: %w", u, err)
	}
	f, err := os.CreateTemp(dir, "download-*")
	if err != nil {
		return "", fmt.Errorf("download %s: %w", u, err)
	}
	defer f.Close()
	if _, err := io.Copy(f, response.Body); err != nil {
		os.Remove(f.Name())
		return "", fmt.Errorf("download %s: %w", u, err)
	}
	target := filepath.Join(dir, path.Base(u.Path))
	if err := os.Rename(f.Name(), target); err != nil {
		return "", fmt.Errorf("download %s: %w", u, err)
	}
	return target, nil
}

// ServeRegistry runs the lab's registry until ctx ends, on this machine's
// loopback and on a UNIX socket that the hosts reach it by.
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
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", l.registrySocket())
	if err != nil {
		return fmt.Errorf("listen for the hosts: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept a host: %w", err)
		}
		go forward(conn, "tcp", l.Registry())
	}
}
