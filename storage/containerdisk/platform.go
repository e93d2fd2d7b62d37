package containerdisk

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// maxConfigBytes bounds the configuration of an image, which is read into memory. Real
// ones have a few KiB.
const maxConfigBytes = 4 << 20

// hostPlatform is what images have to be for.
func hostPlatform() v1.Platform { return v1.Platform{OS: "linux", Architecture: runtime.GOARCH} }

// imageOf returns the image that a descriptor stands for: the descriptor's own, or that of
// an index that is for this host. An image for another architecture is refused: its disk
// would start, and then do nothing that a user could explain.
func imageOf(desc *remote.Descriptor) (v1.Image, error) {
	if desc.MediaType.IsIndex() {
		if err := checkIndex(desc); err != nil {
			return nil, err
		}
	}
	img, err := desc.Image()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotAnImage, err)
	}
	arch, err := architecture(img)
	if err != nil {
		return nil, fmt.Errorf("configuration of the image: %w", err)
	}
	if host := hostPlatform().Architecture; arch != "" && arch != host {
		return nil, fmt.Errorf("%w: it is for %s, this host is %s", ErrArchitecture, arch, host)
	}
	return img, nil
}

// checkIndex makes sure that one of the images of an index is for this host.
func checkIndex(desc *remote.Descriptor) error {
	index, err := desc.ImageIndex()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotAnImage, err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotAnImage, err)
	}
	if len(m.Manifests) > maxIndexed {
		return fmt.Errorf("%w: its index has %d images, more than %d", ErrTooLarge, len(m.Manifests), maxIndexed)
	}
	host := hostPlatform()
	var others []string
	for _, child := range m.Manifests {
		// The library takes an image without a platform for one of the commonest kind.
		p := v1.Platform{OS: "linux", Architecture: "amd64"}
		if child.Platform != nil {
			p = *child.Platform
		}
		if p.Satisfies(host) {
			return nil
		}
		// "unknown" is what builders call the signatures that they add to an index.
		if p.Architecture != "unknown" && !slices.Contains(others, p.Architecture) {
			others = append(others, p.Architecture)
		}
	}
	if len(others) == 0 {
		return fmt.Errorf("%w: the index names no image", ErrNotAnImage)
	}
	return fmt.Errorf("%w: it is for %s, this host is %s", ErrArchitecture, strings.Join(others, ", "), host.Architecture)
}

// architecture is what the image says it is for, empty if it does not say.
func architecture(img v1.Image) (string, error) {
	m, err := img.Manifest()
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNotAnImage, err)
	}
	if t := m.Config.MediaType; t != types.DockerConfigJSON && t != types.OCIConfigJSON {
		return "", nil // an artifact, whose configuration can be anything
	}
	if m.Config.Size < 0 || m.Config.Size > maxConfigBytes {
		return "", fmt.Errorf("%w: %d bytes, more than %d", ErrTooLarge, m.Config.Size, maxConfigBytes)
	}
	raw, err := img.RawConfigFile()
	if err != nil {
		return "", err // the registry's
	}
	c, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNotAnImage, err)
	}
	return c.Architecture, nil
}
