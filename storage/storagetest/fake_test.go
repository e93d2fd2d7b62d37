package storagetest_test

import (
	"context"
	"errors"
	"testing"

	"virtmesh/storage"
	"virtmesh/storage/storagetest"
)

func TestFake(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) (storage.Pool, storagetest.Access) {
		p := storagetest.NewFake("fake", storage.Capabilities{})
		return p, p
	})
}

func TestFakeFails(t *testing.T) {
	p, ctx := storagetest.NewFake("fake", storage.Capabilities{}), context.Background()
	boom := errors.New("boom")
	p.FailWith(func(op, volume string) error {
		if op == "Create" && volume == "bad" {
			return boom
		}
		return nil
	})
	if _, err := p.Create(ctx, storage.VolumeSpec{Name: "bad", Size: 1}); !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
	p.FailWith(nil)
	if _, err := p.Create(ctx, storage.VolumeSpec{Name: "bad", Size: 1}); err != nil {
		t.Error(err)
	}
}
