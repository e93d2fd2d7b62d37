package containerdisk

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"path"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Bounds of manifests and indexes, which are read into memory. Real ones have a few KiB;
// registries accept 4 MiB.
const (
	maxManifestBytes = 4 << 20
	// maxManifestCommas bounds the values in a manifest: a list of n values has n-1
	// commas, and an empty layer of three bytes becomes 200 bytes of memory.
	maxManifestCommas = 1 << 16
	// maxLayers is four times what container engines can run.
	maxLayers = 512
	// maxIndexed bounds the images of an index.
	maxIndexed = 1024
)

// manifestBounds is a transport that reads what a registry sends, except blobs, and
// refuses what exceeds the bounds of a manifest. The library would decode it first.
type manifestBounds struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (m manifestBounds) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := m.next.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusOK || asksForBlob(req) {
		return resp, err
	}
	defer resp.Body.Close()
	// What arrives here is unpacked already, so the bound is not that of the archive.
	content, err := io.ReadAll(io.LimitReader(resp.Body, maxManifestBytes+1))
	if err != nil {
		return nil, err
	}
	if len(content) > maxManifestBytes {
		return nil, fmt.Errorf("%w: its manifest has more than %d bytes", ErrTooLarge, maxManifestBytes)
	}
	if n := bytes.Count(content, []byte{','}); n > maxManifestCommas {
		return nil, fmt.Errorf("%w: its manifest lists more than %d values", ErrTooLarge, maxManifestCommas)
	}
	resp.Body = io.NopCloser(bytes.NewReader(content))
	return resp, nil
}

// asksForBlob reports whether a request, or the one that was redirected to it, is for a
// blob. Blobs are streamed, and their sizes are in the manifest.
func asksForBlob(req *http.Request) bool {
	for req.Response != nil && req.Response.Request != nil {
		req = req.Response.Request
	}
	return path.Base(path.Dir(req.URL.Path)) == "blobs"
}

// layers returns the layers of the image for this machine, and their size.
func (c *Cache) layers(ctx context.Context, desc *remote.Descriptor) ([]v1.Layer, int64, error) {
	img, err := imageOf(desc)
	if err != nil {
		return nil, 0, err
	}
	// The sizes come from one manifest: a layer that is asked for its own size decodes
	// the whole manifest again.
	m, err := img.Manifest()
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrNotAnImage, err)
	}
	if len(m.Layers) > maxLayers {
		return nil, 0, fmt.Errorf("%w: it has %d layers, more than %d", ErrTooLarge, len(m.Layers), maxLayers)
	}
	var total int64
	for _, l := range m.Layers {
		if l.Size < 0 || l.Size > c.cfg.MaxImageBytes-total {
			return nil, 0, fmt.Errorf("%w: its layers have more than %d bytes", ErrTooLarge, c.cfg.MaxImageBytes)
		}
		total += l.Size
	}
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrNotAnImage, err)
	}
	return layers, total, nil
}
