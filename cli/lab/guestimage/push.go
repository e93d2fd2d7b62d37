package guestimage

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The owner and mode KubeVirt asks for in a containerDisk.
const (
	diskOwner = 107
	diskMode  = 0o440
)

// Push packs the disk image at path as a containerDisk and pushes it to the
// registry that ref names, and returns the digest of what it pushed. With
// insecure it accepts a registry that speaks plain HTTP or shows an unknown
// certificate. The same file always gives the same digest.
func Push(ctx context.Context, path, ref string, insecure bool) (string, error) {
	var nameOpts []name.Option
	remoteOpts := []remote.Option{remote.WithContext(ctx)}
	if insecure {
		nameOpts = append(nameOpts, name.Insecure)
		t := remote.DefaultTransport.(*http.Transport).Clone()
		t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} // the caller requested it
		remoteOpts = append(remoteOpts, remote.WithTransport(t))
	}
	r, err := name.ParseReference(ref, nameOpts...)
	if err != nil {
		return "", fmt.Errorf("push %s: %w", path, err)
	}
	img, err := ContainerDisk(path)
	if err != nil {
		return "", fmt.Errorf("push %s: %w", path, err)
	}
	if err := remote.Write(r, img, remoteOpts...); err != nil {
		return "", fmt.Errorf("push %s to %s: %w", path, ref, err)
	}
	d, err := img.Digest()
	if err != nil {
		return "", err
	}
	return d.String(), nil
}

// ContainerDisk returns the container image that carries the disk image at path as its
// only file, /disk/<file name>. The file is read when the container image is read, and
// must not change until then.
func ContainerDisk(path string) (v1.Image, error) {
	layer, err := newDiskLayer(path)
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	base, err = mutate.ConfigFile(base, &v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(base, layer)
}

// diskLayer is an uncompressed layer made on the fly around one file: a disk
// image is as good as incompressible, and nothing is copied before it is sent.
type diskLayer struct {
	path   string
	head   []byte
	size   int64
	digest v1.Hash
}

var _ v1.Layer = (*diskLayer)(nil)

func newDiskLayer(path string) (*diskLayer, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	var head bytes.Buffer
	tw := tar.NewWriter(&head)
	// The times stay zero: equal files shall give equal layers.
	err = tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "disk/", Mode: 0o555, Uid: diskOwner, Gid: diskOwner})
	if err == nil {
		err = tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "disk/" + filepath.Base(path), Mode: diskMode,
			Uid: diskOwner, Gid: diskOwner, Size: st.Size()})
	}
	if err != nil {
		return nil, err
	}
	l := &diskLayer{path: path, head: head.Bytes(), size: st.Size()}
	rc, err := l.Compressed()
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	l.digest, _, err = v1.SHA256(rc)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return l, nil
}

// Digest implements v1.Layer.
func (l *diskLayer) Digest() (v1.Hash, error) { return l.digest, nil }

// DiffID implements v1.Layer.
func (l *diskLayer) DiffID() (v1.Hash, error) { return l.digest, nil }

// MediaType implements v1.Layer.
func (l *diskLayer) MediaType() (types.MediaType, error) { return types.OCIUncompressedLayer, nil }

// Size implements v1.Layer.
func (l *diskLayer) Size() (int64, error) { return int64(len(l.head)) + l.size + l.padding(), nil }

// Uncompressed implements v1.Layer.
func (l *diskLayer) Uncompressed() (io.ReadCloser, error) { return l.Compressed() }

// Compressed implements v1.Layer.
func (l *diskLayer) Compressed() (io.ReadCloser, error) {
	f, err := os.Open(l.path)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(l.head), io.LimitReader(f, l.size), bytes.NewReader(make([]byte, l.padding()))), f}, nil
}

// padding fills the last block of the file and adds the two empty blocks that
// end an archive.
func (l *diskLayer) padding() int64 { return (512-l.size%512)%512 + 1024 }
