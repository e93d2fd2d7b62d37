package containerdisk

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// diskImage is a containerDisk whose configuration names an architecture.
func diskImage(t *testing.T, arch string) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, static.NewLayer(layer(t, file{name: "disk/d.img", data: rawDisk(4096, 1)}), types.DockerLayer))
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.Architecture = arch
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

// indexOf is an index of such images, each of which it says is for its architecture.
func indexOf(t *testing.T, archs ...string) v1.ImageIndex {
	t.Helper()
	index := v1.ImageIndex(empty.Index)
	for _, a := range archs {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: diskImage(t, a),
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: a}}})
	}
	return index
}

func TestImagesForOtherMachinesAreRefused(t *testing.T) {
	f := newRegistry(t)
	const other = "riscv64"
	for what, c := range map[string]struct {
		image any
		want  error
	}{
		"for this host":          {diskImage(t, runtime.GOARCH), nil},
		"without architecture":   {diskImage(t, ""), nil},
		"for another":            {diskImage(t, other), ErrArchitecture},
		"index with this host":   {indexOf(t, other, runtime.GOARCH), nil},
		"index of others":        {indexOf(t, other, "s390x"), ErrArchitecture},
		"index of nothing":       {indexOf(t), ErrNotAnImage},
		"a liar among the index": {mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: diskImage(t, other), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}}), ErrArchitecture},
	} {
		t.Run(what, func(t *testing.T) {
			cache := newCache(t, nil)
			ref, err := name.ParseReference(f.addr + "/platform/" + strings.ReplaceAll(what, " ", "-") + ":v1")
			if err != nil {
				t.Fatal(err)
			}
			switch i := c.image.(type) {
			case v1.Image:
				err = remote.Write(ref, i)
			case v1.ImageIndex:
				err = remote.WriteIndex(ref, i)
			}
			if err != nil {
				t.Fatal(err)
			}
			_, release, err := cache.Pull(context.Background(), ref.Name(), PullOptions{})
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if err == nil {
				release()
				return
			}
			if errors.Is(c.want, ErrArchitecture) && (!strings.Contains(err.Error(), other) || !strings.Contains(err.Error(), runtime.GOARCH)) {
				t.Errorf("the error does not name both architectures: %v", err)
			}
			assertNothingLeft(t, cache)
		})
	}
}
