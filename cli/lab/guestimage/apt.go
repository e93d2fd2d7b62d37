package guestimage

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// unpackPackages downloads the named packages from the machine's apt sources and
// unpacks them, without their dependencies and without running their scripts,
// into one folder below dir, which it returns.
func unpackPackages(ctx context.Context, dir string, packages ...string) (string, error) {
	if err := aptKnows(ctx, packages[0]); err != nil {
		return "", err
	}
	debs := filepath.Join(dir, "debs")
	root := filepath.Join(dir, "unpacked")
	for _, d := range []string{debs, root} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return "", err
		}
	}
	args := append([]string{"-q", "-o", "APT::Sandbox::User=root", "download"}, packages...)
	if _, err := runCommand(ctx, command{Dir: debs, Name: "apt-get", Args: args}); err != nil {
		return "", fmt.Errorf("download packages: %w", err)
	}
	found, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return "", err
	}
	for _, deb := range found {
		if _, err := runCommand(ctx, command{Name: "dpkg-deb", Args: []string{"-x", deb, root}}); err != nil {
			return "", fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
		}
	}
	return root, nil
}

// aptKnows makes sure that apt has package lists: a freshly installed machine,
// or a container, often has none yet.
func aptKnows(ctx context.Context, pkg string) error {
	show := command{Name: "apt-cache", Args: []string{"show", "--no-all-versions", pkg}}
	if _, err := runCommand(ctx, show); err == nil {
		return nil
	}
	if _, err := runCommand(ctx, command{Name: "apt-get", Args: []string{"-q", "update"}}); err != nil {
		return fmt.Errorf("read package lists: %w", err)
	}
	if _, err := runCommand(ctx, show); err != nil {
		return fmt.Errorf("package %s is in none of this machine's apt sources: %w", pkg, err)
	}
	return nil
}

// kernelPackage follows a kernel meta package (linux-image-cloud-amd64) to the
// package that holds the kernel it currently stands for.
func kernelPackage(ctx context.Context, meta string) (string, error) {
	if err := aptKnows(ctx, meta); err != nil {
		return "", err
	}
	out, err := runCommand(ctx, command{Name: "apt-cache", Args: []string{"depends", "--important", meta}})
	if err != nil {
		return "", err
	}
	return parseKernelDepends(out, meta)
}

func parseKernelDepends(out []byte, meta string) (string, error) {
	sc := bufio.NewScanner(bytes.NewReader(out))
	for sc.Scan() {
		dep, ok := strings.CutPrefix(strings.TrimSpace(sc.Text()), "Depends: ")
		if ok && strings.HasPrefix(dep, "linux-image-") {
			return dep, nil
		}
	}
	return "", fmt.Errorf("package %s names no kernel", meta)
}
